"""Several trials on one device: a process for each, or all stacked in one process; and how near that is to its limits.

    python benchmarks/sharing.py --device cuda                 needs torch alone: Ray is not asked
    python benchmarks/sharing.py --device cuda --preset paper --at-once 1 2 4 8 --precision tf32
    python benchmarks/sharing.py --at-once 1 2 --steps 10      on the processor, a thread for each trial

``processes`` are trials as they are: a process and a network each, that share the device. ``stacked`` is one process
with K networks of one shape, whose weights stand in one tensor with a leading axis K (`torch.func`); a step of it takes
a step of each. On a GPU both are recorded as CUDA graphs where that can be done. Before anything is timed, the losses
and the weights of stacked networks are held against those of single ones for six steps of gradient descent in float64
(in float32 rounding moves a maximum of a pooling now and then). Rounds take turns; imports are done before.

What a step could take at least: its products and sums at the rate of a large matrix product here, or the least that the
outputs of its convolutions move through memory (written once and read once forward, the same for their gradients)
at the rate of a copy. On a busy machine the figures mean little. With the defaults it takes several minutes.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from side_by_side import run_together

SHAPES = {"small": (1, 16, 32), "paper": (1, 64, 64)}
_WARM_UP = 8
_COMPARED = 6  # some steps before a recording, and some after it
_SAMPLES = 4  # batches that a step may choose from


def _method(task: dict[str, Any], seed: int) -> Any:
    import torch

    from models.methods import NetworkShape, build_method
    from models.settings import BACKBONES

    torch.manual_seed(seed)
    shape = NetworkShape(SHAPES[task["preset"]], conditions=3, backbone=BACKBONES[task["preset"]])
    method = build_method(task["method"], shape).to(task["device"], memory_format=torch.channels_last)
    return method.double() if task["exact"] else method


def _data(task: dict[str, Any]) -> Any:
    import torch

    from study.data.dataset import LabelledSamples, TrainingData, UnlabelledSamples
    from study.data.synthesis import Fingerprints

    count, device = _SAMPLES * task["batch"], torch.device(task["device"])
    dtype = torch.float64 if task["exact"] else torch.float32
    draw = torch.Generator().manual_seed(0)
    images = [torch.rand(count, *SHAPES[task["preset"]], generator=draw).to(device, dtype) for _ in range(2)]
    every = torch.arange(count, device=device)
    position = torch.randn(count, 2, generator=draw).to(device, dtype)
    condition = torch.randint(3, (count,), generator=draw).to(device)
    source = LabelledSamples(Fingerprints(images[0], every), position, condition)
    return TrainingData(source, UnlabelledSamples(Fingerprints(images[1], every)))


def _optimizer(parameters: Any, task: dict[str, Any]) -> Any:
    from study.optimizers import SGD, Adam

    if task["exact"]:
        return SGD(parameters, lr=0.1, fused=True)
    return Adam(parameters, lr=1e-3, fused=True)


Take = Callable[[Any, Any], Any]


def _step(method: Any, loss_of: Any, optimizer: Any, data: Any, batch: int, *, eager: bool = False) -> tuple[Take, Any]:
    """A step, and how it is taken so far."""
    import torch

    from study.steps import CapturedStep, EagerStep, can_be_captured

    device = next(iter(optimizer.param_groups[0]["params"])).device
    if eager or not can_be_captured(method, torch.device(device)):
        step: Any = EagerStep(method, loss_of, optimizer, data)
        return lambda rows, others: step(rows, others, 0.5), lambda: "eager"
    captured = CapturedStep(method, loss_of, optimizer, data, batch)
    how = lambda: "captured" if captured.failure is None else f"eager ({captured.failure})"  # noqa: E731
    return lambda rows, others: captured(rows, others, 0.5), how


def single_step(task: dict[str, Any], seed: int, *, plain: bool = False) -> tuple[Take, Any, Any]:
    """One network, as trials train it, or with ``plain`` layer by layer and eagerly: step, how it is taken, network."""
    import torch

    from models.acceleration import accelerate
    from models.precision import set_precision

    method, fused = _method(task, seed), False
    if plain:
        set_precision(method, task["precision"])
    else:
        found = accelerate(method, task["precision"], torch.device(task["device"]))
        fused = found.blocks == "fused"
        for note in found.notes:
            print(note, file=sys.stderr)
    optimizer = _optimizer(method.parameters(), task)
    take, how = _step(method, method.training_loss, optimizer, _data(task), task["batch"], eager=plain)
    return take, (lambda: "fused") if fused else how, method


def stacked_step(task: dict[str, Any], seeds: list[int]) -> tuple[Take, Any, dict[str, Any]]:
    """K networks in one step: the sum of their losses, whose gradient for each network is that of its own loss.

    Returns:
        The step, how it is taken, and the weights, each with a leading axis K.
    """
    import torch
    from torch import nn
    from torch.func import functional_call, stack_module_state, vmap

    from models import losses
    from models.methods import LabelledBatch, UnlabelledBatch
    from models.precision import set_precision

    def regularization(weights: Any) -> Any:
        """As `models.losses` has it, whose one call for all weights has no rule for stacked ones."""
        return 0.5 * torch.stack([values.square().sum() for values in weights]).sum()

    class Loss(nn.Module):
        """`functional_call` calls `forward`."""

        def __init__(self, method: Any) -> None:
            super().__init__()
            self.method = method

        def forward(self, *samples: Any) -> Any:
            source, target = LabelledBatch(*samples[:3]), UnlabelledBatch(samples[3]) if len(samples) > 3 else None
            with patch.object(losses, "weight_regularization", regularization):
                return self.method.training_loss(source, target, 0.5)

    modules = [Loss(_method(task, seed)) for seed in seeds]
    for module in modules:
        set_precision(module, task["precision"])
    weights, buffers = stack_module_state(modules)  # type: ignore[arg-type]
    shell = copy.deepcopy(modules[0]).to("meta")
    each = vmap(lambda own, state, *samples: functional_call(shell, (own, state), samples), randomness="different")

    def loss_of(labelled: Any, unlabelled: Any, progress: Any) -> Any:
        samples = [*labelled, *([unlabelled.fingerprint] if unlabelled is not None else [])]
        return each(weights, buffers, *(values.unflatten(0, (len(seeds), -1)) for values in samples)).sum()

    optimizer = _optimizer(list(weights.values()), task)
    take, how = _step(modules[0].method, loss_of, optimizer, _data(task), task["batch"] * len(seeds))
    return take, how, weights


def compare(task: dict[str, Any]) -> tuple[dict[str, float], str]:
    """Largest relative differences of stacked networks from single ones, of the summed loss and of their weights.

    Also how the stacked step was taken.
    """
    import torch

    task = {**task, "precision": "float32", "exact": True}
    seeds, batch = [0, 1, 2], task["batch"]
    stacked, how, weights = stacked_step(task, seeds)
    singles = [single_step(task, seed, plain=True) for seed in seeds]
    draw, of_loss, of_weights = torch.Generator().manual_seed(1), [], []
    for _ in range(_COMPARED):
        rows, others = (torch.randint(_SAMPLES * batch, (len(seeds), batch), generator=draw) for _ in range(2))
        rows, others = rows.to(task["device"]), others.to(task["device"])
        together = float(stacked(rows.flatten(), others.flatten()))
        alone = sum(float(step(r, o)) for (step, _, _), r, o in zip(singles, rows, others, strict=True))
        of_loss.append(abs(together - alone) / abs(alone))
    with torch.no_grad():
        for number, (_, _, method) in enumerate(singles):
            for name, value in method.named_parameters():
                apart = (weights[f"method.{name}"][number] - value).norm() / value.norm().clamp(min=1.0)
                of_weights.append(float(apart))
    # torch's maximum lets what is not a number through.
    return {"loss": float(torch.tensor(of_loss).max()), "weights": float(torch.tensor(of_weights).max())}, how()


def worker(task: dict[str, Any]) -> None:
    """A process of one side: says that it is ready, waits for a line, takes its steps, prints what they took."""
    import torch

    from study.allocator import keep_freed_memory

    cuda = task["device"] == "cuda"
    if not cuda:
        keep_freed_memory()
    torch.set_num_threads(task["threads"])
    if cuda and task["share"] < 1:
        torch.cuda.set_per_process_memory_fraction(0.9 * task["share"])
    networks = task["networks"]
    make = (lambda: single_step(task, 0)) if task["side"] == "processes" else (lambda: stacked_step(task, networks))
    take, how, _ = make()
    draw = torch.Generator(device=task["device"]).manual_seed(1)
    wanted = task["batch"] * len(networks)

    def steps(count: int) -> None:
        for _ in range(count):
            rows, others = (
                torch.randint(_SAMPLES * task["batch"], (wanted,), generator=draw, device=task["device"])
                for _ in range(2)
            )
            take(rows, others)
        if cuda:
            torch.cuda.synchronize()

    steps(_WARM_UP)
    print("ready", flush=True)
    sys.stdin.readline()
    steps(task["steps"])
    if cuda:
        memory = torch.cuda.max_memory_reserved() / 2**20
    else:
        lines = Path("/proc/self/status").read_text().splitlines()
        memory = int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 1024
    print(json.dumps({"kind": how(), "memory_mb": memory}), flush=True)


def turn(tasks: list[dict[str, Any]]) -> tuple[float, float, str]:
    """Seconds from the common start to the last one's end, memory of all [MB; CUDA's own not counted], kind of step."""
    found, seconds = run_together(__file__, tasks, lines=1)
    return seconds, sum(row["memory_mb"] for row in found), found[0]["kind"]


def limits(device: str, precision: str, threads: int) -> tuple[float, float]:
    """Multiply-accumulates per second of a large matrix product, bytes per second of a copy (reads and writes)."""
    import torch

    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    size = 8192 if device == "cuda" else 2048
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    factors = torch.rand(size, size, device=device, dtype=dtype)
    values = torch.rand(2**28 if device == "cuda" else 2**26, device=device)
    into = torch.empty_like(values)

    def fastest(work: Callable[[], Any]) -> float:
        taken = []
        for _ in range(6):
            began = time.perf_counter()
            work()
            if device == "cuda":
                torch.cuda.synchronize()
            taken.append(time.perf_counter() - began)
        return min(taken)

    macs = size**3 / fastest(lambda: factors @ factors)
    return macs, 2 * values.numel() * 4 / fastest(lambda: into.copy_(values))


def least(task: dict[str, Any], macs_per_s: float, bytes_per_s: float) -> dict[str, float]:
    """Milliseconds that a step takes at least, by its products and by the memory that it moves."""
    import torch

    from models.backbone import FeatureExtractor
    from models.operations import count_operations
    from models.settings import BACKBONES

    method = _method({**task, "device": "cpu"}, 0)
    target, batch = bool(method.reads_target), task["batch"]
    operations = count_operations(
        BACKBONES[task["preset"]],
        SHAPES[task["preset"]],
        batch=batch,
        target=target,
        multi_task=method.settings.twin,
        twin=False,
        conditions=3 if method.settings.joint else 0,
    )
    moved = 0
    extractor = next(module for module in method.modules() if isinstance(module, FeatureExtractor))
    values = torch.zeros(2, *SHAPES[task["preset"]])
    for layer in extractor:
        values = layer(values)
        if isinstance(layer, torch.nn.Conv2d):
            moved += 4 * values[0].numel()  # written, read; the gradient written, read
    width = 2 if task["precision"] == "bfloat16" else 4
    samples = batch * (2 if target else 1)
    return {"products": 1e3 * operations.step / macs_per_s, "memory": 1e3 * moved * samples * width / bytes_per_s}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=list(SHAPES), default="small")
    # RDA's reversed gradient has no rule for stacked networks.
    parser.add_argument("--methods", nargs="+", choices=["DCNN", "TL", "MDA", "HDA"], default=["DCNN", "HDA"])
    parser.add_argument("--at-once", nargs="+", type=int, default=[1, 2, 4, 8], metavar="K")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", choices=["float32", "tf32", "bfloat16"], default="float32")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(json.loads(arguments.worker))
        return

    import torch

    device, precision = arguments.device, arguments.precision
    cores = len(os.sched_getaffinity(0))
    if min(*arguments.at_once, arguments.batch - 1, arguments.steps, arguments.rounds) < 1:
        parser.error("--at-once, --steps and --rounds are at least 1, --batch 2")
    if device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no GPU here")
    print(
        f"{arguments.preset} network, batch {arguments.batch}, {precision}, torch {torch.__version__}, "
        + (torch.cuda.get_device_name() if device == "cuda" else f"{cores} cores")
    )
    # On a processor K trials have as many threads, as far as there are cores; a GPU is one.
    all_limits = {}
    for threads in sorted({1 if device == "cuda" else min(cores, count) for count in arguments.at_once}):
        macs, moved = all_limits[threads] = limits(device, precision, threads)
        of = "" if device == "cuda" else f" of {threads} thread{'s' if threads > 1 else ''}"
        print(f"limits{of}: {macs / 1e9:.0f} GMAC/s, {moved / 1e9:.1f} GB/s")
    for method in arguments.methods:
        task = {
            "preset": arguments.preset,
            "method": method,
            "batch": arguments.batch,
            "steps": arguments.steps,
            "precision": precision,
            "device": device,
            "exact": False,
        }
        apart, kind = compare(task)
        print(
            f"{method}: stacked ({kind}) against single, {_COMPARED} steps: loss {apart['loss']:.1e}, "
            f"weights {apart['weights']:.1e}"
        )
        if not all(value < 1e-8 for value in apart.values()):
            raise SystemExit("the stacked networks do not train as single ones")
        base = 0.0
        for count in arguments.at_once:
            one = {**task, "side": "processes", "networks": [0], "threads": 1, "share": 1 / count}
            all_in_one = {
                **task,
                "side": "stacked",
                "networks": list(range(count)),
                "threads": min(cores, count),
                "share": 1.0,
            }
            sides = {"processes": [one] * count, "stacked": [all_in_one]}
            found: dict[str, list[tuple[float, float, str]]] = {side: [] for side in sides}
            for _ in range(arguments.rounds):
                for side, tasks in sides.items():
                    found[side].append(turn(tasks))
            bound = least(task, *all_limits[1 if device == "cuda" else min(cores, count)])
            for side, rows in found.items():
                each = [1e3 * seconds / (count * arguments.steps) for seconds, _, _ in rows]
                ms = statistics.median(each)
                if side == "processes" and count == arguments.at_once[0]:
                    base = ms
                name = {"processes": "process" if count == 1 else "processes"}.get(side, side)
                print(
                    f"  {count} {name:9} {ms:8.2f} ms a trial's step ({min(each):.2f} – {max(each):.2f}), "
                    f"× {base / ms:.2f} as fast as {arguments.at_once[0]}, {rows[0][2]}, "
                    f"{max(row[1] for row in rows):.0f} MB; the least by products is {bound['products']:.2f} ms "
                    f"({100 * bound['products'] / ms:.0f} % of it), by memory {bound['memory']:.2f} "
                    f"({100 * bound['memory'] / ms:.0f} %)",
                    flush=True,
                )


if __name__ == "__main__":
    main()
