"""What each change of a training step pays: milliseconds of processor time, one thread, random samples.

    python benchmarks/training_step.py                              small network, HDA
    python benchmarks/training_step.py --preset paper --steps 4
    python benchmarks/training_step.py --methods DCNN TL RDA MDA HDA --variants plain fused

Each variant runs in a process of its own, as memory settings hold for a process; the variants take turns. They build on
one another, but for the last two, which are alternatives to ``fused``:

    plain           default memory layout, source and target in separate passes
    joint           one pass for source and target
    channels_last   and channels last in memory
    kept            and freed memory kept by the process
    fused           and normalization, pooling and ReLU in one pass over the memory: what trials do
    compiled        ``kept`` with `torch.compile` instead (needs a C++ compiler)
    bfloat16        ``fused`` with convolutions in bfloat16; imitated where the processor does not have it
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

VARIANTS = ("plain", "joint", "channels_last", "kept", "fused", "compiled", "bfloat16")
_INPUTS = {"small": (1, 16, 32), "paper": (1, 64, 64)}


def measure(preset: str, method_name: str, variant: str, batch: int, steps: int) -> dict[str, float]:
    """Median of a step in this process, the time until the first one is done, and its peak memory."""
    import resource

    import torch

    from models.fused_block import fuse_blocks
    from models.methods import LabelledBatch, NetworkShape, UnlabelledBatch, build_method
    from models.precision import set_precision
    from models.settings import BACKBONES
    from study.allocator import keep_freed_memory

    torch.set_num_threads(1)
    torch.manual_seed(0)
    level = VARIANTS.index(variant)
    if level >= VARIANTS.index("kept"):
        keep_freed_memory()
    fingerprint = _INPUTS[preset]
    method = build_method(
        method_name,
        NetworkShape(fingerprint, conditions=3, backbone=BACKBONES[preset]),
        batch_statistics="per_domain" if variant == "plain" else "joint",
    )
    if level >= VARIANTS.index("channels_last"):
        method = method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if variant == "bfloat16":
        set_precision(method, "bfloat16")
    if variant in ("fused", "bfloat16"):
        reason = fuse_blocks(method, torch.bfloat16 if variant == "bfloat16" else torch.float32)
        if reason is not None:
            raise SystemExit(f"{variant}: {reason}")
    loss_of = torch.compile(method.training_loss) if variant == "compiled" else method.training_loss
    optimizer = torch.optim.Adam(method.parameter_groups(1e-4), lr=1e-3, fused=variant != "plain")
    source = LabelledBatch(torch.rand(batch, *fingerprint), torch.randn(batch, 2), torch.randint(3, (batch,)))
    target = UnlabelledBatch(torch.rand(batch, *fingerprint)) if method.reads_target else None
    taken = []
    began = time.perf_counter()
    for number in range(steps + 2):
        start = time.process_time()
        loss = loss_of(source, target, 0.5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        taken.append(time.process_time() - start)
        if number == 0:
            first = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"ms": 1e3 * statistics.median(taken[2:]), "first_s": first, "peak_mb": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=list(_INPUTS), default="small")
    parser.add_argument("--methods", nargs="+", default=["HDA"])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=30, help="measured steps in a turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(**json.loads(arguments.one))))
        return
    print(f"{arguments.preset} network, batch {arguments.batch}, processor time of a step, {arguments.rounds} rounds")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    for method in arguments.methods:
        found: dict[str, list[dict[str, float]]] = {variant: [] for variant in arguments.variants}
        for _ in range(arguments.rounds):
            for variant in arguments.variants:
                task = {
                    "preset": arguments.preset,
                    "method_name": method,
                    "variant": variant,
                    "batch": arguments.batch,
                    "steps": arguments.steps,
                }
                command = [sys.executable, __file__, "--one", json.dumps(task)]
                run = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
                found[variant].append(json.loads(run.stdout))
        base = statistics.median(row["ms"] for row in found[arguments.variants[0]])
        for variant, rows in found.items():
            ms = [row["ms"] for row in rows]
            print(
                f"{method:5} {variant:14} {statistics.median(ms):8.1f} ms ({min(ms):.1f} – {max(ms):.1f})   "
                f"× {base / statistics.median(ms):.2f}   first step after {max(r['first_s'] for r in rows):.1f} s, "
                f"peak {max(r['peak_mb'] for r in rows):.0f} MB"
            )


if __name__ == "__main__":
    main()
