"""How much of one text stands in another: by words that carry meaning, numbers told alike in digits and words."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection, Sequence

# Scripts that put no space between words: Thai, Lao, Burmese, Khmer, Chinese and Japanese.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_TOKEN = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")

_SHORTEST_CONTENT = (
    4  # letters; shorter words are mostly articles, pronouns and prepositions in languages without a list here
)
_ENGLISH_FUNCTION_WORDS = frozenset(
    """a about after all also am an and any are as at be because been before being but by can could did do does doing down for
    from had has have having he her here hers him his how i if in into is it its just me more most my no nor not of off on once
    only or other our out over own same she should so some such than that the their them then there these they this those through
    to too under until up very was we were what when where which while who whom whose why will with would yes you your""".split()
)
# What questions say about the recording itself or their own form, and recordings need not say.
_ONLY_ASKED = frozenset(
    """according asked audio clip describe described different discuss discussed kind kinds listen many mention mentioned much
    number often passage recording said say says speaker speakers speaking speech talk talking talks tell text times
    transcript""".split()
)


@functools.cache
def _normalizer(language: str) -> Callable[[str], str]:
    from whisper_normalizer.basic import BasicTextNormalizer
    from whisper_normalizer.english import EnglishTextNormalizer

    return EnglishTextNormalizer() if language == "en" else BasicTextNormalizer()


def words(text: str, language: str) -> list[str]:
    """Words in lower case without punctuation; English numbers become digits, unspaced scripts single characters."""
    return plain_words(_normalizer(language)(text))


def plain_words(text: str) -> list[str]:
    """Words in lower case without punctuation, nothing else changed; unspaced scripts single characters."""
    return _TOKEN.findall(text.lower())


def content_words(found: Sequence[str], language: str) -> list[str]:
    """The words that carry meaning; all of them where none does."""
    if language == "en":
        kept = [word for word in found if word not in _ENGLISH_FUNCTION_WORDS]
    else:
        kept = [word for word in found if len(word) >= _SHORTEST_CONTENT or not _is_short_word(word)]
    return kept or list(found)


def without_asking_words(found: Sequence[str]) -> list[str]:
    """Without words that only a question says, as "speaker", "mentioned" and "many"."""
    return [word for word in found if word not in _ONLY_ASKED]


def share_within(wanted: Sequence[str], present: Collection[str]) -> float:
    """The share of words that stand in `present`, weighted by length, as long words say more; 0 for no words."""
    weights = [max(len(word), _SHORTEST_CONTENT) for word in wanted]
    found = sum(weight for word, weight in zip(wanted, weights, strict=True) if _occurs(word, present))
    return found / sum(weights) if weights else 0.0


def agreement(first: str, second: str, language: str) -> float:
    """How far two answers say the same: the harmonic mean of both shares of content words, 0 to 1."""
    one, other = (content_words(words(text, language), language) for text in (first, second))
    there, back = share_within(one, set(other)), share_within(other, set(one))
    return 2 * there * back / (there + back) if there + back else 0.0


def _is_short_word(word: str) -> bool:
    """Letters that may be a function word: no digits, and no character that is a word of its own."""
    return word.isalpha() and not re.match(f"[{_UNSPACED}]", word)


def _occurs(word: str, present: Collection[str]) -> bool:
    return word in present or any(_same_stem(word, other) for other in present)


def _same_stem(first: str, second: str) -> bool:
    """Inflections of one word, roughly: the longer goes on from what is more than half of it, or has an s at its end."""
    if not (first.isalpha() and second.isalpha()):
        return False
    longer, shorter = (first, second) if len(first) >= len(second) else (second, first)
    if longer in (shorter + "s", shorter + "es"):
        return True
    common = next((n for n, (a, b) in enumerate(zip(longer, shorter, strict=False)) if a != b), len(shorter))
    return common >= _SHORTEST_CONTENT and common > 0.55 * len(longer)
