"""What holds for every test: few threads, fixed seeds, no network."""

from __future__ import annotations

import os

# Before torch is imported: it reads these once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "disabled"
os.environ["MPLBACKEND"] = "Agg"

import contextlib
import logging
import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
with contextlib.suppress(ImportError):
    import nltk  # noqa: F401  (prints to what is standard error when it is loaded: in a test, that is closed behind it)


@pytest.fixture(autouse=True)
def _seeds() -> None:
    """The same random numbers in every test, in whatever order tests run."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (libraries draw from it)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _hear_every_level(caplog: pytest.LogCaptureFixture) -> None:
    """NeMo's logger sets the levels of pytest's handlers with its own, which would outlast the test."""
    caplog.handler.setLevel(logging.NOTSET)


@pytest.fixture(autouse=True)
def _close_log_files() -> Iterator[None]:
    """NeMo's logger keeps the log file of every training, and cannot write once that test's folder is gone."""
    yield
    logger = logging.getLogger("nemo_logger")
    for handler in [handler for handler in logger.handlers if isinstance(handler, logging.FileHandler)]:
        logger.removeHandler(handler)
        handler.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `gpu` skip where there is none."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device and a CUDA build of torch"))
