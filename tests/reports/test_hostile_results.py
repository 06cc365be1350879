"""A results folder from a stranger: reports and status show what it says, and do nothing that it says."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Result
from store_factory import HASH, Store, spec

from reports.build import build_report
from reports.drawing import as_csv
from reports.tables import Cell, Column, Table, to_csv
from study.errors import ResultsError
from study.spec.expand import expand

SCRIPT = "<script>alert(1)</script>"
IMAGE = '"><img src=x onerror=alert(1)>'
FORMULA = '=HYPERLINK("http://example.org")'
ESCAPE = "\x1b]0;title\x07\x1b[31m"
PAYLOADS = (SCRIPT, IMAGE, FORMULA, "@SUM(1)", "[/red]", "](javascript:alert(1))")

_OWN = {"name": "Own", "joint": False, "adapts": False, "twin": False, "objective": {}, "source": "0" * 16}


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A study whose texts, names and files all try something."""
    folder = tmp_path / "results"
    content = spec(
        axes={"method": ["evil_methods:Own", "DCNN", "HDA"]}, methods={"evil_methods:Own": _OWN}, search=[], seeds=3,
        description=f"{SCRIPT} {IMAGE}",
        claims=[{"name": f"claim {SCRIPT}", "better": {"method": "HDA"}, "than": {"method": "DCNN"}}],
    )  # fmt: skip
    store = Store(folder, content, site=SCRIPT)
    payloads = iter(PAYLOADS * 10)
    for cell in expand(store.spec):
        for number, trial in enumerate(cell.trials(3, HASH)):
            text = next(payloads)
            texts = {"host": text, "device": text, "git_commit": text, "torch_version": text, "started_at": text}
            state = "failed" if number == 2 else "done"
            store.add_trial(trial, state=state, details=True, error=f"{text}{ESCAPE}" if number == 2 else None, **texts)
    (tmp_path / "evil_methods.py").write_text("from pathlib import Path\nPath('imported').touch()\nclass Own: pass\n")
    good = next((folder / "trials").glob("*.parquet"))
    for name in (
        IMAGE.replace("/", ""),
        "[red]",
        "=1+1",
        f"a{ESCAPE}b",
        "..",
        "a b",
        "compacted-1",
        "$(touch gotcha)",
    ):
        (folder / "trials" / f"{name}.parquet").write_bytes(good.read_bytes())
    (folder / "trials" / "aaaa.parquet").symlink_to("/etc/passwd")
    # Metadata that pandas or an extension type would act upon.
    table = pq.read_table(folder / "errors" / good.name) if (folder / "errors" / good.name).exists() else None
    if table is not None:
        metadata = {b"pandas": b'{"index_columns": ["error_m"], "columns": []}'}
        kind = table.schema.field("error_m").type
        extension = pa.field(
            "error_m", kind, metadata={b"ARROW:extension:name": b"arrow.py_extension_type",
                                       b"ARROW:extension:metadata": b"cposix\nsystem\n(S'touch gotcha'\ntR."},
        )  # fmt: skip
        position = table.schema.get_field_index("error_m")
        table = table.set_column(position, extension, table["error_m"]).replace_schema_metadata(metadata)
        pq.write_table(table, folder / "errors" / good.name)
    return folder


