"""What a voice tells beside its words: rows that teach to hear it, and a test set.

The blend of `conf/vtb_tiny.yaml` leaves these rows out. Answers follow from the voice that spoke. A test speaker is
one that no training hears; the accents asked for are those of training, as nobody could name another.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from typing import Any

from vtblender_nemo.tiny.items import Item
from vtblender_nemo.tiny.set_speech import SetMaker
from vtblender_nemo.tiny.speech import Spoken

KINDS = ("sex", "accent", "who_said_what")
SEXES = ("man", "woman")
ACCENTS = {
    "en-us": "American",
    "en-gb": "British",
    "en-gb-scotland": "Scottish",
    "en-gb-x-gbclan": "Lancastrian",
    "en-us-nyc": "New York",
    "en-029": "Caribbean",
    "en-gb-x-gbcwmd": "West Midlands",
    "en-gb-x-rp": "Received",
}
"""English names of espeak-ng's English accents."""

WORDINGS = {
    "sex": ("Is the speaker a man or a woman?", "Who speaks, a man or a woman?"),
    "accent": ("Which accent does the speaker have?", "Which accent is that?"),
    "who_said_what": ("What does the {sex} say?", "Write down what the {sex} says."),
}


def sex_of(spoken: Spoken) -> str | None:
    """`man` or `woman`, as espeak-ng's variants m1, m2, ... and f1, f2, ... have it; None for other voices."""
    found = re.fullmatch(r"([mf])\d+", spoken.voice.variant)
    return SEXES["mf".index(found[1])] if found else None


def accent_of(spoken: Spoken, heard: Sequence[str] = tuple(ACCENTS)) -> str | None:
    """The name of the accent; None for voices of other engines, and for accents that were not heard."""
    return ACCENTS.get(spoken.voice.accent) if spoken.voice.accent in heard else None


def voice_rows(spoken: Sequence[Spoken], count: int, seed: int) -> list[Item]:
    """Training rows about the voices of training speech; without espeak-ng's voices, none.

    Args:
        spoken: training speech.
        count: of rows, as many of every kind, and of every answer within a kind.
        seed: draws.
    """
    return _about_voices(spoken, count, random.Random(f"voice-rows-{seed}"), "voices")


def voice_items(maker: SetMaker, tests: Sequence[Spoken], heard: Sequence[str], count: int) -> list[Item]:
    """Test items about the voices of test speech; without espeak-ng's voices, none.

    Args:
        maker: draws.
        tests: speech of the tests.
        heard: accents that training hears.
        count: of items.
    """
    stated = [spoken for spoken in tests if not spoken.text.endswith("?")]
    return _about_voices(stated, count, maker.rng, maker.name, heard)


def _about_voices(
    spoken: Sequence[Spoken], count: int, rng: random.Random, task: str, heard: Sequence[str] = tuple(ACCENTS)
) -> list[Item]:
    by_sex = _by_label(spoken, sex_of)
    by_accent = _by_label(spoken, lambda one: accent_of(one, heard))
    kinds = [kind for kind in KINDS if len(by_accent if kind == "accent" else by_sex) > 1]
    items = []
    for index in range(count if kinds else 0):
        kind, number = kinds[index % len(kinds)], index // len(kinds)
        wording = rng.choice(WORDINGS[kind])
        labels = by_accent if kind == "accent" else by_sex
        label = list(labels)[number % len(labels)]
        one = rng.choice(labels[label])
        if kind == "who_said_what":
            (other,) = (rng.choice(of_label) for name, of_label in labels.items() if name != label)
            audios, answer = rng.sample((one, other), 2), one.text
        else:
            audios, answer = [one], f"A {label}" if kind == "sex" else label
        custom: dict[str, Any] = {"kind": kind, "label": label}
        parts: tuple[str | Spoken, ...] = (*audios, wording.format(sex=label))
        items.append(Item(f"{task}_{index:05d}", task, parts, answer, kind, custom=custom))
    return items


def _by_label(spoken: Sequence[Spoken], label_of: Callable[[Spoken], str | None]) -> dict[str, list[Spoken]]:
    found: dict[str, list[Spoken]] = {}
    for one in spoken:
        if (label := label_of(one)) is not None:
            found.setdefault(label, []).append(one)
    return {label: found[label] for label in sorted(found)}
