"""A small blend of all four sources, and small models, for whole trainings."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.small_run import small_config, write_bases, write_blend


@pytest.fixture(scope="session")
def blend(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """An `input_cfg` over rows of every source; the speech is noise."""
    return write_blend(tmp_path_factory.mktemp("blend"))


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny LLM's folder and a tiny Canary's file."""
    return write_bases(tmp_path_factory.mktemp("bases"))


@pytest.fixture
def make_config(bases: tuple[Path, Path], blend: list[dict[str, Any]], tmp_path: Path) -> Any:
    """`conf/base.yaml` with small models and the small blend; takes overrides."""
    return partial(small_config, bases, blend, tmp_path / "run")