def _run(hostile: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, in the folder where the stranger's module can be imported."""
    return subprocess.run(
        [sys.executable, "-m", "study", *arguments],
        cwd=hostile.parent, env={**os.environ, "PYTHONPATH": f"{hostile.parent}:{Path(__file__).parents[2]}"},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def _here(hostile: Path) -> set[str]:
    return {path.name for path in hostile.parent.iterdir()} - {"__pycache__"}


def test_status_and_report_import_and_make_nothing(hostile: Path) -> None:
    before = _here(hostile)
    for arguments in (("status", "results"), ("status", "results", "--json"), ("report", "results")):
        done = _run(hostile, *arguments)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        assert "\x1b]0;" not in done.stdout
    assert _here(hostile) == before
    assert not list(hostile.parent.rglob("gotcha"))
    assert not list(hostile.parent.rglob("imported"))


def test_a_page_shows_hostile_texts_and_holds_no_markup_of_theirs(hostile: Path) -> None:
    report = build_report(hostile)
    page = report.html.read_text()
    assert "&lt;script&gt;alert(1)" in page
    for text in (page, report.markdown.read_text()):
        assert "<script>alert" not in text
        assert "<img src=x" not in text
    assert not re.search(r"(?<!\\)\]\(javascript:", report.markdown.read_text())
    for path in report.folder.rglob("*.svg"):
        assert "<script" not in path.read_text()
        assert "<img" not in path.read_text()


def test_no_field_of_a_csv_file_is_a_formula(hostile: Path) -> None:
    report = build_report(hostile)
    fields = []
    for path in report.folder.rglob("*.csv"):
        with path.open(newline="", encoding="utf-8") as file:
            fields += [field for row in csv.reader(file) for field in row]
    words = [FORMULA, "@SUM(1)", "+1+cmd|", "-2+3", "plain", "-2.5"]
    table = Table("words", "Words", "", (Column("word"),), tuple((Cell(word),) for word in words))
    for text in (to_csv(table), as_csv(pd.DataFrame({"word": words}))):
        rows = [row[0] for row in csv.reader(io.StringIO(text))]
        assert rows == ["word", f"'{FORMULA}", "'@SUM(1)", "'+1+cmd|", "'-2+3", "plain", "-2.5"]
        fields += rows
    for field in fields:
        assert not field.startswith(("=", "+", "@", "\t", "\r")), field
        assert not field.startswith("-") or float(field) < 0


def test_a_name_that_the_spec_does_not_allow_is_refused(hostile: Path) -> None:
    content = (hostile / "study.yaml").read_text()
    (hostile / "study.yaml").write_text(re.sub(r"^study: .*$", f"study: {json.dumps(SCRIPT)}", content, flags=re.M))
    with pytest.raises(ResultsError, match="not a resolved spec"):
        build_report(hostile)


_STARTED = '{"time": "t", "event": "trial_started", "key": %s, "method": "M", "seed": 0, "values": %s}\n'


def _endless(log: Path) -> None:
    """A line that is longer than any event, in a file that is larger than any log."""
    with log.open("wb") as file:
        file.truncate(2**40)
        file.seek(-200, os.SEEK_END)
        file.write(b"\n" + (_STARTED % ('"a"', "{}")).encode())


@pytest.mark.parametrize(
    "make",
    [
        os.mkfifo,
        lambda log: log.symlink_to("/dev/zero"),
        lambda log: log.mkdir(),
        _endless,
        lambda log: log.write_text("[" * 200_000 + "\n" + _STARTED % ('"a"', "[" * 400 + "]" * 400)),
        lambda log: log.write_text(_STARTED % ('["a"]', "{}") + _STARTED % ('"a"', '{"x": ["\\ud800", {}]}')),
        lambda log: log.write_text(_STARTED % ('"a"', json.dumps({ESCAPE: ESCAPE})) + '{"time": 1, "event": ["x"]}\n'),
    ],
    ids=["pipe", "device", "folder", "endless", "deep", "types", "escapes"],
)
@pytest.mark.skipif(sys.platform != "linux", reason="links to a device of Linux")
def test_status_takes_no_harm_from_a_log_of_a_study_that_claims_to_run(
    hostile: Path, cli: Callable[..., Result], make: Callable[[Path], object]
) -> None:
    owner = {"host": "elsewhere", "pid": 7, "started": 1, "processes": "pid:[1]", "token": "t", "holds": True}
    (hostile / ".lock").write_text(json.dumps(owner))
    make(hostile / "events.jsonl")
    told = cli("status", hostile, "--json")
    assert told.code == 0, told
    assert json.loads(told.out)["owner"] == {"host": "elsewhere", "pid": 7}
    shown = cli("status", hostile)
    assert shown.code == 0, shown
    assert "process 7 on elsewhere" in shown.out
    assert "\x1b]0;" not in shown.out
