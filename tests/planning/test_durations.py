"""Measurements → durations: what is measured comes first, and what is not known is said."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import DEVICE, FLOPS, KEY, key, observation, seconds_of

from study.planning.durations import Durations
from study.planning.observations import Device, Observation


def _durations(*found: Observation, device: Device = DEVICE, peak: float | None = None, gpu: bool = False) -> Durations:
    return Durations(found, device, peak, gpu=gpu)


def test_a_measured_step_is_what_was_measured() -> None:
    known = _durations(observation(value=0.02)).step_s(KEY)
    assert known.median == pytest.approx(0.02)
    assert known.basis == "measured"


def test_whole_trials_know_better_than_a_few_steps() -> None:
    found = _durations(observation(value=0.02), observation(value=0.03, source="a study", session="two"))
    assert found.step_s(KEY).median == pytest.approx(0.03)


def test_what_trials_say_of_one_kind_of_work_corrects_the_calibration_of_another() -> None:
    hda = key("HDA")
    found = _durations(
        observation(value=0.02),
        observation(value=0.05, work=hda),
        observation(value=0.03, source="a study", session="two"),
    )
    assert found.step_s(hda).median == pytest.approx(0.05 * 1.5)


@given(st.floats(0.1, 10))
def test_all_scales_with_the_device(factor: float) -> None:
    one = _durations(observation(value=0.02), observation("evaluation_s", 1e-4))
    other = _durations(observation(value=0.02 * factor), observation("evaluation_s", 1e-4 * factor))
    for work in (KEY, key("HDA"), key("TL", batch=512)):
        assert other.step_s(work).median == pytest.approx(factor * one.step_s(work).median)
        assert other.evaluation_s(work).median == pytest.approx(factor * one.evaluation_s(work).median)


def test_what_was_not_measured_is_scaled_by_its_operations() -> None:
    found = _durations(observation())
    for work in (key("HDA"), key("DCNN", batch=512), key("MDA", network="paper", rows=64, columns=64)):
        known = found.step_s(work)
        assert known.median == pytest.approx(seconds_of("step_s", work))
        assert known.basis == "scaled"
        assert known.sigma > found.step_s(KEY).sigma


def test_another_device_tells_nothing() -> None:
    found = _durations(observation(), device=replace(DEVICE, name="Another"), peak=FLOPS)
    assert not found.measured
    assert found.step_s(KEY).basis == "counted"


def test_a_machine_is_known_by_the_name_that_the_cluster_file_gives_it() -> None:
    measured = replace(DEVICE, name="Some processor", node_type="c7i.4xlarge")
    asked = Device("", DEVICE.threads, DEVICE.trials, "c7i.4xlarge")
    assert _durations(observation(value=0.02, device=measured), device=asked).step_s(KEY).median == pytest.approx(0.02)


def test_threads_matter_without_a_gpu_alone() -> None:
    four = replace(DEVICE, threads=4)
    assert not _durations(observation(device=four)).measured
    assert _durations(observation(device=four), gpu=True).measured


def test_counted_seconds_fall_with_the_declared_peak() -> None:
    slow, fast = (_durations(peak=peak, gpu=True).step_s(key("HDA", batch=4096)).median for peak in (1e12, 1e13))
    assert 5 < slow / fast <= 10  # each step takes something besides
    assert _durations(peak=1e12).peak_declared
    assert not _durations().peak_declared


def test_sharing_a_device_slows_as_measured() -> None:
    alone, four = replace(DEVICE, trials=1), replace(DEVICE, trials=4)
    hda = key("HDA")
    found = [
        observation(value=0.02, device=alone),
        observation(value=0.06, device=four),
        observation(value=0.05, work=hda, device=alone),
    ]
    assert Durations(found, four, None, gpu=True).step_s(hda).median == pytest.approx(0.15)
    two = Durations(found, replace(DEVICE, trials=2), None, gpu=True).step_s(hda).median
    assert two == pytest.approx(0.05 * math.sqrt(3))  # halfway in the logarithm of the number
    eight = Durations(found, replace(DEVICE, trials=8), None, gpu=True)
    assert eight.step_s(hda).median == pytest.approx(0.15)  # the nearest that was measured
    assert eight.slowdown_curve() == {1: 0.0, 4: pytest.approx(math.log(3))}


def test_several_workers_share_a_step_but_not_perfectly() -> None:
    found = _durations(observation(value=0.08))
    two, four = (found.step_s(replace(KEY, workers=number)) for number in (2, 4))
    assert 0.04 < two.median < 0.08
    assert four.median < two.median
    assert two.basis == "scaled"


def test_drift_grows_with_what_differs_between_days() -> None:
    calm = [observation(value=0.02, source=f"s{day}", session=f"{day}") for day in range(6)]
    wild = [observation(value=0.02 * (1.5 if day % 2 else 1.0), source=f"s{day}", session=f"{day}") for day in range(6)]
    assert _durations(*calm).drift < _durations().drift < _durations(*wild).drift
    assert 0.1 < _durations(*wild).drift < 0.3  # half a logarithm of 1.5 to each side


def test_fingerprints_scale_with_paths_and_size() -> None:
    found = _durations(observation("synthesis_s", 1e-5, None, detail="adp 25 16 32"))
    assert found.synthesis_s(KEY, "adp 25").median == pytest.approx(1e-5)
    larger = found.synthesis_s(key(rows=64, columns=64, network="paper"), "adp 25")
    assert larger.median == pytest.approx(1e-5 * 8)
    assert larger.basis == "scaled"
    assert _durations().synthesis_s(KEY, "adp 25").basis == "counted"


def test_reference_rows_scale_with_the_fingerprint() -> None:
    knn = replace(KEY, method="KNN", network="", batch=0, conditions=3)
    found = _durations(observation("predict_s", 1e-7, knn))
    assert found.reference_s("predict_s", knn).median == pytest.approx(1e-7)
    assert found.reference_s("predict_s", replace(knn, rows=64)).median == pytest.approx(4e-7)
    for method in ("KNN", "MODEL", "MEAN"):
        assert _durations().reference_s("predict_s", replace(knn, method=method)).basis == "counted"


def test_the_engine_is_assumed_until_it_was_measured() -> None:
    assert _durations().engine_s("gap_s", "ray_train").median > 5 > _durations().engine_s("gap_s", "tune").median
    found = _durations(observation("gap_s", 0.2, None, detail="tune"))
    assert found.engine_s("gap_s", "tune").median == pytest.approx(0.2)
    assert found.engine_s("gap_s", "ray_train").basis == "counted"
