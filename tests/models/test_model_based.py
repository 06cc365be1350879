"""The model-based reference: what one path must give, what the first path is, thresholds, and the shipped site."""

from __future__ import annotations

import itertools
import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import example, given, settings
from torch import Tensor

from models.model_based import ModelBased, UserArea, best_thresholds, estimate_paths, first_path
from study.data.channels import channel_response
from study.data.dataset import LabelledChannels, SiteData
from study.data.fingerprints import fingerprint
from study.data.site import open_site
from study.data.split import Split
from study.data.system import ExcessDelay, SystemConfiguration
from study.execution import run_trial
from study.provenance import Provenance
from study.spec.trial import Trial, TrialConfiguration

STATION = (3.0, 10.0, 6.0)
LIGHT_M_S = 299_792_458.0
# A street in front of the array, with more users at its far end than behind the array: corners of the labelled area.
STREET = torch.tensor([[10.0, -16.0, 1.0], [280.0, -16.0, 1.0], [10.0, 4.0, 1.0], [280.0, 4.0, 1.0]])


def _channels(
    csi: Tensor,
    antennas: tuple[int, int],
    bandwidth_hz: float,
    *,
    positions: Tensor = STREET,
    condition: Tensor | None = None,
    excess_delay: ExcessDelay = "wrap",
) -> LabelledChannels:
    condition = torch.zeros(len(positions), dtype=torch.int64) if condition is None else condition
    return LabelledChannels(csi, positions, condition, STATION, antennas, bandwidth_hz, excess_delay)  # type: ignore[arg-type]


def _line_of_sight(
    positions: Tensor, antennas: tuple[int, int], bandwidth_hz: float, subcarriers: int, excess: ExcessDelay = "wrap"
) -> Tensor:
    """Channels of a straight path from the base station to each position."""
    way = positions.double() - torch.tensor(STATION, dtype=torch.float64)
    distance = way.norm(dim=1, keepdim=True)
    return channel_response(
        (1e-3 / distance).to(torch.complex64) * 1j,
        distance / LIGHT_M_S,
        torch.acos(way[:, 2:] / distance),
        torch.atan2(way[:, 1:2], way[:, :1]),
        bandwidth_hz=bandwidth_hz,
        subcarriers=subcarriers,
        antennas=antennas,
        excess_delay=excess,
    )


SYSTEMS = st.sampled_from(
    [
        ((4, 4), 20e6, 32),
        ((8, 8), 100e6, 64),
        ((4, 4), 100e6, 32),  # a window of 96 m: most of the street is folded
        ((2, 3), 50e6, 16),
        ((16, 1), 20e6, 64),  # no elevation
    ]
)


@settings(max_examples=30)
@given(SYSTEMS, st.floats(10, 280), st.floats(-16, 4), st.sampled_from([1, -1]))
def test_a_line_of_sight_is_located_wherever_the_user_stands(
    system: tuple[tuple[int, int], float, int], x: float, y: float, side: int
) -> None:
    antennas, bandwidth_hz, subcarriers = system
    mirror = torch.tensor([[side, 1.0, 1.0]])
    offset = torch.tensor([[3.0, 0.0, 0.0]])
    street = (STREET - offset) * mirror + offset
    user = (torch.tensor([[x, y, 1.0]]) - offset) * mirror + offset
    source = _channels(
        _line_of_sight(street, antennas, bandwidth_hz, subcarriers), antennas, bandwidth_hz, positions=street
    )
    model = ModelBased()
    model.fit(source, 0)
    found, condition = model.predict(_line_of_sight(user, antennas, bandwidth_hz, subcarriers))
    assert condition is None
    assert found.dtype == torch.float32
    assert float((found - user).norm()) < 0.05


