"""Ray tracing of a scenario with Sionna RT, on the CPU.

    probe           tries the ray tracer in a process of its own
    Tracer          paths of one scene
    trace_site      all scenes of a scenario, written as a site

Sionna RT needs LLVM, and LLVM 15 and 16 end the whole process in the solver without a Python exception. So this
module imports Sionna RT only inside functions, and `trace_site` runs `probe` before anything is written.

Shapes: S scenes, L positions, P kept paths, Q paths that the solver found.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from study.data.scenario import Scenario, StaticBox, Traffic, VehicleBoxes, classify, static_boxes, user_positions
from study.data.path_table import ROW_TYPES, ScenePaths
from study.data.site import Site, SiteWriter, sync_folder
from study.errors import DataError, DependencyError

__all__ = ["ProbeReport", "SceneProgress", "TracedScene", "Tracer", "find_llvm", "probe", "trace_site"]

VARIANT = "llvm_ad_mono_polarized"
SPEED_OF_LIGHT = 299_792_458.0
LLVM_VARIABLE = "DRJIT_LIBLLVM_PATH"
PACKAGES = ("sionna-rt", "mitsuba", "drjit")
INSTALL = "pip install 'sionna-rt>=2.2,<2.3' 'karellen-llvm-core>=23.1' (the extra `trace`)"
LEAST_LLVM = 17
ALLOWED = f"sionna-rt ≥ 2.2 and < 2.3 with LLVM ≥ {LEAST_LLVM}"
# Below this agreement between geometry and solver something is wrong with the scene, not with single grazing rays.
LEAST_AGREEMENT = 0.99

_DIFFRACTION = 8  # sionna.rt.constants.InteractionType

# Order of a box's corners: bit 0 is x, bit 1 is y, bit 2 is z. Triangles look outwards.
_TRIANGLES = np.array(
    [
        [0, 2, 1], [1, 2, 3], [4, 5, 6], [5, 7, 6], [0, 1, 4], [1, 5, 4],
        [2, 6, 3], [3, 6, 7], [0, 4, 2], [2, 4, 6], [1, 3, 5], [3, 7, 5],
    ]
)  # fmt: skip


class SceneProgress(NamedTuple):
    """Handed to `on_progress` after every scene that was traced.

    Args:
        done: scenes that are finished, those of an earlier run included.
        scenes: scenes in all.
        seconds: time since this run began to trace.
        resumed: scenes that an earlier run had finished.
    """

    done: int
    scenes: int
    seconds: float
    resumed: int


@dataclass(frozen=True)
class ProbeReport:
    """What the probe found.

    Args:
        packages: versions of the ray tracer's packages.
        llvm: the LLVM library, None where the system finds one by itself.
        llvm_version: as its file name says, None where it does not.
    """

    packages: dict[str, str]
    llvm: Path | None
    llvm_version: str | None


# --- LLVM and the probe -------------------------------------------------------------------------------------------


def find_llvm() -> Path | None:
    """The LLVM library to use: the one the environment names, the pip package's, or the system's newest."""
    named = os.environ.get(LLVM_VARIABLE)
    if named:
        return Path(named)
    site_packages = Path(np.__file__).parents[1]
    for folder in (Path(sys.prefix) / "lib", site_packages, site_packages / "karellen_llvm_core" / "lib"):
        found = sorted(folder.glob("libLLVM*.so*"), key=_version_key)
        if found:
            return found[-1]
    system = [
        library
        for folder in ("/usr/lib", "/usr/lib64", "/usr/local/lib")
        for pattern in ("libLLVM*.so*", "*/libLLVM*.so*", "llvm*/lib/libLLVM*.so*")
        for library in Path(folder).glob(pattern)
    ]
    return max(system, key=_version_key, default=None)


def _llvm_version(library: Path) -> str | None:
    """The version in a library's file name, links followed: 15 for libLLVM-15.so.1, 23.1 for libLLVM.so.23.1."""
    for name in (library.resolve().name, library.name):
        match = re.search(r"libLLVM-(\d+(?:\.\d+)*)", name) or re.search(r"libLLVM\.so\.(\d+(?:\.\d+)*)", name)
        if match:
            return match[1].rstrip(".")
    return None


