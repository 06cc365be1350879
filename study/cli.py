"""The command line. Each command calls one function; heavy packages are imported by the command that needs them.

Exit codes: 0 all is well; 1 it ran, but a trial failed or a repeated trial differs; 2 the input cannot be used (one
message on stderr, nothing started); 3 it stopped at a limit (--max-hours, --max-cost); 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import codecs
import errno
import io
import json
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from study import __version__
from study.errors import DataError, ResultsError, SpecError, StudyError, nearest

if TYPE_CHECKING:
    from cluster.prices import Prices
    from models.methods import Method
    from study.console import RunDisplay, TraceDisplay
    from study.data.site import Site
    from study.spec.model import StudySpec

__all__ = ["app", "main"]

app = typer.Typer(
    name="study",
    help="Hyperparameter and ablation studies for deep semantic localization in dynamic wireless networks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data_app = typer.Typer(help="Sites: list, inspect, trace and import them.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data")

DEFAULT_RESULTS = Path("results")

SpecArgument = Annotated[str, typer.Argument(help="Study spec: a YAML file, or the name of a shipped one.")]
ResultsOption = Annotated[
    Path, typer.Option("--results", help="Folder of all results; the study gets a folder of its name in it.")
]
FolderArgument = Annotated[
    str,
    typer.Argument(help="Results folder of a study, such as results/quickstart (or just its name), or its URI."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
PresetOption = Annotated[
    str | None, typer.Option(help="Size of a spec that has presets: small, paper or one of your own.")
]
SeedsOption = Annotated[int | None, typer.Option(min=1, max=1000, help="Model seeds per cell, instead of the spec's.")]
ClusterOption = Annotated[str, typer.Option(help="Cluster file: a YAML file, or the name of a shipped one.")]
PricesOption = Annotated[
    Path | None, typer.Option(help="A price list of your own; it comes before the shipped cluster/prices.yaml.")
]


def main() -> None:
    """Run the command line and exit."""
    _allow_ascii()
    # A polite kill unwinds as Ctrl-C does, so that nothing unfinished stays behind.
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    try:
        # Outside its own error handling, typer returns the code of `typer.Exit`.
        code = app(standalone_mode=False)
    except StudyError as error:
        print(f"study: {error}", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        print("study: stopped", file=sys.stderr)
        sys.exit(130)
    except UnicodeEncodeError as error:
        print(f"study: a name is not text: {error.object!a}\n  to do: rename the file or folder", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        # The reader of a pipe is gone (`study methods | head`); a traceback would help nobody.
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        print("study: a path is too long for this file system\n  to do: check the arguments", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        # typer brings its own copy of click: its usage errors are known by what they can do.
        if not (hasattr(error, "show") and hasattr(error, "exit_code")):
            raise
        error.show()
        sys.exit(error.exit_code)
    sys.exit(code if isinstance(code, int) else 0)


def _stop(number: int, frame: FrameType | None = None) -> None:
    # Not KeyboardInterrupt: typer would end without a word.
    print("study: stopped", file=sys.stderr)
    sys.exit(128 + number)


def _show_version(value: bool) -> None:
    if value:
        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Hyperparameter and ablation studies for deep semantic localization in dynamic wireless networks."""