def test_height_comes_from_elevation_where_users_stand_at_several() -> None:
    floors = torch.cat([STREET, STREET + torch.tensor([0.0, 0.0, 9.0])])
    users = torch.tensor([[50.0, -3.0, 4.0], [120.0, 2.0, 8.5], [40.0, -10.0, 1.0]])
    model = ModelBased()
    model.fit(_channels(_line_of_sight(floors, (8, 8), 20e6, 64), (8, 8), 20e6, positions=floors), 0)
    found, _ = model.predict(_line_of_sight(users, (8, 8), 20e6, 64))
    assert float((found - users).norm(dim=1).max()) < 0.1


def test_delays_later_than_the_window_fold_or_are_not_there() -> None:
    antennas, bandwidth_hz, subcarriers = (8, 8), 100e6, 32
    window_m = LIGHT_M_S * subcarriers / bandwidth_hz
    users = torch.tensor([[60.0, -5.0, 1.0], [260.0, -5.0, 1.0]])
    distance = (users - torch.tensor(STATION)).norm(dim=1)
    assert distance[0] < window_m < distance[1]
    csi = _line_of_sight(users, antennas, bandwidth_hz, subcarriers)
    delay = estimate_paths(csi, antennas, floor_db=10).delay[:, 0]
    torch.testing.assert_close(delay * window_m, (distance % window_m).double(), rtol=0, atol=0.01)

    dropped = _line_of_sight(users, antennas, bandwidth_hz, subcarriers, "drop")
    source = _channels(dropped, antennas, bandwidth_hz, positions=users, excess_delay="drop")
    model = ModelBased()
    model.fit(source, 0)
    found, _ = model.predict(dropped)
    assert float((found[0] - users[0]).norm()) < 0.05
    torch.testing.assert_close(found[1], users.mean(dim=0))  # no path: the middle of the labelled positions


@settings(max_examples=20)
@given(
    st.floats(0.05, 0.4),
    st.floats(2.5, 12),
    st.floats(-0.8, 0.8),
    st.floats(0.5, 1.0),
    st.floats(0.0, 8.5),
    st.floats(0, 2 * math.pi),
)
@example(delay=0.25, bins_later=2.5, sine=0.0, turn=1.0, weaker_db=2.0, phase=0.0)
def test_the_first_path_is_the_earliest_that_is_strong_enough(
    delay: float, bins_later: float, sine: float, turn: float, weaker_db: float, phase: float
) -> None:
    subcarriers, bandwidth_hz, antennas = 32, 20e6, (4, 4)
    delays = torch.tensor([[delay, delay + bins_later / subcarriers]], dtype=torch.float64)
    azimuth = torch.tensor([[math.asin(sine), math.asin(sine - math.copysign(turn, sine))]])
    for within_db, expected in ((weaker_db + 1, 0), (max(weaker_db - 1, 0.01), 1)):
        if expected and weaker_db < 1.5:
            continue  # both are as strong
        gain = torch.tensor([[10 ** (-weaker_db / 20) * complex(math.cos(phase), math.sin(phase)), 1.0]])
        csi = channel_response(
            gain.to(torch.complex64) * 1e-5,
            delays * subcarriers / bandwidth_hz,
            torch.full((1, 2), math.pi / 2),
            azimuth,
            bandwidth_hz=bandwidth_hz,
            subcarriers=subcarriers,
            antennas=antennas,
        )
        paths = estimate_paths(csi, antennas, floor_db=within_db + 3)
        for back in (None, 0.45):
            first = int(first_path(paths, within_db, search_back=back)[0])
            # Within a third of a resolution cell: the two bias each other a little.
            assert abs(float(paths.delay[0, first] - delays[0, expected])) * subcarriers < 0.33
            # Half a wavelength apart, antennas see direction cosines modulo 2: −1 and 1 are one direction to them.
            apart = math.remainder(float(2 * paths.y[0, first] - azimuth[0, expected].sin()), 2)
            assert abs(apart) < 0.33 * 2 / antennas[0]


