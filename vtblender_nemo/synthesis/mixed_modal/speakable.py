"""Whether a text can be spoken at all; what cannot is refused by name rather than mumbled."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field

from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.synthesis.languages import other_language
from vtblender_nemo.synthesis.mixed_modal.text_normalization import Normalizer, check_normalizer
from vtblender_nemo.synthesis.work import Refused


@dataclass
class SpeakableConfig:
    """What may be spoken, and how it is written out for speaking."""

    normalizer: str = "num2words"
    """Who writes numbers and abbreviations out: `num2words` with rules of our own, `nemo` (NeMo text processing, as in the
    paper), or `none`."""
    scripts: list[str] = field(default_factory=lambda: ["LATIN"])
    """Alphabets that the voices read, as the first word of their letters' Unicode names: LATIN, CYRILLIC, GREEK, CJK, ..."""
    max_characters: int = 600
    """Longest text of one speech segment; 600 characters are about the 40 s that the paper trains on at most."""
    check_language: bool = True
    """Refuses what is in another language than the voices speak."""
    min_language_probability: float = 0.8
    """Another language is only told when as sure as this, above 0 to 1; a short text is looked at together with its turn."""

    def check(self, place: str) -> None:
        """
        Raises:
            ConfigError: values out of range.
        """
        check_normalizer(self.normalizer)
        if not self.scripts:
            raise ConfigError("no alphabet is given", value=[], expected="[LATIN]", knob=f"{place}.scripts")
        if self.max_characters < 1:
            raise ConfigError(
                "too few", value=self.max_characters, expected="at least 1", knob=f"{place}.max_characters"
            )
        if not 0 < self.min_language_probability <= 1:
            raise ConfigError(
                "no probability",
                value=self.min_language_probability,
                expected="more than 0, at most 1",
                knob=f"{place}.min_language_probability",
            )


_CODE = re.compile(
    r"`|"
    r"^\s*(?:def\s+\w+\s*\(|class\s+\w+\s*[:({]|import\s+\w+$|from\s+\w+\s+import\s|#include\b|#!/|"
    r"(?:(?:public|private|static)\s+)+(?:void|int|bool|boolean|class|final|float|double|String)\b|"
    r"(?:const|let|var)\s+\w+\s*=|(?:int|float|double|void)\s+\w+\s*[=(;]|[$>]\s+\w+)|"
    r"(?i:\bselect\s.+\sfrom\s+\w+\s+(?:where|limit|order|group|join|;))|"
    r"</?[A-Za-z][^<>]*>|\w\(\)|[{}]\s*$|[)\]\"'];\s*$|[=!]=|[-=]>|\|\||&&|\b[a-z]+_\w+|\b\w+_[a-z]\w*",
    re.MULTILINE,
)
_URL = re.compile(
    r"\b(?:https?|ftp)://|\bwww\.|[\w.+-]+@[\w-]+\.\w+|\b[\w-]{2,}\.(?:com|org|net|edu|gov|io|dev|ai|uk|de|eu)\b",
    re.IGNORECASE,
)
_MATHS = re.compile(
    r"\$[^$\n]*[\\^_={}][^$\n]*\$|\\[A-Za-z]+|\\[()\[\]]|\w\s*\^\s*[\w({-]|[=≤≥≠≈≡√∑∏∫∂∞π±×÷∈∉∀∃∪∩⊂→⇒⇔²³½¼¾]|"
    r"\d\s*[*+]\s*\d|\d\s+/\s+\d|\d\s+-\s+\d|\b[a-zA-Z]\s*[+*]\s*[a-zA-Z0-9]\b|\d\s*[<>]\s*\d|"
    r"\w\|\w"
)
_TABLE = re.compile(r"^\s*\||\s\|\s|\|\s*$", re.MULTILINE)
_SIGNS = (("code", _CODE), ("table", _TABLE), ("url", _URL), ("maths", _MATHS))

_PUNCTUATION = frozenset(".,;:!?'\"()-")
_UNSPOKEN_CATEGORIES = frozenset(("Zs", "Mn", "Mc"))


def speakable(
    text: str, normalize: Normalizer, config: SpeakableConfig, language: str | None = None, context: str = ""
) -> str | Refused:
    """A text as it will be spoken, or why it cannot be.

    Args:
        text: as it was written.
        normalize: writes numbers, abbreviations and the like out.
        config: alphabets, length, and how sure another language has to be.
        language: of the voices, two-letter code; None: any will do.
        context: the turn that the text stands in.

    Returns:
        The normalised text, or a refusal: `code`, `table`, `url`, `maths` or `other_language` (found in the text as written),
        `empty_text`, `unknown_symbols`, `long_text` (after normalisation).

    Raises:
        MissingDependencyError: what tells languages is not installed.
    """
    for reason, sign in _SIGNS:
        if (found := sign.search(text)) is not None:
            return Refused(reason, f"{found[0].strip()!r} in {_shown(text)}")
    if language is not None and config.check_language:
        other = other_language(text, language, config.min_language_probability, context)
        if other is not None:
            return Refused("other_language", f"{other[0]} ({other[1]:.2f}) for {language}: {_shown(text)}")
    spoken = normalize(text)
    unknown = "".join(dict.fromkeys(letter for letter in spoken if not _known(letter, tuple(config.scripts))))
    if unknown:
        return Refused("unknown_symbols", f"{unknown!r} in {_shown(text)}")
    if not any(letter.isalnum() for letter in spoken):
        return Refused("empty_text", _shown(text))
    if len(spoken) > config.max_characters:
        return Refused("long_text", f"{len(spoken)} characters, at most {config.max_characters}")
    return spoken


def _shown(text: str) -> str:
    return repr(text if len(text) <= 160 else text[:157] + "...")


@functools.lru_cache(maxsize=4096)
def _known(letter: str, scripts: Sequence[str]) -> bool:
    """Whether engines read a character: letters of the scripts, decimal digits, space and common punctuation."""
    if letter in _PUNCTUATION or letter.isspace() or unicodedata.category(letter) in _UNSPOKEN_CATEGORIES:
        return True
    if letter.isdecimal():
        return letter.isascii()
    return letter.isalpha() and unicodedata.name(letter, "").startswith(tuple(scripts))
