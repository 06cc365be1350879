"""Operations that are counted from widths are those that the layers do."""

import pytest

from models.complexity import measure_complexity
from models.methods import METHODS, NetworkShape, build_method
from models.operations import count_operations
from models.settings import BACKBONES, InputTooSmallError


@pytest.mark.parametrize("branches", ["shared", "twin"])
@pytest.mark.parametrize("conditions", [0, 2, 3])
@pytest.mark.parametrize(
    ("preset", "fingerprint"), [("paper", (1, 64, 64)), ("paper", (2, 47, 90)), ("small", (1, 16, 32))]
)
@pytest.mark.parametrize("name", METHODS)
def test_counts_are_those_of_the_layers(name, preset, fingerprint, conditions, branches):
    settings = METHODS[name].settings
    method = build_method(name, NetworkShape(fingerprint, conditions, backbone=BACKBONES[preset]), branches=branches)
    measured = measure_complexity(method, 256)
    counted = count_operations(
        BACKBONES[preset],
        fingerprint,
        batch=256,
        target=settings.adapts,
        multi_task=settings.twin,
        twin=settings.twin and branches == "twin",
        conditions=conditions if settings.joint else 0,
        adversarial=name == "RDA",
    )
    assert counted.per_sample == measured.macs_per_sample
    assert counted.deployed == measured.macs_deployed


def test_a_step_is_three_forward_passes_of_all_its_samples():
    shape = {"multi_task": True, "twin": False, "conditions": 3}
    alone = count_operations(BACKBONES["small"], (1, 16, 32), batch=10, target=False, **shape)
    both = count_operations(BACKBONES["small"], (1, 16, 32), batch=10, target=True, **shape)
    assert alone.step == 3 * 10 * alone.deployed
    assert both.step == 2 * alone.step
    assert (
        count_operations(
            BACKBONES["small"], (1, 16, 32), batch=10, target=True, multi_task=True, twin=True, conditions=3
        ).step
        == both.step
    )  # twin branches see one domain each


def test_an_input_that_is_too_small_is_refused():
    with pytest.raises(InputTooSmallError):
        count_operations(
            BACKBONES["paper"], (1, 16, 32), batch=1, target=False, multi_task=False, twin=False, conditions=0
        )