@app.command()
def run(
    spec: SpecArgument,
    cluster: Annotated[str, typer.Option(help="Cluster file: a YAML file, or the name of a shipped one.")] = "local",
    results: Annotated[
        str | None,
        typer.Option(
            help="Folder of all results, or a URI such as s3://bucket/prefix; the study gets a folder of its name in "
            "it. By default what the cluster file says under storage, and results/ otherwise."
        ),
    ] = None,
    preset: PresetOption = None,
    seeds: SeedsOption = None,
    retry: Annotated[
        str, typer.Option(help="Run stored trials of these states again: failed,out_of_memory,diverged,pruned.")
    ] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would run, by cell; start and write nothing.")
    ] = False,
    log: Annotated[
        list[str] | None,
        typer.Option(help="Also log to mlflow, mlflow=URI, tensorboard or tensorboard=DIR; may be given twice."),
    ] = None,
    max_hours: Annotated[
        float | None,
        typer.Option(help="Hand out no more trials after so many hours; those that run end first (exit code 3)."),
    ] = None,
    max_cost: Annotated[
        float | None,
        typer.Option(help="The same for money, at what the machines of the cluster file cost by the hour."),
    ] = None,
    prices: PricesOption = None,
) -> None:
    """Run a study: everything it wants that is not stored yet, then the report."""
    from cluster.loading import load_cluster
    from study.console import RunDisplay, show_plan, show_summary
    from study.methods import search_path
    from study.observers import Observers, make_observers
    from study.planning.before_run import planning
    from study.planning.limits import run_limit
    from study.resources import find_cluster, find_spec
    from study.running import plan_run, run_study
    from study.storage import is_remote, open_results, study_location

    retried = _states(retry)
    spec_path = find_spec(spec)
    loaded = _load_spec(spec_path, preset, seeds)
    cluster_path = find_cluster(cluster)
    machines = load_cluster(cluster_path)
    price_list = _prices(prices)
    limit = run_limit(max_hours, max_cost, machines, price_list, source=str(cluster_path))
    place = results or (str(DEFAULT_RESULTS) if machines.storage == "local" else machines.storage)
    location = study_location(place, loaded.study)
    console = Console(soft_wrap=True, highlight=False)
    if dry_run:
        with open_results(location, parts=("trials",)) as store:
            show_plan(console, plan_run(loaded, machines, store, retry=retried))
        return
    began = time.monotonic()
    varying = [*loaded.axes, *(path for search in loaded.search for path in search.space)]
    with open_results(location, create=True) as store:
        logs = make_observers(log or [], store.folder, is_mirror=is_remote(location))

        def say(text: str) -> None:
            console.print(text, markup=False)

        with _Interruption() as interruption, RunDisplay(console, dict.fromkeys(varying)) as display:
            summary = run_study(
                loaded,
                machines,
                store,
                Observers([display, *logs], warn=display.warn),
                cluster_source=str(cluster_path),
                retry=retried,
                search_path=search_path(spec_path),
                checkpoints=str(study_location(location, "checkpoints")) if is_remote(location) else None,
                say=say,
                should_stop=lambda: interruption.asked(display),
                limit=limit,
                before=lambda site, table: planning(
                    loaded, site, table, machines, price_list, store,
                    DEFAULT_RESULTS if is_remote(location) else store.folder.parent,
                    source=str(cluster_path), say=say,
                ),
            )  # fmt: skip
        show_summary(console, summary, time.monotonic() - began)
        if summary.stopped:
            console.print(f"stopped; finished trials are in {store.location}. To go on, run the same command again.")
            raise typer.Exit(130)
        at_limit = summary.limit is not None and summary.progress.stored + summary.executed < summary.progress.wanted
        if at_limit:
            console.print(
                f"stopped at the limit, {summary.limit}; finished trials are in {store.location}. To go on, run the "
                "same command again.",
                markup=False,
            )
            if not summary.progress.stored + summary.executed:
                raise typer.Exit(3)  # nothing is stored, so there is nothing to report
        lost = summary.progress.finished["lost"]
        if lost and lost == sum(summary.progress.finished.values()) and not summary.progress.stored:
            raise typer.Exit(1)  # nothing is stored, so there is nothing to report
        try:
            _report(store.folder, console)
        except SystemExit:
            console.print(f"the results are stored; `study report {store.location}` writes the report")
            raise
        if store.remote is not None:
            store.remote.push_folder("report", store.folder / "report")
            console.print(f"report and results: {store.location}")
    if at_limit:
        raise typer.Exit(3)
    bad = summary.progress.finished
    if bad["failed"] or bad["out_of_memory"] or bad["lost"]:
        raise typer.Exit(1)


