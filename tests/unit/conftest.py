"""Small models, made once for all tests of a session."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.helpers import models


@pytest.fixture(scope="session")
def canary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models.quiet()
    return models.canary_file(tmp_path_factory.mktemp("canary"))


@pytest.fixture(scope="session")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.llm_folder(tmp_path_factory.mktemp("llm"))


@pytest.fixture(scope="session")
def vtblender(canary: Path, gemma: Path) -> Any:
    """A model that tests may read but not change."""
    from vtblender_nemo import VTBlenderModel

    return VTBlenderModel(models.model_config(gemma, canary)).eval()
