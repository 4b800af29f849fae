"""A small world with every test set, and answers worked out apart from the code that makes them."""

from __future__ import annotations

import json
import re
from functools import lru_cache

from vtblender_nemo.tiny import lexicon
from vtblender_nemo.tiny.config import ContentConfig, SetsConfig, TinyConfig
from vtblender_nemo.tiny.items import plain
from vtblender_nemo.tiny.rows import write_world
from vtblender_nemo.tiny.sources import plan_world
from vtblender_nemo.tiny.speech import Spoken

CONTENT = ContentConfig(
    spoken_facts=400,
    speech_qa_rows=500,
    mixed_rows=400,
    text_chats=300,
    test_items=60,
    mixed_test_items_per_kind=60,
    text_test_items_per_skill=6,
    validation_items=10,
)

CONFIG = TinyConfig(
    seed=3,
    content=CONTENT,
    sets=SetsConfig(60, 60, 60, 60, 60, 60, 60, 300, 60),
)


@lru_cache
def world_plan():
    return plan_world(CONFIG)


def held_out_facts():
    """By their English sentence."""
    return {fact.sentence().en: fact for fact in world_plan().held_out.test}


def rows_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def text_of(part):
    return part.text if isinstance(part, Spoken) else part


def turns_of(item):
    """Parts and answer of every turn."""
    return [*((turn.parts, turn.answer) for turn in item.earlier), (item.parts, item.answer)]


def answers_to(question, facts):
    return {one.answer for fact in facts for one in fact.questions() if one.text == question}


def answer_of(instruction, fact):
    """What is right, worked out from the words of an instruction."""
    sentence = fact.sentence()
    words = sentence.en.rstrip(".").split()
    asked = plain(instruction)
    if " german " in asked:
        return sentence.de
    if " spanish " in asked:
        return sentence.es
    if " capital " in asked:
        return sentence.en.upper()
    if " json " in asked:
        return json.dumps(fact.summary())
    if " last word " in asked:
        return words[-1][0].upper() + words[-1][1:]
    if found := re.search(" first (two|three) words ", asked):
        return " ".join(words[: {"two": 2, "three": 3}[found[1]]])
    if " digits " in asked:
        ordered = sorted(words, key=lambda word: [digit.en for digit in lexicon.DIGITS].index(word.lower()))
        return " ".join(ordered).lower().capitalize() + "."
    if " words " in asked:
        return lexicon.COUNTING[len(words)].capitalize()
    return sentence.en


def check_instruction(parts, answer, facts):
    said = [text_of(part) for part in parts]
    (fact,) = (facts[text] for text in said if text in facts)
    (instruction,) = (text for text in said if text not in facts)
    assert answer == answer_of(instruction, fact)


def written(plan, folder):
    write_world(plan, {spoken.name: 1.0 for spoken in plan.utterances}, folder)
    return folder
