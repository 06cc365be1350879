"""The system configuration: what is sent, received and shown to the network. No torch here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from study.errors import ConfigurationError

__all__ = [
    "ExcessDelay",
    "Fingerprint",
    "Normalization",
    "Semantics",
    "SystemConfiguration",
    "UniformPaths",
    "condition_names",
    "fingerprint_shape",
]

Fingerprint = Literal["adp", "rcsi", "rcsi_stacked", "scm"]
Normalization = Literal["antenna", "subcarrier", "matrix", "none"]
Semantics = Literal["ternary", "binary", "none"]
ExcessDelay = Literal["wrap", "drop"]


class UniformPaths(BaseModel):
    """A number of paths drawn anew for each channel realization, P ~ U{low … high} (Section V-B).

    Attributes:
        uniform: [low, high], both included.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    uniform: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]

    @field_validator("uniform")
    @classmethod
    def _ordered(cls, value: tuple[int, int]) -> tuple[int, int]:
        if value[0] > value[1]:
            raise ValueError(f"the lower bound {value[0]} is above the upper bound {value[1]}")
        return value


class SystemConfiguration(BaseModel):
    """One communication system (Table I); the carrier is the site's.

    Attributes:
        bandwidth_mhz: bandwidth B in MHz.
        subcarriers: number of subcarriers N; delays are seen modulo N / B.
        antennas: (My, Mz) of the base station's half-wavelength planar array.
        paths: how many of the strongest paths the channel has: a number, or ``{uniform: [low, high]}``, drawn anew for
            each channel realization.
        fingerprint: adp (Eqs. 5, 6), rcsi (|H|), rcsi_stacked (Re, Im) or scm (sample covariance).
        normalization: per sample; antenna (each row's maximum is 1), subcarrier, matrix or none.
        semantics: propagation conditions to tell apart: ternary (LOS, DNLOS, SNLOS), binary (LOS, NLOS) or none.
        excess_delay: paths later than N / B fold back (wrap) or are left out (drop).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    bandwidth_mhz: float = Field(default=100.0, gt=0, le=10_000)
    subcarriers: int = Field(default=64, ge=2, le=4096)
    antennas: tuple[Annotated[int, Field(ge=1, le=256)], Annotated[int, Field(ge=1, le=256)]] = (8, 8)
    paths: Annotated[int, Field(ge=1)] | UniformPaths = 25
    fingerprint: Fingerprint = "adp"
    normalization: Normalization = "antenna"
    semantics: Semantics = "ternary"
    excess_delay: ExcessDelay = "wrap"

    def check_paths(self, available: int, site: str) -> None:
        """Whether a site keeps as many paths as this configuration asks for.

        Raises:
            ConfigurationError: it keeps fewer.
        """
        wanted = self.paths.uniform[1] if isinstance(self.paths, UniformPaths) else self.paths
        if wanted > available:
            raise ConfigurationError(
                f"the configuration asks for {wanted} paths, but {site} keeps at most {available}",
                where="system.paths",
                allowed=f"1 … {available}",
                fix="ask for fewer paths or choose a site with more",
            )


def condition_names(semantics: Semantics) -> tuple[str, ...]:
    """The classes that a network has to tell apart, in the order of their numbers."""
    return {"ternary": ("LOS", "DNLOS", "SNLOS"), "binary": ("LOS", "NLOS"), "none": ()}[semantics]


def fingerprint_shape(system: SystemConfiguration) -> tuple[int, int, int]:
    """(channels, rows, columns) of the network's input."""
    elements = system.antennas[0] * system.antennas[1]
    columns = elements if system.fingerprint == "scm" else system.subcarriers
    return (1 if system.fingerprint in ("adp", "rcsi") else 2, elements, columns)
