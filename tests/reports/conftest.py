from __future__ import annotations

from pathlib import Path

import pytest
from store_factory import Store, full_study


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A finished study; tests only read it."""
    return full_study(tmp_path_factory.mktemp("finished") / "study")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "study"