def _version_key(library: Path) -> tuple[tuple[int, ...], str]:
    version = _llvm_version(library)
    return tuple(int(part) for part in version.split(".")) if version else (), library.name


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def probe(timeout_s: float = 300.0) -> ProbeReport:
    """Solve a tiny scene in another process, so that an LLVM that aborts cannot take this one with it.

    Raises:
        DependencyError: a package is missing or does not fit, or LLVM is missing, too old or broken.
    """
    versions = _versions()
    missing = [package for package in PACKAGES if package not in versions]
    if missing:
        raise DependencyError(f"ray tracing needs {', '.join(missing)}", allowed=ALLOWED, fix=INSTALL)
    found = f"sionna-rt {versions['sionna-rt']}"
    if not re.match(r"2\.2(\D|$)", versions["sionna-rt"]):
        raise DependencyError(f"ray tracing cannot use {found}", allowed=ALLOWED, fix=INSTALL)
    llvm = find_llvm()
    environment = dict(os.environ)
    if llvm is None:
        raise DependencyError(f"ray tracing found no LLVM library ({found})", allowed=ALLOWED, fix=INSTALL)
    version = _llvm_version(llvm)
    found += f", LLVM {version or 'of unknown version'} at {llvm}"
    named = f"unset {LLVM_VARIABLE}, which names this library; " if os.environ.get(LLVM_VARIABLE) else ""
    if not llvm.is_file():
        raise DependencyError(
            f"the LLVM library does not exist: found {found}", allowed=ALLOWED, fix=f"{named}{INSTALL}"
        )
    environment[LLVM_VARIABLE] = str(llvm)
    command = [sys.executable, "-c", "from study.data.tracing import _solve_tiny_scene; _solve_tiny_scene()"]
    try:
        run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise DependencyError(
            f"the ray tracer did not finish a tiny scene within {timeout_s:g} s: found {found}",
            allowed=ALLOWED,
            fix="try again when the machine is less busy",
        ) from None
    if run.returncode == 0 and "probe: ok" in run.stdout:
        return ProbeReport(versions, llvm, version)
    # The cause stands above a dump of generated code, or above the last lines of a traceback.
    lines = [line.strip() for line in run.stderr.splitlines() if line.strip()]
    cause = next((line for line in lines if re.search(r"LLVM ERROR|Error: ", line)), lines[-1] if lines else "")
    last = f" ({cause[:200]})" if cause else ""
    if version and int(version.split(".")[0]) < LEAST_LLVM:
        found += ", which is too old"
    died = f"was ended by signal {-run.returncode}" if run.returncode < 0 else f"failed with status {run.returncode}"
    raise DependencyError(
        f"the ray tracer {died} on a tiny scene{last}: found {found}", allowed=ALLOWED, fix=f"{named}{INSTALL}"
    )


def _solve_tiny_scene() -> None:
    """A line of sight above a plate with an edge; run by `probe` in a process of its own."""
    mi, rt = _import_sionna()
    scene = rt.load_scene()
    scene.frequency = 3.5e9
    metal = rt.ITURadioMaterial(name="metal", itu_type="metal", thickness=0.1)
    scene.edit(add=[_mesh(mi, rt, "plate", np.array([[-5.0, 5.0, -5.0, 5.0, 0.0, 1.0]]), metal)])
    array = rt.PlanarArray(
        num_rows=1, num_cols=1, vertical_spacing=0.5, horizontal_spacing=0.5, pattern="iso", polarization="V"
    )
    scene.tx_array = scene.rx_array = array
    scene.add(rt.Transmitter("base_station", position=mi.Point3f(-8, 0, 3)))
    scene.add(rt.Receiver("user", position=mi.Point3f(8, 0, 3)))
    paths = rt.PathSolver(deterministic=True)(
        scene, max_depth=1, samples_per_src=2000, max_num_paths_per_src=100_000, refraction=False, diffraction=True
    )
    if np.array(paths.valid).any():
        sys.stdout.write("probe: ok\n")


def _import_sionna() -> tuple[Any, Any]:
    """Mitsuba and Sionna RT with the CPU variant, which gives the same result with and without a GPU."""
    llvm = find_llvm()
    if llvm is not None:
        os.environ.setdefault(LLVM_VARIABLE, str(llvm))
    try:
        import mitsuba

        mitsuba.set_variant(VARIANT)
        import sionna.rt
    except ImportError as error:
        raise DependencyError(f"the ray tracer cannot be imported: {error}", allowed=ALLOWED, fix=INSTALL) from error
    return mitsuba, sionna.rt


