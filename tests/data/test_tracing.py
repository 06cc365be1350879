"""Ray tracing: really traced where the `trace` extra is installed, and clear errors where it does not work."""

from __future__ import annotations

import importlib.util
import io
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import yaml
from command_process import CommandProcess
from conftest import Result
from rich.console import Console

from cluster.model import Cluster
from study import site_tracing
from study.console import TraceDisplay
from study.data import tracing
from study.data.path_table import PER_PATH, ROW_TYPES, keep_strongest
from study.data.scenario import Scenario, load_scenario, static_boxes
from study.data.site import Site, open_site
from study.data.tracing import ProbeReport, TracedScene, Tracer, find_llvm, memory_need, probe, round_mantissa
from study.data.unfinished_site import DamagedScene, UnfinishedSite
from study.errors import ClusterError, DataError, DependencyError, SpecError
from study.site_tracing import SceneProgress, TracePlan, trace_site

T = TypeVar("T", bound=Callable[..., None])

CANYON = load_scenario("canyon_small")
OLD_LLVM = sorted(Path("/usr/lib/x86_64-linux-gnu").glob("libLLVM-1[456]*.so.1"))

LOCAL = Cluster.model_validate({})


def traced(test: T) -> T:
    """Mark a test that needs the ray tracer, and skip it where the extra is not installed."""
    missing = importlib.util.find_spec("sionna") is None
    marked: T = pytest.mark.trace(pytest.mark.skipif(missing, reason="needs the extra `trace`")(test))
    return marked


def tiny(scenes: int = 2, seed: int = 1) -> Scenario:
    values = CANYON.model_dump(mode="json")
    values["name"] = "tiny"
    values["scenes"] = scenes
    values["users"] |= {"columns": 3, "rows": 2, "x_step_m": 60.0}
    values["solver"] |= {"samples_per_source": 10_000, "receivers_per_solve": 4, "seed": seed}
    return Scenario.model_validate(values)


def assert_equal_scenes(ours: TracedScene, theirs: TracedScene) -> None:
    for name, values in vars(ours).items():
        np.testing.assert_array_equal(values, getattr(theirs, name), err_msg=name)


class Told:
    """Remembers what a trace told."""

    def __init__(self) -> None:
        self.plans: list[TracePlan] = []
        self.damaged: list[DamagedScene] = []
        self.progress: list[SceneProgress] = []

    def trace_started(self, plan: TracePlan) -> None:
        self.plans.append(plan)

    def scene_damaged(self, damaged: DamagedScene) -> None:
        self.damaged.append(damaged)

    def scene_traced(self, progress: SceneProgress) -> None:
        self.progress.append(progress)

    def tick(self) -> None:
        pass


def test_rounding_keeps_the_relative_error_small() -> None:
    rng = np.random.default_rng(0)
    values = (rng.normal(size=10_000) * 10.0 ** rng.integers(-12, 3, 10_000)).astype(np.float32)
    for bits in (8, 14, 22, 23):
        error = np.abs(round_mantissa(values, bits).astype(float) - values) / np.abs(values)
        assert error.max() <= 2.0 ** -(bits + 1) if bits < 23 else error.max() == 0
    assert not round_mantissa(np.zeros(3, np.float32), 14).any()
    np.testing.assert_array_equal(round_mantissa(round_mantissa(values, 14), 14), round_mantissa(values, 14))


def test_strongest_paths_are_kept_and_the_rest_is_accounted_for() -> None:
    gain = np.array([[1, 0.5, 2, 0.001, 9], [0, 0, 0, 0, 0]], np.complex64)
    valid = np.array([[1, 1, 1, 1, 0], [0] * 5], bool)
    delay = np.array([[1, 2, 3, 4, 5], [0] * 5], float)
    kept = keep_strongest(gain, valid, [(delay, np.float32)], 2, weakest_db=50)
    np.testing.assert_array_equal(kept.gain, [[2, 1], [0, 0]])
    np.testing.assert_array_equal(kept.columns[0], [[3, 1], [0, 0]])
    np.testing.assert_array_equal(kept.paths, [2, 0])
    np.testing.assert_array_equal(kept.paths_found, [4, 0])
    np.testing.assert_allclose(kept.dropped_power, [(0.25 + 1e-6) / (5.25 + 1e-6), 0], rtol=1e-6)
    wide = keep_strongest(gain, valid, [(delay, np.float32)], 7, weakest_db=50)
    np.testing.assert_array_equal(wide.paths, [3, 0])  # 66 dB below the strongest is too weak
    assert wide.gain.shape == (2, 7)


