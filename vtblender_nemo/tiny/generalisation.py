"""What imitation teaches beyond itself: known prompts, new wordings of known tasks, and tasks that it does not teach.

Every item asks one thing about a held-out fact, said by a held-out voice.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

from vtblender_nemo.common.generalisation import KNOWN, LEVEL, PROMPT, TASK
from vtblender_nemo.synthesis.imitation.tasks import AUDIO
from vtblender_nemo.synthesis.imitation.wording_distance import Trained
from vtblender_nemo.tiny.config import ImitationConfig
from vtblender_nemo.tiny.grammar import Fact
from vtblender_nemo.tiny.imitation import Asked, Wordings, asked_by
from vtblender_nemo.tiny.items import Item
from vtblender_nemo.tiny.set_speech import SetMaker
from vtblender_nemo.tiny.skills import answer_to
from vtblender_nemo.tiny.speech import Spoken
from vtblender_nemo.tiny.splits import HeldOut

SET = LEVEL
"""Of the set, which bears the name of what it tells apart; see `common/generalisation.py`."""


def generalisation(maker: SetMaker, count: int, config: ImitationConfig) -> list[Item]:
    """Items of every level that there is, by turns; of each the tasks by turns."""
    asked = asked_by(config)
    kinds = {name: wordings for name, wordings in _by_level(asked).items() if wordings}

    def draw(level: str, number: int) -> Item:
        fact = maker.spoken_fact()
        task = list(kinds[level])[number % len(kinds[level])]
        return _item(level, task, fact, maker.say(fact), asked, maker.rng)

    return maker.items(tuple(kinds), count, draw)


def validation_items(config: ImitationConfig, held_out: HeldOut, speech: Sequence[Spoken], count: int) -> list[Item]:
    """Items of tasks that imitation does not teach, for scores while training.

    Args:
        config: tells the tasks.
        held_out: whose validation facts are stated.
        speech: of the validation items; facts that nobody says there are not stated.
        count: of items; none where all tasks are taught.
    """
    asked = asked_by(config)
    said = {spoken.text: spoken for spoken in speech}
    facts = [fact for fact in held_out.validation if fact.sentence().en in said]
    tasks = list(asked.tasks_left)
    if not tasks or not facts:
        return []
    rng = random.Random(f"{SET}-validation")
    items = []
    for number in range(count):
        fact = facts[number % len(facts)]
        item = _item(TASK, tasks[number % len(tasks)], fact, said[fact.sentence().en], asked, rng)
        items.append(replace(item, id=f"{SET}_{number:04d}"))
    return items


def _by_level(asked: Asked) -> Mapping[str, Wordings]:
    return {TASK: asked.tasks_left, PROMPT: asked.wordings_left, KNOWN: asked.taught}


def _item(level: str, task: str, fact: Fact, said: Spoken, asked: Asked, rng: random.Random) -> Item:
    wordings = _by_level(asked)[level][task]
    name = rng.choice(list(wordings))
    trained = Trained.of((taught, text) for taught, texts in asked.taught.items() for text in texts.values())
    custom = {
        "kind": task,
        "wording": name,
        **trained.fields(task, wordings[name]),
        "fact_text": [],
        "fact_in": "speech",
    }
    before, after = wordings[name].split(AUDIO)
    parts = tuple(part for part in (before.strip(), said, after.strip()) if part)
    return Item(SET, SET, parts, answer_to(task, fact), task, custom=custom)
