"""What imitation teaches beyond itself: known prompts, new wordings of known tasks, and tasks that it does not teach.

Every item asks one thing about a held-out fact, said by a held-out voice.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain

from vtblender_nemo.synthesis.imitation.tasks import AUDIO
from vtblender_nemo.tiny.config import ImitationConfig
from vtblender_nemo.tiny.grammar import Fact
from vtblender_nemo.tiny.imitation import Asked, Wordings, asked_by
from vtblender_nemo.tiny.items import Item
from vtblender_nemo.tiny.set_speech import SetMaker
from vtblender_nemo.tiny.skills import answer_to
from vtblender_nemo.tiny.speech import Spoken
from vtblender_nemo.tiny.splits import HeldOut

SET = "generalisation"
KNOWN, PROMPT, TASK = "known", "prompt", "task"
"""How new what is asked is: nothing of it, its wording, the whole task."""


def generalisation(maker: SetMaker, count: int, config: ImitationConfig) -> list[Item]:
    """Items of every newness there is, by turns; of each the tasks by turns."""
    asked = asked_by(config)
    kinds = {name: wordings for name, wordings in _by_newness(asked).items() if wordings}

    def draw(newness: str, number: int) -> Item:
        fact = maker.spoken_fact()
        task = list(kinds[newness])[number % len(kinds[newness])]
        return _item(newness, task, fact, maker.say(fact), asked, maker.rng)

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


def wording_distance(wording: str, known: Iterable[str]) -> float:
    """How far a wording is from the nearest of others: 1 less the best ROUGE-L F1 of their words, without the speech's place."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"])
    texts = [text.replace(AUDIO, " ") for text in (wording, *known)]
    return 1.0 - max(scorer.score(text, texts[0])["rougeL"].fmeasure for text in texts[1:])


def _by_newness(asked: Asked) -> Mapping[str, Wordings]:
    return {TASK: asked.tasks_left, PROMPT: asked.wordings_left, KNOWN: asked.taught}


def _item(newness: str, task: str, fact: Fact, said: Spoken, asked: Asked, rng: random.Random) -> Item:
    wordings = _by_newness(asked)[newness][task]
    name = rng.choice(list(wordings))
    own_task = asked.taught.get(task, {}).values()
    nearest = wording_distance(wordings[name], own_task or chain(*(texts.values() for texts in asked.taught.values())))
    custom = {
        "kind": task,
        SET: newness,
        "wording": name,
        "wording_distance": round(nearest, 4),
        "fact_text": [],
        "fact_in": "speech",
    }
    before, after = wordings[name].split(AUDIO)
    parts = tuple(part for part in (before.strip(), said, after.strip()) if part)
    return Item(SET, SET, parts, answer_to(task, fact), task, custom=custom)