# --- One scene ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TracedScene:
    """Paths of all positions in one scene, strongest first; arrays as in `PathTable` without the scene axis.

    Args:
        gain: complex64 [L, P].
        delay_s: float32 [L, P].
        zenith_rad: float32 [L, P].
        azimuth_rad: float32 [L, P].
        interaction: int8 [L, P].
        paths: int16 [L].
        condition: int8 [L].
        paths_found: int16 [L].
        dropped_power: float32 [L].
        los_agreement: share of positions where the solver's own line-of-sight path agrees with the condition, [].
        vehicle: int32 [B].
        kind: str [B].
        box: float32 [B, 6].
    """

    gain: NDArray[np.complex64]
    delay_s: NDArray[np.float32]
    zenith_rad: NDArray[np.float32]
    azimuth_rad: NDArray[np.float32]
    interaction: NDArray[np.int8]
    paths: NDArray[np.int16]
    condition: NDArray[np.int8]
    paths_found: NDArray[np.int16]
    dropped_power: NDArray[np.float32]
    los_agreement: NDArray[np.float64]
    vehicle: NDArray[np.int32]
    kind: NDArray[np.str_]
    box: NDArray[np.float32]


class Tracer:
    """The scene of a scenario, built once; vehicles move between solves."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.traffic = Traffic(scenario)
        self.static: list[StaticBox] = static_boxes(scenario)
        self.positions_m = user_positions(scenario)
        self._mi, self._rt = _import_sionna()
        self._times_s = scenario.scene_times_s()
        # The vehicles are one mesh of fixed size: moving its vertices is fast, rebuilding the scene is not.
        self._capacity = max(1, *(len(self.traffic.boxes(time_s).box) for time_s in self._times_s))
        self._solver = self._rt.PathSolver(deterministic=True)
        self._scene, self._receivers = self._build()

    def _build(self) -> tuple[Any, list[Any]]:
        mi, rt, scenario = self._mi, self._rt, self.scenario
        scene = rt.load_scene()
        scene.frequency = scenario.carrier_hz
        names = {box.material for box in self.static} | {scenario.ground_material, scenario.vehicle_material}
        material = {
            name: rt.ITURadioMaterial(name=f"study_{name}", itu_type=name, thickness=0.3) for name in sorted(names)
        }
        objects = [_ground(mi, rt, self.static, material[scenario.ground_material])]
        objects += [_mesh(mi, rt, box.name, np.array([box.box]), material[box.material]) for box in self.static]
        parked = _parked(self._capacity)
        objects.append(_mesh(mi, rt, "study_vehicles", parked, material[scenario.vehicle_material]))
        scene.edit(add=objects)
        scene.tx_array = scene.rx_array = rt.PlanarArray(
            num_rows=1, num_cols=1, vertical_spacing=0.5, horizontal_spacing=0.5, pattern="iso", polarization="V"
        )
        scene.add(rt.Transmitter("base_station", position=mi.Point3f(*scenario.base_station_m)))
        receivers = []
        for number in range(min(scenario.solver.receivers_per_solve, len(self.positions_m))):
            receiver = rt.Receiver(f"user_{number}", position=mi.Point3f(0, 0, 0))
            scene.add(receiver)
            receivers.append(receiver)
        return scene, receivers

    def trace(self, scene: int) -> TracedScene:
        """Paths of all positions in one scene.

        Raises:
            DataError: the solver's line-of-sight paths contradict the geometry.
        """
        vehicles = self.traffic.boxes(float(self._times_s[scene]))
        self._move_vehicles(vehicles)
        size = len(self._receivers)
        parts = []
        for start in range(0, len(self.positions_m), size):
            # Always the same number of receivers (the last ones repeat a position): one kernel serves all solves.
            chunk = np.minimum(np.arange(start, start + size), len(self.positions_m) - 1)
            for receiver, position in zip(self._receivers, self.positions_m[chunk], strict=True):
                receiver.position = self._mi.Point3f(*position.tolist())
            keep = min(size, len(self.positions_m) - start)
            parts.append([array[:keep] for array in self._solve()])
        gain, delay, zenith, azimuth, interaction, paths, found, dropped, line_of_sight = (
            np.concatenate(arrays) for arrays in zip(*parts, strict=True)
        )
        condition = classify(self.positions_m, self.scenario.base_station_m, self.static, vehicles.box)
        agreement = float(((condition == 0) == line_of_sight).mean())
        if agreement < LEAST_AGREEMENT:
            raise DataError(
                f"in scene {scene} the solver's line of sight agrees with the geometry at only {agreement:.1%} of the "
                "positions",
                allowed=f"at least {LEAST_AGREEMENT:.0%}",
                fix="check the scenario for boxes that touch the base station, users or each other",
            )
        return TracedScene(
            gain, delay, zenith, azimuth, interaction, paths, condition, found, dropped, np.float64(agreement),  # type: ignore[arg-type]
            vehicles.vehicle, np.array(vehicles.kind, str), vehicles.box.astype(np.float32),
        )  # fmt: skip

    def _move_vehicles(self, vehicles: VehicleBoxes) -> None:
        boxes = _parked(self._capacity)
        boxes[: len(vehicles.box)] = vehicles.box
        parameters = self._scene.mi_scene_params
        (key,) = [k for k in parameters.keys() if "study_vehicles" in k and k.endswith("vertex_positions")]  # noqa: SIM118
        parameters[key] = self._mi.Float(_corners(boxes).ravel().astype(np.float32))
        parameters.update()
        self._scene.scene_geometry_updated()

    def _solve(self) -> tuple[NDArray[Any], ...]:
        """Paths of the receivers where they stand: the columns of a `TracedScene` and whether a path is straight."""
        settings = self.scenario.solver
        found = self._solver(
            self._scene,
            max_depth=settings.max_depth,
            samples_per_src=settings.samples_per_source,
            max_num_paths_per_src=settings.max_paths_per_source,
            los=True,
            specular_reflection=True,
            diffuse_reflection=False,
            # Walls are single surfaces: with refraction, energy would pass through houses.
            refraction=False,
            diffraction=settings.diffraction,
            edge_diffraction=False,
            seed=settings.seed,
        )
        count = len(self._receivers)
        amplitude = (np.array(found.a[0]) + 1j * np.array(found.a[1])).reshape(count, -1)  # [L, Q]
        delay = np.array(found.tau, np.float64).reshape(count, -1)
        valid = np.array(found.valid, bool).reshape(count, -1) & (amplitude != 0)
        bounces = np.array(found.interactions).reshape(-1, *valid.shape)  # [depth, L, Q]
        straight = (bounces == 0).all(0)
        interaction = np.where(straight, 1, np.where((bounces == _DIFFRACTION).any(0), 3, 2))
        # The solver's coefficients are without the carrier's phase; 10⁴ turns need float64.
        gain = amplitude * np.exp(-2j * np.pi * ((self.scenario.carrier_hz * delay) % 1.0))
        storage = self.scenario.storage
        # Rounded before they are sorted: the stored values, not the computed ones, stand strongest first.
        gain = round_mantissa(gain.astype(np.complex64).view(np.float32), storage.gain_bits).view(np.complex64)
        kept = _strongest(
            gain,
            valid,
            [
                (delay, np.float32),
                (np.array(found.theta_t).reshape(count, -1), np.float32),
                (np.array(found.phi_t).reshape(count, -1), np.float32),
                (interaction, np.int8),
            ],
            self.scenario.max_paths,
            storage.weakest_path_db,
        )
        return (
            kept.gain,
            round_mantissa(kept.columns[0], storage.delay_bits),
            round_mantissa(kept.columns[1], storage.angle_bits),
            round_mantissa(kept.columns[2], storage.angle_bits),
            kept.columns[3],
            kept.paths,
            kept.paths_found,
            kept.dropped_power,
            (straight & valid).any(1),
        )


class _Kept(NamedTuple):
    gain: NDArray[np.complex64]  # [L, P]
    columns: list[NDArray[Any]]  # [L, P] each
    paths: NDArray[np.int16]  # [L]
    paths_found: NDArray[np.int16]  # [L]
    dropped_power: NDArray[np.float32]  # [L]


def _strongest(
    gain: NDArray[np.complex64],
    valid: NDArray[np.bool_],
    columns: list[tuple[NDArray[Any], type]],
    max_paths: int,
    weakest_db: float,
) -> _Kept:
    """Keep each row's strongest paths, strongest first, the rest zero; equal powers stay in the solver's order."""
    width = gain.shape[1]
    if width < max_paths:  # padded first, so that a scene without any path needs no special case
        room = ((0, 0), (0, max_paths - width))
        gain, valid = np.pad(gain, room), np.pad(valid, room)
        columns = [(np.pad(values, room), kind) for values, kind in columns]
    power = np.where(valid, np.abs(gain.astype(np.complex128)) ** 2, 0.0)
    order = np.argsort(-power, axis=1, kind="stable")[:, :max_paths]
    ranked = np.take_along_axis(power, order, 1)
    keep = (ranked > 0) & (ranked >= ranked[:, :1] * 10 ** (-weakest_db / 10))
    total = power.sum(1)
    dropped = 1 - np.where(keep, ranked, 0).sum(1) / np.where(total > 0, total, 1)

    def pick(values: NDArray[Any], kind: type) -> NDArray[Any]:
        return np.where(keep, np.take_along_axis(values, order, 1), 0).astype(kind)

    return _Kept(
        pick(gain, np.complex64),
        [pick(values, kind) for values, kind in columns],
        keep.sum(1).astype(np.int16),
        valid.sum(1).astype(np.int16),
        np.where(total > 0, np.clip(dropped, 0, 1), 0).astype(np.float32),
    )


def round_mantissa(values: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
    """Round float32 values to a mantissa of that many bits: a relative error of at most 2^−(bits + 1)."""
    drop = 23 - bits
    if drop == 0:
        return values
    words = np.ascontiguousarray(values).view(np.uint32)
    # Adding half a step and cutting rounds to nearest; a carry into the exponent is the right neighbour too.
    rounded = (words + np.uint32(1 << (drop - 1))) & np.uint32(0xFFFFFFFF << drop & 0xFFFFFFFF)
    return rounded.view(np.float32)


def _corners(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Corners of boxes [B, 6] as [B, 8, 3]."""
    corner = np.arange(8)
    return np.stack([boxes[:, corner & 1], boxes[:, 2 + (corner >> 1 & 1)], boxes[:, 4 + (corner >> 2)]], -1)


