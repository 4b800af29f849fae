"""When the words of a transcript are said: alignments, held against the text that they are of.

An alignment is a list of words with the seconds at which their speech starts and ends, counted from the beginning of the row's
own audio (its `offset`, if it has one). It may come from any aligner, so its words are compared with the transcript's by their
letters and digits alone, without case and punctuation.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

from vtblender_nemo.common.audio import LONGEST_SECS
from vtblender_nemo.common.errors import DataError

FIELD = "alignment"
"""The field of a row that holds its alignment."""

KNOB = "the row's alignment, or interleave"

_DIGITS = 5  # of seconds: a sample at 48 kHz is two of the last

# Words may end so much after the audio or after the next word's start: times are rounded.
_AFTER_END_SECS, _OVERLAP_SECS = 0.1, 0.001

# First and last code points of scripts that put no space between words.
_WITHOUT_SPACES = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x3040, 0x30FF),  # Hiragana, Katakana
    (0x3400, 0x4DBF),  # CJK
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)


@dataclass(frozen=True)
class WordTime:
    """A word of an alignment and the seconds of its speech; None where the aligner could not tell."""

    word: str
    start_secs: float | None
    end_secs: float | None

    @property
    def is_timed(self) -> bool:
        return self.start_secs is not None and self.end_secs is not None


@dataclass(frozen=True)
class Unit:
    """The smallest part of a transcript whose speech can be cut out of a recording: in general, a word.

    Attributes:
        text: as it stands in the transcript, with punctuation and the space before it.
        start_secs: where its speech starts, from the recording's beginning.
        end_secs: where it ends; no later than the next unit's start.
    """

    text: str
    start_secs: float
    end_secs: float


def read_alignment(entries: Any) -> list[WordTime]:
    """The words of an alignment as rows hold it; marks of silence and noise, as `<eps>` or `[noise]`, are left out.

    Args:
        entries: `[[word, start, end], ...]`, or mappings with `word` (or `symbol`), `start`, and `end` or `duration`; seconds.
            Both times may be null: the word is said, but nobody knows when.

    Raises:
        DataError: another shape, or times that are none.
    """
    if not isinstance(entries, Sequence) or isinstance(entries, str):
        raise DataError("alignment is no list", value=entries, expected="[[word, start, end], ...]", knob=KNOB)
    read = (_entry(entry) for entry in entries)
    return [time for time in read if time.word.strip() and not _is_mark(time.word.strip())]


def as_field(words: Iterable[WordTime], later_secs: float = 0.0) -> list[list[Any]]:
    """An alignment as rows hold it, every time moved by so many seconds."""

    def moved(secs: float | None) -> float | None:
        return None if secs is None else round(secs + later_secs, _DIGITS)

    return [[word.word, moved(word.start_secs), moved(word.end_secs)] for word in words]


def fitting_field(transcript: str, words: Sequence[WordTime] | None, duration_secs: float) -> list[list[Any]] | None:
    """The alignment of a row with this transcript; None where there is none, or where other words are said than are written.

    So it is where numbers and abbreviations were written out before they were spoken.
    """
    if words is None:
        return None
    try:
        units_of(transcript, read_alignment(as_field(words)), duration_secs)
    except DataError:
        return None
    return as_field(words)


def _entry(entry: Any) -> WordTime:
    if isinstance(entry, Mapping):
        word, start, end = entry.get("word", entry.get("symbol")), entry.get("start"), entry.get("end")
        if end is None and start is not None and entry.get("duration") is not None:
            end = _secs(start, entry) + _secs(entry["duration"], entry)
    elif isinstance(entry, Sequence) and not isinstance(entry, str) and len(entry) == 3:
        word, start, end = entry
    else:
        raise DataError(
            "word of an alignment has the wrong shape", value=entry, expected="[word, start, end]", knob=KNOB
        )
    if not isinstance(word, str):
        raise DataError("word of an alignment is no text", value=entry, expected="[word, start, end]", knob=KNOB)
    if start is None and end is None:
        return WordTime(word, None, None)
    return WordTime(word, _secs(start, entry), _secs(end, entry))


def _secs(value: Any, entry: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LONGEST_SECS:
        raise DataError("time of an aligned word is no number", value=entry, expected="seconds, or null", knob=KNOB)
    return float(value)


def _is_mark(word: str) -> bool:
    return len(word) > 1 and word[0] in "<[" and word[-1] in ">]"


def units_of(transcript: str, words: Sequence[WordTime], duration_secs: float) -> list[Unit]:
    """Cuts a transcript into the smallest parts whose speech can be told apart.

    A part ends where a word ends in the transcript and in the alignment, and the times on both sides are known and do not
    overlap. So words without times form one part with their neighbours, as nobody knows where between those they are said; so
    do words that the aligner has joined, or that overlap. Where a script has no spaces every character ends a word, and the
    alignment decides which of them can be told apart.

    Args:
        transcript: of the whole audio.
        words: its alignment.
        duration_secs: of the audio.

    Returns:
        Parts in order; their texts make up the transcript.

    Raises:
        DataError: a transcript without words, an alignment of other words, or times that are not in order or not in the audio.
    """
    said = list(_letters_of(transcript))
    if not said:
        raise DataError(
            "transcript has no words to be aligned", value=transcript, expected="letters or digits", knob="text"
        )
    owners = _owners(transcript, said, words)
    _check_times(words, duration_secs)
    apart = _apart(words)
    cuts = [
        place
        for place in range(1, len(said))
        if owners[place - 1] != owners[place]
        and apart[owners[place]]
        and _ends_word(transcript, said[place - 1][1], said[place][1])
    ]
    ends = [_text_end(transcript, said[cut - 1][1], said[cut][1]) for cut in cuts]
    texts = [transcript[start:end] for start, end in pairwise([0, *ends, len(transcript)])]
    # Signs such as & are said too: they have times, no letters, and belong to the word before.
    firsts = [0, *(owners[cut] for cut in cuts)]
    spans = [words[first:last] for first, last in pairwise([*firsts, len(words)])]
    return [_unit(text, span, duration_secs) for text, span in zip(texts, spans, strict=True)]


def _unit(text: str, words: Sequence[WordTime], duration_secs: float) -> Unit:
    """A unit of these words; without the time of its first or last word it is at the recording's beginning or end."""
    start = 0.0 if words[0].start_secs is None else min(words[0].start_secs, duration_secs)
    end = duration_secs
    if words[-1].end_secs is not None:
        end = min(duration_secs, max(word.end_secs for word in words if word.end_secs is not None))
    return Unit(text, start, max(start, end))


