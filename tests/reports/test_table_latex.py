from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_factory import Store, spec

from reports import tables
from reports.results import load_results
from reports.tables import Cell, Column, Table, escape_latex, to_latex

needs_tex = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex (texlive-latex-base)")

# Every printable character of ASCII, what reports use beyond it, what TeX would draw as one, and what it cannot draw.
HOSTILE = (
    "".join(map(chr, range(32, 127))),
    r"\input{/etc/passwd} \end{tabular} \\[3cm] 50 % of R&D_1 $x^2$ #1 {a} ~b \\",
    "[red] *bold* ``a'' --- -- << >> ,, ?` !` \"quoted\"",
    "λ1 = 0.3, σ² ± 0.1 ≤ 1, 8 × 8, 10–25 — … µs → ∞ ½ ’quoted’ “so”",
    "Ångström, façade, naïve, İstanbul, Łódź, 東京, 😀, ﬁ, \u200b, \u0301, \x00, \x1b[0m",
    "a\n\n\\par b\r\nc\u2028d",
    "",
)


def compiled(folder: Path, *built: Table) -> str:
    """Typeset the tables in one document; returns TeX's log."""
    for table in built:
        (folder / f"{table.name}.tex").write_text(to_latex(table), encoding="ascii")
    names = "\n".join(rf"\input{{{table.name}}}" for table in built)
    packages = "\\usepackage{graphicx}\n\\usepackage{longtable}"
    (folder / "page.tex").write_text(
        f"\\documentclass{{article}}\n{packages}\n\\begin{{document}}\n{names}\n\\end{{document}}\n"
    )
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "page.tex"],
        cwd=folder, capture_output=True, text=True, errors="replace", check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, "\n".join(done.stdout.splitlines()[-30:])
    assert (folder / "page.pdf").stat().st_size > 1000
    return done.stdout


@needs_tex
def test_every_table_compiles_with_a_basic_tex(finished: Store, tmp_path: Path) -> None:
    results = load_results(finished.folder)
    built = [table for build in tables.TABLES.values() if (table := build(results)) is not None]
    log = compiled(tmp_path, *built, tables.cost(results), tables.trial_list(results))
    assert "Missing character" not in log
    assert "multiply defined" not in log


@needs_tex
@pytest.mark.parametrize("repeats", [1, 20])  # a float, and a table over several pages
def test_hostile_names_compile(tmp_path: Path, repeats: int) -> None:
    columns = tuple(Column(name, name, spread=number == 1) for number, name in enumerate(HOSTILE))
    rows = [
        tuple(Cell(name, name, interval=name, best=True, hole=number == 2) for _ in columns)
        for number, name in enumerate(HOSTILE)
    ]
    table = Table("hostile", HOSTILE[0], " ".join(HOSTILE), columns, tuple(rows) * repeats, HOSTILE, (2, 5))
    log = compiled(tmp_path, table)
    assert "Missing character" not in log


@needs_tex
@pytest.mark.parametrize("rows", [4, 60])  # floats, and a table over several pages
def test_a_table_of_many_columns_is_split_and_stays_legible(tmp_path: Path, rows: int) -> None:
    names = [Column("Method", align="left", names=True), Column("Paths", names=True)]
    columns = (*names, *(Column(f"Metric {number}", "m", spread=True) for number in range(11)), Column("Seeds"))
    lines = [
        (Cell(f"M{row}", f"M{row}"), Cell(str(row), row),
         *(Cell(f"{row}.{number}", interval="7.93 – 9.71") for number in range(11)), Cell("5 of 5"))
        for row in range(rows)
    ]  # fmt: skip
    text = to_latex(Table("wide", "Wide", "All of it.", columns, tuple(lines), ("A note.",)))
    kind = "longtable" if rows > 45 else "tabular"
    parts = re.findall(rf"\\begin\{{{kind}\}}(.*?)\\end\{{{kind}\}}", text, re.DOTALL)
    assert len(parts) > 1
    assert text.count(r"\caption{") == text.count(r"\label{") == 1
    for number in range(11):  # every column once, in order, and beside the name of its row
        (part,) = (part for part in parts if f" 3.{number} &" in part)
        assert re.search(rf"^M3 & 3 & .*\b3\.{number} & \(7\.93 -- 9\.71\)", part, re.MULTILINE)
    for part in parts:
        assert max(len(line) for line in part.splitlines() if line.startswith("M3 &")) < 200
    log = compiled(tmp_path, Table("wide", "Wide", "All of it.", columns, tuple(lines), ("A note.",)))
    assert "Overfull" not in log or rows > 45


@given(st.text())
def test_whatever_the_text_latex_reads_it_as_text(text: str) -> None:
    escaped = escape_latex(text)
    assert escaped.isascii()
    assert escaped.isprintable()
    # Only what we put there is a command, and nothing that TeX acts upon is left bare.
    commands = set(re.findall(r"\\([A-Za-z]+)", escaped))
    assert not commands & {"input", "end", "begin", "par", "def", "write", "catcode", "include"}
    bare = re.sub(r"\\(?:[A-Za-z]+|.)", "", escaped)
    assert not set(bare) & set("$&#%_"), escaped
    depth = 0
    for character in bare:
        depth += (character == "{") - (character == "}")
        assert depth >= 0
    assert depth == 0


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("50 % of R&D_1", r"50 \% of R\&D\_1"),
        ("λ 0.3", r"\ensuremath{\lambda} 0.3"),
        ("7.93 – 9.71", "7.93 -- 9.71"),
        ("a--b", "a-{}-b"),
        ("[m]", "{[}m{]}"),
        ("naïve", r"na\"{\i}ve"),
        ("東", "{[}U+6771{]}"),
    ],
)
def test_latex_escapes(text: str, escaped: str) -> None:
    assert escape_latex(text) == escaped


def test_latex_puts_a_mean_and_its_interval_into_two_columns_and_bolds_the_best(folder: Path) -> None:
    store = Store(folder, spec(axes={"method": ["DCNN", "HDA"]}, search=[], references=[], seeds=5, claims=[]))
    for seed in range(5):
        store.add("DCNN", seed, test_rmse_m=9.0 + seed / 10, details=False)
        store.add("HDA", seed, test_rmse_m=6.0 + seed / 10, details=False)
    text = to_latex(tables.performance(load_results(folder)))
    assert re.search(r"^DCNN & 9\.20 & \([\d.]+ -- [\d.]+\) & ", text, re.MULTILINE)
    assert re.search(r"^HDA & \\textbf\{6\.20\} & \([\d.]+ -- [\d.]+\) & ", text, re.MULTILINE)
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 1
    assert r"\caption{\textbf{Localization error" in text
    assert r"\label{tab:performance}" in text