@app.command()
def plan(
    spec: Annotated[
        str | None, typer.Argument(help="Study spec: a YAML file, or the name of a shipped one; not with --backtest.")
    ] = None,
    more: Annotated[list[str] | None, typer.Argument(hidden=True)] = None,
    cluster: ClusterOption = "local",
    compare: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE FILE...", help="Cluster files to compare: --compare a.yaml b.yaml."),
    ] = None,
    deadline: Annotated[
        str | None, typer.Option(help="When it has to be done: 8h, 90m, 1d12h, or a time such as 2027-01-31T18:00.")
    ] = None,
    budget: Annotated[float | None, typer.Option(help="What it may cost, in the currency of the prices.")] = None,
    sizes: Annotated[
        bool, typer.Option("--sizes", help="Also look at clusters of other sizes; a limit or --figure does so, too.")
    ] = False,
    figure: Annotated[
        Path | None, typer.Option(help="Draw cost against time over cluster sizes into this file (.svg or .png).")
    ] = None,
    backtest: Annotated[
        Path | None,
        typer.Option(help="Plan the finished studies of this results folder again, each without what it told itself."),
    ] = None,
    preset: PresetOption = None,
    seeds: SeedsOption = None,
    results: ResultsOption = DEFAULT_RESULTS,
    whole: Annotated[bool, typer.Option("--whole", help="Plan all trials, also those that are stored.")] = False,
    calibration: Annotated[
        Path | None,
        typer.Option(help="A calibration, or a folder of some; by default those in calibration/ beside the results."),
    ] = None,
    prices: PricesOption = None,
    as_json: JsonOption = False,
) -> None:
    """What a study will cost before it runs: hours, money, energy, memory, and what would meet a deadline or a budget.

    It rests on calibrations (`study calibrate`) and on the finished studies beside the results; where nothing was
    measured, on counted operations.
    """
    from cluster.loading import load_cluster
    from study.planning.answering import answer, stored_trials
    from study.planning.knowledge import gather
    from study.planning.limits import plan_limits
    from study.planning.showing import show_answer, show_comparison
    from study.resources import find_cluster, find_spec
    from study.running import prepare
    from study.storage import open_results

    console = Console(soft_wrap=True, highlight=False)
    if more and not compare:
        raise SpecError(f"{more[0]!r} is one argument too many", fix="name several cluster files with --compare")
    if backtest is not None:
        if spec is not None:
            raise SpecError("a backtest reads the specs of the results", where=f"{spec}", fix="leave SPEC out")
        if deadline or budget is not None or figure or compare or sizes:
            raise SpecError(
                "a backtest looks at what was, and at no limits or sizes",
                where="--backtest with --deadline, --budget, --sizes, --figure or --compare",
                fix="leave them out",
            )
        _backtest(backtest, cluster, results, calibration, prices, console, as_json=as_json)
        return
    if spec is None:
        raise SpecError("there is no spec to plan", allowed="study plan SPEC, or study plan --backtest RESULTS")
    _check_local("--results", results)
    limits = plan_limits(deadline, budget)
    loaded = _load_spec(find_spec(spec), preset, seeds)
    files = [find_cluster(name) for name in ([*compare, *(more or [])] if compare else [cluster])]
    clusters = [(str(file), load_cluster(file)) for file in files]
    price_list = _prices(prices)
    if figure is not None:
        from reports.drawing import check_figure_name

        check_figure_name(figure)
    site, table = prepare(loaded)
    stored: dict[str, int] = {}
    folder = results / loaded.study
    if not whole and (folder / "study.yaml").is_file():
        with open_results(folder, parts=("trials",)) as store:
            stored = stored_trials(loaded, site.data_hash, store)
    known = gather(results, calibration)
    answers = [
        answer(
            loaded,
            site,
            table,
            machines,
            price_list,
            results,
            source=name,
            calibration=calibration,
            known=known,
            stored=stored,
            limits=limits,
            look_for_sizes=sizes or figure is not None,
        )
        for name, machines in clusters
    ]
    if figure is not None:
        from study.planning.picture import draw_plans

        if not any(item.sizes for item in answers):
            raise SpecError(
                "there is nothing to draw: all trials are stored", where=f"--figure {figure}", fix="add --whole"
            )
        draw_plans(answers, limits, figure)
    if as_json:
        found = [item.as_json() for item in answers]
        print(json.dumps(found if compare else found[0], indent=1, ensure_ascii=False))
    elif compare:
        show_comparison(console, answers, limits)
    else:
        show_answer(console, answers[0])
    if figure is not None and not as_json:
        console.print(f"figure: {figure}", markup=False)


