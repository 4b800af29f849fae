"""Strings of spoken digits, for worlds that are to hear real ones."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from vtblender_nemo.tiny import lexicon
from vtblender_nemo.tiny.config import VoicesConfig
from vtblender_nemo.tiny.grammar import DigitsFact
from vtblender_nemo.tiny.rows import audio_fields
from vtblender_nemo.tiny.speech import Alignments, Piece, Spoken
from vtblender_nemo.tiny.splits import HeldOut
from vtblender_nemo.tiny.voices import AnyVoice, another_pace, training_voice

LENGTHS = (2, 3, 4, 5, 6, 7)
_ONE_BY_ONE_SHARE = 0.6
_PAUSE_SECS = ((0.0, 0.08), (0.05, 0.25), (0.1, 0.4))  # of a hasty, a calm and a slow speaker
_LEVEL_DB = (-4.0, 4.0)
# Words that were recorded one by one and joined have noise of their own, and none between them. Features are normalised by
# their mean over an utterance, so that silence between noisy words shifts them all.
_NOISY_SHARE, _SNR_DB, _NOISE_COLOURS = 0.7, (12.0, 40.0), (0.0, 1.5)


def plan_digits(count: int, held_out: HeldOut, voices: VoicesConfig, seed: int) -> list[Spoken]:
    """Training strings of digits; most are said digit by digit, each as a word of its own.

    Args:
        count: how many; a string may recur in another voice.
        held_out: facts of the tests, whose strings are left out, inside longer ones too.
        voices: who may speak.
        seed: draws strings and voices.
    """
    rng = random.Random(f"digits-{seed}")
    return [_draw_string(f"train_digits_{index:05d}", held_out, voices, rng) for index in range(count)]


def write_digits(
    spoken: Sequence[Spoken], durations: Mapping[str, float], path: Path, alignments: Alignments | None = None
) -> None:
    """Writes the source `digits`: rows as those of the source `asr`."""
    with path.open("w", encoding="utf-8") as file:
        for one in spoken:
            row = {**audio_fields(one, durations, alignments), "text": one.text}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _draw_string(name: str, held_out: HeldOut, voices: VoicesConfig, rng: random.Random) -> Spoken:
    while held_out.holds(fact := DigitsFact(tuple(rng.choices(lexicon.DIGITS, k=rng.choice(LENGTHS))))):
        pass
    voice, text = training_voice(rng, voices), fact.sentence().en
    if rng.random() >= _ONE_BY_ONE_SHARE:
        return Spoken(name, text, voice)
    pauses = rng.choice(_PAUSE_SECS)
    noise = (rng.uniform(*_SNR_DB), rng.uniform(*_NOISE_COLOURS)) if rng.random() < _NOISY_SHARE else (None, 0.0)
    return Spoken(
        name, text, voice, tuple(_piece(digit.en, voice, voices, pauses, noise, rng) for digit in fact.digits)
    )


def _piece(
    word: str,
    voice: AnyVoice,
    voices: VoicesConfig,
    pauses: tuple[float, float],
    noise: tuple[float | None, float],
    rng: random.Random,
) -> Piece:
    snr_db, colour = noise
    return Piece(
        word,
        another_pace(rng, voice, voices),
        level_db=round(rng.uniform(*_LEVEL_DB), 2),
        pause_secs=round(rng.uniform(*pauses), 3),
        snr_db=snr_db,
        colour=colour,
    )
