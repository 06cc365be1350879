"""Price lists: the shipped one, those of users, and one over the other."""

from __future__ import annotations

import datetime
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cluster.prices import SHIPPED_PRICES, NodeType, Prices, load_prices, merged
from study.errors import Problem, SpecError

DOCUMENTATION = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text(encoding="utf-8")
TYPE: dict[str, Any] = {
    "cpus": 8,
    "memory_gb": 32,
    "gpus": 1,
    "gpu": "NVIDIA A10G",
    "gpu_memory_gb": 24,
    "on_demand_per_hour": 1.5,
    "watts": 300,
    "region": "here",
    "date": "2025-03-01",
    "source": "an invoice",
}


def load(tmp_path: Path, types: dict[str, Any], currency: str = "EUR") -> Prices:
    file = tmp_path / "prices.yaml"
    file.write_text(yaml.safe_dump({"currency": currency, "node_types": types}, sort_keys=False))
    return load_prices(file)


def problems(tmp_path: Path, types: dict[str, Any], currency: str = "EUR") -> list[Problem]:
    with pytest.raises(SpecError) as caught:
        load(tmp_path, types, currency)
    return caught.value.problems


# --- The shipped list -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(load_prices().node_types))
def test_every_shipped_type_is_dated_and_sourced(name: str) -> None:
    kind = load_prices().node_types[name]
    assert datetime.date(2023, 1, 1) < kind.date <= datetime.date.today()
    # A link that is not at a commit shows another price tomorrow.
    assert re.fullmatch(r"https://\S+/[0-9a-f]{40}/\S+", kind.source)
    assert kind.region
    assert kind.on_demand_per_hour is not None
    assert kind.peak_source is not None
    for link in (kind.spot_source, kind.peak_source, kind.watts_source):
        assert link is None or re.fullmatch(r"https?://\S+", link)
    if kind.gpus:
        assert kind.watts_source is not None
        assert kind.gpu is not None
        assert re.match(r"(NVIDIA|Tesla) ", kind.gpu)
        assert kind.gpu_memory_gb is not None


def test_the_same_gpu_is_the_same_everywhere() -> None:
    told: dict[str | None, set[tuple[float | None, float | None]]] = {}
    for kind in load_prices().node_types.values():
        if kind.gpus:
            told.setdefault(kind.gpu, set()).add((kind.gpu_memory_gb, kind.peak_tflops))
    assert {gpu: len(values) for gpu, values in told.items()} == dict.fromkeys(told, 1)
    assert {"Tesla T4", "NVIDIA A10G", "NVIDIA L4", "NVIDIA A100-SXM4-40GB", "NVIDIA H100 80GB HBM3"} <= set(told)


# The rule that the head of the list states.
WATTS_PER_VCPU = {"aws": 3.5, "gcp": 4.26, "azure": 3.76}
GPU_WATTS = {
    "Tesla T4": 70,
    "NVIDIA A10G": 300,
    "NVIDIA L4": 72,
    "Tesla V100-SXM2-16GB": 300,
    "NVIDIA A100-SXM4-40GB": 400,
    "NVIDIA A100 80GB PCIe": 300,
    "NVIDIA H100 80GB HBM3": 700,
}


@pytest.mark.parametrize("name", list(load_prices().node_types))
def test_the_shipped_watts_follow_the_stated_rule(name: str) -> None:
    kind = load_prices().node_types[name]
    share = WATTS_PER_VCPU[name.partition("/")[0]]
    gpus = kind.gpus * GPU_WATTS[kind.gpu] if kind.gpu is not None else 0
    assert kind.watts == pytest.approx(gpus + kind.cpus * share, abs=0.5)


def test_the_head_of_the_list_states_the_rule() -> None:
    head = SHIPPED_PRICES.read_text().partition("node_types:")[0]
    for watts in WATTS_PER_VCPU.values():
        assert f"{watts:g} W" in head


# --- Prices -----------------------------------------------------------------------------------------------------------


def test_a_list_in_another_currency(tmp_path: Path) -> None:
    prices = load(tmp_path, {"lab": TYPE, "cloud": {**TYPE, "currency": "USD"}})
    assert (prices.currency_of("lab"), prices.currency_of("cloud")) == ("EUR", "USD")
    with pytest.raises(KeyError):
        prices.currency_of("other")


def test_the_spot_price_may_have_its_own_origin(tmp_path: Path) -> None:
    own = {"spot_date": "2024-01-31", "spot_source": "a screenshot", "spot_region": "there"}
    kinds = load(tmp_path, {"a": {**TYPE, "spot_per_hour": 0.5}, "b": {**TYPE, "spot_per_hour": 0.4, **own}}).node_types
    assert [kind.price(spot=True) for kind in kinds.values()] == [0.5, 0.4]
    assert {kind.origin(spot=False) for kind in kinds.values()} == {"here, 2025-03-01, an invoice"}
    assert kinds["a"].origin(spot=True) == "here, 2025-03-01, an invoice"
    assert kinds["b"].origin(spot=True) == "there, 2024-01-31, a screenshot"


def test_a_price_that_is_not_known(tmp_path: Path) -> None:
    without = {key: value for key, value in TYPE.items() if key not in ("on_demand_per_hour", "watts")}
    kind = load(tmp_path, {"a": {**without, "spot_per_hour": None}}).node_types["a"]
    assert (kind.price(spot=False), kind.price(spot=True), kind.watts) == (None, None, None)


