"""Further test sets of the tiny world: every answer is right, and follows from what the kind says."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from itertools import islice

import pytest

from tests.helpers.tiny_sets import (
    CONFIG,
    answers_to,
    check_instruction,
    held_out_facts,
    text_of,
    turns_of,
    world_plan,
    written,
)
from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.tiny import lexicon
from vtblender_nemo.tiny.grammar import CodeFact, DigitsFact, MeetingFact, PetFact
from vtblender_nemo.tiny.items import Answered, Item, plain
from vtblender_nemo.tiny.jobs import language_model_chats
from vtblender_nemo.tiny.novel import NOVEL_FORMATS, NOVEL_WORDINGS, novel_tasks, spoken_requests
from vtblender_nemo.tiny.rows import SOURCES
from vtblender_nemo.tiny.set_speech import SetMaker, SetSpeech
from vtblender_nemo.tiny.skills import INSTRUCTIONS, WORDINGS
from vtblender_nemo.tiny.speech import SpeechPlan, Spoken
from vtblender_nemo.tiny.splits import HeldOut, is_held_out_question
from vtblender_nemo.tiny.turns import multi_turn, several_turns


@pytest.fixture(scope="module")
def plan():
    return world_plan()


@pytest.fixture(scope="module")
def folder(plan, tmp_path_factory):
    return written(plan, tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def facts(plan):
    return held_out_facts()


def test_an_earlier_turn_holds_the_answer(plan, facts):
    """Every answer follows from what was stated before, and from one fact alone."""
    for item in plan.tests["multi_turn"]:
        stated = []
        for parts, answer in turns_of(item):
            *statements, question = map(text_of, parts)
            stated += [facts[text] for text in statements]
            assert answers_to(question, stated) == {answer}
        assert not [part for part in item.parts if text_of(part) in facts]
        assert len(item.earlier) + 1 == item.custom["turns"]
    assert {item.custom["turns"] for item in plan.tests["multi_turn"]} == {2, 3, 4}


def test_the_fact_is_where_the_kind_says(plan, facts):
    kinds = {"earlier_speech": 0, "earlier_text": 0, "one_of_several_audios": 0}
    for item in plan.tests["multi_turn"]:
        kind = item.custom["kind"]
        kinds[kind] += 1
        question = text_of(item.parts[0])
        holding = [
            part
            for turn in item.earlier
            for part in turn.parts
            if text_of(part) in facts and answers_to(question, [facts[text_of(part)]])
        ]
        assert len(holding) == 1
        assert isinstance(item.parts[0], Spoken) == (kind == "earlier_text")
        assert isinstance(holding[0], str) == (kind == "earlier_text") == (item.custom["fact_in"] == "text")
        told = "".join(plain(turn.answer) for turn in item.earlier)
        if kind != "earlier_text":
            told += "".join(plain(part) for turn in item.earlier for part in turn.parts if isinstance(part, str))
        assert plain(item.answer) not in told
        if kind == "one_of_several_audios":
            one, other = (part for turn in item.earlier for part in turn.parts if isinstance(part, Spoken))
            assert one.voice.variant != other.voice.variant
            assert holding[0] in (one, other)
    assert set(kinds.values()) == {20}


def test_tasks_in_turn_have_right_answers(plan, facts):
    kinds = {"new_task": 0, "question_about_earlier": 0}
    for item in plan.tests["several_turns"]:
        kinds[item.custom["kind"]] += 1
        turns = turns_of(item)
        if item.custom["kind"] == "question_about_earlier":
            parts, answer = turns.pop()
            first = next(text_of(part) for part in item.earlier[0].parts if text_of(part) in facts)
            assert answers_to(parts[0], [facts[first]]) == {answer}
            told = "".join(plain(turn.answer) for turn in item.earlier)
            assert plain(answer) not in told
            assert plain(first) not in told
        for parts, answer in turns:
            check_instruction(parts, answer, facts)
        assert len(item.spoken) == len(turns)
    assert set(kinds.values()) == {30}


@pytest.mark.parametrize(
    ("name", "skills"),
    [("novel_wordings", NOVEL_WORDINGS), ("novel_formats", NOVEL_FORMATS), ("novel_tasks", INSTRUCTIONS)],
)
def test_novel_requests_have_right_answers(plan, facts, name, skills):
    for item in plan.tests[name]:
        check_instruction(item.parts, item.answer, facts)
        assert item.custom["kind"] == item.skill
        assert sum(isinstance(part, Spoken) for part in item.parts) == 1
    assert {item.skill for item in plan.tests[name]} == set(skills)


def test_novel_wordings_are_of_known_words_but_known_to_no_training():
    users = [e.user for chat in islice(language_model_chats(CONFIG), 3000) for e in chat.exchanges]
    words = {word for user in users for word in plain(user).split()}
    trained = {(wording.text, wording.leads) for wordings in WORDINGS.values() for wording in wordings}
    for wordings in (*NOVEL_WORDINGS.values(), *NOVEL_FORMATS.values()):
        for wording in wordings:
            assert (wording.text, wording.leads) not in trained
            text = wording.text.format(n="two")
            assert set(plain(text).split()) <= words
            assert not any(user.startswith(text) or user.endswith(text) for user in users)


def test_spoken_requests_are_right_and_new_to_speech(plan, folder, facts):
    sources = "".join((folder / path).read_text(encoding="utf-8") for name, path in SOURCES.items() if name != "text")
    kinds = {"sum": 0, "spoken_instruction": 0}
    for item in plan.tests["spoken_requests"]:
        kinds[item.custom["kind"]] += 1
        if item.skill == "sum":
            (spoken,) = item.parts
            assert is_held_out_question(spoken.text)
            numbers = [lexicon.COUNTING.index(word) for word in plain(spoken.text).split() if word in lexicon.COUNTING]
            a, b = reversed(numbers) if "Take" in spoken.text else numbers
            right = a + b if re.search("plus|Add", spoken.text) else a - b
            assert item.answer == lexicon.COUNTING[right].capitalize()
            assert spoken.text not in sources
        else:
            check_instruction(item.parts, item.answer, facts)
            assert [isinstance(part, Spoken) for part in item.parts] == [False, True]
            assert item.custom["fact_text"] == [item.parts[0]]
    assert set(kinds.values()) == {30}


def person(name):
    return next(one for one in lexicon.PEOPLE if one.en == name)


def word(table, en):
    return next(one for one in table if one.en == en)


@pytest.fixture
def by_hand():
    """A maker that knows a few facts, written down here."""
    pet = PetFact(
        person("Jonas"), word(lexicon.CITIES, "Vienna"), word(lexicon.COLOURS, "white"), word(lexicon.ANIMALS, "horse")
    )
    meeting = MeetingFact(
        person("the queen"),
        person("the sailor"),
        word(lexicon.PLACES, "at the station"),
        word(lexicon.NUMBERS, "eleven"),
    )
    code = CodeFact(person("Oscar"), tuple(word(lexicon.DIGITS, digit) for digit in "nine one four one".split()))
    digits = DigitsFact(tuple(word(lexicon.DIGITS, digit) for digit in "nine zero four".split()))
    other = MeetingFact(
        person("Bruno"), person("the king"), word(lexicon.PLACES, "in the park"), word(lexicon.NUMBERS, "three")
    )
    spoken = SpeechPlan("test", CONFIG.voices, seed=0)
    for fact in (pet, meeting, code, digits, other):
        spoken.say(fact.sentence().en)
    held_out = HeldOut((pet, meeting, code, digits, other), ())
    return SetMaker("mine", held_out, SetSpeech(CONFIG, spoken.utterances), random.Random(0))


RIGHT = {
    "Who lives in Vienna?": "Jonas",
    "Where does Jonas live?": "In Vienna",
    "Which animal does Jonas have?": "A white horse",
    "What colour is the horse?": "White",
    "Who has a white horse?": "Jonas",
    "Who meets the sailor?": "The queen",
    "Who does the queen meet?": "The sailor",
    "Where does the queen meet the sailor?": "At the station",
    "When does the queen meet the sailor?": "At eleven o'clock",
    "What is the code of Oscar?": "Nine one four one",
    "Which code does Oscar have?": "Nine one four one",
    "Whose code is it?": "Oscar",
    "Who meets the king?": "Bruno",
    "Who does Bruno meet?": "The king",
    "Where does Bruno meet the king?": "In the park",
    "When does Bruno meet the king?": "At three o'clock",
    "What is the first digit?": "Nine",
    "What is the last digit?": "Four",
    "How many digits are there?": "Three",
}


def test_items_of_facts_written_by_hand(by_hand):
    items = multi_turn(by_hand, 120)
    asked = {text_of(item.parts[0]): item.answer for item in items}
    assert len(asked) > 6
    assert asked.items() <= RIGHT.items()
    spoken = {item.spoken[-1].text for item in items if item.custom["kind"] == "earlier_text"}
    assert spoken == {"Where does Jonas live?", "Where does Bruno meet the king?"}  # those that no training asks
    tasks = several_turns(by_hand, 400)
    turns = [turn for item in tasks for turn in turns_of(item)]
    said = {" ".join(text_of(part) for part in parts): answer for parts, answer in turns}
    right = {
        "In German: The code of Oscar is nine one four one.": "Der Code von Oscar ist neun eins vier eins.",
        "Count the words: Jonas lives in Vienna and has a white horse.": "Nine",
        "Nine zero four. Give that as JSON.": '{"digits": "nine zero four"}',
    }
    assert {text: said.get(text) for text in right} == right


RIGHT_SUMS = {
    "Add zero and five.": "Five",
    "What is three plus eight?": "Eleven",
    "Take two from eight.": "Six",
    "What is nine minus seven?": "Two",
}


def test_requests_written_by_hand(by_hand):
    sums = {item.spoken[0].text: item.answer for item in spoken_requests(by_hand, 400) if item.skill == "sum"}
    assert {text: sums.get(text) for text in RIGHT_SUMS} == RIGHT_SUMS


def test_too_few_held_out_facts_are_told(by_hand):
    with pytest.raises(ConfigError, match=r"too few held-out facts.*mine.*tiny\.content\.test_items"):
        novel_tasks(replace(by_hand, held_out=HeldOut(by_hand.held_out.test[:3], ())), 60)  # nothing to sort


def test_an_item_tells_its_speech_in_order():
    voice = SpeechPlan("test", CONFIG.voices, seed=0).say("a").voice
    one, other = (Spoken(f"test_{number}", "a", voice) for number in range(2))
    item = Item("a", "b", ("typed", other), "answer", earlier=(Answered((one, "typed"), "earlier"),))
    assert item.spoken == [one, other]