def test_the_search_for_the_first_path_goes_around_the_window() -> None:
    """The strongest at 0.05, one at 0.9: earlier by 0.15 where delays fold, later where they do not."""
    angles = torch.zeros((1, 2), dtype=torch.float64)
    paths = estimate_paths(torch.ones(1, 4, 8, dtype=torch.complex64), (2, 2), floor_db=10, paths=2)._replace(
        delay=torch.tensor([[0.05, 0.9]], dtype=torch.float64), y=angles, z=angles, power=torch.tensor([[1.0, 0.5]])
    )
    assert first_path(paths, 10.0).tolist() == [0]
    assert first_path(paths, 10.0, search_back=0.25).tolist() == [1]
    assert first_path(paths, 2.0, search_back=0.25).tolist() == [0]


@settings(max_examples=60)
@given(st.integers(1, 3), st.lists(st.tuples(st.integers(0, 6), st.integers(0, 2)), min_size=1, max_size=12))
def test_thresholds_are_the_best_of_all(conditions: int, samples: list[tuple[int, int]]) -> None:
    statistic = torch.tensor([value for value, _ in samples], dtype=torch.float64)
    condition = torch.tensor([number % conditions for _, number in samples])
    found = best_thresholds(statistic, condition, conditions)

    present = [k for k in range(conditions) if (condition == k).any()]
    order = sorted(present, key=lambda k: float(statistic[condition == k].sum() / (condition == k).sum()))
    cuts = [value + 0.5 for value in range(-1, 7)]
    best = max(
        sum(
            order[sum(value > cut for cut in chosen)] == label
            for value, label in zip(statistic.tolist(), condition.tolist(), strict=True)
        )
        for chosen in itertools.combinations_with_replacement(cuts, len(order) - 1)
    )
    majority = int(condition.bincount().max())
    assert found.correct == max(best, majority)
    assert int((found.classify(statistic) == condition).sum()) == found.correct
    if best <= majority:
        assert len(set(found.classify(statistic).tolist())) == 1


