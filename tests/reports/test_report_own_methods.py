"""Methods of a user's own in a report: their name, their place, their colour."""

from __future__ import annotations

from pathlib import Path

from store_factory import HASH, Store, spec

from models.settings import METHOD_SETTINGS
from reports.build import build_report
from reports.figures import method_colours, method_styles
from reports.results import load_results
from study.spec.expand import expand


def _own(name: str) -> dict[str, object]:
    return {"name": name, "joint": False, "adapts": False, "twin": False, "objective": {"q": 0.5}, "source": "0" * 16}


def test_own_methods_are_shown_by_name_after_the_others(folder: Path) -> None:
    content = spec(
        axes={"method": ["pkg.own:Second", "pkg.own:First", "DCNN"], "objective.q": [0.5, 1.0]},
        methods={"pkg.own:First": _own("First"), "pkg.own:Second": _own("B+ Second")},
        search=[], claims=[], seeds=2,
    )  # fmt: skip
    store = Store(folder, content)
    for cell in expand(store.spec):
        for trial in cell.trials(2, HASH):
            store.add_trial(trial, details=True)
    results = load_results(folder)
    assert results.methods == ("MEAN", "KNN", "DCNN", "First", "B+ Second")
    assert not results.outside
    assert len(results.cells) == 3 + 2 * 2  # the others do not have the setting

    written = build_report(folder)
    page = written.html.read_text()
    assert "B+ Second" in page
    assert "pkg.own" not in page.partition("<svg")[0]
    for name in ("First", "B+ Second"):
        assert name in (folder / "report" / "report.md").read_text()
    colours = method_colours(results.methods)
    assert len(set(colours.values())) == len(colours)


def test_every_method_has_a_style_of_its_own() -> None:
    own = [f"Own {i}" for i in range(20)]
    styles = method_styles([*METHOD_SETTINGS, *own])
    assert len(set(styles.values())) == len(styles)
    assert {name: styles[name] for name in METHOD_SETTINGS} == method_styles(list(METHOD_SETTINGS))
    lines = {styles[name][1] for name in METHOD_SETTINGS}
    assert not lines & {styles[name][1] for name in own}
