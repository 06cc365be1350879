"""The report and the index in a real browser: what a reader does with mouse, keyboard, paper or without scripts."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Browser
from store_factory import Store, full_study, spec

from reports.build import build_report
from reports.index_page import IndexFiles, build_index
from reports.results import Results, load_results
from reports.tables import performance, to_csv, trial_list

pytestmark = pytest.mark.browser

SCRIPT = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>"
TEST_RMSE = -8  # its column in the list of trials
# Contrast of every visible text of the page with what is behind it (WCAG 2), lowest first.
CONTRAST = """
(() => {
  const parts = colour => (colour.match(/[\\d.]+/g) || []).map(Number);
  const linear = v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => .2126 * linear(r / 255) + .7152 * linear(g / 255) + .0722 * linear(b / 255);
  const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim(), own = walker.currentNode.parentElement;
    if (!text || !own.checkVisibility() || own.closest("script, style, template, option, svg")) continue;
    let paper = [0, 0, 0, 0];
    for (let behind = own; behind && (paper[3] ?? 1) === 0; behind = behind.parentElement) {
      paper = parts(getComputedStyle(behind).backgroundColor);
    }
    const a = light(parts(getComputedStyle(own).color)), b = light(paper);
    found.push([(Math.max(a, b) + .05) / (Math.min(a, b) + .05), text.slice(0, 40)]);
  }
  return found.sort((x, y) => x[0] - y[0]);
})()
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as started:
        yield started
        assert started.console == []


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two configurations, a failed trial, and names that try to be markup."""
    claims = [
        {"name": f"first {SCRIPT}", "paper": SCRIPT, "better": {"method": "HDA"}, "than": {"method": "MDA"}},
        {"name": "second", "better": {"method": "HDA"}, "than": {"method": "DCNN"}},
    ]
    folder = tmp_path_factory.mktemp("study") / "one study"
    report = {"tables": spec()["report"]["tables"], "figures": ["cdf", "lambda_sweep"]}
    store = full_study(folder, paths=(10, 25), claims=claims, description=SCRIPT, report=report)
    store.add("TL", 2, system={"paths": 25}, state="failed", error=f"no luck {SCRIPT}", host=SCRIPT)
    return store


@pytest.fixture(scope="module")
def page(study: Store) -> Path:
    return build_report(study.folder).html


@pytest.fixture(scope="module")
def results(study: Store, page: Path) -> Results:
    return load_results(study.folder)


def column(browser: Browser, table: str, number: int) -> list[str]:
    return browser.text(f"#table-{table} tbody tr > :nth-child({number})")


def numbers_in(browser: Browser, table: str, number: int) -> list[float]:
    cells = f"#table-{table} tbody tr > :nth-child({number})"
    return list(browser.run(f"[...document.querySelectorAll('{cells}')].map(cell => +cell.dataset.value)"))


def keys_in_dialog(browser: Browser) -> list[str]:
    return [text.removeprefix("study rerun ") for text in browser.text("dialog[open] tbody code")]


def is_open(browser: Browser) -> bool:
    return bool(browser.run("document.querySelector('dialog').open"))


def escape(browser: Browser) -> None:
    """Close the dialog; the address goes back, which the browser does in its own time."""
    browser.press("Escape")
    browser.until("!document.querySelector('dialog').open && !/^#(of|enlarge)-/.test(location.hash)")


def copy(browser: Browser, selector: str) -> str:
    """Click a button that copies; what it says then, which it says for a moment only."""
    browser.run(
        f"(() => {{ const pressed = document.querySelector({json.dumps(selector)});"
        "window.said = new Promise(done => new MutationObserver((_, watch) => {"
        "if (!/^Copied|refused/.test(pressed.textContent)) return;"
        "watch.disconnect(); done(pressed.textContent); }).observe(pressed, {childList: true})); })()"
    )
    browser.click(selector)
    return str(browser.run("window.said"))


def test_nothing_is_asked_for_and_no_name_is_markup(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert browser.requests == [page.as_uri()]
    assert browser.run("window.hacked") is None
    assert browser.run("document.images.length + document.querySelectorAll('[onerror]').length") == 0
    assert SCRIPT in browser.text(".description")
    browser.run("document.getElementById('trials').open = true")
    assert f"no luck {SCRIPT}" in browser.text("#table-trials .why")
    # A script that got past the escaping would still not run: the policy lets only the page's own.
    browser.run(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.hacked = 3'}))"
    )
    assert browser.run("window.hacked") is None
    assert len(browser.console) == 1
    assert "Content Security Policy" in browser.console.pop()


def test_tables_are_sorted_by_mouse_and_keyboard(browser: Browser, page: Path, results: Results) -> None:
    browser.open(page)
    table = performance(results)
    rmse = [item.name for item in table.columns].index("RMSE") + 1
    written = [row[rmse - 1].text for row in table.rows]
    assert [text.split("\n")[0] for text in column(browser, "performance", rmse)] == written
    breaks = browser.run("document.querySelectorAll('#table-performance tr.break').length")
    assert breaks == len(table.breaks) > 0
    head = f"#table-performance th:nth-child({rmse})"
    values = [row[rmse - 1].value for row in table.rows]
    for order, reverse in (("ascending", False), ("descending", True)):
        if reverse:
            browser.run(f"document.querySelector('{head} button').focus()")
            browser.press("Enter")
        else:
            browser.click(f"{head} button")
        assert browser.run(f"document.querySelector('{head}').getAttribute('aria-sort')") == order
        shown = numbers_in(browser, "performance", rmse)
        assert shown == pytest.approx(sorted(values, reverse=reverse))  # type: ignore[type-var]
        assert browser.run("document.querySelectorAll('#table-performance tr.break').length") == 0
        assert browser.text("#table-performance output") == [f"{len(values)} rows, sorted by RMSE [m], {order}"]
    browser.press("Enter")
    assert [text.split("\n")[0] for text in column(browser, "performance", rmse)] == written
    assert browser.run("document.querySelectorAll('th[aria-sort]').length") == 0
    assert browser.run("document.querySelectorAll('#table-performance tr.break').length") == breaks
    # Where a value is missing, the row stays last in both directions.
    accuracy = [item.name for item in table.columns].index("Accuracy") + 1
    for _ in range(2):
        browser.click(f"#table-performance th:nth-child({accuracy}) button")
        shown = [text.split("\n")[0] for text in column(browser, "performance", accuracy)]
        numbers = [text for text in shown if text[0].isdigit()]
        assert shown[: len(numbers)] == numbers
        assert 0 < len(numbers) < len(shown)


def test_tables_are_filtered_and_counted(browser: Browser, page: Path, results: Results) -> None:
    browser.open(page)
    everything = len(performance(results).rows)
    assert browser.text("#table-performance output") == [f"{everything} rows"]
    browser.type("#table-performance input", "hda 25")
    assert column(browser, "performance", 1) == ["HDA"]
    assert browser.text("#table-performance output") == [f"1 of {everything} rows"]
    browser.type("#table-performance input", "nothing at all")
    assert column(browser, "performance", 1) == []
    browser.click("#table-performance .filters button")
    assert browser.text("#table-performance output") == [f"{everything} rows"]
    assert browser.run("document.activeElement.type") == "search"
    labels = browser.text("#table-performance .filters label")
    assert [label.split()[0] for label in labels] == ["Filter", "Method", "Paths", "Selected"]
    browser.run(
        "(() => { const s = document.querySelectorAll('#table-performance select')[1]; s.value = '=10';"
        "s.dispatchEvent(new Event('change')); })()"
    )
    assert set(column(browser, "performance", 2)) == {"10"}
    assert browser.text("#table-performance output") == [f"{everything // 2} of {everything} rows"]
    assert browser.run("document.querySelector('#table-performance output').getAttribute('aria-live')") == "polite"


def test_a_number_opens_its_trials_and_back_closes_them(browser: Browser, page: Path, results: Results) -> None:
    browser.open(page)
    (cell,) = (item for item in results.cells if item.method == "HDA" and item.axes["system.paths"] == 25)
    number = results.cells.index(cell)
    link = f"#of-performance-{number}-3"
    text = browser.text(link)[0]
    browser.run(f"document.querySelector('{link}').focus()")
    browser.press("Enter")
    assert is_open(browser)
    assert keys_in_dialog(browser) == [trial.key for trial in cell.done]
    assert text in browser.text("dialog h2")[0]
    assert "HDA, Paths 25" in browser.text("dialog p")[0]
    seeds = [row.split("\t") for row in browser.text("dialog tbody tr")]
    assert all("done" in row for row in seeds)
    address = browser.run("location.href")
    assert address.endswith(f"#of-performance-{number}-3")
    escape(browser)
    assert browser.run("document.activeElement.id") == link[1:]
    assert browser.run("location.hash") == ""
    browser.click(link)
    assert is_open(browser)
    browser.back()
    assert not is_open(browser)
    # The address of a number opens it for whoever gets the link, also after a sort.
    browser.open(address)
    assert keys_in_dialog(browser) == [trial.key for trial in cell.done]
    browser.run("[...document.querySelectorAll('dialog button')].find(b => b.textContent === 'Close').click()")
    assert not is_open(browser)
    # What was clicked is shown of every trial, with its interval in the title.
    names = [item.name for item in performance(results).columns]
    for name, column_of in (("Median", "test_median_error_m"), ("Accuracy", "test_accuracy")):
        browser.click(f"#of-performance-{number}-{names.index(name)}")
        assert re.fullmatch(rf"{name}: [\d.]+( m)? \([\d.]+ – [\d.]+\)", browser.text("dialog h2")[0])
        place = [text.split(" [")[0] for text in browser.text("dialog thead th")].index(name) + 1
        shown = [float(text) for text in browser.text(f"dialog tbody td:nth-child({place})")]
        assert shown == pytest.approx([trial.number(column_of) for trial in cell.done], abs=0.06)
        assert "Parameters" not in browser.text("dialog thead th")
        escape(browser)
    # A claim leads to all that it was judged by, and the state of a failed trial to its reason.
    browser.click("#of-claims-0-0")
    assert len(keys_in_dialog(browser)) > 6
    escape(browser)
    (failed,) = (item for item in results.cells if item.method == "TL" and item.axes["system.paths"] == 25)
    column_of_seeds = [item.name for item in performance(results).columns].index("Seeds")
    browser.click(f"#of-performance-{results.cells.index(failed)}-{column_of_seeds}")
    assert f"no luck {SCRIPT}" in browser.text("dialog .why")
    escape(browser)
    # A link to one trial opens the folded list and marks its row.
    key = cell.done[0].key
    browser.open(f"{page.as_uri()}#trial-{key}")
    assert browser.run("document.getElementById('trials').open")
    assert key in browser.text("tr.found")[0]


def test_tables_and_commands_are_copied(browser: Browser, page: Path, results: Results) -> None:
    browser.open(page)
    browser.send("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])

    def clipboard() -> str:
        browser.send("Page.bringToFront")
        return str(browser.run("navigator.clipboard.readText()"))

    labels = browser.text("#table-performance .tools button")
    assert labels == ["Copy as CSV", "Copy as Markdown", "Copy as LaTeX"]
    for place, start in enumerate(("Method,", "**Localization", None)):
        assert copy(browser, f"#table-performance .tools button:nth-of-type({place + 1})") == "Copied"
        assert start is None or clipboard().startswith(start)
    assert clipboard() == (page.parent / "tables" / "performance.tex").read_text(encoding="utf-8")
    assert copy(browser, "#table-performance .tools button") == "Copied"
    assert list(csv.reader(io.StringIO(clipboard()))) == list(csv.reader(io.StringIO(to_csv(performance(results)))))
    browser.click("#of-performance-6-3")
    keys = keys_in_dialog(browser)
    assert copy(browser, "dialog .tools button") == "Copied"
    assert clipboard().split("\n") == [f"study rerun {key}" for key in keys]
    assert copy(browser, "dialog tbody tr:nth-child(2) button") == "Copied"
    assert clipboard() == f"study rerun {keys[1]}"
    escape(browser)


def test_a_figure_is_enlarged_and_put_back(browser: Browser, page: Path) -> None:
    browser.open(page)
    small = browser.run("document.querySelector('#figure-cdf svg').getBoundingClientRect().width")
    browser.run("document.querySelector('#figure-cdf button.enlarge').focus()")
    browser.press("Enter")
    assert is_open(browser)
    assert browser.run("document.querySelector('dialog svg').getBoundingClientRect().width") > small
    assert browser.run("document.querySelectorAll('#figure-cdf .scroll svg').length") == 0
    assert browser.run("location.hash") == "#enlarge-cdf"
    escape(browser)
    assert browser.run("document.querySelectorAll('#figure-cdf .scroll > svg').length") == 1
    assert browser.run("document.activeElement.className") == "enlarge plain"
    browser.click("#figure-lambda_sweep svg")
    assert browser.text("dialog h2") == ["Error and accuracy over λ"]
    browser.back()
    assert not is_open(browser)
    names = browser.run("[...document.querySelectorAll('#figure-cdf .tools a')].map(a => a.getAttribute('href'))")
    assert names == ["figures/cdf.csv", "figures/cdf.svg", "figures/cdf.png"]
    assert all((page.parent / name).is_file() for name in names)


def test_a_page_can_be_read_by_everybody(browser: Browser, page: Path) -> None:
    browser.open(page)
    for dark in (False, True):
        browser.dark(dark)
        browser.run("document.querySelectorAll('details').forEach(d => { d.open = true; })")
        paper = browser.run("getComputedStyle(document.body).backgroundColor")
        assert (paper == "rgb(255, 255, 255)") is not dark
        contrasts = browser.run(CONTRAST)
        assert len(contrasts) > 200
        assert contrasts[0][0] >= 4.5, contrasts[:5]
        # The curves' colours are the page's on dark paper, too.
        drawn = browser.run("getComputedStyle(document.querySelector('#figure-cdf svg')).color")
        assert drawn == browser.run("getComputedStyle(document.body).color")
    browser.dark(False)
    nodes = browser.send("Accessibility.getFullAXTree")["nodes"]
    roles: dict[str, list[str]] = {}
    for node in nodes:
        if not node["ignored"]:
            roles.setdefault(node["role"]["value"], []).append(node.get("name", {}).get("value", ""))
    for role in ("link", "button", "searchbox", "combobox", "table", "region", "image", "navigation"):
        assert roles[role], role
        assert all(name.strip() for name in roles[role]), role
    assert len(roles["main"]) == len(roles["banner"]) == len(roles["contentinfo"]) == 1
    assert browser.run("document.querySelectorAll('th:not([scope])').length") == 0
    # The first Tab leads past the head of the page.
    browser.open(page)
    browser.press("Tab")
    assert browser.text(":focus") == ["Skip to the results"]
    browser.press("Enter")
    assert browser.run("document.activeElement.id") == "content"


def test_a_phone_scrolls_tables_and_not_the_page(browser: Browser, page: Path) -> None:
    browser.size(390, 844, phone=True)
    try:
        browser.open(page)
        assert browser.run("document.documentElement.scrollWidth") == 390
        wide = browser.run(
            "[...document.querySelectorAll('figure > .scroll')].filter(s => s.checkVisibility()).map(s =>"
            "[s.scrollWidth > s.clientWidth + 1, s.parentElement.querySelector('.hint').checkVisibility()])"
        )
        assert all(wider == hinted for wider, hinted in wide)
        assert any(wider for wider, _ in wide)
        # A claim is read line by line, each with its name, and is not pushed aside.
        box = "document.querySelector('#table-claims tbody {}').getBoundingClientRect()"
        assert browser.run(box.format("th") + ".bottom") <= browser.run(box.format("td") + ".top")
        assert browser.run(box.format("td:nth-child(3)") + ".width") > 300
    finally:
        browser.size(1200, 900)


def test_paper_shows_everything_and_cuts_nothing(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.send("Emulation.setEmulatedMedia", media="print")
    browser.size(688, 900)  # A4 within the page's margins
    try:
        assert browser.run("document.querySelector('#table-trials tbody td').checkVisibility()")
        for hidden in ("nav", ".filters", ".tools", ".hint", ".skip"):
            assert not browser.run(f"document.querySelector('{hidden}').checkVisibility()"), hidden
        wider = browser.run(
            "[...document.querySelectorAll('table')].filter(t => t.getBoundingClientRect().right > innerWidth + 1)"
            ".map(t => t.closest('figure').id)"
        )
        assert wider == []
    finally:
        browser.size(1200, 900)
        browser.send("Emulation.setEmulatedMedia", media="")
    assert browser.pdf().startswith(b"%PDF")


def test_without_scripts_everything_is_there(browser: Browser, page: Path, results: Results) -> None:
    browser.open(page, scripts=False)
    try:
        assert browser.run("document.querySelectorAll('button, input, select, dialog').length") == 0
        assert len(column(browser, "performance", 1)) == len(performance(results).rows)
        assert browser.run("document.querySelectorAll('#table-trials tbody tr').length") == len(
            trial_list(results).rows
        )
        links = browser.run("[...document.querySelectorAll('a[href]')].map(a => a.getAttribute('href'))")
        ids = set(browser.run("[...document.querySelectorAll('[id]')].map(e => e.id)"))
        for link in set(links):
            assert link[1:] in ids if link.startswith("#") else (page.parent / link).is_file(), link
    finally:
        browser.open("about:blank")


def test_a_large_study_is_searched_as_a_whole(browser: Browser, tmp_path: Path) -> None:
    report: dict[str, Any] = {"tables": ["performance"], "figures": []}
    store = full_study(tmp_path / "large", details=False, seeds=45, claims=[], report=report)
    page = build_report(store.folder).html
    results = load_results(store.folder)
    trials = trial_list(results).rows
    assert len(trials) > 220
    browser.open(f"{page.as_uri()}#trials")
    browser.run("document.getElementById('trials').open = true")
    shown = "document.querySelectorAll('#table-trials tbody tr').length"
    assert browser.run(shown) == 200
    assert f"The first 200 of {len(trials)} rows are shown." in browser.text("#table-trials .cut")[0]
    last = trials[-1][-1].keys[0]
    browser.type("#table-trials input", last)
    assert browser.text("#table-trials tbody code") == [f"study rerun {last}"]
    browser.click("#table-trials .filters button")
    place = next(i for i, cell in enumerate(trials[0]) if cell is trials[0][TEST_RMSE]) + 1
    browser.click(f"#table-trials th:nth-child({place}) button")
    lowest = sorted(row[TEST_RMSE].value for row in trials if isinstance(row[TEST_RMSE].value, float))
    assert numbers_in(browser, "trials", place) == pytest.approx(lowest[:200])
    browser.click("#table-trials .cut button")
    assert browser.run(shown) == len(trials)
    # The last method's trials are not among the rows that are markup.
    number = next(i for i, cell in enumerate(results.cells) if cell.method == "HDA")
    position = [item.name for item in performance(results).columns].index("RMSE")
    browser.click(f"#of-performance-{number}-{position}")
    assert set(keys_in_dialog(browser)) == {trial.key for trial in results.cells[number].done}
    escape(browser)


def test_an_index_leads_to_its_reports(browser: Browser, study: Store, tmp_path: Path) -> None:
    other = Store(tmp_path / "results" / "partial", spec(study="partial", search=[], claims=[]))
    other.add("DCNN", 0, details=False)
    (tmp_path / "results" / "broken" / "trials").mkdir(parents=True)
    places = [study.folder, other.folder, tmp_path / "results" / "broken"]
    written: IndexFiles = build_index(places, tmp_path / "out")
    browser.open(written.page)
    assert browser.requests == [written.page.as_uri()]
    assert browser.text("tbody th") == ["hda_against_mda", "partial", "broken"]
    assert "no report: the folder has no study.yaml" in browser.text("tbody tr:nth-child(3) .hole")[0]
    head = browser.text("thead th")
    trials = next(i for i, text in enumerate(head) if text.startswith("Trials")) + 1
    assert re.match(r"1 of \d+", column(browser, "studies", trials)[1])
    browser.click(f"thead th:nth-child({trials}) button")
    assert browser.text("tbody th") == ["partial", "hda_against_mda", "broken"]
    assert browser.run(CONTRAST)[0][0] >= 4.5
    for name, link in browser.run("[...document.querySelectorAll('tbody th a')].map(a => [a.textContent, a.href])"):
        browser.open(link)
        assert browser.text("h1") == [name]
    assert json.dumps(str(tmp_path)) not in written.page.read_text(encoding="utf-8")
