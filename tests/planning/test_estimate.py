"""Plans of studies on machines that are made up: sums, bounds and intervals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import SMALL_BASE
from made_up import DEVICE, key, observation, seconds_of

from cluster.machines import MachineKind
from cluster.model import Cluster
from study.errors import ClusterError
from study.methods import load_study
from study.planning.advice import Limits, axis_shares, method_shares, savings, sizes
from study.planning.convergence import Convergence
from study.planning.estimate import Planner
from study.planning.observations import Observation
from study.planning.record import Plan
from study.running import prepare
from study.spec.model import StudySpec
from study.spec.outline import outline

CLUSTER = Cluster(address="auto", resources_per_trial={"cpu": 1})
MACHINE = MachineKind(
    name="box", count=1, cpus=2, gpus=0, memory_bytes=16 * 2**30, gpu=None, gpu_memory_bytes=None, peak_tflops=None,
    price_per_hour=2.0, currency="EUR", price_note="made up", watts=100.0, spot=False,
)  # fmt: skip


def spec(tmp_path: Path, **changes: Any) -> StudySpec:
    content = {
        "study": "small",
        "site": "canyon_small",
        "base": SMALL_BASE,
        "axes": {"method": ["DCNN", "MDA", "HDA"]},
        "references": [],
        "seeds": 2,
        **changes,
    }
    path = tmp_path / f"spec{len(list(tmp_path.iterdir()))}.yaml"
    path.write_text(yaml.safe_dump(content))
    return load_study(path)


def measured(flops: float = 4e10) -> list[Observation]:
    """All that the methods of the specs here need, of the machine of these tests."""
    device = replace(DEVICE, name="", node_type="box")
    found = []
    for method in ("DCNN", "TL", "RDA", "MDA", "HDA"):
        work = key(method, columns=16)
        found += [
            observation("step_s", seconds_of("step_s", work, flops), work, device=device),
            observation("evaluation_s", seconds_of("evaluation_s", work, flops), work, device=device),
            observation("setup_s", 0.1, work, device=device),
            observation("base_memory_mb", 500.0, work, device=device),
        ]
    found.append(observation("synthesis_s", 1e-5, None, detail="adp 25 16 16", device=device))
    for quantity, value in (("gap_s", 0.1), ("first_s", 3.0), ("start_s", 4.0), ("end_s", 2.0)):
        found.append(observation(quantity, value, None, detail="tune", device=device))  # type: ignore[arg-type]
    return found


def planner(
    study: StudySpec,
    found: list[Observation] | None = None,
    *,
    cluster: Cluster = CLUSTER,
    machines: tuple[MachineKind, ...] = (MACHINE,),
    **options: Any,
) -> Planner:
    site, table = prepare(study)
    return Planner(study, site, table, cluster, machines, measured() if found is None else found, **options)


def test_seconds_are_steps_and_samples_times_what_they_take(tmp_path: Path) -> None:
    study = spec(tmp_path, axes={"method": ["HDA"]}, seeds=3)
    made = planner(study)
    plan = made.plan()
    work = made.load.works[0]
    assert (work.samples.train, work.samples.validation, work.samples.test) == (3 * 160, 160, 2 * 160)
    step, look = (seconds_of(name, work.key) for name in ("step_s", "evaluation_s"))
    looked = 2 * 160 + (320 + 480 + 320)  # each epoch; then test, source and the target's entropy
    one = 2 * 3 * step + looked * look + 0.1
    # Two processes make fingerprints.
    expected = 3 * one + 2 * 960 * 1e-5
    assert plan.seconds.median == pytest.approx(expected, rel=0.06)
    assert plan.seconds.low < expected < plan.seconds.high
    assert plan.basis == "measured"


def test_a_plan_has_the_trials_of_the_outline(tmp_path: Path) -> None:
    study = spec(
        tmp_path,
        references=["MEAN", "KNN"],
        axes={"method": ["DCNN", "MDA", "HDA"], "system.paths": [5, 10]},
        search=[{"when": {"method": "MDA"}, "space": {"objective.lambda": {"grid": [0.0, 1.0, 0.25]}}}],
    )
    plan = planner(study).plan()
    expected = outline(study)
    assert plan.trials == expected.trials
    assert {cell.label: cell.trials for cell in plan.cells} == {cell.cell.label: cell.trials for cell in expected.cells}
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


def test_shares_add_up(tmp_path: Path) -> None:
    study = spec(
        tmp_path,
        axes={"method": ["DCNN", "MDA", "HDA"], "system.paths": [5, 10]},
        search=[{"when": {"method": "MDA"}, "space": {"objective.lambda": {"grid": [0.0, 1.0, 0.25]}}}],
    )
    made = planner(study)
    drawn = made.draw()
    methods = method_shares(made, drawn)
    whole = [share for share in methods if share.axis == "method"]
    assert sum(share.share for share in whole) == pytest.approx(1, abs=0.02)
    assert sum(share.trials for share in whole) == made.load.trials
    inner = [share for share in methods if share.axis in ("search", "repeats")]
    (mda,) = [share for share in whole if share.value == "MDA"]
    assert sum(share.share for share in inner) == pytest.approx(mda.share, abs=0.02)
    by_paths = axis_shares(made, drawn)
    assert [share.value for share in by_paths] == ["5", "10"]
    assert sum(share.share for share in by_paths) == pytest.approx(1, abs=0.02)


def test_money_and_energy_are_those_of_all_machines_for_the_whole_time(tmp_path: Path) -> None:
    study = spec(tmp_path)
    machines = (replace(MACHINE, count=2), replace(MACHINE, name="other", price_per_hour=5.0, watts=50.0))
    made = planner(study, machines=machines)
    plan = made.plan()
    hours = plan.makespan_seconds.median / 3600
    assert plan.cost is not None
    assert plan.energy_kwh is not None
    assert plan.cost.median == pytest.approx(9.0 * hours)
    assert plan.energy_kwh.median == pytest.approx(0.25 * hours)
    assert plan.currency == "EUR"
    assert sum(cell.cost.median for cell in plan.cells if cell.cost) == pytest.approx(plan.cost.median, rel=0.02)


@pytest.mark.parametrize("change", [{"price_per_hour": None}, {"currency": "USD"}])
def test_without_all_prices_in_one_currency_there_is_time_alone(tmp_path: Path, change: dict[str, Any]) -> None:
    made = planner(spec(tmp_path), machines=(MACHINE, replace(MACHINE, name="other", **change)))
    assert made.plan().cost is None
    assert made.plan().makespan_seconds.median > 0


def test_the_clock_lies_between_its_bounds(tmp_path: Path) -> None:
    study = spec(tmp_path, seeds=5)
    made = planner(study, machines=(replace(MACHINE, count=3),))
    drawn = made.draw()
    assert made.slots == 6
    assert (drawn.makespan > drawn.total / 6).all()
    assert (drawn.makespan < drawn.total + 60).all()


def test_more_machines_are_never_slower_and_cost_more_by_the_hour(tmp_path: Path) -> None:
    study = spec(tmp_path, axes={"method": ["HDA"]}, seeds=12)
    makespans = []
    for count in (1, 2, 3, 4, 6):
        made = planner(study).of_size([count])
        makespans.append(made.draw(40).makespan.mean())
        assert made.rate_per_hour == 2.0 * count
    assert makespans == sorted(makespans, reverse=True)


def test_more_of_everything_takes_longer(tmp_path: Path) -> None:
    def seconds(**changes: Any) -> float:
        return planner(spec(tmp_path, **changes)).plan().seconds.median

    base = seconds()
    assert seconds(seeds=4) == pytest.approx(2 * base, rel=0.1)
    longer = {**SMALL_BASE, "training": {**SMALL_BASE["training"], "epochs": 8}}
    assert 1.5 * base < seconds(base=longer) < 4 * base
    assert planner(spec(tmp_path), measured(2e10)).plan().seconds.median > base


def test_what_is_stored_is_not_planned(tmp_path: Path) -> None:
    study = spec(tmp_path)
    whole = planner(study).plan()
    label = whole.cells[0].label
    rest = planner(study, stored={label: 1}).plan()
    assert (rest.trials, rest.stored) == (whole.trials - 1, 1)
    assert rest.seconds.median < whole.seconds.median
    nothing = planner(study, stored={cell.label: cell.trials for cell in whole.cells}).plan()
    assert (nothing.trials, nothing.seconds.median, nothing.makespan_seconds.median) == (0, 0, 0)


def test_early_stopping_saves_in_the_plan_too(tmp_path: Path) -> None:
    def total(**search: Any) -> float:
        base = {**SMALL_BASE, "training": {**SMALL_BASE["training"], "epochs": 27}}
        searched = {"when": {"method": "MDA"}, "space": {"objective.gamma": {"float": [0.0, 4.0]}}}
        found = {**searched, "sampler": "random", "trials": 20, **search}
        return planner(spec(tmp_path, base=base, axes={"method": ["MDA"]}, search=[found])).plan().seconds.median

    assert total(early_stopping={"grace_epochs": 1}) < 0.7 * total()


def test_searched_epochs_are_planned_with_their_mean(tmp_path: Path) -> None:
    search = {"space": {"training.epochs": {"values": [2, 20]}}}
    few, many = (
        planner(
            spec(tmp_path, axes={"method": ["HDA"]}, seeds=1, base={**SMALL_BASE, "training": {"epochs": epochs}})
        ).plan()
        for epochs in (2, 20)
    )
    both = planner(spec(tmp_path, axes={"method": ["HDA"]}, seeds=1, search=[search])).plan()
    assert both.trials == 2
    assert few.seconds.median < both.seconds.median / 2 < many.seconds.median


def test_fractions_of_a_gpu_share_it(tmp_path: Path) -> None:
    cluster = Cluster(address="auto", gpus=2, slots_per_gpu=4)
    gpu = replace(MACHINE, name="gpu", cpus=16, gpus=2, gpu="Test GPU", gpu_memory_bytes=8 * 10**9, peak_tflops=20.0)
    made = planner(spec(tmp_path), [], cluster=cluster, machines=(gpu,))
    assert made.slots == 8
    assert made.durations[0].device.trials == 4
    assert made.plan().basis == "counted"
    assert "Test GPU" in made.plan().notes[0]


def test_workers_of_ray_train_make_their_fingerprints_each_time(tmp_path: Path) -> None:
    study = spec(tmp_path, axes={"method": ["HDA"]}, seeds=6)
    slow = [
        replace(item, value=1.0, low=0.99, high=1.01) if item.quantity == "synthesis_s" else item for item in measured()
    ]
    tune, train = (
        planner(study, slow, cluster=CLUSTER.model_copy(update={"trainer": trainer})).plan().seconds.median
        for trainer in ("tune", "ray_train")
    )
    samples = 6 * 160
    assert tune == pytest.approx(2 * samples, rel=0.1)  # two processes, once each
    assert train == pytest.approx(6 * samples, rel=0.1)


def test_trials_that_do_not_fit_are_named(tmp_path: Path) -> None:
    made = planner(spec(tmp_path), machines=(replace(MACHINE, memory_bytes=2**29),))
    assert "needs about" in made.memory_problems()[0]
    assert any("Not enough memory" in note for note in made.plan().notes)
    assert planner(spec(tmp_path)).memory_problems() == []


def test_a_machine_on_which_no_trial_fits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="not one trial fits"):
        planner(spec(tmp_path), machines=(replace(MACHINE, cpus=0.5),))


def test_the_smallest_cluster_that_meets_a_deadline(tmp_path: Path) -> None:
    made = planner(spec(tmp_path, seeds=40), measured(2e8))
    alone = made.plan().makespan_seconds.high
    looked, chosen = sizes(made, Limits(seconds=0.5 * alone))
    assert chosen is not None
    assert chosen.met
    assert 2 <= chosen.machines <= 4
    assert all(not size.met for size in looked if size.machines < chosen.machines)
    assert [size.machines for size in looked] == sorted({size.machines for size in looked})
    _, none = sizes(made, Limits(seconds=1.0))
    assert none is None


def test_a_budget_that_no_size_meets(tmp_path: Path) -> None:
    made = planner(spec(tmp_path))
    _, chosen = sizes(made, Limits(cost=1e-6))
    assert chosen is None
    _, chosen = sizes(made, Limits(cost=1e6))
    assert chosen is not None
    assert chosen.machines == 1


def test_what_can_be_left_out_saves_what_it_says(tmp_path: Path) -> None:
    study = spec(
        tmp_path,
        seeds=8,
        search=[{"when": {"method": "MDA"}, "space": {"objective.lambda": {"grid": [0.0, 1.0, 0.1]}}}],
    )
    made = planner(study)
    before = float(np.median(made.draw(40).total))
    found = savings(made, Limits(seconds=1.0), Convergence((), 1))
    assert {"seeds", "objective.lambda", "training.epochs"} == {
        saving.what.split(":")[0].split(" in ")[0] for saving in found[:-1]
    }
    for saving in found:
        assert saving.seconds.median == pytest.approx(before - saving.saved_seconds)
    assert found[-1].what == "all of these together"
    assert found[-1].saved_seconds >= max(saving.saved_seconds for saving in found[:-1])
    assert any("Nothing is known" in saving.doubt for saving in found)


def test_the_same_seed_gives_the_same_plan(tmp_path: Path) -> None:
    study = spec(tmp_path)
    one, other = (planner(study).plan().model_dump(exclude={"made_at"}) for _ in range(2))
    assert one == other


# --- what testers found -------------------------------------------------------------------------------------------


def _gpu(**changes: Any) -> MachineKind:
    return replace(MACHINE, name="gpu", cpus=8, gpus=1, gpu="Test GPU", peak_tflops=10.0, **changes)


def test_trials_without_a_gpu_are_not_planned_with_the_peak_of_one(tmp_path: Path) -> None:
    without, plain = (
        planner(spec(tmp_path), [], machines=(machine,)) for machine in (_gpu(), replace(MACHINE, cpus=8))
    )
    assert not without.durations[0].peak_declared
    assert without.plan().seconds.median == pytest.approx(plain.plan().seconds.median, rel=0.2)
    assert any("use no GPU, and the machines have 1" in note for note in without.plan().notes)


def test_machines_on_which_no_trial_runs_cost_and_change_nothing_else(tmp_path: Path) -> None:
    cluster = Cluster(address="auto", gpus=1, resources_per_trial={"cpu": 1, "gpu": 1})
    head = replace(MACHINE, name="head", cpus=2, peak_tflops=0.001)
    alone = planner(spec(tmp_path), [], cluster=cluster, machines=(_gpu(),))
    for machines in ((_gpu(), head), (head, _gpu())):
        both = planner(spec(tmp_path), [], cluster=cluster, machines=machines)
        assert both.plan().seconds.median == pytest.approx(alone.plan().seconds.median, rel=0.2)
        assert both.rate_per_hour == 4.0
        assert not any("head" in note for note in both.plan().notes)


def test_a_trial_on_several_kinds_of_machines_is_as_slow_as_the_slowest(tmp_path: Path) -> None:
    cluster = Cluster(address="auto", gpus=3, workers_per_trial=3, resources_per_worker={"cpu": 1, "gpu": 1})
    slow, fast = _gpu(count=2), replace(_gpu(), name="fast", peak_tflops=1000.0)
    slow = replace(slow, peak_tflops=0.01)
    times = [
        planner(spec(tmp_path), [], cluster=cluster, machines=machines).plan().seconds.median
        for machines in ((slow, fast), (fast, slow))
    ]
    assert times[0] == pytest.approx(times[1], rel=0.3)


def test_limits_on_time_and_money_are_met_together(tmp_path: Path) -> None:
    made = planner(spec(tmp_path, seeds=40), measured(2e8))
    looked, _ = sizes(made, Limits())
    for size in looked:
        assert size.cost is not None
        _, chosen = sizes(made, Limits(size.makespan.high, size.cost.high))
        assert chosen is not None
        assert chosen.machines <= size.machines


def test_the_cluster_as_it_is_has_one_verdict(tmp_path: Path) -> None:
    made = planner(spec(tmp_path, seeds=10), measured(2e8), machines=(replace(MACHINE, count=3),))
    drawn = made.draw()
    looked, _ = sizes(made, Limits(), drawn)
    (own,) = [size for size in looked if size.machines == 3]
    assert own.makespan == made.plan(drawn).makespan_seconds


def test_a_limit_on_slots_grows_with_the_machines(tmp_path: Path) -> None:
    cluster = Cluster(address="auto", slots=1)
    made = planner(spec(tmp_path, seeds=20), cluster=cluster, machines=(replace(MACHINE, cpus=8),))
    assert [made.of_size([count]).slots for count in (1, 2, 5)] == [1, 2, 5]


def test_repeats_that_are_left_are_no_search(tmp_path: Path) -> None:
    search = {"space": {"objective.lambda": {"grid": [0.0, 1.0, 0.5]}}}
    study = spec(tmp_path, axes={"method": ["MDA"]}, search=[search], seeds=3)
    whole = planner(study)
    label = whole.load.cells[0].cell.label
    left = planner(study, stored={label: 4})
    assert left.load.trials == 1
    assert [share.axis for share in method_shares(left, left.draw())] == ["method", "repeats"] or [
        share.axis for share in method_shares(left, left.draw())
    ] == ["method"]


def test_many_cores_make_no_more_slots_than_there_are_trials(tmp_path: Path) -> None:
    made = planner(spec(tmp_path), machines=(replace(MACHINE, cpus=100_000, count=1000),))
    assert made.slots == 10**8
    assert made.plan().makespan_seconds.median > 0
