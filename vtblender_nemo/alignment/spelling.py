"""Words as a recogniser writes them: in its letters, without punctuation, which nobody says."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator
from typing import Any

from vtblender_nemo.common.errors import ConfigError

_APOSTROPHES = "'’"


class Spelling:
    """Respells words for one recogniser.

    Args:
        knows: whether the recogniser's vocabulary has all letters of a text.
    """

    def __init__(self, knows: Callable[[str], bool]) -> None:
        self._knows = knows

    def of(self, word: str) -> list[str] | None:
        """A word of a transcript as one or more words of the recogniser: `Ice-cream,` as `ice`, `cream`.

        Letters are kept as they are where the recogniser knows them so, otherwise put in lower or in upper case, without their
        accents, or without an apostrophe.

        Returns:
            The words; None where the recogniser has no letters for one of them, such as digits, or where a sign is said, as in
            `R&B`.
        """
        if any(map(_is_said, word)):
            return None
        known = [next(filter(self._knows, _spellings(part)), None) for part in _parts(word)]
        return [part for part in known if part is not None] if known and None not in known else None


def _is_said(character: str) -> bool:
    """Whether a character is a sign that is read out, as & and €."""
    return character in "&%@#" or unicodedata.category(character)[0] == "S"


def _parts(word: str) -> list[str]:
    """Runs of letters, marks and digits, with apostrophes inside them."""
    kept = [
        character if unicodedata.category(character)[0] in "LMN" or character in _APOSTROPHES else " "
        for character in unicodedata.normalize("NFC", word)
    ]
    parts = (part.strip(_APOSTROPHES) for part in "".join(kept).split())
    return [part for part in parts if part]


def _spellings(part: str) -> Iterator[str]:
    for text in (part, part.replace("’", "'"), part.replace("’", "").replace("'", "")):
        yield from (text, text.lower(), text.upper())
        plain = "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn")
        yield from (plain, plain.lower(), plain.upper())


def spelling_of(model: Any) -> Spelling:
    """How a recogniser of NeMo spells.

    Raises:
        ConfigError: a vocabulary that depends on the language of the speech, or none.
    """
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None:
        vocabulary = getattr(getattr(model, "decoder", None), "vocabulary", None)
        if vocabulary is None or " " not in vocabulary:
            raise _unusable(model, "letters and a space, or sentence pieces")
        letters = frozenset(vocabulary)
        return Spelling(lambda text: letters.issuperset(text))
    try:
        tokenizer.text_to_tokens("a")
    except TypeError:  # one that wants to be told the language of every text
        raise _unusable(model, "one tokenizer for all of its languages") from None
    pieces = frozenset(tokenizer.vocab)
    return Spelling(lambda text: pieces.issuperset(tokenizer.text_to_tokens(text)))


def _unusable(model: Any, expected: str) -> ConfigError:
    return ConfigError(
        "the recogniser's vocabulary cannot be used", value=type(model).__name__, expected=expected, knob="--model"
    )
