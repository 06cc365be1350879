"""Paths → fingerprints in samples per second: ours, plain numpy and deepmimo's generator, on the same paths and cores.

    python benchmarks/synthesis.py [--antennas 8 8] [--subcarriers 64] [--threads 1] [--device cpu]

* plain numpy is Eq. (1) and Eqs. (5, 6) for one sample after the other: steering vectors, a sum over the paths, the
  Kronecker product of the two DFT matrices.
* ours makes batches of 256, as training asks for them.
* deepmimo's generator makes channels (Eq. 1) and no fingerprints, of scenes of 3,784 users. The same scene again is
  faster, because it keeps array responses and powers. It runs as it is, and with the memory settings of ours. It is
  measured where an environment has it: that of STUDY_DEEPMIMO_PYTHON, or .venv-deepmimo (`make deepmimo`).
* Rates are the medians of several rounds in which all take their turn.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROUNDS = 5
USERS, BATCH = 3784, 256
# What `keep_freed_memory` sets for ours and for plain numpy.
KEPT_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "33554432", "MALLOC_TRIM_THRESHOLD_": "2147483647"}
SAMPLES = 5 * USERS


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--antennas", type=int, nargs=2, default=(8, 8))
    parser.add_argument("--subcarriers", type=int, default=64)
    parser.add_argument("--bandwidth-mhz", type=float, default=100.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    return parser.parse_args()


arguments = parse()
# numpy's linear algebra reads it when it is loaded, here and in deepmimo's process.
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = str(arguments.threads)

import numpy as np  # noqa: E402
import torch  # noqa: E402

from study.allocator import keep_freed_memory  # noqa: E402
from study.data.channels import channel_response  # noqa: E402
from study.data.dataset import path_samples  # noqa: E402
from study.data.site import open_site  # noqa: E402
from study.data.system import SystemConfiguration  # noqa: E402


def plain(paths: list[np.ndarray], bandwidth: float, n: int, antennas: tuple[int, int]) -> np.ndarray:
    def beams(count: int) -> np.ndarray:
        i = np.arange(count)
        return np.exp(-2j * np.pi * np.outer(i, i - count / 2) / count) / np.sqrt(count)

    my, mz = antennas
    y, z = np.repeat(np.arange(my), mz), np.tile(np.arange(mz), my)
    carriers = np.arange(n) * bandwidth / n
    transform = np.kron(beams(my).conj().T, beams(mz).conj().T)
    delays = np.exp(2j * np.pi * np.outer(np.arange(n), np.arange(n)) / n) / np.sqrt(n)
    images = []
    for gain, delay, theta, phi in zip(*paths, strict=True):
        steering = np.exp(1j * np.pi * (np.outer(y, np.sin(theta) * np.sin(phi)) + np.outer(z, np.cos(theta))))
        h = (steering * gain) @ np.exp(-2j * np.pi * np.outer(delay, carriers))
        image = np.abs(transform @ h @ delays) ** 2 / (my * mz * n)
        images.append(image / image.max(axis=1, keepdims=True))
    return np.stack(images)


def deepmimo_python() -> str | None:
    named = os.environ.get("STUDY_DEEPMIMO_PYTHON")
    found = ROOT / ".venv-deepmimo" / "bin" / "python"
    return named or (str(found) if found.exists() else None)


def main() -> None:
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()  # as a trial process does
    antennas, n, bandwidth = tuple(arguments.antennas), arguments.subcarriers, arguments.bandwidth_mhz * 1e6
    site = open_site("canyon_small")
    table = site.read_paths()
    names = ("gain", "delay_s", "zenith_rad", "azimuth_rad")
    columns = [getattr(table, name).reshape(-1, table.gain.shape[-1])[:SAMPLES] for name in names]
    system = SystemConfiguration(bandwidth_mhz=arguments.bandwidth_mhz, subcarriers=n, antennas=antennas)
    samples = path_samples(table, system, 0, site.carrier_hz, arguments.device)
    rows = torch.arange(SAMPLES, device=arguments.device)

    def wait() -> None:
        if arguments.device != "cpu":
            torch.cuda.synchronize()

    def channels() -> None:
        for start in range(0, SAMPLES, 128):
            part = [
                x[start : start + 128] for x in (samples.gain, samples.delay_s, samples.zenith_rad, samples.azimuth_rad)
            ]
            channel_response(*part, bandwidth_hz=bandwidth, subcarriers=n, antennas=antennas)  # type: ignore[arg-type]

    def fingerprints() -> None:
        for part in rows.split(BATCH):
            samples[part]

    truth = plain([x[:BATCH] for x in columns], bandwidth, n, antennas)
    error = np.abs(samples[rows[:BATCH]][:, 0].cpu().numpy() - truth).max()
    rates: dict[str, list[float]] = {}

    def measure(name: str, count: int, work: Callable[[], object]) -> None:
        began = time.perf_counter()
        work()
        wait()
        rates.setdefault(name, []).append(count / (time.perf_counter() - began))

    other = deepmimo_python()
    with tempfile.TemporaryDirectory() as folder:
        np.savez(f"{folder}/paths.npz", **dict(zip(names, columns, strict=True)))
        command = [str(x) for x in (other, ROOT / "benchmarks" / "deepmimo_generator.py", f"{folder}/paths.npz")]
        command += [str(x) for x in (*antennas, n, bandwidth, USERS)]
        for _ in range(ROUNDS):
            measure(
                "plain numpy, fingerprints", BATCH, lambda: plain([x[:BATCH] for x in columns], bandwidth, n, antennas)
            )
            measure("ours, channels", SAMPLES, channels)
            measure("ours, fingerprints", SAMPLES, fingerprints)
            if other is not None:
                for how, settings in (("", {}), (", kept memory", KEPT_MEMORY)):
                    run = subprocess.run(
                        command,
                        capture_output=True,
                        text=True,
                        stdin=subprocess.DEVNULL,
                        env={**os.environ, **settings},
                    )
                    if run.returncode:
                        sys.exit(f"deepmimo's generator failed:\n{run.stderr}")
                    told = json.loads(run.stdout.splitlines()[-1])
                    for name, key in (("deepmimo, channels", "fresh_s"), ("deepmimo, again", "again_s")):
                        rates.setdefault(f"{name}{how}", []).append(USERS / statistics.median(told[key]))
    print(
        f"{antennas[0]} × {antennas[1]} antennas, {n} subcarriers, {table.gain.shape[-1]} paths; {arguments.threads} "
        f"threads; largest difference of a normalized fingerprint to float64: {error:.1e}"
    )
    middle = {name: statistics.median(found) for name, found in rates.items()}
    base = middle.get("deepmimo, channels", middle["plain numpy, fingerprints"])
    for name, rate in middle.items():
        low, high = min(rates[name]), max(rates[name])
        print(f"{name:32} {rate:10,.0f} samples/s ({low:,.0f} – {high:,.0f})  × {rate / base:.1f}")
    if other is None:
        print("deepmimo is not installed: × is to plain numpy")


if __name__ == "__main__":
    main()
