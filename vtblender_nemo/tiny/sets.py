"""Further test sets, and the training rows that the default blend leaves out.

They draw from random numbers of their own after all else is planned, so with them or without them the training data and
the other tests are the same.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from vtblender_nemo.tiny.config import ImitationConfig, TinyConfig
from vtblender_nemo.tiny.generalisation import SET as GENERALISATION
from vtblender_nemo.tiny.generalisation import generalisation, validation_items
from vtblender_nemo.tiny.items import Item
from vtblender_nemo.tiny.novel import novel_formats, novel_tasks, novel_wordings, spoken_requests
from vtblender_nemo.tiny.set_speech import SetMaker, SetSpeech
from vtblender_nemo.tiny.speech import Spoken
from vtblender_nemo.tiny.splits import HeldOut
from vtblender_nemo.tiny.turns import multi_turn, several_turns
from vtblender_nemo.tiny.voice_questions import voice_items, voice_rows

_MAKERS: Mapping[str, Callable[[SetMaker, int], list[Item]]] = {
    "multi_turn": multi_turn,
    "novel_wordings": novel_wordings,
    "novel_tasks": novel_tasks,
    "novel_formats": novel_formats,
    "several_turns": several_turns,
    "spoken_requests": spoken_requests,
}
SETS: tuple[str, ...] = (*_MAKERS, "voices", GENERALISATION)
"""Names of the sets; each has its size in `tiny.sets`."""


@dataclass(frozen=True)
class SetsPlan:
    """What is added to a world.

    Attributes:
        tests: items by set.
        validations: the same for scores while training.
        voice_rows: training rows about voices.
        utterances: speech that only these need.
    """

    tests: dict[str, list[Item]]
    validations: dict[str, list[Item]]
    voice_rows: list[Item]
    utterances: list[Spoken]


def plan_sets(
    config: TinyConfig, held_out: HeldOut, training: Sequence[Spoken], utterances: Sequence[Spoken]
) -> SetsPlan:
    """Plans the sets; the same world gives the same ones.

    Args:
        config: sizes, voices and seed.
        held_out: facts of the tests.
        training: speech of the training facts.
        utterances: all speech that was planned before.

    Raises:
        ConfigError: the world has too few held-out facts for a set, or imitation holds out what there is not.
    """
    spoken, validated = (
        [one for one in utterances if one.name.startswith(f"{split}_")] for split in ("test", "validation")
    )
    speech = SetSpeech(config, spoken)
    makers = {name: SetMaker(name, held_out, speech, random.Random(f"{name}-{config.seed}")) for name in SETS}
    tests = {name: _numbered(make(makers[name], getattr(config.sets, name))) for name, make in _MAKERS.items()}
    tests["voices"] = voice_items(makers["voices"], spoken, config.voices.accents, config.sets.voices)
    imitation = config.imitation or ImitationConfig()
    items = generalisation(makers[GENERALISATION], config.sets.generalisation, imitation)
    tests[GENERALISATION] = _numbered(items)
    validations = {GENERALISATION: validation_items(imitation, held_out, validated, config.content.validation_items)}
    return SetsPlan(tests, validations, voice_rows(training, config.sets.voice_rows, config.seed), speech.utterances)


def _numbered(items: Sequence[Item]) -> list[Item]:
    return [replace(item, id=f"{item.task}_{index:04d}") for index, item in enumerate(items)]