# --- The probe ----------------------------------------------------------------------------------------------------


def test_an_llvm_that_does_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "_versions", lambda: {"sionna-rt": "2.2.0", "mitsuba": "3.9.1", "drjit": "1.5.0"})
    monkeypatch.setenv("DRJIT_LIBLLVM_PATH", str(tmp_path / "libLLVM.so.19"))
    with pytest.raises(DependencyError, match="does not exist") as caught:
        trace_site(tiny(), tmp_path / "site", LOCAL)
    assert "LLVM ≥ 17" in str(caught.value)
    assert "karellen-llvm-core" in str(caught.value)
    assert "LLVM 19" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_missing_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "PACKAGES", ("sionna-rt-that-is-not-there",))
    with pytest.raises(DependencyError, match="needs sionna-rt-that-is-not-there"):
        trace_site(tiny(), tmp_path / "site", LOCAL)
    assert list(tmp_path.iterdir()) == []


def test_another_version_of_the_ray_tracer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "_versions", lambda: {"sionna-rt": "1.2.1", "mitsuba": "3.7", "drjit": "1.2"})
    with pytest.raises(DependencyError, match=r"cannot use sionna-rt 1\.2\.1"):
        probe()


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("libLLVM-15.so.1", "15"),
        ("libLLVM-14.0.6.so.1", "14.0.6"),
        ("libLLVM.so.23.1", "23.1"),
        ("libLLVM.so.19.1", "19.1"),
        ("libLLVM-23.so", "23"),
        ("libLLVM.so", None),
    ],
)
def test_llvm_versions_from_file_names(name: str, version: str | None) -> None:
    assert tracing._llvm_version(Path("/somewhere") / name) == version


def test_the_environment_names_the_llvm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRJIT_LIBLLVM_PATH", "/somewhere/libLLVM.so.19")
    assert find_llvm() == Path("/somewhere/libLLVM.so.19")


@traced
@pytest.mark.parametrize("library", OLD_LLVM, ids=lambda path: path.name)
def test_an_llvm_that_is_too_old(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRJIT_LIBLLVM_PATH", str(library))
    with pytest.raises(DependencyError, match=r"signal|status") as caught:
        trace_site(tiny(), tmp_path / "site", LOCAL)
    message = str(caught.value)
    assert str(library) in message
    assert "too old" in message
    assert "unset DRJIT_LIBLLVM_PATH" in message
    assert "LLVM ≥ 17" in message
    assert "karellen-llvm-core" in message
    assert list(tmp_path.iterdir()) == []


@traced
def test_the_probe_accepts_this_machine() -> None:
    assert probe().packages["sionna-rt"].startswith("2.2")


# --- One scene ----------------------------------------------------------------------------------------------------


@traced
def test_the_embedded_site_can_be_traced_again() -> None:
    table = open_site("canyon_small").read_paths()
    tracer = Tracer(CANYON)
    for scene in (0, 1):
        traced = tracer.trace(scene)
        np.testing.assert_array_equal(traced.condition, table.condition[scene])
        # Other processors round differently, which moves a few rays across an edge; the power stays.
        stored = 10 * np.log10((np.abs(table.gain[scene]) ** 2).sum(-1))
        now = 10 * np.log10((np.abs(traced.gain) ** 2).sum(-1))
        assert np.median(np.abs(now - stored)) < 0.05
        assert (np.abs(now - stored) < 1).mean() > 0.95
        line_of_sight = table.condition[scene] == 0
        np.testing.assert_allclose(traced.gain[line_of_sight, 0], table.gain[scene, line_of_sight, 0], rtol=1e-2)
        same = np.abs(traced.gain - table.gain[scene]) <= 1e-3 * np.abs(table.gain[scene])
        assert same.mean() > 0.8


@traced
def test_the_paths_do_not_depend_on_threads_nor_on_later_scenes() -> None:
    expected = Tracer(tiny(scenes=2), threads=1).trace(1)
    assert (expected.paths > 0).all()
    assert_equal_scenes(Tracer(tiny(scenes=2), threads=2).trace(1), expected)
    assert_equal_scenes(Tracer(tiny(scenes=40), threads=2).trace(1), expected)


# --- Sharing out --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("machines", "expected"),
    [
        ([(2, 20)], (2, 1)),
        ([(1, 20), (1, 20)], (1, 2)),
        ([(3, 20)], (1, 3)),
        ([(8, 9)], (4, 2)),  # memory for two tasks alone: four threads for each
        ([(16, 100), (1, 2)], (2, 8)),
    ],
)
def test_tasks_keep_most_cpus_busy_within_the_memory(
    machines: list[tuple[int, int]], expected: tuple[int, int]
) -> None:
    nodes = [{"Alive": True, "Resources": {"CPU": cpus, "memory": gb * 1e9}} for cpus, gb in machines]
    gone = {"Alive": False, "Resources": {"CPU": 64, "memory": 1e12}}
    assert site_tracing._share([*nodes, gone], int(4e9), "local") == expected


