"""Price lists: what machines have, cost and draw.

load_prices     reads a list; without a path the shipped one, ``prices.yaml`` beside this module
merged          a list of one's own over another

A price is only as good as its date and its source, so an entry without them is a mistake. Nothing is fetched.
"""

from __future__ import annotations

import datetime
import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from study.spec.loading import load_yaml
from study.spec.problems import Allowed, InvalidValue, InvalidValues

__all__ = ["SHIPPED_PRICES", "Currency", "NodeType", "Prices", "load_prices", "merged"]

SHIPPED_PRICES = Path(__file__).resolve().with_name("prices.yaml")
_KIND = "price list"
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_CURRENCY = re.compile(r"[A-Z]{3}")
# Said by the validators too: in `Currency | None` the words for what is allowed do not stand beside the field.
_CURRENCIES = "three capital letters, such as USD or EUR"
_DAYS = "a date such as 2025-03-06, today at the latest"
# What a user would write in a cluster file and on a command line.
_TYPE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/+-]*")


def _day(value: object) -> object:
    if isinstance(value, datetime.date):
        return value
    try:
        if not isinstance(value, str) or not _DAY.fullmatch(value):
            raise ValueError
        day = datetime.date.fromisoformat(value)
    except ValueError:
        raise InvalidValue("this is no date", _DAYS) from None
    if day > datetime.date.today():
        raise InvalidValue("the date is in the future: a price is what a source has said", _DAYS)
    return day


def _currency(text: str) -> str:
    if not _CURRENCY.fullmatch(text):
        raise InvalidValue("this is no code of a currency", _CURRENCIES)
    return text


def _type_name(text: str) -> str:
    if not _TYPE_NAME.fullmatch(text):
        raise InvalidValue("this is no name for a type of machine")
    return text


Day = Annotated[datetime.date, BeforeValidator(_day), Allowed(_DAYS)]
Currency = Annotated[str, AfterValidator(_currency), Allowed(_CURRENCIES)]
TypeName = Annotated[
    str,
    AfterValidator(_type_name),
    Allowed("letters, digits and _ . : / + -, a letter or digit first, such as aws/g5.xlarge"),
]


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class NodeType(_Frozen):
    """One type of machine: what it has, what an hour of it costs, and what it draws."""

    cpus: float = Field(gt=0, le=100_000, description="virtual CPUs, as Ray counts them")
    memory_gb: float = Field(gt=0, le=1_000_000, description="memory; a GB is 2^30 bytes, as the clouds count")
    gpus: int = Field(0, ge=0, le=1024, description="GPUs")
    gpu: str | None = Field(None, min_length=1, description="their name, as torch.cuda.get_device_name tells it")
    gpu_memory_gb: float | None = Field(
        None, gt=0, le=100_000, description="memory of each GPU; a GB is 10^9 bytes, which a driver leaves free"
    )
    peak_tflops: float | None = Field(
        None, gt=0, le=1_000_000, description="declared FP32 peak: of one GPU, or of a whole machine without GPU"
    )
    peak_source: str | None = Field(None, min_length=1, description="where the peak is from, if not from source")
    on_demand_per_hour: float | None = Field(None, gt=0, le=1_000_000, description="price of an hour; null: not known")
    spot_per_hour: float | None = Field(
        None, gt=0, le=1_000_000, description="price of an hour that can be ended at any time; null: not known"
    )
    spot_region: str | None = Field(None, min_length=1, description="where that price held, if not in region")
    spot_date: Day | None = Field(None, description="when it held, if not on date")
    spot_source: str | None = Field(None, min_length=1, description="where it is from, if not from source")
    currency: Currency | None = Field(None, description="of the prices; that of the list when left out")
    watts: float | None = Field(
        None, gt=0, le=10_000_000, description="power of the whole machine when it is busy; null: not known"
    )
    watts_source: str | None = Field(None, min_length=1, description="where the watts are from, if not from source")
    region: str = Field(min_length=1, description="where the price holds, such as us-east-1")
    date: Day = Field(description="when it held")
    source: str = Field(min_length=1, description="where it is from: an address, or who said it")

    @model_validator(mode="after")
    def _fits_together(self) -> NodeType:
        problems = []
        if self.gpus and self.gpu is None:
            what = f"the machine has {self.gpus} of them, and it is not said which"
            problems.append(InvalidValue(what, "gpus with gpu, such as NVIDIA A10G", at=("gpus",)))
        for key in ("gpu", "gpu_memory_gb"):
            if not self.gpus and getattr(self, key) is not None:
                problems.append(InvalidValue("the machine has no GPU", f"{key} with gpus above 0", at=(key,)))
        for key in ("spot_region", "spot_date", "spot_source"):
            if self.spot_per_hour is None and getattr(self, key) is not None:
                problems.append(InvalidValue("there is no spot price", f"{key} with spot_per_hour", at=(key,)))
        for key, of in (("peak_source", "peak_tflops"), ("watts_source", "watts")):
            if getattr(self, of) is None and getattr(self, key) is not None:
                problems.append(
                    InvalidValue("there is nothing that it is the source of", f"{key} with {of}", at=(key,))
                )
        if problems:
            raise InvalidValues(problems)
        return self

    def price(self, *, spot: bool) -> float | None:
        """What an hour costs; None: not known."""
        return self.spot_per_hour if spot else self.on_demand_per_hour

    def origin(self, *, spot: bool) -> str:
        """Where and when the price held, and who said so: ``us-east-1, 2026-01-19, https://…``."""
        place, day, source = self.region, self.date, self.source
        if spot:
            place, day, source = self.spot_region or place, self.spot_date or day, self.spot_source or source
        return f"{place}, {day.isoformat()}, {source}"


class Prices(_Frozen):
    """Types of machines by name."""

    currency: Currency = Field(description="of the prices, unless a type says another")
    node_types: dict[TypeName, NodeType] = Field(min_length=1, description="name → type")

    def currency_of(self, name: str) -> str:
        """The currency of a type's prices.

        Raises:
            KeyError: the list does not know the type.
        """
        return self.node_types[name].currency or self.currency


def load_prices(path: Path | None = None) -> Prices:
    """Read a price list.

    Args:
        path: the file; the shipped list when left out.

    Raises:
        SpecError: the file cannot be read, or its values do not fit; all problems at once.
    """
    return load_yaml(SHIPPED_PRICES if path is None else path, Prices, kind=_KIND)


def merged(own: Prices, over: Prices) -> Prices:
    """The types of both lists. Where both know a name, `own` holds, with all of its entry and nothing of the other's.

    Each type keeps the currency of its prices, so the lists may have different ones.
    """
    types = {
        name: kind.model_copy(update={"currency": prices.currency_of(name)})
        for prices in (over, own)
        for name, kind in prices.node_types.items()
    }
    return Prices.model_construct(currency=own.currency, node_types=types)
