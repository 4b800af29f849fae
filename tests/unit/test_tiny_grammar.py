"""The tiny world's facts: every sentence, translation and answer against ones written by hand."""

from __future__ import annotations

import random
import re
from itertools import islice

import pytest

from vtblender_nemo.tiny import lexicon
from vtblender_nemo.tiny.chats import SKILLS, ChatMaker
from vtblender_nemo.tiny.grammar import (
    FACT_SHARES,
    CodeFact,
    DeedFact,
    DigitsFact,
    MeetingFact,
    PetFact,
    draw_fact,
)
from vtblender_nemo.tiny.skills import FACT_SKILLS, WORDINGS, ask, draw_sum, instruct
from vtblender_nemo.tiny.splits import hold_out


def word(table, en):
    return next(row for row in table if en in (getattr(row, "en", None), getattr(row, "past", None)))


def digits(text):
    return tuple(word(lexicon.DIGITS, name) for name in text.split())


DEED = DeedFact(
    who=word(lexicon.PEOPLE, "the king"),
    deed=word(lexicon.DEEDS, "bought"),
    number=word(lexicon.NUMBERS, "two"),
    colour=word(lexicon.COLOURS, "red"),
    thing=word(lexicon.THINGS, "apples"),
    place=word(lexicon.PLACES, "in the market"),
    time=word(lexicon.TIMES, "on Monday"),
    time_first=True,
)
PET = PetFact(
    word(lexicon.PEOPLE, "Anna"),
    word(lexicon.CITIES, "Vienna"),
    word(lexicon.COLOURS, "white"),
    word(lexicon.ANIMALS, "horse"),
)
MEETING = MeetingFact(
    word(lexicon.PEOPLE, "the queen"),
    word(lexicon.PEOPLE, "the sailor"),
    word(lexicon.PLACES, "at the station"),
    word(lexicon.NUMBERS, "eleven"),
)
CODE = CodeFact(word(lexicon.PEOPLE, "Oscar"), digits("nine one four one"))
DIGITS = DigitsFact(digits("nine zero four"))

SENTENCES = {
    DEED: (
        "On Monday the king bought two red apples in the market.",
        "Am Montag kaufte der König zwei rote Äpfel auf dem Markt.",
        "El lunes el rey compró dos manzanas rojas en el mercado.",
    ),
    PET: (
        "Anna lives in Vienna and has a white horse.",
        "Anna wohnt in Wien und hat ein weißes Pferd.",
        "Anna vive en Viena y tiene un caballo blanco.",
    ),
    MEETING: (
        "The queen meets the sailor at the station at eleven o'clock.",
        "Die Königin trifft den Matrosen um elf Uhr am Bahnhof.",
        "La reina se encuentra con el marinero en la estación a las once.",
    ),
    CODE: (
        "The code of Oscar is nine one four one.",
        "Der Code von Oscar ist neun eins vier eins.",
        "El código de Oscar es nueve uno cuatro uno.",
    ),
    DIGITS: ("Nine zero four.", "Neun null vier.", "Nueve cero cuatro."),
}

ANSWERS = {
    DEED: {
        "Who bought the apples?": "The king",
        "What did the king buy?": "Two red apples",
        "What colour are the apples?": "Red",
        "How many apples are there?": "Two",
        "How many apples did the king buy?": "Two",
        "Where did the king buy the apples?": "In the market",
        "When did the king buy the apples?": "On Monday",
    },
    PET: {
        "Who lives in Vienna?": "Anna",
        "Where does Anna live?": "In Vienna",
        "Which animal does Anna have?": "A white horse",
        "What colour is the horse?": "White",
        "Who has a white horse?": "Anna",
    },
    MEETING: {
        "Who meets the sailor?": "The queen",
        "Who does the queen meet?": "The sailor",
        "Where does the queen meet the sailor?": "At the station",
        "When does the queen meet the sailor?": "At eleven o'clock",
    },
    CODE: {
        "What is the code of Oscar?": "Nine one four one",
        "Which code does Oscar have?": "Nine one four one",
        "Whose code is it?": "Oscar",
    },
    DIGITS: {
        "What is the first digit?": "Nine",
        "What is the last digit?": "Four",
        "How many digits are there?": "Three",
    },
}


