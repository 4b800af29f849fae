"""Languages by their codes, and which one a text is in, told by py3langid."""

from __future__ import annotations

import math
from typing import Any

from vtblender_nemo.common.errors import MissingDependencyError
from vtblender_nemo.data.prompts import language_name


def language_code(value: Any) -> str:
    """The ISO 639-1 code of a language: `de` for `de`, `de-DE` and `German`.

    Raises:
        DataError: no language that is known.
    """
    from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

    name = language_name(str(value))
    return TO_LANGUAGE_CODE[name.lower()]


def identify_language(text: str) -> tuple[str, float]:
    """The likeliest language of a text, an ISO 639-1 code, and its probability among all that are known.

    Raises:
        MissingDependencyError: without the package `py3langid`.
    """
    return _ranked(text)[0]


def other_language(text: str, language: str, min_probability: float, context: str = "") -> tuple[str, float] | None:
    """The language of a text that is surely not in the one it should be in.

    Args:
        text: may be short, so that nothing is sure about it.
        language: the one that is wanted; nothing is told where py3langid does not know it.
        min_probability: what is sure.
        context: where the text was taken from; tells where the text alone is neither sure nor likeliest in the wanted language.

    Returns:
        An ISO 639-1 code and its probability; None for what is, or may be, in the language.

    Raises:
        MissingDependencyError: without the package `py3langid`.
    """
    ranked = _ranked(text)
    found, probability = ranked[0]
    if found == language or language not in dict(ranked):
        return None
    if probability < min_probability and context:
        found, probability = identify_language(context)
    return (found, probability) if found != language and probability >= min_probability else None


def _ranked(text: str) -> list[tuple[str, float]]:
    """All languages that are known and their probabilities, the likeliest first."""
    try:
        import py3langid
    except ImportError as error:
        raise MissingDependencyError(
            "languages are told by the package py3langid", knob='pip install "vtblender_nemo[synthesis]"'
        ) from error
    ranked = py3langid.rank(text)  # log probabilities up to a constant, the likeliest first
    best = ranked[0][1]
    # Naive Bayes takes the bytes for independent and is far too sure; the library's own calibration is the root of their number.
    temperature = math.sqrt(len(text.encode()) or 1)
    shares = [math.exp((score - best) / temperature) for _, score in ranked]
    return [(str(language), share / sum(shares)) for (language, _), share in zip(ranked, shares, strict=True)]
