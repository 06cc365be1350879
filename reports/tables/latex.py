"""Tables as LaTeX that compiles with a basic TeX: of packages it needs graphicx, and longtable for long tables."""

from __future__ import annotations

import math
import re
import textwrap
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import replace

from reports.tables.model import Cell, Column, Table

__all__ = ["escape_latex", "to_latex"]

# A float with more rows than this runs off the page.
_MOST_ROWS = 45
# A table of more columns and more characters in a line than these would be scaled down to a few points: it is split.
_MOST_COLUMNS = 9
_MOST_CHARACTERS = 100
_HEADER = 14
# Without it, a line below a rule touches the rule.
_STRUT = r" \rule{0pt}{2.6ex}"

_MATHS: Mapping[str, str] = {
    "×": r"\times", "±": r"\pm", "−": "-", "≤": r"\leq", "≥": r"\geq", "≠": r"\neq", "≈": r"\approx", "·": r"\cdot",
    "∞": r"\infty", "√": r"\surd", "→": r"\rightarrow", "←": r"\leftarrow", "↔": r"\leftrightarrow", "°": r"^{\circ}",
    "²": "^{2}", "³": "^{3}", "¹": "^{1}", "½": r"\frac{1}{2}", "∈": r"\in", "∑": r"\sum", "Δ": r"\Delta",
    "µ": r"\mu", "<": "<", ">": ">", "Γ": r"\Gamma", "Θ": r"\Theta", "Λ": r"\Lambda", "Ξ": r"\Xi", "Π": r"\Pi",
    "Σ": r"\Sigma", "Φ": r"\Phi", "Ψ": r"\Psi", "Ω": r"\Omega", "α": r"\alpha", "β": r"\beta", "γ": r"\gamma",
    "δ": r"\delta", "ε": r"\varepsilon", "ζ": r"\zeta", "η": r"\eta", "θ": r"\theta", "ι": r"\iota", "κ": r"\kappa",
    "λ": r"\lambda", "μ": r"\mu", "ν": r"\nu", "ξ": r"\xi", "π": r"\pi", "ρ": r"\rho", "σ": r"\sigma",
    "τ": r"\tau", "υ": r"\upsilon", "φ": r"\varphi", "χ": r"\chi", "ψ": r"\psi", "ω": r"\omega",
}  # fmt: skip
_TEXTS: Mapping[str, str] = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "|": r"\textbar{}", '"': "''", "\u00a0": "~",
    "\u202f": r"\,", "–": "--", "—": "---", "…": r"\ldots{}", "’": "'", "‘": "`", "“": "``", "”": "''",
    # After \\ a bracket would be read as a length and a star as its variant.
    "[": "{[}", "]": "{]}", "*": "{*}",
    "ß": r"\ss{}", "æ": r"\ae{}", "Æ": r"\AE{}", "ø": r"\o{}", "Ø": r"\O{}", "œ": r"\oe{}", "ł": r"\l{}", "Ł": r"\L{}",
}  # fmt: skip
_ACCENTS: Mapping[str, str] = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u", "\u0307": ".",
    "\u0308": '"', "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0327": "c",
}  # fmt: skip


def escape_latex(text: str) -> str:
    """Text that LaTeX prints as it is, in plain ASCII; what a basic TeX has no glyph for is named by its code."""
    words = re.split(r"[ \t\r\n\f\v]+", text.strip())
    return " ".join("".join(map(_character, _unligatured(word))) for word in words)


def _unligatured(word: str) -> list[str]:
    """The characters of a word, with an empty mark between those that TeX would draw as one."""
    parts = re.split(r"(?<=-)(?=-)|(?<=')(?=')|(?<=`)(?=`)|(?<=[?!])(?=`)|(?<=,)(?=,)|(?<=<)(?=<)|(?<=>)(?=>)", word)
    return [item for number, part in enumerate(parts) for item in ([*([""] if number else []), *part])]


def _character(character: str) -> str:
    if character == "":
        return "{}"
    if character in _TEXTS:
        return _TEXTS[character]
    if character in _MATHS:
        return rf"\ensuremath{{{_MATHS[character]}}}"
    if character.isascii() and character.isprintable():
        return character
    parts = unicodedata.normalize("NFD", character)
    first, mark = parts[0], parts[1:]
    if first.isascii() and first.isalpha() and mark in _ACCENTS:
        # An accent goes on top of a letter without its own dot.
        base = {"i": r"\i", "j": r"\j"}.get(first, first) if mark != "\u0327" else first
        return rf"\{_ACCENTS[mark]}{{{base}}}"
    plain = unicodedata.normalize("NFKC", character)
    if plain != character and all(item.isascii() and item.isprintable() for item in plain):
        return "".join(map(_character, plain))
    return f"{{[}}U+{ord(character):04X}{{]}}"


def to_latex(table: Table) -> str:
    """The table as a ``table`` environment with caption, label and notes; a long one as a ``longtable``.

    A mean and its interval are two columns under one header, so that the means stand below each other. A table that is
    wider than the line is scaled down to it; one of many columns is split into parts that stand below each other, each
    with the columns that tell which row it is.
    """
    table = _without_empty(table)
    parts = _parts(table)
    # The header and the gap of each further part take the room of about three rows.
    long = sum(len(part.rows) + 3 for part in parts) - 3 > _MOST_ROWS
    packages = "graphicx, longtable" if long else "graphicx"
    preamble = " ".join(rf"\usepackage{{{name}}}" for name in packages.split(", "))
    body = _long(table, parts) if long else _floating(table, parts)
    return "\n".join([f"% {preamble}", *body]) + "\n"