@pytest.mark.parametrize("fact", SENTENCES)
def test_sentences_and_translations(fact):
    sentence = fact.sentence()
    assert (sentence.en, sentence.de, sentence.es) == SENTENCES[fact]


@pytest.mark.parametrize("fact", ANSWERS)
def test_questions_and_answers(fact):
    assert {question.text: question.answer for question in fact.questions()} == ANSWERS[fact]


def test_the_two_orders_of_a_deed_are_one_fact():
    late = DeedFact(**{**DEED.__dict__, "time_first": False})
    assert late.sentence().en == "The king bought two red apples in the market on Monday."
    assert late.sentence().de == "Der König kaufte am Montag zwei rote Äpfel auf dem Markt."
    assert late.sentence().es == "El rey compró dos manzanas rojas en el mercado el lunes."
    assert late.same_fact_key() == DEED.same_fact_key()


@pytest.mark.parametrize(
    ("skill", "answer"),
    [
        ("repeat", "Anna lives in Vienna and has a white horse."),
        ("translate_de", "Anna wohnt in Wien und hat ein weißes Pferd."),
        ("translate_es", "Anna vive en Viena y tiene un caballo blanco."),
        ("upper", "ANNA LIVES IN VIENNA AND HAS A WHITE HORSE."),
        ("json", '{"who": "Anna", "what": "horse", "where": "Vienna"}'),
        ("count", "Nine"),
        ("last_word", "Horse"),
    ],
)
def test_instructions_are_answered_right(skill, answer):
    for seed in range(10):
        exchange = instruct(random.Random(seed), skill, PET)
        assert exchange.answer == answer
        assert PET.sentence().en in exchange.user


def test_first_words_say_how_many():
    for seed in range(10):
        exchange = instruct(random.Random(seed), "first_words", PET)
        wanted = 2 if " two " in exchange.user else 3
        assert exchange.answer == " ".join("Anna lives in Vienna".split()[:wanted])


def test_sorted_digits():
    assert instruct(random.Random(0), "sort", DIGITS).answer == "Zero four nine."


def test_sums_are_right():
    sums = {(exchange.user, exchange.answer) for exchange in (draw_sum(random.Random(seed)) for seed in range(3000))}
    assert ("What is three plus four?", "Seven") in sums
    assert ("Take two from nine.", "Seven") in sums
    for user, answer in sums:
        a, b = (
            lexicon.COUNTING.index(name) for name in re.findall(r"[a-z]+", user.lower()) if name in lexicon.COUNTING
        )
        right = a + b if "plus" in user or "Add" in user else b - a if "Take" in user else a - b
        assert lexicon.COUNTING.index(answer.lower()) == right >= 0


def test_a_question_about_two_facts_comes_last():
    question = PET.questions()[1]
    exchange = ask(random.Random(0), [DEED, PET], question)
    assert exchange.user == f"{DEED.sentence().en} {PET.sentence().en} Where does Anna live?"
    assert exchange.answer == "In Vienna"


def test_facts_of_different_topics_share_no_question():
    rng = random.Random(0)
    for _ in range(2000):
        one, other = draw_fact(rng), draw_fact(rng)
        if not one.topics() & other.topics():
            assert not {q.text for q in one.questions()} & {q.text for q in other.questions()}


def test_every_kind_of_fact_is_drawn():
    rng = random.Random(0)
    assert {type(draw_fact(rng)) for _ in range(300)} == set(FACT_SHARES)


def test_the_world_has_150_to_400_english_words():
    chats = ChatMaker(hold_out(10, 2, seed=0), seed=0).chats()
    users = " ".join(exchange.user for chat in islice(chats, 6000) for exchange in chat.exchanges)
    assert 150 <= len(set(re.findall(r"[a-z']+", users.lower()))) <= 400


def test_chats_practise_every_skill_in_every_wording():
    exchanges = [e for chat in islice(ChatMaker(hold_out(10, 2, seed=0), seed=0).chats(), 4000) for e in chat.exchanges]
    assert {exchange.skill for exchange in exchanges} == set(SKILLS)
    users = " ".join(exchange.user for exchange in exchanges)
    for skill in (*FACT_SKILLS, "sort"):
        assert all(wording.text.replace("{n}", "two") in users for wording in WORDINGS[skill])
