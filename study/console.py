"""What a terminal shows. Only this module and the command line print."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.measure import Measurement
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from study.data.path_table import CONDITIONS
from study.result_files import printable
from study.running import RunPlan, RunSummary, SplitSize, StudyStatus
from study.spec.expand import Cell, show_value
from study.spec.outline import Outline, PlannedCell, count_trials, search_in_words
from study.spec.trial import Trial, method_settings
from study.store import Compaction, Damaged, TrialTables

if TYPE_CHECKING:  # Ray and Optuna are imported by those commands only that use them
    from study.data.deepmimo import ImportProgress
    from study.data.unfinished_site import DamagedScene
    from study.search import StudyQueue
    from study.site_tracing import SceneProgress, TracePlan

__all__ = [
    "RunDisplay",
    "TraceDisplay",
    "describe_trial",
    "duration",
    "show_cells",
    "show_claims",
    "show_compaction",
    "show_importing",
    "show_plan",
    "show_splits",
    "show_status",
    "show_summary",
    "show_table",
]


_MOST_SPLITS = 6
_MOST_LINES = 12
# More cells fill several screens; so do more values of one axis.
_MOST_CELLS = 60
_MOST_VALUES = 20


def duration(seconds: float) -> str:
    """``48 s``, ``3 min 20 s`` or ``5 h 10 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def describe_trial(config: dict[str, Any], seed: int, varying: Iterable[str]) -> str:
    """``MDA λ=0.3 paths=10 seed 0``: the method, the settings that vary in the study, and the seed."""
    settings = method_settings(config)
    parts = [settings.name]
    for path in varying:
        value: Any = config
        for key in path.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None and path != "method":
            parts.append(f"{_short(path)}={_value(value)}")
    if settings.trained:
        parts.append(f"seed {seed}")
    return " ".join(parts)


def _short(path: str) -> str:
    name = path.rsplit(".", 1)[-1]
    return {"lambda": "λ", "gamma": "γ"}.get(name, name)


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else show_value(value)