def test_a_machine_without_enough_memory_is_refused() -> None:
    nodes = [{"Alive": True, "Resources": {"CPU": 8, "memory": 2e9}}]
    with pytest.raises(ClusterError, match=r"takes 1 CPU and 4\.0 GB of memory, and the largest machine has 2\.0 GB"):
        site_tracing._share(nodes, int(4e9), "local")


def test_a_scene_of_the_papers_size_fits_into_six_gigabytes() -> None:
    assert memory_need(load_scenario("canyon")) < 6e9


def test_a_machine_with_other_versions_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    found = ProbeReport({"sionna-rt": "2.2.1"}, None, "19.1")
    monkeypatch.setattr(site_tracing, "probe", lambda: found)
    site_tracing._check_machine(site_tracing._versions(found))
    with pytest.raises(DependencyError, match=r"sionna-rt 2\.2\.1, LLVM 19\.1") as caught:
        site_tracing._check_machine("sionna-rt 2.2.0, LLVM 19.1")
    assert caught.value.where

    def broken() -> ProbeReport:
        raise DependencyError("the ray tracer was ended by signal 6", fix="install it")

    monkeypatch.setattr(site_tracing, "probe", broken)
    with pytest.raises(DependencyError, match="signal 6") as caught:
        site_tracing._check_machine("sionna-rt 2.2.0, LLVM 19.1")
    assert caught.value.where


# --- Unfinished sites ---------------------------------------------------------------------------------------------

REPORT = ProbeReport({"sionna-rt": "2.2.0"}, None, "19.1")


def made_up_scene(scenario: Scenario) -> TracedScene:
    users = scenario.users.columns * scenario.users.rows
    columns = {
        name: np.zeros((users, scenario.max_paths) if name in PER_PATH else users, kind)
        for name, kind in ROW_TYPES.items()
    }
    return TracedScene(
        **columns,
        los_agreement=np.array(1.0),
        vehicle=np.zeros(0, np.int32),
        kind=np.zeros(0, str),
        box=np.zeros((0, 6), np.float32),
    )


