"""Ray tracing of one scene with Sionna RT, on the CPU; `study.site_tracing` traces whole sites.

    probe           tries the ray tracer in a process of its own
    memory_need     what tracing a scenario takes
    Tracer          paths of one scene

Sionna RT needs LLVM, and LLVM 15 and 16 end the whole process in the solver without a Python exception. So this
module imports Sionna RT only inside functions, and `probe` comes before anything is written.

Shapes: S scenes, L positions, P kept paths, Q paths that the solver found.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from study.data.path_table import DIFFRACTION, LINE_OF_SIGHT, REFLECTION, ScenePaths, keep_strongest
from study.data.scenario import Scenario, StaticBox, Traffic, VehicleBoxes, classify, static_boxes, user_positions
from study.errors import DataError, DependencyError

__all__ = ["ProbeReport", "TracedScene", "Tracer", "find_llvm", "memory_need", "probe"]

VARIANT = "llvm_ad_mono_polarized"
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


def memory_need(scenario: Scenario) -> int:
    """Bytes that a process needs to trace a scenario's scenes, one after the other.

    Measured (peak resident memory, Sionna RT 2.2.0, 10,000 to 320,000 rays, 44 to 240 receivers, depth 1 to 5, 0.5 to 8
    million paths): 0.3 GB + 190 B for each entry of the path table + 43 B for each ray, receiver of a solve and bounce,
    the first bounce counting half; within 2 %. Half a gigabyte and a tenth more leave room for Ray's worker and for
    other scenes. The number of threads, positions and scenes does not matter.
    """
    settings = scenario.solver
    receivers = min(settings.receivers_per_solve, scenario.users.columns * scenario.users.rows)
    bounces = max(settings.max_depth - 0.5, 0.5)
    peak = 0.3e9 + 190 * settings.max_paths_per_source + 43 * settings.samples_per_source * receivers * bounces
    return int(0.5e9 + 1.1 * peak)


@dataclass(frozen=True)
class TracedScene(ScenePaths):
    """Paths of all positions in one scene, as in `ScenePaths`, and the vehicles that were in it.

    Args:
        los_agreement: share of positions where the solver's own line-of-sight path agrees with the condition, [].
        vehicle: int32 [B].
        kind: str [B].
        box: float32 [B, 6].
    """

    los_agreement: NDArray[np.float64]
    vehicle: NDArray[np.int32]
    kind: NDArray[np.str_]
    box: NDArray[np.float32]

    @property
    def vehicles(self) -> VehicleBoxes:
        """The vehicles' boxes."""
        return VehicleBoxes(self.vehicle, tuple(map(str, self.kind)), self.box.astype(np.float64))


class Tracer:
    """The scene of a scenario, built once; vehicles move between solves.

    Args:
        scenario: what to trace.
        threads: CPU threads of the solver, in the whole process; as many as there are cores when left out. The paths do
            not depend on it.

    Raises:
        DependencyError: Sionna RT cannot be imported.
    """

    def __init__(self, scenario: Scenario, threads: int | None = None) -> None:
        self.scenario = scenario
        self.traffic = Traffic(scenario)
        self.static: list[StaticBox] = static_boxes(scenario)
        self.positions_m = user_positions(scenario)
        self._mi, self._rt = _import_sionna()
        if threads is not None:
            import drjit

            drjit.set_thread_count(threads)
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
        points_m = np.vstack([self.positions_m, scenario.base_station_m])
        objects = [_ground(mi, rt, self.static, points_m, material[scenario.ground_material])]
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
            gain, delay, zenith, azimuth, interaction, paths, condition, found, dropped, np.array(agreement),
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
        bounces = np.zeros((1, *valid.shape))  # where the solver found nothing, it gives no depth
        if valid.size:
            bounces = np.array(found.interactions).reshape(-1, *valid.shape)  # [depth, L, Q]
        straight = (bounces == 0).all(0)
        interaction = np.where(
            straight, LINE_OF_SIGHT, np.where((bounces == _DIFFRACTION).any(0), DIFFRACTION, REFLECTION)
        )
        # The solver's coefficients are without the carrier's phase; 10⁴ turns need float64.
        gain = amplitude * np.exp(-2j * np.pi * ((self.scenario.carrier_hz * delay) % 1.0))
        storage = self.scenario.storage
        # Rounded before they are sorted: the stored values, not the computed ones, stand strongest first.
        gain = round_mantissa(gain.astype(np.complex64).view(np.float32), storage.gain_bits).view(np.complex64)
        kept = keep_strongest(
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


def _ground(mi: Any, rt: Any, static: list[StaticBox], points_m: NDArray[np.float64], material: Any) -> Any:
    """A plane 40 m wider than everything that stands."""
    limits = np.array([*(box.box for box in static), *np.repeat(points_m, 2, axis=1)])
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
