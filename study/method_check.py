"""A user's method held to the contract, for ``study check-method``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.console import Console
from rich.text import Text

from models.contract import LAWS, Finding, check_contract
from models.methods import NetworkShape
from models.settings import BACKBONES, InputTooSmallError
from study.errors import ConfigurationError, nearest
from study.methods import describe_method, import_method, search_path
from study.spec.trial import UserMethod

__all__ = ["MethodCheck", "check_user_method", "show_check"]


@dataclass(frozen=True)
class MethodCheck:
    """What was found about a class.

    Attributes:
        path: its import path.
        method: what a study knows about it.
        findings: a finding for each law and each form of its branches.
    """

    path: str
    method: UserMethod
    findings: list[Finding]

    @property
    def kept(self) -> bool:
        """Whether all laws hold."""
        return all(finding.violation is None for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "path": self.path,
            "method": self.method.model_dump(mode="json"),
            "kept": self.kept,
            "findings": [asdict(finding) for finding in self.findings],
        }


def check_user_method(path: str, preset: str, fingerprint: tuple[int, int, int], conditions: int) -> MethodCheck:
    """Import a class from the current folder or an installed package, and hold it to every law.

    Args:
        path: import path, ``package.module:Class``.
        preset: backbone preset.
        fingerprint: (channels, rows, columns).
        conditions: number of propagation conditions.

    Raises:
        SpecError: the class cannot be imported, or its settings cannot be used.
        ConfigurationError: an unknown preset, or a fingerprint too small for it.
    """
    if preset not in BACKBONES:
        raise ConfigurationError(
            f"unknown backbone {preset!r}{nearest(preset, BACKBONES)}", where="--preset", allowed=", ".join(BACKBONES)
        )
    backbone = BACKBONES[preset]
    try:
        backbone.features(*fingerprint[1:])
    except InputTooSmallError as error:
        raise ConfigurationError(
            str(error), where="--antennas, --subcarriers", allowed=f"at least {backbone.smallest} each"
        ) from None
    kind = import_method(path, search_path())
    method = describe_method(path, kind)
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a trial process; small networks are no faster with more
    try:
        findings = check_contract(kind, NetworkShape(fingerprint, conditions, backbone=backbone))
    finally:
        torch.set_num_threads(before)
    return MethodCheck(path, method, findings)


def show_check(console: Console, check: MethodCheck) -> None:
    """A line for each law, under the form of the method that it was held to."""
    method = check.method
    settings = ", ".join(f"objective.{name} {value!r}" for name, value in method.objective.items())
    console.print(
        f"{check.path}: {method.name}, predicts {'position and condition' if method.joint else 'position'}, "
        f"{'reads' if method.adapts else 'does not read'} the target domain"
    )
    console.print(f"settings: {settings or 'none'}")
    for branches in dict.fromkeys(finding.branches for finding in check.findings):
        found = [finding for finding in check.findings if finding.branches == branches]
        if method.twin:
            console.print(f"branches {branches}")
        for finding in found:
            if finding.violation is None:
                console.print(f"  ok        {finding.law}")
            else:
                console.print(Text(f"  violated  {finding.law}: {finding.violation}", style="red"))
        if len(found) < len(LAWS):
            console.print(f"  {len(LAWS) - len(found)} more laws need a method that can be built")
    violated = sum(finding.violation is not None for finding in check.findings)
    console.print(f"{violated} violated" if violated else "all laws hold")