def _parked(count: int) -> NDArray[np.float64]:
    """Unit boxes below the ground, where no ray reaches the vehicles that are not in the scene."""
    x = 2.0 * np.arange(count)
    return np.stack([x, x + 1, np.zeros(count), np.ones(count), np.full(count, -52.0), np.full(count, -51.0)], 1)


def _mesh(mi: Any, rt: Any, name: str, boxes: NDArray[np.float64], material: Any) -> Any:
    corners = _corners(boxes).reshape(-1, 3)
    triangles = (_TRIANGLES + 8 * np.arange(len(boxes))[:, None, None]).reshape(-1, 3)
    return _object(mi, rt, name, corners, triangles, material)


def _ground(mi: Any, rt: Any, static: list[StaticBox], material: Any) -> Any:
    """A plane 40 m wider than everything that stands."""
    limits = np.array([box.box for box in static])
    x0, y0 = limits[:, [0, 2]].min(0) - 40.0
    x1, y1 = limits[:, [1, 3]].max(0) + 40.0
    corners = np.array([[x0, y0, 0], [x1, y0, 0], [x0, y1, 0], [x1, y1, 0]])
    return _object(mi, rt, "study_ground", corners, np.array([[0, 1, 2], [1, 3, 2]]), material)


def _object(mi: Any, rt: Any, name: str, corners: NDArray[Any], triangles: NDArray[Any], material: Any) -> Any:
    properties = mi.Properties()
    properties["face_normals"] = True
    properties.set_id(name)
    mesh = mi.Mesh(
        name, vertex_count=len(corners), face_count=len(triangles),
        has_vertex_normals=False, has_vertex_texcoords=False, props=properties,
    )  # fmt: skip
    parameters = mi.traverse(mesh)
    parameters["vertex_positions"] = mi.Float(corners.ravel().astype(np.float32))
    parameters["faces"] = mi.UInt32(triangles.ravel().astype(np.uint32))
    parameters.update()
    return rt.SceneObject(mi_mesh=mesh, name=name, radio_material=material)