def _without_empty(table: Table) -> Table:
    """Paper is narrow: a column in which nothing stands is left out."""
    kept = [number for number in range(len(table.columns)) if any(row[number].text for row in table.rows)]
    return _only(table, kept)


def _only(table: Table, kept: Sequence[int]) -> Table:
    columns = tuple(table.columns[number] for number in kept)
    return replace(table, columns=columns, rows=tuple(tuple(row[number] for number in kept) for row in table.rows))


def _parts(table: Table) -> list[Table]:
    """The table, or the tables into which it is split, about equally wide."""
    widths = [_width(table, number) for number in range(len(table.columns))]
    if len(table.columns) <= _MOST_COLUMNS or sum(widths) <= _MOST_CHARACTERS:
        return [table]
    names = [number for number, column in enumerate(table.columns) if column.names] or [0]
    others = [number for number in range(len(table.columns)) if number not in names]
    room = max(_MOST_CHARACTERS - sum(widths[number] for number in names), 1)
    wanted = sum(widths[number] for number in others)
    most = math.ceil(wanted / room)
    groups: list[list[int]] = [[]]
    filled = 0
    for number in others:
        # A column goes where more than half of it fits; the last part takes what is left.
        if groups[-1] and len(groups) < most and filled + widths[number] / 2 > wanted / most:
            groups.append([])
            filled = 0
        groups[-1].append(number)
        filled += widths[number]
    return [_only(table, [*names, *group]) for group in groups]


def _width(table: Table, number: int) -> int:
    """About how many characters wide a column is, with the gap beside it."""
    header = textwrap.wrap(table.columns[number].header, _HEADER, break_long_words=False) or [""]
    texts = [row[number] for row in table.rows]
    # Words in place of a number may take the width of what stands beside them, which is empty then.
    return max([*map(len, header), *(len(cell.full) for cell in texts if not cell.hole or not cell.text)]) + 2


def _floating(table: Table, parts: Sequence[Table]) -> list[str]:
    return [
        r"\begin{table}[htbp]",
        r"\centering",
        rf"\caption{{{_caption(table)}}}",
        rf"\label{{tab:{table.name}}}",
        r"\smallskip",
        r"\footnotesize",
        r"\setlength{\tabcolsep}{4pt}",
        *(line for number, part in enumerate(parts) for line in _boxed(part, below=number > 0)),
        *_notes(table),
        r"\end{table}",
    ]


def _boxed(part: Table, *, below: bool) -> list[str]:
    """A part of a float, scaled down where it is wider than the line."""
    return [
        *([r"\par\medskip"] if below else []),
        r"\sbox0{%",
        rf"\begin{{tabular}}{{{_layout(part.columns)}}}",
        r"\hline",
        _header(part),
        r"\hline",
        *_rows(part),
        r"\hline",
        r"\end{tabular}}",
        r"\ifdim\wd0>\linewidth\resizebox{\linewidth}{!}{\usebox0}\else\usebox0\fi",
    ]


def _long(table: Table, parts: Sequence[Table]) -> list[str]:
    caption = [rf"\caption{{{_caption(table)}}}\label{{tab:{table.name}}}\\"]
    lines = [r"\begingroup", r"\scriptsize", r"\setlength{\tabcolsep}{3pt}"]
    for number, part in enumerate(parts):
        lines += [
            rf"\begin{{longtable}}{{{_layout(part.columns)}}}",
            *(caption if number == 0 else []),
            r"\hline",
            _header(part),
            r"\hline",
            r"\endfirsthead",
            r"\hline",
            _header(part),
            r"\hline",
            r"\endhead",
            *_rows(part),
            r"\hline",
            r"\end{longtable}",
        ]
    return [*lines, *_notes(table), r"\endgroup"]


def _caption(table: Table) -> str:
    return rf"\textbf{{{escape_latex(table.title)}.}} {escape_latex(table.caption)}"


def _layout(columns: Sequence[Column]) -> str:
    return "".join(r"r@{\ }l" if column.spread else column.align[0] for column in columns)


def _header(table: Table) -> str:
    cells = []
    for column in table.columns:
        # Numbers are narrow: a header beside them is broken, so that it does not set the width.
        lines = textwrap.wrap(column.header, _HEADER, break_long_words=False, break_on_hyphens=False) or [""]
        text = escape_latex(lines[0])
        if len(lines) > 1:
            text = rf"\shortstack[{column.align[0]}]{{{_STRUT.strip()}{(chr(92) * 2).join(map(escape_latex, lines))}}}"
        cells.append(rf"\multicolumn{{2}}{{c}}{{{text}}}" if column.spread else text)
    return " & ".join(cells) + _STRUT + r" \\"


def _rows(table: Table) -> list[str]:
    lines = []
    for number, row in enumerate(table.rows):
        begins = number == 0 or number in table.breaks
        if begins and number:
            lines.append(r"\hline")
        cells = " & ".join(_cell(cell, column) for cell, column in zip(row, table.columns, strict=True))
        lines.append(cells + (_STRUT if begins else "") + r" \\")
    return lines


def _cell(cell: Cell, column: Column) -> str:
    text = escape_latex(cell.text)
    if cell.best:
        text = rf"\textbf{{{text}}}"
    interval = f"({escape_latex(cell.interval)})" if cell.interval else ""
    if not column.spread:
        return f"{text} {interval}".rstrip()
    if cell.hole and text:
        # Words do not belong to the means: they may take the width of both columns.
        return rf"\multicolumn{{2}}{{l}}{{{text}}}"
    return f"{text} & {interval}"


def _notes(table: Table) -> list[str]:
    if not table.notes:
        return []
    lines = [r"\par\smallskip", r"{\raggedright\footnotesize"]
    lines += [rf"{escape_latex(note)}\par" for note in table.notes]
    return [*lines, "}"]