def test_damaged_scenes_are_found_and_traced_again(tmp_path: Path) -> None:
    scenario = tiny(scenes=5)
    unfinished = UnfinishedSite(scenario, tmp_path / "site", REPORT)
    with unfinished.claimed():
        assert unfinished.missing() == ([0, 1, 2, 3, 4], [])
        for scene in range(4):
            unfinished.save(scene, made_up_scene(scenario))
        files = sorted(unfinished.folder.glob("*.npz"))
        whole = files[0].read_bytes()
        files[0].write_bytes(whole[: len(whole) // 2])
        files[1].write_bytes(b"")
        files[2].write_bytes(whole[:200] + bytes([whole[200] ^ 255]) + whole[201:])
        wanted, damaged = unfinished.missing()
        assert wanted == [0, 1, 2, 4]
        assert [(item.scene, item.file) for item in damaged] == list(enumerate(files[:3]))
        assert unfinished.kept == 1
        for scene in wanted:
            unfinished.save(scene, made_up_scene(scenario))
        assert unfinished.finish().scenes == 5
    assert [file.name for file in tmp_path.iterdir()] == ["site"]


def test_one_process_at_a_time_and_one_scenario(tmp_path: Path) -> None:
    unfinished = UnfinishedSite(tiny(), tmp_path / "site", REPORT)
    with unfinished.claimed():
        with pytest.raises(DataError, match="another process is tracing"), unfinished.claimed():
            pass
    for scenario, report in (
        (tiny(seed=2), REPORT),
        (tiny(scenes=1), REPORT),
        (tiny(), ProbeReport(REPORT.packages, None, "20")),
    ):
        with pytest.raises(DataError, match="of another scenario, number of scenes or package version"):
            with UnfinishedSite(scenario, tmp_path / "site", report).claimed():
                pass
    with unfinished.claimed():
        pass


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    work = tmp_path / "site.partial"
    work.mkdir()
    (work / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="something else"), UnfinishedSite(tiny(), tmp_path / "site", REPORT).claimed():
        pass
    assert [(file.name, file.read_text()) for file in work.iterdir()] == [("notes.txt", "mine")]


def test_a_site_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="exists"):
        trace_site(tiny(), tmp_path, LOCAL)


# --- The command ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--scenes", "121"], ["no 121 scenes", "1 … 120"]),
        (["--scenes", "0"], ["scenes"]),
        (["--cluster", "moon"], ["moon", "local"]),
    ],
)
def test_options_that_cannot_be_used(
    cli: Callable[..., Result], tmp_path: Path, options: list[str], words: list[str]
) -> None:
    result = cli("data", "trace", "canyon_small", "--out", tmp_path / "site", *options)
    assert result.code == 2
    assert all(word in result.err for word in words), result.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("terminal", [False, True])
def test_the_display_shows_what_a_scene_took_and_what_is_left(terminal: bool) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=terminal, width=120, soft_wrap=True, highlight=False)
    progress = SceneProgress(
        scene=7,
        done=3,
        scenes=5,
        resumed=1,
        seconds=60.0,
        scene_seconds=31.5,
        peak_memory_bytes=2_800_000_000,
        machine="tower",
        node="abc",
    )
    with TraceDisplay(console) as display:
        display.scene_damaged(DamagedScene(4, Path("scene_00004.npz"), "cut short"))
        display.trace_started(TracePlan(scenes=5, kept=1, at_once=2, threads=2, memory_bytes=3_300_000_000))
        display.scene_traced(progress)
        display.stopping = True
        display.tick()
    shown = screen.getvalue()
    assert "scene 4 is traced again: scene_00004.npz (cut short)" in shown
    assert "5 scenes, 1 of them finished before; 2 at a time, each with 2 CPUs and 3.3 GB set aside" in shown
    assert "[3/5]  scene 7: 31.5 s on tower, peak memory 2.8 GB" in shown
    assert "1 min 0 s left" in shown or terminal
    assert ("stopping" in shown) == terminal


# --- Whole sites, on Ray ------------------------------------------------------------------------------------------

# Enough that a process is stopped between two of them, and that a second machine gets its share.
LONG = 12


