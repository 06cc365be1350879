"""Channels by the packages deepmimo and DeepMIMOv3, through their public functions, for the agreement tests.

Runs in an environment of its own: the packages are not installed beside this project, whose NumPy is newer. It reads
one scenario and writes an .npz with the channels [scenes, users, antennas, subcarriers] that the package computes.

    python deepmimo_reference.py {v2,v4} FOLDER OUT.npz BANDWIDTH_HZ SUBCARRIERS MY MZ
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np


def version4(folder: Path, bandwidth_hz: float, subcarriers: int, antennas: list[int]) -> dict[str, np.ndarray]:
    """By deepmimo 4; the folder's parent must be called deepmimo_scenarios, its own name must be of small letters."""
    import deepmimo

    os.chdir(folder.parent.parent)
    loaded = deepmimo.load(folder.name)
    parameters = deepmimo.ChannelParameters(
        bs_antenna={"shape": antennas, "spacing": 0.5, "rotation": [0, 0, 0]},
        ue_antenna={"shape": [1, 1], "spacing": 0.5, "rotation": [0, 0, 0]},
        ofdm={
            "subcarriers": subcarriers,
            "selected_subcarriers": np.arange(subcarriers),
            "bandwidth": bandwidth_hz,
            "rx_filter": 0,
        },
    )
    scenes = [loaded[index] for index in range(len(loaded))]
    return {
        "channel": np.stack([np.asarray(scene.compute_channels(parameters))[:, 0] for scene in scenes]),
        "los": np.stack([np.asarray(scene.los) for scene in scenes]),
        "num_paths": np.stack([np.asarray(scene.num_paths) for scene in scenes]),
        "position_m": np.asarray(scenes[0].rx_pos),
        "base_station_m": np.asarray(scenes[0].tx_pos).reshape(-1)[:3],
    }


def version2(folder: Path, bandwidth_hz: float, subcarriers: int, antennas: list[int]) -> dict[str, np.ndarray]:
    """By DeepMIMOv3, which also reads the layout of v2."""
    import DeepMIMOv3
    import scipy.io

    parameters = DeepMIMOv3.default_params()
    numbers = sorted(int(scene.name.split("_")[1]) for scene in folder.iterdir())
    grids = scipy.io.loadmat(folder / f"scene_{numbers[0]}" / f"{folder.name}.params.mat")["user_grids"]
    parameters |= {
        "dataset_folder": str(folder.parent),
        "scenario": folder.name,
        "dynamic_scenario_scenes": np.array(numbers),
        "num_paths": 100,
        "user_rows": np.arange(int(grids[-1, 1])),
        "enable_BS2BS": 0,
        "OFDM_channels": 1,
    }
    parameters["bs_antenna"] |= {"shape": np.array(antennas), "spacing": 0.5}
    parameters["ue_antenna"] |= {"shape": np.array([1, 1]), "spacing": 0.5}
    parameters["OFDM"] |= {
        "subcarriers": subcarriers,
        "selected_subcarriers": np.arange(subcarriers),
        "bandwidth": bandwidth_hz / 1e9,
        "RX_filter": 0,
    }
    users = [scene[0]["user"] for scene in DeepMIMOv3.generate_data(parameters)]
    return {
        "channel": np.stack([np.asarray(scene["channel"])[:, 0] for scene in users]),
        "los": np.stack([np.asarray(scene["LoS"]) for scene in users]),
        "num_paths": np.stack([[int(path["num_paths"]) for path in scene["paths"]] for scene in users]),
        "position_m": np.asarray(users[0]["location"]),
    }


if __name__ == "__main__":
    layout, folder, out, bandwidth_hz, *sizes = sys.argv[1:]
    subcarriers, along_y, along_z = map(int, sizes)
    compute = version4 if layout == "v4" else version2
    result = compute(Path(folder).resolve(), float(bandwidth_hz), subcarriers, [along_y, along_z])
    np.savez(out, **result)