# --- A whole site -------------------------------------------------------------------------------------------------


def trace_site(
    scenario: Scenario,
    out: Path,
    *,
    on_progress: Callable[[SceneProgress], None] | None = None,
) -> Site:
    """Trace every scene and write the site; a trace that was cut off goes on where it stopped.

    Finished scenes wait in ``<out>.partial`` beside the site, one file each, until the last one is there.

    Args:
        scenario: what to trace.
        out: folder of the site; must not exist.
        on_progress: called after every traced scene.

    Raises:
        DependencyError: the ray tracer does not work here; nothing was written.
        DataError: the folder exists or cannot be written, or `<out>.partial` belongs to another scenario or version.
    """
    out = Path(out)
    if out.exists():
        raise DataError("the folder of the new site exists", where=str(out), fix="name another folder or remove it")
    report = probe()
    work = out.with_name(f"{out.name}.partial")
    try:
        _claim(work, scenario, report.packages)
        _trace_missing(scenario, work, on_progress)
        site = _assemble(scenario, _scene_files(scenario, work), out, report)
        shutil.rmtree(work)
    except OSError as error:
        raise DataError(
            f"the trace cannot be stored: {error.strerror or error}",
            where=str(work),
            fix="free space on the disk or name another folder; the finished scenes are kept",
        ) from None
    return site


