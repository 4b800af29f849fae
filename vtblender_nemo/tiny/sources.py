"""The training rows of the four sources, and the items of every test, planned before a word of them is spoken.

Planning draws facts, questions, instructions and voices; `rows.py` writes the files once the speech is there.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import Any

from vtblender_nemo.tiny.chats import SKILLS, Chat, ChatMaker
from vtblender_nemo.tiny.config import TinyConfig
from vtblender_nemo.tiny.grammar import Fact, Question
from vtblender_nemo.tiny.items import Item
from vtblender_nemo.tiny.sets import plan_sets
from vtblender_nemo.tiny.skills import INSTRUCTIONS, Exchange, Part, ask, draw_sum, instruct, is_sortable
from vtblender_nemo.tiny.speech import SpeechPlan, Spoken
from vtblender_nemo.tiny.splits import (
    HeldOut,
    draw_compatible,
    held_out_questions,
    hold_out,
    is_held_out_question,
    is_training_sortable,
    training_questions,
)

SPEECH_TASKS = (
    "asr",
    "ast_de",
    "ast_es",
    "sqa",
    "mixed_question_spoken",
    "mixed_fact_spoken",
    "mixed_both_spoken",
    "mixed_two_facts",
    "mixed_instruction",
)

_MIXED_SHARES = {"qa": 4, "qa_two": 4, "instruction": 3}
_APART_SHARE = 0.4
"""Share of mixed-modal rows whose run of spoken sentences is one segment each, not one for all: tests have both."""

_ASKED_AGAIN_SHARE = 0.3
"""Share of spoken questions that another voice says anew though they were spoken before: many recur."""


@dataclass(frozen=True)
class SpokenFact:
    """A training fact and its speech."""

    fact: Fact
    speech: Spoken


@dataclass(frozen=True)
class SpeechQuestion:
    """A row of the speech QA source."""

    speech: Spoken
    question: Question


@dataclass
class WorldPlan:
    """All rows of the world, and the utterances that they need."""

    held_out: HeldOut
    utterances: list[Spoken] = field(default_factory=list)
    spoken_facts: list[SpokenFact] = field(default_factory=list)
    speech_questions: list[SpeechQuestion] = field(default_factory=list)
    mixed: list[Item] = field(default_factory=list)
    voice_rows: list[Item] = field(default_factory=list)
    text_chats: list[Chat] = field(default_factory=list)
    tests: dict[str, list[Item]] = field(default_factory=dict)
    validations: dict[str, list[Item]] = field(default_factory=dict)


def hold_out_for(config: TinyConfig) -> HeldOut:
    """The held-out facts of a world: twice as many as test items, as not every fact has a held-out question."""
    content = config.content
    return hold_out(2 * content.test_items, 2 * content.validation_items, config.seed)


def plan_world(config: TinyConfig) -> WorldPlan:
    """Plans every row of the world; the same config gives the same plan."""
    content, seed = config.content, config.seed
    plan = WorldPlan(hold_out_for(config))
    speech = SpeechPlan("train", config.voices, seed)
    rng = random.Random(f"sources-{seed}")
    facts = _different_training_facts(content.spoken_facts, plan.held_out, rng)
    plan.spoken_facts = [SpokenFact(fact, speech.say(fact.sentence().en)) for fact in facts]
    plan.speech_questions = _speech_questions(plan.spoken_facts, content.speech_qa_rows, rng)
    plan.mixed = _mixed_rows(facts, content.mixed_rows, plan.held_out, speech, rng)
    plan.text_chats = list(islice(ChatMaker(plan.held_out, f"source-{seed}").chats(), content.text_chats))
    plan.utterances += speech.utterances
    for split, facts_of_split, count, items in (
        ("test", plan.held_out.test, content.test_items, plan.tests),
        ("validation", plan.held_out.validation, content.validation_items, plan.validations),
    ):
        split_speech = SpeechPlan(split, config.voices, seed)
        split_rng = random.Random(f"{split}-{seed}")
        for task in SPEECH_TASKS:
            wanted = content.mixed_test_items_per_kind if split == "test" and task.startswith("mixed") else count
            items[task] = list(islice(_items(task, facts_of_split, plan.held_out, split_speech, split_rng), wanted))
        per_skill = content.text_test_items_per_skill if split == "test" else max(1, count // len(SKILLS))
        items["text"] = _text_items(facts_of_split, plan.held_out, per_skill, split_rng)
        plan.utterances += split_speech.utterances
    sets = plan_sets(config, plan.held_out, [one.speech for one in plan.spoken_facts], plan.utterances)
    plan.tests |= sets.tests
    plan.validations |= sets.validations
    plan.voice_rows = sets.voice_rows
    plan.utterances += sets.utterances
    return plan


def _different_training_facts(count: int, held_out: HeldOut, rng: random.Random) -> list[Fact]:
    facts: dict[Fact, Fact] = {}
    while len(facts) < count:
        fact = held_out.draw_training_fact(rng)
        facts.setdefault(fact.same_fact_key(), fact)
    return list(facts.values())


def _speech_questions(spoken: Sequence[SpokenFact], count: int, rng: random.Random) -> list[SpeechQuestion]:
    rows: list[SpeechQuestion] = []
    for one in cycle(spoken):
        if len(rows) == count:
            return rows
        if questions := training_questions(one.fact):
            rows.append(SpeechQuestion(one.speech, rng.choice(questions)))
    return rows


def _mixed_rows(
    facts: Sequence[Fact], count: int, held_out: HeldOut, speech: SpeechPlan, rng: random.Random
) -> list[Item]:
    """Text exchanges in which a run of consecutive sentences is spoken: begin and end of the run are uniform [P]."""
    kinds, shares = list(_MIXED_SHARES), list(_MIXED_SHARES.values())
    rows: list[Item] = []
    while len(rows) < count:
        exchange = _training_exchange(rng.choices(kinds, shares)[0], facts, held_out, rng)
        speakable = [index for index, part in enumerate(exchange.parts) if part.kind != "instruction"]
        begin = rng.choice(speakable)
        end = rng.choice([index for index in speakable if index >= begin])
        parts = _speak_run(exchange.parts, begin, end, speech, rng)
        rows.append(Item(f"mixed_{len(rows):05d}", "mixed", parts, exchange.answer, exchange.skill))
    return rows


def _training_exchange(kind: str, facts: Sequence[Fact], held_out: HeldOut, rng: random.Random) -> Exchange:
    fact = rng.choice(facts)
    if kind == "instruction":
        return instruct(rng, _draw_instruction(rng, sortable=is_training_sortable(fact, held_out)), fact)
    stated = [fact] if kind == "qa" else [fact, draw_compatible(rng, fact, facts, held_out)]
    questions = training_questions(rng.choice(stated))
    return ask(rng, stated, rng.choice(questions)) if questions else _training_exchange(kind, facts, held_out, rng)


def _draw_instruction(rng: random.Random, *, sortable: bool) -> str:
    return rng.choice([skill for skill in INSTRUCTIONS if skill != "sort" or sortable])


def _speak_run(
    parts: Sequence[Part], begin: int, end: int, speech: SpeechPlan, rng: random.Random
) -> tuple[str | Spoken, ...]:
    """Parts `begin` to `end` as speech, in one segment or one each, and the others as text."""
    apart = rng.random() < _APART_SHARE
    run = [part.text for part in parts[begin : end + 1]]
    texts = run if apart else [" ".join(run)]
    spoken = tuple(speech.say(text, again=text.endswith("?") and rng.random() < _ASKED_AGAIN_SHARE) for text in texts)
    before, after = parts[:begin], parts[end + 1 :]
    return (*(part.text for part in before), *spoken, *(part.text for part in after))


def _items(
    task: str, facts: Sequence[Fact], held_out: HeldOut, speech: SpeechPlan, rng: random.Random
) -> Iterator[Item]:
    """Held-out items of a task, without end."""
    if task in ("mixed_question_spoken", "mixed_both_spoken"):
        exchanges = _spoken_question_items(task, facts, speech, rng)
    else:
        exchanges = (_fact_item(task, fact, facts, held_out, speech, rng) for fact in cycle(facts))
    for index, (exchange, parts, needed) in enumerate(exchanges):
        custom = _where_facts_are(exchange, parts, needed) if task.startswith("mixed") else {}
        yield Item(f"{task}_{index:04d}", task, parts, exchange.answer, exchange.skill, custom=custom)


def _where_facts_are(exchange: Exchange, parts: Sequence[str | Spoken], needed: Fact) -> dict[str, Any]:
    """The typed facts, and whether the one that is needed is typed or spoken."""
    typed = [part.text for part in exchange.parts if part.kind == "fact" and part.text in parts]
    return {"fact_text": typed, "fact_in": "text" if needed.sentence().en in typed else "speech"}


def _spoken_question_items(
    task: str, facts: Sequence[Fact], speech: SpeechPlan, rng: random.Random
) -> Iterator[tuple[Exchange, tuple[str | Spoken, ...], Fact]]:
    pairs = [(fact, question) for fact in facts for question in held_out_questions(fact)]
    for round_number, (fact, question) in ((index // len(pairs), pair) for index, pair in enumerate(cycle(pairs))):
        exchange = ask(rng, [fact], question)
        asked = speech.say(question.text, again=task == "mixed_question_spoken" or round_number > 0)
        spoken = {"question": asked}
        if task == "mixed_both_spoken":
            spoken["fact"] = speech.say(fact.sentence().en)
        yield exchange, tuple(spoken.get(part.kind, part.text) for part in exchange.parts), fact


def _fact_item(
    task: str, fact: Fact, facts: Sequence[Fact], held_out: HeldOut, speech: SpeechPlan, rng: random.Random
) -> tuple[Exchange, tuple[str | Spoken, ...], Fact]:
    said, needed = speech.say(fact.sentence().en), fact
    if task in ("mixed_fact_spoken", "mixed_two_facts"):
        other = draw_compatible(rng, fact, facts, held_out)
        needed = fact if task == "mixed_fact_spoken" else rng.choice([fact, other])
        stated = [fact, other] if rng.random() < 0.5 else [other, fact]
        exchange = ask(rng, stated, rng.choice(needed.questions()))
    elif task == "sqa":
        exchange = ask(rng, [fact], rng.choice(fact.questions()))
    elif task == "mixed_instruction":
        exchange = instruct(rng, _draw_instruction(rng, sortable=is_sortable(fact)), fact)
    else:
        exchange = instruct(rng, {"asr": "repeat", "ast_de": "translate_de", "ast_es": "translate_es"}[task], fact)
    return exchange, tuple(said if part.text == said.text else part.text for part in exchange.parts), needed


def _text_items(facts: Sequence[Fact], held_out: HeldOut, per_skill: int, rng: random.Random) -> list[Item]:
    """Text-only items of every skill, on held-out facts, sums and digit strings."""
    items = []
    for skill in SKILLS:
        for index in range(per_skill):
            exchange = _text_exchange(skill, facts, held_out, rng)
            items.append(Item(f"text_{skill}_{index:03d}", "text", (exchange.user,), exchange.answer, skill))
    return items


def _text_exchange(skill: str, facts: Sequence[Fact], held_out: HeldOut, rng: random.Random) -> Exchange:
    if skill == "sum":
        while not is_held_out_question((exchange := draw_sum(rng)).user):
            pass
        return exchange
    if skill == "sort":
        return instruct(rng, skill, rng.choice([fact for fact in facts if is_sortable(fact)]))
    fact = rng.choice(facts)
    if skill not in ("qa", "qa_two"):
        return instruct(rng, skill, fact)
    stated = [fact] if skill == "qa" else [fact, draw_compatible(rng, fact, facts, held_out)]
    return ask(rng, stated, rng.choice(rng.choice(stated).questions()))
