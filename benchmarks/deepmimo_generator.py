"""Time of deepmimo's channel generator, for benchmarks/synthesis.py; runs in an environment that has deepmimo.

    python deepmimo_generator.py PATHS.npz MY MZ SUBCARRIERS BANDWIDTH_HZ REPEATS

Prints one JSON line: seconds of each repetition, and the channels' shape.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from types import SimpleNamespace

import deepmimo
import numpy as np

path, *sizes = sys.argv[1:]
my, mz, subcarriers, bandwidth_hz, repeats = (int(float(size)) for size in sizes)
paths = np.load(path)
gain, users = paths["gain"], len(paths["gain"])
absent = gain == 0


def known(values: np.ndarray) -> np.ndarray:
    return np.where(absent, np.nan, values)


with np.errstate(divide="ignore"):
    power = known(20 * np.log10(np.abs(gain)))
angle = known(np.zeros(gain.shape))
dataset = deepmimo.Dataset(
    {
        "power": power,
        "phase": known(np.rad2deg(np.angle(gain))),
        "delay": known(paths["delay_s"]),
        "aod_az": known(np.rad2deg(paths["azimuth_rad"])),
        "aod_el": known(np.rad2deg(paths["zenith_rad"])),
        "aoa_az": angle,
        "aoa_el": angle,
        "inter": known(np.ones(gain.shape)),
        "rx_pos": np.zeros((users, 3)),
        "tx_pos": np.zeros((1, 3)),
        "rx_vel": np.zeros((users, 3)),
        "tx_vel": np.zeros(3),
        "scene": SimpleNamespace(objects=[]),
    }
)
parameters = deepmimo.ChannelParameters(
    num_paths=gain.shape[1],
    bs_antenna={"shape": [my, mz], "spacing": 0.5, "rotation": [0, 0, 0]},
    ue_antenna={"shape": [1, 1], "spacing": 0.5, "rotation": [0, 0, 0]},
    ofdm={
        "subcarriers": subcarriers,
        "selected_subcarriers": np.arange(subcarriers),
        "bandwidth": bandwidth_hz,
        "rx_filter": 0,
    },
)
seconds = []
with contextlib.redirect_stdout(sys.stderr):
    for _ in range(repeats):
        began = time.perf_counter()
        channel = dataset.compute_channels(parameters)
        seconds.append(time.perf_counter() - began)
power = float((np.abs(channel) ** 2).sum())
print(json.dumps({"seconds": seconds, "shape": list(channel.shape), "power": power}))