def split_words(transcript: str) -> list[str]:
    """The words of a transcript that have letters or digits, with the punctuation that stands at them."""
    said = list(_letters_of(transcript))
    ends = [
        _text_end(transcript, before, after)
        for (_, before), (_, after) in pairwise(said)
        if _ends_word(transcript, before, after)
    ]
    return [transcript[start:end].strip() for start, end in pairwise([0, *ends, len(transcript)])] if said else []


def has_spaces(transcript: str) -> bool:
    """Whether a transcript is written in scripts that put spaces between words."""
    return not any(_without_spaces(character) for character in transcript)


@lru_cache(maxsize=4096)
def _letter(character: str) -> str:
    """What is compared of a character: a letter with its marks, or a digit; without case, ligatures and full-width forms."""
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", character).casefold())
    return "".join(one for one in plain if unicodedata.category(one)[0] in "LMN")


def _letters(word: str) -> str:
    return "".join(map(_letter, word))


def _letters_of(transcript: str) -> Iterator[tuple[str, int]]:
    """Every letter that is compared, and the character of the transcript that it comes from."""
    for place, character in enumerate(transcript):
        for letter in _letter(character):
            yield letter, place


def _owners(transcript: str, said: Sequence[tuple[str, int]], words: Sequence[WordTime]) -> list[int]:
    """The number of the aligned word of every letter."""
    owners: list[int] = []
    aligned: list[str] = []
    for number, word in enumerate(words):
        letters = _letters(word.word)
        aligned += letters
        owners += [number] * len(letters)
    if aligned != [letter for letter, _ in said]:
        raise _other_words(transcript, words)
    return owners


def _other_words(transcript: str, words: Sequence[WordTime]) -> DataError:
    wanted, found = split_words(transcript), [word.word for word in words]
    place = next(
        (n for n, pair in enumerate(zip(wanted, found, strict=False)) if _letters(pair[0]) != _letters(pair[1])),
        min(len(wanted), len(found)),
    )
    return DataError(
        "alignment is of other words than the transcript",
        value=" ".join(found[max(0, place - 1) : place + 3]) or "nothing",
        expected=" ".join(wanted[max(0, place - 1) : place + 3]) or "nothing more",
        knob=KNOB,
    )


def _check_times(words: Sequence[WordTime], duration_secs: float) -> None:
    latest = 0.0
    for word in words:
        if word.start_secs is None or word.end_secs is None:
            continue
        if not latest <= word.start_secs <= word.end_secs <= duration_secs + _AFTER_END_SECS:
            raise DataError(
                "times of an alignment are not in order, or not in the audio",
                value=[word.word, word.start_secs, word.end_secs],
                expected=f"{latest:.3f} s or later, to {duration_secs:.3f} s",
                knob=KNOB,
            )
        latest = word.start_secs


def _apart(words: Sequence[WordTime]) -> list[bool]:
    """Whether every word starts after all before it have ended, and it is known when."""
    found, latest_end, known = [], 0.0, False
    for word in words:
        found.append(known and word.start_secs is not None and latest_end <= word.start_secs + _OVERLAP_SECS)
        known = word.end_secs is not None
        latest_end = max(latest_end, word.end_secs or 0.0)
    return found


def _ends_word(transcript: str, before: int, after: int) -> bool:
    """Whether a word ends between two characters that follow each other but for space and punctuation."""
    if before == after:
        return False
    if any(character.isspace() for character in transcript[before + 1 : after]):
        return True
    pair = transcript[before], transcript[after]
    return any(map(_without_spaces, pair)) and not unicodedata.category(pair[1]).startswith("M")


def _text_end(transcript: str, before: int, after: int) -> int:
    """Where one word's text ends between two letters: at the last space, or before the marks that open the next word."""
    spaces = [place for place in range(before + 1, after) if transcript[place].isspace()]
    if spaces:
        return spaces[-1]
    while after > before + 1 and unicodedata.category(transcript[after - 1]) in ("Ps", "Pi"):
        after -= 1
    return after


def _without_spaces(character: str) -> bool:
    return any(first <= ord(character) <= last for first, last in _WITHOUT_SPACES)
