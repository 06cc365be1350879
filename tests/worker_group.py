"""Real processes of one torch.distributed group, for tests."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


def run_workers(workers: int, folder: Path, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Call a function of a module in every worker of a new group; their results in the order of their ranks.

    Results travel by pickle: numbers and arrays, no tensors (their memory goes with the worker).
    """
    meeting = folder / f"group-of-{workers}"
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        calls = [pool.submit(_work, rank, workers, meeting, function, arguments) for rank in range(workers)]
        return [call.result() for call in calls]


def _work(rank: int, workers: int, meeting: Path, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    # A worker that fails leaves the others waiting: not for ever.
    dist.init_process_group(
        "gloo", init_method=meeting.as_uri(), rank=rank, world_size=workers, timeout=timedelta(seconds=60)
    )
    try:
        return function(*arguments)
    finally:
        dist.destroy_process_group()