@settings(max_examples=12)
@given(
    st.sampled_from([(1, 1), (1, 4), (4, 1), (3, 5)]),
    st.sampled_from([2, 4, 33]),
    st.sampled_from([1e6, 100e6, 2e9]),
    st.sampled_from([0, 2, 3]),
    st.integers(0, 2**31 - 1),
)
def test_whatever_the_channel_predictions_are_finite_and_do_not_depend_on_the_batch(
    antennas: tuple[int, int], subcarriers: int, bandwidth_hz: float, conditions: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    csi = torch.randn((9, antennas[0] * antennas[1], subcarriers), dtype=torch.complex64, generator=generator)
    csi[3], csi[4], csi[5] = 0, 1, csi[5] * 1e-9
    positions = torch.rand((9, 3), generator=generator) * 100 - 50
    condition = torch.arange(9) % max(conditions, 1)
    model = ModelBased()
    model.fit(_channels(csi, antennas, bandwidth_hz, positions=positions, condition=condition), conditions)
    position, hat = model.predict(csi)
    assert position.shape == (9, 3)
    assert bool(position.isfinite().all())
    torch.testing.assert_close(position[3], positions.double().mean(dim=0).float())
    assert (hat is None) == (conditions == 0)
    if hat is not None:
        assert hat.dtype == torch.int64
        assert set(hat.tolist()) <= set(range(conditions))
    for rows in (slice(0, 1), slice(2, 6), slice(8, 9)):
        some, some_hat = model.predict(csi[rows])
        torch.testing.assert_close(some, position[rows], rtol=1e-4, atol=1e-3)
        if hat is not None and some_hat is not None:
            assert torch.equal(some_hat, hat[rows])


def test_positions_do_not_depend_on_the_labelled_conditions() -> None:
    csi = torch.randn((30, 16, 8), dtype=torch.complex64, generator=torch.Generator().manual_seed(1))
    positions = torch.rand((30, 3), generator=torch.Generator().manual_seed(2)) * 50
    predicted = []
    for condition in (torch.arange(30) % 3, torch.arange(30) // 10):
        model = ModelBased()
        model.fit(_channels(csi, (4, 4), 20e6, positions=positions, condition=condition), 3)
        predicted.append(model.predict(csi)[0])
    assert torch.equal(*predicted)


def test_a_side_that_the_array_cannot_see_is_the_one_in_the_area_or_else_the_usual_one() -> None:
    area = UserArea.of(torch.tensor([[-40.0, 0.0, 1.0], [100.0, 20.0, 1.0], [90.0, 5.0, 1.0]]), (0.0, 10.0, 1.0))
    assert area.side == 1
    range_m = torch.tensor([20.0, 80.0], dtype=torch.float64)
    ahead = torch.zeros(2, dtype=torch.float64)
    both, _ = area.locate(range_m, ahead, None, None)
    assert both[:, 0].tolist() == [20.0, 80.0]  # 20 m behind is in the area too: the usual side decides
    most_behind = UserArea.of(torch.tensor([[-40.0, 0.0, 1.0], [-30.0, 20.0, 1.0], [90.0, 5.0, 1.0]]), (0.0, 10.0, 1.0))
    assert most_behind.locate(range_m, ahead, None, None)[0][:, 0].tolist() == [-20.0, 80.0]
    behind = UserArea(area.low, (30.0, 20.0, 1.0), 1, area.base_station_m)
    assert behind.locate(range_m, ahead, None, None)[0][:, 0].tolist() == [20.0, -80.0]


@pytest.fixture(scope="module")
def data() -> SiteData:
    return SiteData(open_site("canyon_small"))


SPLIT = {"train_scenes": 4, "validation_scenes": 1, "test_scenes": 4}


def test_channels_are_those_that_the_fingerprints_are_made_of(data: SiteData) -> None:
    system = SystemConfiguration.model_validate(
        {"subcarriers": 16, "antennas": [2, 4], "paths": {"uniform": [2, 9]}, "fingerprint": "rcsi_stacked"}
    )
    split = Split.model_validate(SPLIT)
    parts, channels = data.prepare(system, split, coordinate_scale_m=30.0), data.channels(system, split)
    pairs = (
        (parts.training.source.fingerprint, channels.training.csi),
        (parts.validation.fingerprint, channels.validation),
        (parts.test.fingerprint, channels.test),
    )
    for images, csi in pairs:
        assert tuple(csi.shape) == (len(images), 8, 16)
        made = torch.cat(list(csi.split(100)))
        expected = fingerprint(made, "rcsi_stacked", "antenna", antennas=(2, 4), carrier_hz=data.site.carrier_hz)
        torch.testing.assert_close(images[:], expected, rtol=1e-4, atol=1e-4)
    training = parts.training.source
    torch.testing.assert_close(channels.training.position_m[:, :2], parts.frame.decode(training.position))
    assert torch.equal(channels.training.condition, training.condition)
    assert channels.training.base_station_m == data.site.base_station_m


@pytest.mark.parametrize("kind", ["adp", "scm"])
def test_on_the_shipped_site_a_line_of_sight_is_found_and_its_absence_is_felt(data: SiteData, kind: str) -> None:
    system = {"bandwidth_mhz": 100, "subcarriers": 32, "antennas": [4, 4], "fingerprint": kind}
    configuration = TrialConfiguration.model_validate({"method": "MODEL", "system": system, "split": SPLIT})
    trial = Trial(configuration.resolved(), 0, data.site.data_hash)
    assert trial.config["objective"] == {"first_path_db": 10.0}
    run = run_trial(trial, data, Provenance.here())
    with pytest.raises(StopIteration) as end:
        next(run)
    tables = end.value.value
    assert tables.row["state"] == "done"
    assert tables.row["test_accuracy"] > 0.3
    error, condition = torch.tensor(tables.errors["error_m"]), torch.tensor(tables.errors["condition"])
    sight, building = error[condition == 0].median(), error[condition == 2].median()
    assert float(sight) < 5.0
    assert float(sight) < 0.3 * float(building)