@app.command()
def calibrate(
    specs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SPEC]...",
            help="Study specs whose work is measured; by default all methods in both network presets.",
        ),
    ] = None,
    cluster: ClusterOption = "local",
    preset: PresetOption = None,
    seconds: Annotated[
        float, typer.Option(min=0.1, max=600, help="Seconds for each kind of work; slow steps take longer.")
    ] = 1.5,
    results: ResultsOption = DEFAULT_RESULTS,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the calibration; by default calibration/ beside the results.")
    ] = None,
    prices: PricesOption = None,
) -> None:
    """Measure what trials take on every kind of machine of a cluster, with a few training steps each."""
    from cluster.check import check_local
    from cluster.loading import load_cluster
    from cluster.machines import machine_kinds
    from study.methods import load_study, search_path
    from study.planning.knowledge import calibration_folder
    from study.planning.showing import CalibrationDisplay, show_calibrated
    from study.planning.usual import usual_specs
    from study.resources import find_cluster, find_spec

    cluster_path = find_cluster(cluster)
    machines = load_cluster(cluster_path)
    check_local(machines, source=str(cluster_path))
    kinds = machine_kinds(machines, _prices(prices), source=str(cluster_path))
    _check_local("--results", results)
    _check_local("--out", out)
    files = [find_spec(name) for name in specs or []]
    studies = [load_study(file, preset) for file in files] or usual_specs()
    console = Console(soft_wrap=True, highlight=False)
    from study.calibrating import calibrate as measure_all  # imports Ray, which takes a second
    from study.calibrating import subjects_of

    with _Interruption() as interruption:
        found = measure_all(
            subjects_of(studies, machines, kinds, source=str(cluster_path)),
            machines,
            kinds,
            out or calibration_folder(results),
            seconds=seconds,
            source=str(cluster_path),
            search_path=tuple(dict.fromkeys(folder for file in files for folder in search_path(file))),
            observer=CalibrationDisplay(console),
            should_stop=interruption.requested.is_set,
        )
    show_calibrated(console, found)
    if found.stopped:
        raise typer.Exit(130)
    if found.failures:
        raise typer.Exit(1)


@app.command()
def report(
    folders: Annotated[
        list[str],
        typer.Argument(
            metavar="FOLDER",
            help="Results folder of a study, such as results/quickstart (or just its name), or its URI. Several, or a "
            "folder that studies lie in (results), also get an index page over them.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where to write it; by default the results folder's report/. Of several studies: a folder for the "
            "index and all reports, to be moved or packed as a whole; by default each study's report/, and "
            "index.html beside the studies."
        ),
    ] = None,
) -> None:
    """Write the report of a study from its results, or of several with an index over them.

    A study that cannot be read is listed in the index with its error, and the exit code is 2.
    """
    from study.storage import open_results
    from study.store import is_study, studies_in

    if out is not None and _was_uri(out):
        raise ResultsError(
            "a report is written to a folder of this machine",
            where=f"--out {out}",
            allowed="a folder",
            fix="write it here and copy it; `study report URI` without --out puts it beside its results",
        )
    console = Console(soft_wrap=True, highlight=False)
    places: list[str | Path] = []
    for named in map(_results_folder, folders):
        inside = [] if "://" in str(named) or is_study(Path(named)) else studies_in(Path(named))
        if not inside:
            _check_named(named)
        places += inside or [named]
    if len(places) > 1 or places != [_results_folder(folders[0])]:
        _report_several(places, console, out)
        return
    with open_results(places[0]) as store:
        _report(store.folder, console, out)
        if store.remote is not None and out is None:
            store.remote.push_folder("report", store.folder / "report")
            console.print(f"report and results: {store.location}")


@app.command()
def status(folder: FolderArgument, as_json: JsonOption = False) -> None:
    """How much is stored and wanted, in which state, and whether the study is running."""
    from study.console import show_status
    from study.running import study_status
    from study.storage import open_results

    with open_results(_results_folder(folder), parts=("trials",)) as store:
        found = study_status(store)
    if as_json:
        print(json.dumps(found.as_json(), indent=1))
    else:
        show_status(Console(soft_wrap=True, highlight=False), found)


@app.command()
def compact(folder: FolderArgument) -> None:
    """Merge the result files of all trials into one file of each kind; refused while the study runs."""
    from study.console import show_compaction
    from study.storage import open_results

    with open_results(_results_folder(folder)) as store:
        store.read_study()  # a folder of something else stays as it is
        done = store.compact()
    show_compaction(Console(soft_wrap=True, highlight=False), done)


