"""Scores of answers by what they mean, as a model of sentence embeddings sees it (the package `sentence-transformers`)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vtblender_nemo.common.errors import ConfigError, MissingDependencyError
from vtblender_nemo.evaluation.metrics.statistics import Statistics, mean_of, package_version

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def embedding_similarity(predictions: Sequence[str], references: Sequence[str], *, embedder: str) -> Statistics:
    """Mean cosine of the embeddings of prediction and reference, times 100; a cosine below 0 counts as 0.

    How much is much depends on the embedder: texts that have nothing in common seldom have 0.

    Args:
        predictions: I texts.
        references: I texts.
        embedder: a folder in the format of sentence-transformers, or a name of the Hugging Face hub.

    Raises:
        MissingDependencyError: the package is not installed.
        ConfigError: there is no such embedder.
    """
    model = _model(embedder)
    texts = list(dict.fromkeys([*predictions, *references]))  # right answers come twice, and short ones often
    vectors = model.encode(texts, normalize_embeddings=True, show_progress_bar=False, convert_to_numpy=True)
    place = {text: number for number, text in enumerate(texts)}
    said, right = (vectors[[place[text] for text in side]] for side in (predictions, references))
    cosines = (said * right).sum(axis=1, dtype=np.float64).clip(0.0, 1.0)
    version = package_version("sentence-transformers")
    return mean_of(cosines.tolist(), f"embedder:{Path(embedder).name}|cosine|version:{version}")


@lru_cache(maxsize=1)
def _model(embedder: str) -> SentenceTransformer:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise MissingDependencyError(
            "sentence embeddings are made by a package that is not installed",
            value="sentence-transformers",
            knob='pip install "vtblender_nemo[embedding]"',
        ) from error
    _check_modules(Path(embedder) / "modules.json")
    try:
        return SentenceTransformer(embedder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the embedder cannot be loaded ({str(error).splitlines()[0]})",
            value=embedder,
            expected="a folder in the format of sentence-transformers, or a name of the Hugging Face hub",
            knob="options.embedder",
        ) from error


def _check_modules(path: Path) -> None:
    """The library imports, and makes, whatever classes a folder's list of modules names."""
    try:
        modules = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
        foreign = [one["type"] for one in modules if not str(one["type"]).startswith("sentence_transformers.")]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ConfigError(
            f"the embedder cannot be loaded ({error})", path=path, expected="a list of modules", knob="options.embedder"
        ) from error
    if foreign:
        raise ConfigError(
            "the embedder names classes of others",
            path=path,
            value=foreign,
            expected="modules of sentence_transformers",
            knob="options.embedder",
        )
