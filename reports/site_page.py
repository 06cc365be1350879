"""The page of a site: one HTML file that opens from disk, with everything that `study data info` tells and pictures."""

from __future__ import annotations

import html
import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from reports.drawing import INK, PAPER, Figure
from reports.pages import template
from reports.site_figures import channels, shares_over_time, spread_and_power
from reports.site_map import CONDITION_COLOURS, street_map
from study import __version__
from study.data.summary import summary_facts
from study.errors import DataError

if TYPE_CHECKING:
    from study.data.site_view import SiteView

__all__ = ["check_target", "default_file", "site_html", "write_site_page"]

# What tells a page of ours from a file that must not be lost.
_GENERATOR = "study data info"


def default_file(site_name: str) -> Path:
    """``<site name>.html`` in the current folder; characters that would lead elsewhere become underscores."""
    return Path((re.sub(r"[^\w.\- ]", "_", site_name).lstrip(".") or "site") + ".html")


def write_site_page(view: SiteView, file: Path) -> None:
    """Write the page of a site, whole or not at all.

    Args:
        view: what `study.data.site_view.view_site` gave.
        file: where to; an earlier page of a site is replaced.

    Raises:
        DataError: the file cannot be written, or is not an earlier page.
    """
    check_target(file)
    text = site_html(view)
    scratch = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # Beside its place, so that nobody opens half a page and a full disk leaves the old one.
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=file.parent, prefix=".page-", suffix=".html", delete=False
        ) as handle:
            scratch = Path(handle.name)
            handle.write(text)
        scratch.chmod(0o666 & ~_umask())
        scratch.replace(file)
    except OSError as error:
        raise _unwritable(file, error.strerror or str(error)) from None
    finally:
        if scratch is not None:
            scratch.unlink(missing_ok=True)


def check_target(file: Path) -> None:
    """Whether a page may be written there; asked before a site is read, which can take minutes.

    Raises:
        DataError: the place is a folder, a file that is no page of a site, or cannot be looked at.
    """
    try:
        if file.is_dir():
            raise _unwritable(file, "it is a folder")
        if not file.exists():
            return
        with file.open("rb") as handle:
            head = handle.read(2048)
    except OSError as error:
        raise _unwritable(file, error.strerror or str(error)) from None
    if f'content="{_GENERATOR}"'.encode() not in head:
        raise _unwritable(file, "the file exists and is not a page of a site")


def _unwritable(file: Path, why: str) -> DataError:
    return DataError(
        f"the page cannot be written: {why}",
        where=str(file),
        allowed="a new file, or an earlier page, in a folder that this user can write to",
        fix="name another file after --html",
    )


def _umask() -> int:
    # The only way to ask is to set it.
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def site_html(view: SiteView) -> str:
    """The page of a site."""
    figures = [
        figure for figure in (channels(view), shares_over_time(view), spread_and_power(view)) if figure is not None
    ]
    facts = summary_facts(view.summary)
    # A page goes to others: where the site lies on this machine is of no use to them.
    origin = [fact for fact in facts.pop("How it was made") if fact[0] != "Folder"]
    return template("site.html.j2").render(
        name=view.site.name,
        generator=_GENERATOR,
        headline=_headline(view),
        status=_status(view),
        classes=_classes(view),
        facts=facts,
        origin=[*origin, ("Page by", f"study {__version__}")],
        map=(street := street_map(view)),
        # Fragments that escape what they were given; everything else is plain text.
        map_svg=Markup(street.svg),
        map_data=Markup(street.data) if len(view.scenes) > 1 else None,
        figures=figures,
        drawings={figure.name: Markup(_inline(figure)) for figure in figures},
    )


def _headline(view: SiteView) -> str:
    summary = view.summary
    shares = ", ".join(f"{part['share']:.1%} {name}" for name, part in summary["conditions"].items()).replace(
        "%", "\u00a0%"
    )
    spread = summary["rms_delay_spread_ns"]
    text = f"{summary['positions']:,} positions in {_counted(summary['scenes'], 'scene')}: {shares}"
    return f"{text}; rms delay spread {spread['median']:.0f} ns in the median." if spread else f"{text}; no paths."


def _status(view: SiteView) -> str:
    summary = view.summary
    return (
        f"A ray-traced site at {summary['carrier_hz'] / 1e9:g} GHz with up to {summary['max_paths']} paths a channel; "
        f"conditions from: {summary['condition_source']}. Data hash {summary['data_hash'][:12]}."
    )


def _classes(view: SiteView) -> list[tuple[str, ...]]:
    """Rows of the head table: condition, share, its range over the scenes, received power, delay spread."""
    rows: list[tuple[str, ...]] = []
    for name, part in view.summary["conditions"].items():
        power, spread = part["received_power_db"], part["rms_delay_spread_ns"]
        rows.append(
            (
                name,
                f"{100 * part['share']:.1f}",
                f"{100 * part['lowest_scene']:.1f} … {100 * part['highest_scene']:.1f}",
                f"{power['median']:.1f}".replace("-", "−") if power else "",
                f"{spread['median']:.0f}" if spread else "",
                f"{spread['p90']:.0f}" if spread else "",
            )
        )
    return rows


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _inline(figure: Figure) -> str:
    """An SVG that takes the page's colours, so that it can be read on a dark background too."""
    svg = figure.svg.replace(PAPER, "", 1).replace(INK, "currentColor")
    for colour in CONDITION_COLOURS.values():
        svg = svg.replace(colour, f"var(--c{colour[1:]}, {colour})")
    label = html.escape(figure.alt_text, quote=True)
    return re.sub(r"<svg ", lambda _: f'<svg role="img" aria-label="{label}" ', svg, count=1)