class Driver(CommandProcess):
    """``study data trace`` as a process of its own."""

    def __init__(self, scenario: Path, out: Path, before: str = "") -> None:
        self.work = out.with_name(f"{out.name}.partial")
        super().__init__("data", "trace", scenario, "--out", out, before=before)

    def finished(self) -> set[str]:
        return {file.name for file in self.work.glob("*.npz")}

    def wait_for_scenes(self, number: int) -> None:
        self.wait_for(lambda: len(self.finished()) >= number, f"{number} scenes")

    def worker(self) -> int:
        """A process that traces a scene now; between two scenes it has another name."""
        found: list[int] = []
        self.wait_for(lambda: found.extend(self.named("ray::_trace_scene")) or found, "a scene that is being traced")
        return found[0]


def hold(gate: Path) -> str:
    """What makes a driver wait after its first scene until a file is there: the others are traced meanwhile."""
    return f"""
import pathlib, time, study.console
shown = study.console.TraceDisplay.scene_traced
def scene_traced(display, progress):
    shown(display, progress)
    while not pathlib.Path({str(gate)!r}).exists():
        time.sleep(0.02)
study.console.TraceDisplay.scene_traced = scene_traced
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Driver]]:
    drivers: list[Driver] = []
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(tiny(scenes=LONG).model_dump(mode="json")))

    def begin(before: str = "") -> Driver:
        drivers.append(Driver(file, tmp_path / "site", before))
        return drivers[-1]

    yield begin
    for driver in drivers:
        driver.clean_up()


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The tiny site, traced in one go on this machine."""
    told = Told()
    folder = tmp_path_factory.mktemp("once")
    site = trace_site(tiny(scenes=LONG), folder / "site", LOCAL, observer=told)
    assert site is not None
    assert [file.name for file in folder.iterdir()] == ["site"]
    assert (site.read_paths().paths > 0).all()
    assert [item.done for item in told.progress] == list(range(1, LONG + 1))
    assert {item.scene for item in told.progress} == set(range(LONG))
    assert told.progress[-1].seconds_left == 0
    assert told.plans[0].kept == told.progress[0].resumed == 0
    # What Ray sets aside is what a process takes at most.
    assert 0 < max(item.peak_memory_bytes for item in told.progress) < told.plans[0].memory_bytes
    return site


@traced
def test_users_that_no_path_reaches_are_rows_without_paths() -> None:
    """One receiver per solve and the line of sight alone: solves that find nothing at all."""
    values = tiny(scenes=1).model_dump(mode="json")
    values["solver"] |= {"receivers_per_solve": 1, "max_depth": 0, "diffraction": False}
    scene = Tracer(Scenario.model_validate(values)).trace(0)
    blocked = scene.condition != 0
    assert blocked.any()
    assert not blocked.all()
    np.testing.assert_array_equal(scene.paths, np.where(blocked, 0, 1))
    scene.check(len(scene.paths), values["max_paths"])


@traced
def test_a_street_without_houses_is_traced() -> None:
    values = tiny(scenes=1).model_dump(mode="json")
    values["buildings"]["x_range_m"] = [0, 0]
    scenario = Scenario.model_validate(values | {"boxes": []})
    assert not static_boxes(scenario)
    assert (Tracer(scenario).trace(0).paths >= 1).all()


@traced
@pytest.mark.slow
def test_the_first_scenes_are_as_they_are_among_all(once: Site, tmp_path: Path) -> None:
    site = trace_site(tiny(scenes=LONG), tmp_path / "site", LOCAL, scenes=2)
    assert site is not None
    assert site.scene_hashes == once.scene_hashes[:2]
    assert site.name == "tiny_first_2"
    with pytest.raises(SpecError, match=f"1 … {LONG}"):
        trace_site(tiny(scenes=LONG), tmp_path / "other", LOCAL, scenes=LONG + 1)