# --- Bad input --------------------------------------------------------------------------------------------------------

TOMORROW = (datetime.date.today() + datetime.timedelta(days=1)).isoformat()


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("on_demand_per_hour", 0, "too small"),
        ("on_demand_per_hour", -1.5, "too small"),
        ("spot_per_hour", -0.1, "too small"),
        ("on_demand_per_hour", "1.5", "expected a number, found text"),
        ("watts", 0, "too small"),
        ("watts", -300, "too small"),
        ("cpus", 0, "too small"),
        ("gpus", 1.5, "whole number"),
        ("date", TOMORROW, "in the future"),
        ("date", "2025-02-30", "no date"),
        ("date", "March 2025", "no date"),
        ("date", "20250301", "no date"),
        ("date", 2025, "no date"),
        ("date", None, "no date"),
        ("spot_date", "2025-02-30", "no date"),
        ("source", "", "too short"),
        ("source", None, "expected text"),
        ("region", "", "too short"),
        ("currency", "euro", "no code of a currency"),
        ("price", 3, "unknown key"),
    ],
)
def test_values_that_no_price_list_can_have(tmp_path: Path, key: str, value: object, said: str) -> None:
    kind = {**TYPE, "spot_per_hour": 0.5, key: value}
    (problem,) = problems(tmp_path, {"lab": kind})
    assert problem.key_path == f"node_types.lab.{key}"
    assert said in problem.what
    assert problem.line == 3 + list(kind).index(key) + 1
    assert problem.allowed


@pytest.mark.parametrize("key", ["cpus", "memory_gb", "region", "date", "source"])
def test_what_a_type_cannot_do_without(tmp_path: Path, key: str) -> None:
    (problem,) = problems(tmp_path, {"lab": {name: value for name, value in TYPE.items() if name != key}})
    assert (problem.key_path, problem.what) == (f"node_types.lab.{key}", "the key is missing")


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"gpu": None}, "gpus"),
        ({"gpus": 0, "gpu": None}, "gpu_memory_gb"),
        ({"gpus": 0, "gpu_memory_gb": None}, "gpu"),
        ({"spot_date": "2025-01-01"}, "spot_date"),
        ({"spot_source": "x"}, "spot_source"),
        ({"watts": None, "watts_source": "x"}, "watts_source"),
        ({"peak_source": "x"}, "peak_source"),
    ],
)
def test_values_that_do_not_fit_together(tmp_path: Path, changes: dict[str, Any], key: str) -> None:
    (problem,) = problems(tmp_path, {"lab": {**TYPE, **changes}})
    assert problem.key_path == f"node_types.lab.{key}"
    assert problem.allowed


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    undated = {key: value for key, value in TYPE.items() if key not in ("date", "source")}
    found = problems(tmp_path, {"a b": TYPE, "b": {**undated, "watts": -1}, "c": {**TYPE, "wats": 3}}, currency="usd")
    assert sorted(problem.key_path for problem in found) == [
        "currency",
        "node_types.a b",
        "node_types.b.date",
        "node_types.b.source",
        "node_types.b.watts",
        "node_types.c.wats",
    ]
    assert next(problem.hint for problem in found if problem.key_path.endswith("wats")) == "did you mean 'watts'?"


def test_a_list_without_types(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, {})
    assert problem.key_path == "node_types"
    with pytest.raises(SpecError, match="the price list does not exist"):
        load_prices(tmp_path / "gone.yaml")


# --- One list over another --------------------------------------------------------------------------------------------


def lists() -> st.SearchStrategy[Prices]:
    kinds = st.builds(
        lambda price, spot: NodeType.model_validate({**TYPE, "on_demand_per_hour": price, "spot_per_hour": spot}),
        st.none() | st.floats(0.01, 100),
        st.none() | st.floats(0.01, 100),
    )
    return st.builds(
        lambda currency, types: Prices(currency=currency, node_types=types),
        st.sampled_from(["USD", "EUR", "JPY"]),
        st.dictionaries(st.sampled_from("abcd"), kinds, min_size=1),
    )


@given(lists(), lists())
def test_ones_own_entries_hold_and_all_others_stay(own: Prices, other: Prices) -> None:
    both = merged(own, other)
    assert both.currency == own.currency
    assert set(both.node_types) == set(own.node_types) | set(other.node_types)
    for name, kind in both.node_types.items():
        holds = own if name in own.node_types else other
        assert both.currency_of(name) == holds.currency_of(name)
        for spot in (False, True):
            assert kind.price(spot=spot) == holds.node_types[name].price(spot=spot)


@given(lists(), lists(), lists())
def test_merging_is_associative_and_idempotent(a: Prices, b: Prices, c: Prices) -> None:
    assert merged(merged(a, b), c).node_types == merged(a, merged(b, c)).node_types
    assert merged(a, merged(a, b)).node_types == merged(a, b).node_types


# --- Documentation ----------------------------------------------------------------------------------------------------


def test_the_documentation_tells_every_key_and_its_example_loads(tmp_path: Path) -> None:
    section = DOCUMENTATION.partition("## Prices")[2].partition("\n## ")[0]
    told = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)))
    assert sorted(told) == sorted(NodeType.model_fields)
    (example,) = re.findall(r"\n\n```\n(.*?)```", section, re.DOTALL)
    file = tmp_path / "prices.yaml"
    file.write_text(example)
    assert load_prices(file).currency_of("lab") == "EUR"
    assert all(field.description for field in NodeType.model_fields.values())
