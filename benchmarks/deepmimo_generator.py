"""Time of deepmimo's channel generator, for benchmarks/synthesis.py; runs in an environment that has deepmimo.

    python deepmimo_generator.py PATHS.npz MY MZ SUBCARRIERS BANDWIDTH_HZ USERS

Cuts the paths into scenes of so many users and prints one JSON line: users, seconds for the channels of each scene from
its paths, and seconds for those of the last scene again (array responses and powers are kept then).
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
my, mz, subcarriers, bandwidth_hz, users = (int(float(size)) for size in sizes)
stored = np.load(path)


def scene(start: int) -> deepmimo.Dataset:
    part = {name: values[start : start + users] for name, values in stored.items()}
    gain = part["gain"]

    def known(values: np.ndarray) -> np.ndarray:
        return np.where(gain == 0, np.nan, values)

    with np.errstate(divide="ignore"):
        power = known(20 * np.log10(np.abs(gain)))
    zero = known(np.zeros(gain.shape))
    return deepmimo.Dataset(
        {
            "power": power,
            "phase": known(np.rad2deg(np.angle(gain))),
            "delay": known(part["delay_s"]),
            "aod_az": known(np.rad2deg(part["azimuth_rad"])),
            "aod_el": known(np.rad2deg(part["zenith_rad"])),
            "aoa_az": zero,
            "aoa_el": zero,
            "inter": known(np.ones(gain.shape)),
            "rx_pos": np.zeros((users, 3)),
            "tx_pos": np.zeros((1, 3)),
            "rx_vel": np.zeros((users, 3)),
            "tx_vel": np.zeros(3),
            "scene": SimpleNamespace(objects=[]),
        }
    )


def channels(dataset: deepmimo.Dataset) -> float:
    parameters = deepmimo.ChannelParameters(
        num_paths=stored["gain"].shape[1],
        bs_antenna={"shape": [my, mz], "spacing": 0.5, "rotation": [0, 0, 0]},
        ue_antenna={"shape": [1, 1], "spacing": 0.5, "rotation": [0, 0, 0]},
        ofdm={
            "subcarriers": subcarriers,
            "selected_subcarriers": np.arange(subcarriers),
            "bandwidth": bandwidth_hz,
            "rx_filter": 0,
        },
    )
    began = time.perf_counter()
    result = dataset.compute_channels(parameters)
    seconds = time.perf_counter() - began
    assert result.shape == (users, 1, my * mz, subcarriers)
    return seconds


with contextlib.redirect_stdout(sys.stderr):
    scenes = [scene(start) for start in range(0, len(stored["gain"]) - users + 1, users)]
    channels(scene(0))  # imports and warms up
    fresh = [channels(one) for one in scenes]
    again = [channels(scenes[-1]) for _ in range(3)]
print(json.dumps({"users": users, "fresh_s": fresh, "again_s": again}))