@traced
@pytest.mark.slow
def test_a_stopped_and_a_killed_trace_go_on_to_the_same_paths(
    once: Site, start: Callable[..., Driver], tmp_path: Path
) -> None:
    driver = start(hold(tmp_path / "stopped"))
    driver.wait_for_scenes(1)
    driver.interrupt()
    (tmp_path / "stopped").touch()
    assert driver.ended() == 130, driver.output()
    out = driver.output()
    assert "Traceback" not in out
    assert f"finished scenes are in {driver.work}" in out
    assert "run the same command again" in out
    driver.wait_until_gone(driver.descendants)
    stopped_at = driver.finished()
    assert 1 <= len(stopped_at) < LONG

    driver = start(hold(tmp_path / "never"))
    driver.wait_for_scenes(len(stopped_at) + 1)
    driver.kill()  # its Ray goes on for some seconds, and writes nothing
    killed_at = driver.finished()
    assert stopped_at < killed_at
    assert len(killed_at) < LONG
    damaged = driver.work / min(killed_at)
    damaged.write_bytes(damaged.read_bytes()[:1000])

    driver = start()
    os.kill(driver.worker(), signal.SIGKILL)  # Ray traces its scene again
    assert driver.ended() == 0, driver.output()
    out = driver.output()
    assert str(damaged) in out
    assert f"{len(killed_at) - 1} of them finished before" in out
    assert f"[{LONG}/{LONG}]" in out
    assert open_site(tmp_path / "site").data_hash == once.data_hash
    assert not driver.work.exists()


@traced
@pytest.mark.slow
def test_a_full_disk_keeps_the_finished_scenes(start: Callable[..., Driver]) -> None:
    # After two scenes no file may grow beyond a few bytes: "file too large" stands for "no space left on device".
    limit = """
import resource, study.console
shown = study.console.TraceDisplay.scene_traced
def scene_traced(display, progress):
    shown(display, progress)
    if progress.done == 2:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
study.console.TraceDisplay.scene_traced = scene_traced
"""
    driver = start(limit)
    assert driver.ended() == 2, driver.output()
    out = driver.output()
    assert "Traceback" not in out
    assert "study: scene 2 cannot be written" in out
    assert str(driver.work / "scene_00002.npz") in out
    assert "2 finished scenes are kept, and the same command goes on" in out
    assert driver.finished() == {"scene_00000.npz", "scene_00001.npz"}
    assert not list(driver.work.glob(".*.tmp"))
    driver.wait_until_gone(driver.descendants)


@traced
@pytest.mark.slow
def test_two_machines_give_the_paths_of_one(once: Site, tmp_path: Path) -> None:
    import ray
    from ray.cluster_utils import Cluster as TwoMachines

    told = Told()
    machines = TwoMachines(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        machines.add_node(num_cpus=1)
        machines.wait_for_nodes()
        cluster = Cluster.model_validate({"address": machines.address})
        site = trace_site(tiny(scenes=LONG), tmp_path / "site", cluster, observer=told)
    finally:
        ray.shutdown()
        machines.shutdown()
    assert (told.plans[0].threads, told.plans[0].at_once) == (1, 2)
    assert len({item.node for item in told.progress}) == 2
    assert site is not None
    assert site.data_hash == once.data_hash


def test_a_finished_scene_with_wrong_content_is_traced_again(tmp_path: Path) -> None:
    scenario = tiny(scenes=3)
    unfinished = UnfinishedSite(scenario, tmp_path / "site", REPORT)
    with unfinished.claimed():
        for scene in range(3):
            unfinished.save(scene, made_up_scene(scenario))
        good = dict(np.load(unfinished._file(1)))
        np.savez_compressed(unfinished._file(1), **{**good, "gain": np.full_like(good["gain"], np.nan)})
        np.savez_compressed(unfinished._file(2), **{**good, "gain": good["gain"][:2]})
        missing, damaged = unfinished.missing()
    assert missing == [1, 2]
    assert [item.scene for item in damaged] == [1, 2]


def test_a_refusal_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    """Too large for the machine: the folder is free for the smaller scenario that the message asks for."""
    values = tiny().model_dump(mode="json")
    values["solver"]["samples_per_source"] = 2_000_000_000
    unfinished = UnfinishedSite(Scenario.model_validate(values), tmp_path / "site", REPORT)
    with unfinished.claimed():
        unfinished.forget()
    assert list(tmp_path.iterdir()) == []
    with UnfinishedSite(tiny(), tmp_path / "site", REPORT).claimed():
        pass