def _scene_files(scenario: Scenario, work: Path) -> list[Path]:
    return [work / f"scene_{scene:05d}.npz" for scene in range(scenario.scenes)]


def _trace_missing(scenario: Scenario, work: Path, on_progress: Callable[[SceneProgress], None] | None) -> None:
    files = _scene_files(scenario, work)
    missing = [scene for scene, file in enumerate(files) if not file.exists()]
    if not missing:  # only the last step is left, so the scene need not be built
        return
    started = time.monotonic()
    resumed = len(files) - len(missing)
    tracer = Tracer(scenario)
    for traced, scene in enumerate(missing, start=1):
        _save(tracer.trace(scene), files[scene])
        if on_progress is not None:
            on_progress(SceneProgress(resumed + traced, len(files), time.monotonic() - started, resumed))


def _claim(work: Path, scenario: Scenario, packages: dict[str, str]) -> None:
    """Open the working folder, or refuse one that holds scenes of something else."""
    content = {"scenario": scenario.model_dump(mode="json"), "packages": packages}
    identity = json.dumps(content, sort_keys=True, indent=1)
    claim = work / "trace.json"
    if claim.exists():
        if claim.read_text(encoding="utf-8") != identity:
            raise DataError(
                "the unfinished trace in this folder is of another scenario or other package versions",
                where=str(work),
                allowed="the scenario and versions it was started with",
                fix="remove the folder to start again, or name another output folder",
            )
        return
    if work.exists() and any(work.iterdir()):
        raise DataError("the working folder holds something else", where=str(work), fix="name another output folder")
    work.mkdir(parents=True, exist_ok=True)
    _replace(claim, identity.encode())


def _replace(file: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    with temporary.open("wb") as handle:
        handle.write(content)
        handle.flush()
        os.fsync(handle.fileno())
    temporary.replace(file)
    sync_folder(file.parent)


def _save(scene: TracedScene, file: Path) -> None:
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    with temporary.open("wb") as handle:
        np.savez_compressed(handle, **vars(scene))
        handle.flush()
        os.fsync(handle.fileno())
    temporary.replace(file)
    sync_folder(file.parent)


def _load(file: Path) -> TracedScene:
    with np.load(file) as arrays:
        return TracedScene(**{name: arrays[name] for name in arrays.files})


def _assemble(scenario: Scenario, files: list[Path], out: Path, report: ProbeReport) -> Site:
    storage = scenario.storage
    text = json.dumps(scenario.model_dump(mode="json"), sort_keys=True)
    agreement = []
    with SiteWriter(
        out,
        name=scenario.name,
        carrier_hz=scenario.carrier_hz,
        base_station_m=scenario.base_station_m,
        position_m=user_positions(scenario),
        max_paths=scenario.max_paths,
    ) as writer:
        for file, time_s in zip(files, scenario.scene_times_s(), strict=True):
            scene = _load(file)
            vehicles = VehicleBoxes(scene.vehicle, tuple(map(str, scene.kind)), scene.box.astype(np.float64))
            writer.add(ScenePaths(**{name: getattr(scene, name) for name in ROW_TYPES}), float(time_s), vehicles)
            agreement.append(float(scene.los_agreement))
        return writer.finish(
            condition_source="straight line to the base station against the boxes of houses, kiosks and vehicles",
            static_boxes=[box.model_dump(mode="json") for box in static_boxes(scenario)],
            solver={
                **scenario.solver.model_dump(mode="json"),
                **report.packages,
                "llvm": report.llvm_version,
                "variant": VARIANT,
                "antennas": "isotropic, vertical polarization, at both ends",
                "los_agreement": float(np.mean(agreement)),
                "scenario_hash": hashlib.sha256(text.encode()).hexdigest(),
            },
            precision=(
                f"mantissas rounded to {storage.gain_bits} bits (gain), {storage.delay_bits} bits (delay) and "
                f"{storage.angle_bits} bits (angles); paths more than {storage.weakest_path_db:g} dB below the strongest "
                "of their row are dropped and count as dropped power"
            ),
            scenario_yaml=_scenario_yaml(scenario),
        )


def _scenario_yaml(scenario: Scenario) -> str:
    import yaml

    return yaml.safe_dump(scenario.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)
