"""Tables as Markdown, CSV, LaTeX, HTML and in a terminal: the same numbers in the same order."""

from __future__ import annotations

import csv
import io
import re
from typing import TYPE_CHECKING

from reports.csv_fields import csv_text
from reports.pages import template
from reports.tables.latex import to_latex
from reports.tables.model import NOT_APPLICABLE, Cell, Table, Value

if TYPE_CHECKING:
    import rich.table
    import rich.text

__all__ = ["escape_markdown", "to_csv", "to_html", "to_markdown", "to_terminal"]


def to_markdown(table: Table) -> str:
    """The table as GitHub-flavoured Markdown, with title, caption and notes."""
    lines = [f"**{escape_markdown(table.title)}.** {escape_markdown(table.caption)}", ""]
    lines.append("| " + " | ".join(escape_markdown(column.header) for column in table.columns) + " |")
    lines.append("|" + "|".join(" ---: " if column.align == "right" else " --- " for column in table.columns) + "|")
    lines.extend("| " + " | ".join(_markdown(cell) for cell in row) + " |" for row in table.rows)
    if table.notes:
        lines.extend(["", *(f"* {escape_markdown(note)}" for note in table.notes)])
    return "\n".join(lines) + "\n"


def _markdown(cell: Cell) -> str:
    if not cell.best:
        return escape_markdown(cell.full)
    return f"**{escape_markdown(cell.text)}**" + (f" ({escape_markdown(cell.interval)})" if cell.interval else "")


def to_csv(table: Table) -> str:
    """The table as CSV with unrounded numbers; a missing number is an empty field, holes keep their words."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    header: list[str] = []
    for column in table.columns:
        header.append(column.header)
        if column.spread:
            unit = f" [{column.unit}]" if column.unit else ""
            header.extend([f"{column.name} low{unit}", f"{column.name} high{unit}", f"{column.name} n"])
    writer.writerow(header)
    for row in table.rows:
        fields: list[str] = []
        for column, cell in zip(table.columns, row, strict=True):
            missing = cell.text == NOT_APPLICABLE.text  # there is no number, for whatever reason
            text = _field(cell.value) if cell.value is not None or missing else cell.text
            fields.append(csv_text(text.replace("\u00a0", " ")))
            if column.spread:
                fields.extend([_field(cell.low), _field(cell.high), _field(cell.n)])
        writer.writerow(fields)
    return buffer.getvalue()


def to_html(table: Table) -> str:
    """The table as an HTML fragment; every text is escaped."""
    return template("table.html.j2").render(
        table=table, csv=to_csv(table), markdown=to_markdown(table), latex=to_latex(table)
    )


def to_terminal(table: Table, width: int = 80) -> rich.table.Table:
    """The table for a terminal; columns that are beside the point are left out until it fits the width."""
    # Imported here: rich costs time that a report without a terminal need not pay.
    from rich import box
    from rich.table import Table as Terminal
    from rich.text import Text

    # An interval goes under its mean, and a column that says nothing is left out.
    shown = [number for number in range(len(table.columns)) if any(row[number].text for row in table.rows)]
    headers, widths = {}, {}
    for number in shown:
        numeric = table.columns[number].align == "right"
        header = table.columns[number].header.replace(" [", "\n[")
        headers[number] = header.replace(" ", "\n", 1) if numeric and "\n" not in header else header
        texts = [headers[number], *(_terminal(row[number]) for row in table.rows)]
        parts = [part for text in texts for part in (text.splitlines() if numeric else text.split())]
        widths[number] = max(map(len, parts), default=1)
    left_out: list[str] = []
    for number in sorted(shown, key=lambda number: (not table.columns[number].quiet, -number)):
        column = table.columns[number]
        if sum(widths[item] for item in shown) + len(shown) - 1 > width and (column.quiet or column.extra):
            shown.remove(number)
            left_out.insert(0, column.name)
    roomy = sum(widths[item] for item in shown) + 2 * (len(shown) - 1) <= width
    # Text objects, not strings: a name such as "[red]" must not be read as markup.
    notes = [*table.notes, *([f"Not shown here: {'; '.join(left_out)}."] if left_out else [])]
    caption = Text("\n".join([table.caption, *(f"* {note}" for note in notes)]))
    terminal = Terminal(
        title=Text(table.title), caption=caption, box=box.SIMPLE_HEAD, caption_justify="left", title_justify="left",
        show_edge=False, pad_edge=False, padding=(0, int(roomy), 0, 0),
    )  # fmt: skip
    for number in shown:
        align = table.columns[number].align
        # Numbers are never broken or cut: in a narrow terminal the table is wider than it instead.
        terminal.add_column(
            Text(headers[number]), justify=align, no_wrap=align == "right", overflow="fold", min_width=widths[number]
        )
    for number, row in enumerate(table.rows):
        if number in table.breaks and number:
            terminal.add_section()
        terminal.add_row(*(_terminal_text(row[item], quiet=table.columns[item].quiet) for item in shown))
    return terminal


def _terminal_text(cell: Cell, *, quiet: bool) -> rich.text.Text:
    from rich.text import Text

    text = Text(_terminal(cell), style="dim" if cell.hole or quiet else "")
    if cell.best:
        # The number is what is best, not its interval.
        text.stylize("bold", 0, len(text.plain.split("\n")[0]))
    return text


def _terminal(cell: Cell) -> str:
    if cell.hole and cell.text.startswith("—"):
        return cell.text.replace(", ", ",\n")
    text = re.sub(r"^([\d.]+) of ", r"\1/", cell.text)
    return f"{text}\n{cell.interval.replace(' – ', '–')}" if cell.interval else text


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is: no markup, no HTML, no new column."""
    # Entities first: "&lt;" in a name is these four characters, not a "<".
    text = re.sub(r"&(?=#?\w+;)", "&amp;", text)
    for character in "\\`*_[]|<>#~$":
        text = text.replace(character, f"\\{character}" if character not in "<>" else f"&{'lg'[character == '>']}t;")
    text = " ".join(text.split())
    # What starts a list or underlines a heading at the beginning of a line.
    text = re.sub(r"^(\d+)([.)])(?= |$)", r"\1\\\2", text)
    return re.sub(r"^([-+=])(?=[-+= ]|$)", r"\\\1", text)


def _field(value: Value) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.12g}"
    return str(value)