class RunDisplay:
    """Progress of a run: a live table in a terminal, otherwise one plain line for each event.

    Args:
        console: where to print.
        varying: key paths that differ between trials, for their names.
    """

    def __init__(self, console: Console, varying: Iterable[str]) -> None:
        self.console, self._varying = console, list(varying)
        self._queue: StudyQueue | None = None
        self._running: dict[str, tuple[Trial, str]] = {}
        self._began = time.monotonic()
        self._slots = 0
        self._busy_s = 0.0
        self._live: Live | None = None
        self._told_of_memory = False
        self._told: set[str] = set()
        self._drawn = 0.0
        self.stopping = False

    def __enter__(self) -> RunDisplay:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def run_started(self, queue: StudyQueue, cells: list[Cell], slots: int) -> None:
        """Trials are about to run."""
        self._queue, self._slots, self._began = queue, slots, time.monotonic()
        progress = queue.progress()
        self.console.print(
            f"{len(cells)} cells, {progress.wanted} trials, {progress.stored} of them stored; "
            f"{slots or 'the cluster decides how many'} at a time"
        )
        if self.console.is_terminal:
            self._live = Live(self._render(), console=self.console, refresh_per_second=4, transient=True)
            self._live.start()

    def damaged_files(self, damaged: list[Damaged]) -> None:
        """Result files that cannot be read."""
        for item in damaged:
            self.console.print(
                f"damaged file, not read; what it held is made again: {item}",
                style="yellow",
                highlight=False,
            )

    def trial_started(self, trial: Trial) -> None:
        """A trial got a slot."""
        self._running[trial.key] = (trial, "starting")
        self.tick()

    def trial_progressed(self, trial: Trial, epoch: int, validation_rmse_m: float) -> None:
        """A trial finished an epoch."""
        epochs = trial.config.get("training", {}).get("epochs")
        self._running[trial.key] = (trial, f"epoch {epoch}/{epochs}, validation RMSE {validation_rmse_m:.2f} m")
        self.tick()

    def trial_finished(self, tables: TrialTables) -> None:
        """A trial is in the store."""
        row = tables.row
        trial, _ = self._running.pop(row["key"], (None, ""))
        self._busy_s += row.get("trial_seconds") or 0.0
        config = trial.config if trial is not None else json.loads(row["config"])
        name = describe_trial(config, row["seed"], self._varying)
        line = Text(f"{self._count()}  {name}: ")
        if row["state"] == "pruned":
            line.append(f"stopped early at epoch {row['epochs']} of {row['planned_epochs']}", style="dim")
        elif row["state"] == "done":
            line.append(f"test RMSE {row['test_rmse_m']:.2f} m")
            if row.get("test_accuracy") is not None:
                line.append(f", accuracy {row['test_accuracy']:.3f}")
        else:
            reason = (row.get("error") or "").strip().splitlines()
            line.append(row["state"].replace("_", " "), style="bold red")
            line.append(f": {reason[-1]}" if reason else "")
        line.append(f"  ({duration(row.get('trial_seconds') or 0.0)})")
        self.console.print(line)
        if row.get("fingerprints") == "per batch" and not self._told_of_memory:
            self._told_of_memory = True
            self.console.print(
                "its fingerprints did not fit the memory of trials and were made for each batch "
                "(fingerprint_memory_mb in the cluster file)",
                highlight=False,
            )
        for note in (row.get("notes") or "").split("; "):
            if note and note not in self._told:
                self._told.add(note)
                self.warn(printable(note))
        self.tick()

    def trial_retried(self, trial: Trial, attempt: int, reason: str) -> None:
        """A trial's process was lost; the trial is handed out again."""
        self._running.pop(trial.key, None)
        name = describe_trial(trial.config, trial.seed, self._varying)
        self.console.print(Text(f"{self._count()}  {name}: starts again ({reason})", style="yellow"))

    def trial_lost(self, trial: Trial, reason: str) -> None:
        """A trial's process is gone for good."""
        self._running.pop(trial.key, None)
        name = describe_trial(trial.config, trial.seed, self._varying)
        self.console.print(Text(f"{self._count()}  {name}: lost with its process ({reason})", style="bold red"))

    def run_ended(self, stopped: bool) -> None:
        """The last call."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def warn(self, text: str) -> None:
        """Something that the user should know, and that ends nothing."""
        self.console.print(Text(text, style="yellow"))

    def tick(self) -> None:
        """Redraw, a few times a second: a large study takes some milliseconds to count."""
        now = time.monotonic()
        if self._live is not None and now - self._drawn > 0.25:
            self._drawn = now
            self._live.update(self._render())

    def _count(self) -> str:
        if self._queue is None:
            return ""
        progress = self._queue.progress()
        done = progress.stored + sum(progress.finished.values())
        return f"[{done}/{progress.wanted}]"

    def _render(self) -> Group:
        if self._queue is None:
            return Group()
        progress = self._queue.progress()
        done = progress.stored + sum(progress.finished.values())
        failed = sum(count for state, count in progress.finished.items() if state not in ("done", "pruned"))
        head = f"{done} of {progress.wanted} trials done · {len(self._running)} running · {failed} failed"
        best = self._queue.best()
        if best is not None:
            head += f" · best so far {best[1]:.2f} m validation RMSE ({best[0]})"
        table = Table.grid(padding=(0, 2))
        for trial, text in self._running.values():
            table.add_row(Text("  " + describe_trial(trial.config, trial.seed, self._varying)), Text(text))
        state = "stopping after the running epochs …" if self.stopping else self._time_left(progress.wanted - done)
        bar = Table.grid()  # by itself the bar does not end its line
        bar.add_row(ProgressBar(total=max(progress.wanted, 1), completed=done, width=60))
        return Group(Text(head), bar, table, Text(state))

    def _time_left(self, remaining: int) -> str:
        assert self._queue is not None
        finished = sum(self._queue.progress().finished.values())
        if not finished or self._busy_s == 0:
            return "time left: known after the first trials"
        elapsed = time.monotonic() - self._began
        return f"elapsed {duration(elapsed)}, about {duration(elapsed / finished * max(remaining, 0))} left"


def show_summary(console: Console, summary: RunSummary, seconds: float) -> None:
    """What a run did, in a line or two."""
    states = {state: count for state, count in summary.progress.finished.items() if state != "done" and count}
    extra = "".join(f", {count} {state.replace('_', ' ')}" for state, count in sorted(states.items()))
    console.print(
        f"{_trials(summary.executed)} executed, {summary.progress.stored} were stored before{extra}; "
        f"{duration(seconds)}"
    )
    if summary.outside and not summary.stopped:
        console.print(
            f"{summary.outside} more stored trials are not what this spec asks for (more seeds, other values); "
            "the report leaves them out"
        )
    if states.get("failed") or states.get("out_of_memory"):
        console.print("failed trials keep their error (`study status`); `--retry failed,out_of_memory` runs them again")
    if states.get("lost"):
        console.print("lost trials are not stored; the same command runs them again")


def _trials(count: int) -> str:
    return f"{count} trial{'' if count == 1 else 's'}"


def show_plan(console: Console, plan: RunPlan) -> None:
    """What a run would do, by cell."""
    table = Table(box=None, pad_edge=False)
    for title in ("cell", "wanted", "stored", "to run"):
        table.add_column(title, justify="left" if title == "cell" else "right")
    for cell in plan.cells:
        table.add_row(Text(cell.label), str(cell.wanted), str(cell.stored), str(cell.wanted - cell.stored))
    show_table(console, table)
    console.print(f"{_trials(plan.to_run)} would run, {plan.stored} of {plan.wanted} are stored; nothing was started")
    if plan.retried:
        console.print(f"{plan.retried} of them are stored, and run again because of --retry")
    if plan.outside:
        console.print(f"{plan.outside} more stored trials are not what this spec asks for")
    _show_damaged(console, plan.damaged)


def show_status(console: Console, status: StudyStatus) -> None:
    """The state of a results folder."""
    stored = sum(status.states.values())
    who = "not running" if status.owner is None else f"being run by {status.owner}"
    console.print(f"study {status.study} in {status.location}: {who}")
    for trial in status.running[:_MOST_LINES]:
        values = trial.get("values")
        words = (
            [f"{_short(path)}={_value(value)}" for path, value in values.items()] if isinstance(values, dict) else []
        )
        line = " ".join([str(trial.get("method")), *words, f"seed {trial.get('seed')}"])
        told = f", epoch {trial['epoch']}" if trial.get("epoch") is not None else ""
        console.print(Text(printable(f"  running: {line}{told}")))
    console.print(f"{stored} of {status.wanted} trials stored")
    for state, count in sorted(status.states.items()):
        console.print(f"  {state.replace('_', ' ')}: {count}")
    missing = [cell for cell in status.cells if cell.stored < cell.wanted]
    if missing:
        console.print("not complete:")
    for cell in missing[:_MOST_LINES]:
        console.print(Text(f"  {cell.label}: {cell.stored} of {cell.wanted}"))
    if len(missing) > _MOST_LINES:
        console.print(f"  … and {len(missing) - _MOST_LINES} more cells")
    for row in status.failed[:_MOST_LINES]:
        reason = (row["error"] or "").strip().splitlines()
        line = f"{row['state'].replace('_', ' ')}: {row['method']} seed {row['seed']}, key {row['key']}"
        console.print(Text(printable(f"{line}: {reason[-1]}" if reason else line), style="red"))
    if len(status.failed) > _MOST_LINES:
        console.print(f"… and {len(status.failed) - _MOST_LINES} more that failed")
    if status.best is not None:
        console.print(f"best network: {status.best[1]:.2f} m validation RMSE ({status.best[0]})")
    _show_damaged(console, status.damaged)


def show_compaction(console: Console, done: Compaction) -> None:
    """What a compaction did."""
    if done.trials:
        console.print(
            f"{done.trials} trials in one file of each kind; {done.files_before} files are {done.files_after}"
        )
    else:
        console.print("nothing to merge")
    for item in done.damaged:
        console.print(Text(f"damaged, left as it is: {item}", style="yellow"))


def _show_damaged(console: Console, damaged: Iterable[Damaged]) -> None:
    for item in damaged:
        line = Text(f"damaged, will run again: {item}", style="yellow")
        console.print(line)


def show_cells(console: Console, planned: Outline, head: str, *, every: bool = False) -> None:
    """A study as a tree: the values of the axes, within them the methods with their seeds or search.

    Args:
        console: where to print.
        planned: the cells.
        head: what stands at the root.
        every: show each cell also of a large study, which is otherwise counted by the values of its axes.
    """
    tree = Tree(Text(head))
    if planned.excluded:
        tree.add(f"{planned.excluded:,} more combination{'s are' if planned.excluded > 1 else ' is'} excluded")
    folded = len(planned.cells) > _MOST_CELLS and not every
    if folded:
        _add_values(tree, planned)
    else:
        _add_cells(tree, planned.cells, planned.axes)
    searches: dict[str, list[PlannedCell]] = {}
    for cell in planned.cells:
        if cell.cell.search is not None:
            searches.setdefault("\n".join(search_in_words(cell.cell.search, planned.seeds)), []).append(cell)
    for words, cells in searches.items():
        first, *rest = words.splitlines()
        branch = tree.add(Text(f"search in {len(cells):,} cell{'s' if len(cells) > 1 else ''}: {first}"))
        for line in rest:
            branch.add(Text(line))
    console.print(_Uncut(tree))
    if folded:
        console.print(f"{len(planned.cells):,} cells are too many to show here; --all shows each")


class _Uncut:
    """A tree or a table with all of its lines: rich cuts them at the terminal's width, and that of a pipe is 80.

    Args:
        content: what to print.
        width: how wide; as wide as its longest line when left out.
    """

    def __init__(self, content: Tree | Table, width: int | None = None) -> None:
        self._content, self._width = content, width

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        wide = options.update(max_width=10_000)
        width = self._width or Measurement.get(console, wide, self._content).maximum
        yield from console.render(self._content, wide.update(width=width))


def _add_values(tree: Tree, planned: Outline) -> None:
    """For each axis its values, and how many cells and trials have them."""
    for axis in planned.axes:
        groups = _by_value(planned.cells, axis)
        branch = tree.add(Text(f"{axis}: {len(groups)} value{'s' if len(groups) > 1 else ''}"))
        for value, cells in list(groups.items())[:_MOST_VALUES]:
            branch.add(Text(f"{value}: {count_trials(cells)}"))
        if len(groups) > _MOST_VALUES:
            branch.add(f"… and {len(groups) - _MOST_VALUES} more")


def _add_cells(branch: Tree, cells: Sequence[PlannedCell], axes: Sequence[str]) -> None:
    """Branches for the values of the first axis, and within them those of the others."""
    axis, *others = axes
    for value, group in _by_value(cells, axis).items():
        if others:
            _add_cells(branch.add(Text(f"{axis} = {value}: {count_trials(group)}")), group, others)
            continue
        for planned in group:
            search = planned.cell.search
            words = f"{planned.trials:,} trial{'s' if planned.trials > 1 else ''}"
            if planned.same_as is not None:
                words = f"the trials of {planned.same_as}"
            elif search is not None:
                words += f", {search.sampler} over {', '.join(search.space)}"
            elif planned.trials > 1:
                words += f", seeds 0 … {planned.trials - 1}"
            branch.add(Text(f"{value}: {words}"))


def _by_value(cells: Iterable[PlannedCell], axis: str) -> dict[str, list[PlannedCell]]:
    groups: dict[str, list[PlannedCell]] = {}
    for cell in cells:
        value = cell.cell.method if axis == "method" else show_value(cell.values[axis])
        groups.setdefault(value, []).append(cell)
    return groups


def show_splits(console: Console, splits: list[SplitSize]) -> None:
    """What the splits of a study take from its site, and which conditions they leave out."""
    for number, split in enumerate(splits):
        if number == _MOST_SPLITS:
            console.print(f"… and {len(splits) - number} more splits")
            return
        console.print(f"split: {split.words}")
        for name, (scenes, positions, counts) in split.parts.items():
            each = ", ".join(f"{count:,} {condition}" for condition, count in zip(CONDITIONS, counts, strict=True))
            console.print(f"  {name}: {scenes} scenes × {positions:,} positions: {each}")
        empty = [
            f"no {condition} in {name}"
            for name, (_, _, counts) in split.parts.items()
            for condition, count in zip(CONDITIONS, counts, strict=True)
            if not count
        ]
        if empty:
            console.print(f"  warning: {'; '.join(empty)}: its accuracy says little", style="yellow")


def show_claims(console: Console, claims: Iterable[tuple[str, str]]) -> None:
    """One line for each claim of a study: verdict and name."""
    marks = {"supported": "✔", "refuted": "✘", "inconclusive": "○"}
    console.print("Claims", style="bold")
    for verdict, name in claims:
        console.print(f"{marks[verdict]} {verdict:<12} {name}", markup=False)


def show_table(console: Console, table: Table, *, whole: bool = False) -> None:
    """Print a table with all its columns: where the terminal is too narrow, its lines are longer than the terminal.

    Args:
        console: where to print.
        table: the table.
        whole: no cell is broken into lines or shortened.
    """
    needed = Measurement.get(console, console.options.update(max_width=1000), table).minimum
    console.print(_Uncut(table, None if whole else max(console.width, needed)), crop=False)


def show_importing(console: Console, progress: ImportProgress) -> None:
    """A line after each hundredth of a step, and after its last scene."""
    if progress.done % max(1, progress.scenes // 100) and progress.done != progress.scenes:
        return
    left = progress.seconds / progress.done * (progress.scenes - progress.done)
    console.print(f"{progress.step} scene {progress.done:,} of {progress.scenes:,}; about {duration(left)} left")


class TraceDisplay:
    """Progress of a trace: one line for each scene, and in a terminal a live bar below them.

    Args:
        console: where to print.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._plan: TracePlan | None = None
        self._last: SceneProgress | None = None
        self._peak_bytes = 0
        self._live: Live | None = None
        self.stopping = False

    def __enter__(self) -> TraceDisplay:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def trace_started(self, plan: TracePlan) -> None:
        """Scenes are about to be traced."""
        self._plan = plan
        scenes = f"{plan.scenes} scene{'s' if plan.scenes > 1 else ''}"
        cpus = f"{plan.threads} CPU{'s' if plan.threads > 1 else ''}"
        self.console.print(
            f"{scenes}, {plan.kept} of them finished before; {plan.at_once} at a time, each with {cpus} and "
            f"{plan.memory_bytes / 1e9:.1f} GB set aside"
        )
        if self.console.is_terminal:
            self._live = Live(self._render(), console=self.console, refresh_per_second=4, transient=True)
            self._live.start()

    def scene_damaged(self, damaged: DamagedScene) -> None:
        """A finished scene cannot be read any more."""
        self.console.print(
            f"damaged file, scene {damaged.scene} is traced again: {damaged.file} ({damaged.reason})",
            style="yellow",
            highlight=False,
        )

    def scene_traced(self, progress: SceneProgress) -> None:
        """A scene was traced and stored."""
        self._last = progress
        self._peak_bytes = max(self._peak_bytes, progress.peak_memory_bytes)
        line = (
            f"[{progress.done}/{progress.scenes}]  scene {progress.scene}: {progress.scene_seconds:.1f} s on "
            f"{progress.machine}, peak memory {progress.peak_memory_bytes / 1e9:.1f} GB"
        )
        if self._live is None:
            line += f"; about {duration(progress.seconds_left)} left"
        self.console.print(Text(line))
        self.tick()

    def tick(self) -> None:
        """Redraw."""
        if self._live is not None:
            self._live.update(self._render())

    def _render(self) -> Group:
        assert self._plan is not None
        last = self._last
        done = self._plan.kept if last is None else last.done
        head = f"{done} of {self._plan.scenes} scenes done"
        left = "time left: known after the first scene"
        if last is not None:
            each = last.seconds / (last.done - last.resumed)
            head += f" · {each:.1f} s per scene · peak memory {self._peak_bytes / 1e9:.1f} GB per process"
            left = f"elapsed {duration(last.seconds)}, about {duration(last.seconds_left)} left"
            if last.done == last.scenes:
                left = "writing the site …"
        bar = Table.grid()  # by itself the bar does not end its line
        bar.add_row(ProgressBar(total=self._plan.scenes, completed=done, width=60))
        return Group(Text(head), bar, Text("stopping …" if self.stopping else left))