@app.command()
def validate(
    spec: SpecArgument,
    preset: PresetOption = None,
    seeds: SeedsOption = None,
    every: Annotated[bool, typer.Option("--all", help="Show every cell of a large study, too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check a spec against its site, show its cells and count its trials; nothing is started."""
    from study.console import show_cells, show_splits
    from study.resources import find_spec
    from study.running import delay_windows, prepare, split_sizes
    from study.spec.outline import count_trials, outline, without_cells

    loaded = _load_spec(find_spec(spec), preset, seeds)
    site, table = prepare(loaded)
    planned = outline(loaded)
    if as_json:
        where = {"name": site.name, "positions": site.positions, "scenes": site.scenes}
        print(json.dumps({"study": loaded.study, "site": where, **planned.as_json()}, indent=1))
        return
    console = Console(soft_wrap=True, highlight=False)
    head = f"{loaded.study}: {count_trials(planned.cells)}; site {site.name}, "
    show_cells(console, planned, f"{head}{site.positions} positions × {site.scenes} scenes", every=every)
    cells = [item.cell for item in planned.cells]
    show_splits(console, split_sizes(cells, table, site.scenes))
    for words in without_cells(loaded):
        console.print(f"note: {words}", markup=False)
    for subcarriers, bandwidth_mhz, share in delay_windows(cells, table):
        console.print(
            f"{subcarriers} subcarriers over {bandwidth_mhz:g} MHz see delays up to {subcarriers / bandwidth_mhz:.2f} "
            f"µs: {share:.0%} of the power comes later (system.excess_delay says what becomes of it)"
        )


@app.command()
def schema(
    of: Annotated[str, typer.Argument(help="spec, cluster or scenario.")] = "spec",
    out: Annotated[Path | None, typer.Option(help="Write it to this file instead of printing it.")] = None,
) -> None:
    """The JSON Schema of study specs, cluster files or scenarios, for completion and checks in editors."""
    from study.spec.schema import SCHEMA_NAMES, json_schema

    name = next((name for name in SCHEMA_NAMES if name == of), None)
    if name is None:
        raise SpecError(
            f"there is no schema of {of!r}{nearest(of, SCHEMA_NAMES)}",
            allowed=", ".join(SCHEMA_NAMES),
            fix="`study schema` without a word prints that of study specs",
        )
    found = json_schema(name)
    if out is None:
        print(json.dumps(found, indent=1, ensure_ascii=not sys.stdout.encoding.lower().startswith("utf")))
        return
    try:
        out.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise SpecError(
            f"the schema cannot be written: {error.strerror or error}", where=str(out), fix="name a file with --out"
        ) from None
    print(out)


@app.command()
def methods(
    preset: Annotated[str, typer.Option(help="Backbone: paper or small.")] = "paper",
    branches: Annotated[str, typer.Option(help="shared (Eqs. 8-13) or twin (what Table III counts).")] = "shared",
    batch: Annotated[int, typer.Option(min=1, help="Batch size of the per-batch figures.")] = 256,
    antennas: Annotated[int, typer.Option(min=1, max=4096, help="Rows of the fingerprint.")] = 64,
    subcarriers: Annotated[int, typer.Option(min=1, max=4096, help="Columns of the fingerprint.")] = 64,
    classes: Annotated[int, typer.Option(min=0, max=3, help="Propagation conditions; Table III counts 2.")] = 2,
    method: Annotated[
        str | None, typer.Option(help="Also a class of your own: its import path, package.module:Class.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Parameters, MACs and FLOPs of every method, in the paper's accounting and in the usual one."""
    from study.complexity import method_costs, show_costs

    own = None if method is None else _own_method(method)
    costs = method_costs(preset, branches, batch, (1, antennas, subcarriers), classes, own)
    if as_json:
        print(json.dumps(costs, indent=1))
    else:
        show_costs(Console(soft_wrap=True, highlight=False), costs)


@app.command("check-method")
def check_method(
    path: Annotated[str, typer.Argument(help="Import path of the class: package.module:Class.")],
    preset: Annotated[str, typer.Option(help="Backbone: paper or small.")] = "small",
    antennas: Annotated[int, typer.Option(min=1, max=4096, help="Rows of the fingerprint.")] = 16,
    subcarriers: Annotated[int, typer.Option(min=1, max=4096, help="Columns of the fingerprint.")] = 32,
    classes: Annotated[int, typer.Option(min=2, max=3, help="Propagation conditions.")] = 3,
    as_json: JsonOption = False,
) -> None:
    """Hold a method of your own to the laws that the project's methods keep."""
    from study.method_check import check_user_method, show_check

    found = check_user_method(path, preset, (1, antennas, subcarriers), classes)
    if as_json:
        print(json.dumps(found.as_json(), indent=1))
    else:
        show_check(Console(soft_wrap=True, highlight=False), found)
    raise typer.Exit(0 if found.kept else 1)


@app.command()
def rerun(
    key: Annotated[str, typer.Argument(help="Trial key from the report, or its first digits.")],
    study: Annotated[
        str | None,
        typer.Option(help="Results folder of the study, or its URI; otherwise every study in results/ is searched."),
    ] = None,
    results: ResultsOption = DEFAULT_RESULTS,
) -> None:
    """Repeat one trial in this process, without Ray, and compare it with what is stored."""
    from study.methods import search_path
    from study.repeating import repeat_trial, show_comparison
    from study.storage import open_results

    places = sorted(path.parent for path in results.glob("*/trials")) if study is None else [_results_folder(study)]
    console = Console(soft_wrap=True, highlight=False)
    sys.path += [folder for folder in search_path() if folder not in sys.path]
    with ExitStack() as opened:
        stores = [opened.enter_context(open_results(place, parts=("trials",))) for place in places]
        stores = [store for store in stores if (store.folder / "trials").is_dir()]
        if not stores:
            raise ResultsError(
                "there are no results here",
                where=str(results if study is None else study),
                allowed="a folder that holds the folders of studies",
                fix="name it with --results, or the study's folder with --study",
            )
        comparison = repeat_trial(key, stores, on_epoch=lambda text: console.print(text))
    show_comparison(console, comparison)
    raise typer.Exit(0 if comparison.equal else 1)


@app.command()
def init(folder: Annotated[Path, typer.Argument(help="Where to copy them.")]) -> None:
    """Copy the shipped specs, cluster files and scenarios into a folder, to start from."""
    from study.resources import init_folder

    for path in init_folder(folder):
        print(path)


@data_app.command("list")
def data_list() -> None:
    """The shipped sites and scenarios."""
    from study.data.scenario import list_scenarios
    from study.data.site import list_sites

    console = Console(soft_wrap=True, highlight=False)
    for site in list_sites():
        console.print(f"{site.name}: {site.positions} positions × {site.scenes} scenes, up to {site.max_paths} paths")
    console.print(f"scenarios for `study data trace`: {', '.join(list_scenarios())}")


@data_app.command("info")
def data_info(
    site: Annotated[str, typer.Argument(help="A shipped site's name, or a site's folder.")],
    file: Annotated[
        Path | None, typer.Argument(help="Where --html writes the page; SITE's name.html in this folder by default.")
    ] = None,
    as_json: JsonOption = False,
    as_html: Annotated[bool, typer.Option("--html", help="Also write a page with maps and figures (FILE).")] = False,
) -> None:
    """Positions, scenes, conditions, delay and angle spreads, solver settings and hash of a site."""
    from study.data.site import open_site
    from study.data.summary import site_summary

    if file is not None and not as_html:
        raise DataError(f"{str(file)!r} is one argument too many", fix="put --html before it to write the page there")
    found = open_site(site)
    target = _write_site_page(found, file) if as_html else None
    summary = target[0] if target else site_summary(found)
    if as_json:
        print(json.dumps(summary, indent=1))
    else:
        _show_site(Console(soft_wrap=True, highlight=False), summary)
    if target is not None:
        print(f"page: {target[1]}", file=sys.stderr if as_json else sys.stdout)


@data_app.command("trace")
def data_trace(
    scenario: Annotated[str, typer.Argument(help="Scenario file, or the name of a shipped one.")],
    out: Annotated[Path, typer.Option(help="Folder of the new site; a trace that was cut short goes on there.")],
    cluster: Annotated[str, typer.Option(help="Cluster file: a YAML file, or the name of a shipped one.")] = "local",
    scenes: Annotated[int | None, typer.Option(min=1, help="Trace only the first so many scenes, for a trial.")] = None,
) -> None:
    """Trace a site with Sionna RT (extra `trace`), one Ray task for each scene."""
    from cluster.loading import load_cluster
    from study.console import TraceDisplay
    from study.data.scenario import load_scenario
    from study.resources import find_cluster

    loaded = load_scenario(scenario)
    cluster_path = find_cluster(cluster)
    machines = load_cluster(cluster_path)
    console = Console(soft_wrap=True, highlight=False)
    from study.site_tracing import trace_site  # imports Ray, which takes a second

    with _Interruption() as interruption, TraceDisplay(console) as display:
        site = trace_site(
            loaded,
            out,
            machines,
            scenes=scenes,
            cluster_source=str(cluster_path),
            observer=display,
            should_stop=lambda: interruption.asked(display),
        )
    if site is None:
        console.print(f"stopped; finished scenes are in {out}.partial. To go on, run the same command again.")
        raise typer.Exit(130)
    console.print(f"site {site.name} in {site.folder}")


@data_app.command("import-deepmimo")
def data_import_deepmimo(
    folder: Annotated[Path, typer.Argument(help="The scenario's folder, with a folder for each scene (O2_dyn_3p5).")],
    out: Annotated[Path, typer.Option(help="Folder of the new site.")],
    base_station: Annotated[int, typer.Option(min=1, help="Number of the base station.")] = 1,
    grid_step: Annotated[int, typer.Option(min=1, help="Take every n-th user in both directions of the grid.")] = 1,
    first_scene: Annotated[
        int | None, typer.Option(min=0, help="Number of the first scene, as its folder has it; the lowest by default.")
    ] = None,
    scenes: Annotated[int | None, typer.Option(min=1, help="How many scenes to take; all by default.")] = None,
    scene_step: Annotated[int, typer.Option(min=1, help="Take every n-th scene.")] = 1,
    scene_spacing: Annotated[float, typer.Option(help="Seconds between two consecutive scene numbers.")] = 0.1,
    max_paths: Annotated[int, typer.Option(min=1, help="How many of the strongest paths to keep.")] = 25,
    name: Annotated[str | None, typer.Option(help="Name of the site; the scenario's folder's by default.")] = None,
) -> None:
    """Import a DeepMIMO scenario (files of v2 or v4) as a site."""
    from study.console import show_importing
    from study.data.deepmimo import import_deepmimo

    console = Console(soft_wrap=True, highlight=False)
    site = import_deepmimo(
        folder,
        out,
        name=name,
        base_station=base_station,
        grid_step=grid_step,
        first_scene=first_scene,
        scenes=scenes,
        scene_step=scene_step,
        max_paths=max_paths,
        scene_spacing_s=scene_spacing,
        on_progress=lambda progress: show_importing(console, progress),
    )
    console.print(f"site {site.name} in {site.folder}: {site.positions:,} positions × {site.scenes:,} scenes")
    console.print(f"conditions: {site.metadata['condition_source']}")


def _load_spec(file: Path, preset: str | None, seeds: int | None) -> StudySpec:
    from study.methods import load_study

    loaded = load_study(file, preset)
    if seeds is None:
        return loaded
    for i, search in enumerate(loaded.search):
        if search.seeds > seeds:
            raise SpecError(
                f"a candidate has {search.seeds} seeds, and the study {seeds}",
                where=f"--seeds {seeds}, search[{i}].seeds: {search.seeds}",
                allowed=f"at least --seeds {search.seeds}",
            )
    return loaded.model_copy(update={"seeds": seeds})


def _was_uri(path: Path) -> bool:
    """Whether a URI was given where a path is wanted: the path has lost one of its slashes."""
    return "://" in str(path).replace(":/", "://", 1)


def _check_local(option: str, folder: Path | None) -> None:
    """Plans and calibrations read and write folders of this machine."""
    if folder is None:
        return
    remote = _was_uri(folder)
    if remote or (folder.exists() and not folder.is_dir()):
        raise ResultsError(
            "plans and calibrations need a folder of this machine" if remote else "this is no folder",
            where=f"{option} {folder}",
            allowed="a folder",
            fix="copy the results here first",
        )


def _prices(path: Path | None) -> Prices:
    """The shipped prices, and a list of the user's own over them."""
    from cluster.prices import load_prices, merged

    shipped = load_prices()
    return shipped if path is None else merged(load_prices(path), shipped)


def _backtest(
    folder: Path,
    cluster: str,
    results: Path,
    calibration: Path | None,
    prices: Path | None,
    console: Console,
    *,
    as_json: bool,
) -> None:
    from cluster.loading import load_cluster
    from cluster.machines import machine_kinds
    from study.planning.backtest import backtest
    from study.planning.knowledge import gather, studies_at
    from study.planning.showing import show_backtest
    from study.resources import find_cluster
    from study.store import is_study

    if not studies_at(folder):
        raise ResultsError(
            "there are no results to plan again",
            where=str(folder),
            allowed="the results folder of a study, or the folder of several",
        )
    cluster_path = find_cluster(cluster)
    machines = load_cluster(cluster_path)
    kinds = machine_kinds(machines, _prices(prices), source=str(cluster_path))
    # What other studies took is known too, where they lie beside.
    beside = folder.resolve().parent if is_study(folder) else folder
    known = gather(beside if results == DEFAULT_RESULTS else results, calibration)
    found = backtest(folder, machines, kinds, known, source=str(cluster_path))
    if as_json:
        print(json.dumps(found.as_json(), indent=1, ensure_ascii=False))
    else:
        show_backtest(console, found)


def _own_method(path: str) -> type[Method]:
    from study.methods import describe_method, import_method, search_path

    kind = import_method(path, search_path())
    describe_method(path, kind)
    return kind


def _allow_ascii() -> None:
    """Let stdout replace what its encoding does not have: × in an ASCII log is no reason to stop."""
    if isinstance(sys.stdout, io.TextIOWrapper) and not sys.stdout.encoding.lower().startswith("utf"):
        codecs.register_error("study.ascii", _in_ascii)
        sys.stdout.reconfigure(errors="study.ascii")


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    plain = {
        "×": "x",
        "…": "...",
        "–": "-",
        "−": "-",
        "µ": "u",
        "·": "*",
        "λ": "lambda",
        "γ": "gamma",
        "✔": "+",
        "✘": "x",
        "○": "o",
        "—": "-",
        "’": "'",
    }
    return "".join(plain.get(letter, "?") for letter in error.object[error.start : error.end]), error.end


def _results_folder(location: str) -> str | Path:
    """The folder itself, or the study of that name in the default results folder; a URI stays one."""
    if "://" in location:
        return location
    here, there = Path(location), DEFAULT_RESULTS / location
    # A folder of that name that is no study's does not hide the study.
    is_study = (here / "study.yaml").exists() or (here / "trials").exists()
    return there if not is_study and (there / "study.yaml").exists() else location


def _check_named(location: str | Path) -> None:
    """Names the study that was meant, where a name is no folder and nearly that of a study."""
    if "://" in str(location) or Path(location).exists():
        return
    from study.store import studies_in

    folder = Path(location).parent if Path(location).parent != Path() else DEFAULT_RESULTS
    known = [place.name for place in studies_in(folder)]
    if hint := nearest(Path(location).name, known):
        raise ResultsError(
            f"there are no results of that name{hint}",
            where=str(location),
            allowed=f"a results folder, or a study in {folder}: {', '.join(known)}",
        )


def _states(text: str) -> tuple[str, ...]:
    from study.running import RETRIED_STATES

    states = tuple(part.strip() for part in text.split(",") if part.strip())
    if wrong := [state for state in states if state not in RETRIED_STATES]:
        raise SpecError(
            f"unknown state {wrong[0]!r}{nearest(wrong[0], RETRIED_STATES)}",
            where="--retry",
            allowed=", ".join(RETRIED_STATES),
            fix="separate states by commas",
        )
    return states


def _report(folder: Path, console: Console, out: Path | None = None) -> None:
    from reports.build import build_report
    from study.console import show_claims, show_table

    written = build_report(folder, out)
    console.print()
    shown_tables = written.terminal_tables
    for table in shown_tables:
        show_table(console, table)
        console.print()
    if any(len(shown.columns) < len(table.columns) for shown, table in zip(shown_tables, written.models, strict=True)):
        console.print("Columns that are not shown here are in the report.\n")
    if written.claims:
        show_claims(console, written.claims)
        console.print()
    console.print(written.headline, markup=False)
    console.print(f"report: {written.html}", markup=False)


def _report_several(places: Sequence[str | Path], console: Console, out: Path | None) -> None:
    """The reports of several studies and their index; says which studies have none, and why."""
    from reports.index_page import build_index

    written = build_index(places, out)
    for item in written.studies:
        if item.files is not None:
            console.print(f"{item.name}: {item.files.headline}", markup=False)
            console.print(f"  report: {item.files.html}", markup=False)
    console.print(f"index: {written.page}", markup=False)
    for item in written.broken:
        print(f"study: {item.location}: {item.error}", file=sys.stderr)
    if written.broken:
        raise typer.Exit(2)


def _write_site_page(site: Site, file: Path | None) -> tuple[dict[str, Any], Path]:
    """Write a site's page; its summary and where the page is."""
    from reports.site_page import check_target, default_file, write_site_page

    target = file if file is not None else default_file(site.name)
    check_target(target)  # before the site is read

    from study.data.site_view import view_site

    view = view_site(site)
    write_site_page(view, target)
    return view.summary, target


def _show_site(console: Console, summary: dict[str, Any]) -> None:
    from study.data.summary import summary_facts

    groups = summary_facts(summary)
    width = max(len(what) for facts in groups.values() for what, _ in facts)
    console.print(summary["name"], style="bold", markup=False)
    for heading, facts in groups.items():
        console.print(f"\n{heading}", style="bold", markup=False)
        for what, value in facts:
            console.print(f"  {what:<{width}}  {value}", markup=False)


class _Interruption:
    """Ctrl-C (and a polite kill) ask the run to stop between two reports; a second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.requested = threading.Event()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> _Interruption:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> Literal[False]:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        return False

    def asked(self, display: RunDisplay | TraceDisplay) -> bool:
        """Whether to stop; the display says it."""
        display.stopping = self.requested.is_set()
        return display.stopping

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested.is_set():
            _stop(number)
        self.requested.set()
