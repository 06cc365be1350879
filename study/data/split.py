"""Which scenes train, validate and test, and what the unlabelled target domain is. No torch here."""

from __future__ import annotations

from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from study.errors import ConfigurationError

__all__ = ["Split", "SplitScenes"]


class Split(BaseModel):
    """The data protocol (Section V-A): scenes in time order, the same positions in all of them.

    Attributes:
        train_scenes, validation_scenes, test_scenes: numbers of scenes, taken in this order from the first scene on.
        target: scenes whose unlabelled samples are the target domain: ``test`` (transductive, as in the paper) or
            ``validation`` (the test scenes stay unseen).
        data_seed: seed of what is drawn per channel realization (the number of paths); the same for all trials, so
            that methods are compared on the same channels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    train_scenes: int = Field(default=50, ge=1)
    validation_scenes: int = Field(default=20, ge=1)
    test_scenes: int = Field(default=50, ge=1)
    target: Literal["test", "validation"] = "test"
    data_seed: int = Field(default=0, ge=0, lt=2**32)

    def scenes(self, available: int, site: str = "the site") -> SplitScenes:
        """The scene ranges.

        Raises:
            ConfigurationError: the site has fewer scenes than the split needs.
        """
        first = self.train_scenes
        second = first + self.validation_scenes
        third = second + self.test_scenes
        if third > available:
            raise ConfigurationError(
                f"the split needs {third} scenes, but {site} has {available}",
                where="split.train_scenes + split.validation_scenes + split.test_scenes",
                allowed=f"a sum of at most {available}",
                fix="ask for fewer scenes or choose a site with more",
            )
        return SplitScenes(range(first), range(first, second), range(second, third))

    def describe(self) -> str:
        """One line for captions."""
        return (
            f"scenes in time order: {self.train_scenes} train, {self.validation_scenes} validation, "
            f"{self.test_scenes} test; positions shared; target domain: {self.target} scenes"
        )


class SplitScenes(NamedTuple):
    """Scene numbers of each part; the parts never overlap."""

    train: range
    validation: range
    test: range
