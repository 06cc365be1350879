"""Path → fingerprint synthesis in samples per second, against a plain numpy evaluation in the same run.

    python benchmarks/synthesis.py [--antennas 8 8] [--subcarriers 64]

The plain evaluation is Eq. (1) and Eqs. (5, 6) for one sample after the other in numpy: steering vectors, a sum over
the paths, the Kronecker product of the two DFT matrices. Both work on the same paths of the embedded site, and with the
same number of threads.
"""

from __future__ import annotations

import argparse
import os
import time

# numpy's linear algebra reads it when it is loaded; the command line may set it to compare more threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", os.environ["OMP_NUM_THREADS"])

import numpy as np
import torch

from study.data.channels import channel_response
from study.data.fingerprints import fingerprint
from study.data.site import open_site


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--antennas", type=int, nargs=2, default=(8, 8))
    parser.add_argument("--subcarriers", type=int, default=64)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    antennas, n, bandwidth = tuple(arguments.antennas), arguments.subcarriers, 100e6
    site = open_site("canyon_small")
    table = site.read_paths()
    columns = [x.reshape(-1, x.shape[-1]) for x in (table.gain, table.delay_s, table.zenith_rad, table.azimuth_rad)]

    few = [x[:256] for x in columns]
    began = time.perf_counter()
    truth = plain(few, bandwidth, n, antennas)
    baseline = len(truth) / (time.perf_counter() - began)

    tensors = [torch.from_numpy(x).to(arguments.device) for x in columns]

    def batch(start: int, size: int = 1024) -> torch.Tensor:
        gain, delay, theta, phi = (x[start : start + size] for x in tensors)
        csi = channel_response(gain, delay, theta, phi, bandwidth_hz=bandwidth, subcarriers=n, antennas=antennas)
        return fingerprint(csi, "adp", "antenna", antennas=antennas, carrier_hz=site.carrier_hz)

    error = np.abs(batch(0, 256)[:, 0].cpu().numpy() - truth).max()
    began, samples = time.perf_counter(), 0
    for start in range(0, 8 * 1024, 1024):
        samples += len(batch(start))
    if arguments.device != "cpu":
        torch.cuda.synchronize()
    found = samples / (time.perf_counter() - began)
    print(f"{antennas[0]} × {antennas[1]} antennas, {n} subcarriers, {table.gain.shape[-1]} paths")
    print(f"{'plain numpy':12} {baseline:10.0f} samples/s   × 1.0")
    print(f"{'batched':12} {found:10.0f} samples/s   × {found / baseline:.1f}   largest difference {error:.1e}")


if __name__ == "__main__":
    main()
