"""Table III to the last digit, and an independent counter."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from models.complexity import measure_complexity
from models.methods import METHODS, NetworkShape, build_method
from models.settings import BACKBONES

TABLE_III = {
    "DCNN": (207_378, 8_801_280_000),
    "TL": (789_642, 17_698_711_552),
    "RDA": (273_556, 8_818_253_824),
    "MDA": (1_300_628, 17_829_777_408),
    "HDA": (1_300_628, 17_829_777_408),
}


@pytest.mark.parametrize("name", list(TABLE_III))
def test_parameters_and_macs_are_those_of_table_iii(name: str) -> None:
    method = build_method(name, NetworkShape((1, 64, 64), conditions=2), branches="twin")
    cost = measure_complexity(method, batch=256)
    assert (cost.parameters, cost.macs_paper) == TABLE_III[name]
    assert cost.objective_parameters == (2 if name == "HDA" else 0)


def test_three_classes_add_a_row_of_weights_to_each_branch() -> None:
    cost = measure_complexity(build_method("MDA", NetworkShape((1, 64, 64), conditions=3), branches="twin"))
    assert cost.parameters == 1_300_662


@pytest.mark.parametrize("name", list(METHODS))
@pytest.mark.parametrize("preset", list(BACKBONES))
def test_flops_agree_with_the_counter_of_torch(name: str, preset: str) -> None:
    shape = NetworkShape((1, 48, 64), conditions=3, backbone=BACKBONES[preset])
    method = build_method(name, shape).eval()
    cost = measure_complexity(method, batch=4)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        method(torch.zeros(1, *shape.fingerprint))
    assert counter.get_total_flops() == 2 * cost.macs_deployed
    assert cost.flops_batch == 2 * 4 * cost.macs_per_sample


def test_the_paper_batch_has_the_flops_that_torch_counts() -> None:
    cost = measure_complexity(build_method("DCNN", NetworkShape((1, 64, 64), conditions=2)), batch=256)
    assert cost.flops_batch == 17_257_545_728
    assert cost.macs_per_sample == 33_706_144


def test_twin_branches_are_deployed_at_half_the_cost() -> None:
    shape = NetworkShape((1, 64, 64), conditions=2)
    twin, shared = (measure_complexity(build_method("HDA", shape, branches=kind)) for kind in ("twin", "shared"))
    assert twin.parameters == 2 * shared.parameters
    assert twin.macs_per_sample == 2 * twin.macs_deployed
    assert twin.macs_deployed == shared.macs_deployed == shared.macs_per_sample


def test_counting_leaves_the_method_as_it_was() -> None:
    method = build_method("RDA", NetworkShape((1, 64, 64), conditions=2)).train()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    measure_complexity(method)
    assert method.training
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
