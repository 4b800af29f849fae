from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.synthesis.speech_qa.filters import (
    BlindFilter,
    Candidate,
    FilterOptions,
    GroundedFilter,
    LanguageFilter,
    LengthFilter,
    RereadFilter,
    alike,
    make_filters,
)
from vtblender_nemo.synthesis.speech_qa.prompts import load_prompts
from vtblender_nemo.synthesis.word_overlap import agreement, content_words, share_within, words
from vtblender_nemo.synthesis.work import Refused

PROMPTS = load_prompts(Path(__file__).parents[2] / "conf/prompts/sqa_synthesis.yaml")


class Oracle:
    """Answers by a function of the prompt; keeps what it was asked."""

    def __init__(self, answer: Callable[[str], str | Refused]) -> None:
        self.answer = answer
        self.asked: list[str] = []

    def complete(self, prompts: Sequence[Any], *, json_schema: Any = None) -> list[str | Refused]:
        texts = [prompt[-1]["content"] for prompt in prompts]
        self.asked += texts
        return [self.answer(text) for text in texts]


SHOP = "the shop on main street opens at nine and closes at half past six she buys apples pears and plums there every monday"
GERMAN = "der Laden in der Hauptstraße öffnet um neun Uhr und Frau Weber kauft dort Äpfel Birnen und Pflaumen"

GROUNDED = [
    ("When does the shop open?", "At nine.", SHOP, "en", True),
    ("When does the shop open?", "At 9.", SHOP, "en", True),
    ("When does the shop open?", "At ten.", SHOP, "en", False),
    ("What does she buy?", "Apples, pears and plums.", SHOP, "en", True),
    ("What does she buy?", "She buys an apple and a pear.", SHOP, "en", True),
    ("What does she buy?", "Bananas and oranges.", SHOP, "en", False),
    ("Who invented radium therapy?", "Marie Curie invented it in Paris.", SHOP, "en", False),
    ("Where is the shop?", "The man.", SHOP, "en", False),
    ("Does the shop close at half past six?", "Yes.", SHOP, "en", True),
    ("Does the shop open on Mondays?", "No", SHOP, "en", True),
    ("Does the shop open before ten?", "Yes, at nine.", SHOP, "en", True),
    ("Does the shop open before ten?", "Yes, the mayor insisted on breakfast.", SHOP, "en", False),
    ("Is Paris the capital of France?", "Yes.", SHOP, "en", False),
    ("Does the speaker mention penguins?", "No.", SHOP, "en", False),
    ("How many kinds of fruit does she buy there?", "Three.", SHOP, "en", True),
    ("How many kinds of fruit does she buy there?", "3", SHOP, "en", True),
    ("How many kinds of fruit does she buy there?", "Three kinds: apples, pears and plums.", SHOP, "en", True),
    ("How many people live in Norway?", "Five.", SHOP, "en", False),
    ("How many customers come to the shop?", "4500", SHOP, "en", False),
    ("What does the shop on main street cost?", "Three", SHOP, "en", False),
    ("Wann öffnet der Laden?", "Um neun Uhr.", GERMAN, "de", True),
    ("Wann öffnet der Laden?", "Am Nachmittag.", GERMAN, "de", False),
    ("Kauft Frau Weber Birnen?", "Ja.", GERMAN, "de", True),
    ("Fährt der Zug nach Berlin?", "Nein.", GERMAN, "de", False),
    ("商店几点开门?", "九点", "商店早上九点开门晚上六点关门", "zh", True),
    ("商店几点开门?", "火车站旁边", "商店早上九点开门晚上六点关门", "zh", False),
]


@pytest.mark.parametrize(("question", "answer", "transcript", "language", "kept"), GROUNDED)
def test_grounded(question, answer, transcript, language, kept):
    (verdict,) = GroundedFilter(0.5).judge([Candidate(question, answer, transcript, language)])
    assert (verdict is None) == kept
    if verdict is not None:
        assert verdict.reason == "answer_not_grounded"
        assert answer in verdict.detail


def test_fixed_answers_need_no_ground():
    unanswerable = Candidate("Who owns the shop?", "The recording does not say.", SHOP, "en", answerable=False)
    assert GroundedFilter(0.5).judge([unanswerable]) == [None]


def test_share_of_words_is_weighted_by_length():
    # rome: 4 of 4 + 7 letters
    assert share_within(["rome", "against"], {"rome"}) == pytest.approx(4 / 11)
    assert share_within([], {"rome"}) == 0


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("apples", "apple", True),
        ("boxes", "box", True),
        ("dogs", "dog", True),
        ("opening", "open", True),
        ("opened", "opens", True),
        ("market", "marry", False),
        ("cat", "catalogue", False),
        ("1998", "1999", False),
        ("19", "195", False),
        ("19850", "1985", False),
    ],
)
def test_inflections_are_one_word(first, second, same):
    assert (share_within([first], {second}) == 1) == same
    assert (share_within([second], {first}) == 1) == same


def test_numbers_and_scripts_become_words():
    assert words("Twenty-five dollars, at NINE!", "en") == ["$", "25", "at", "9"] or words("twenty five", "en") == [
        "25"
    ]
    assert words("九点开门", "zh") == list("九点开门")
    assert content_words(words("he is in the house", "en"), "en") == ["house"]
    assert content_words(["he", "is"], "en") == ["he", "is"]


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("In Rome.", "rome", True),
        ("In Rome.", "In Paris.", False),
        ("Yes.", "Yes, at nine.", True),
        ("Yes.", "No.", False),
        ("No.", "In Rome.", False),
        ("Yes, in Rome.", "In Rome.", True),
        ("Yes, in Rome.", "No, in Rome.", False),
        ("twelve", "12", True),
        ("the red house by the river", "a house on a hill", False),
        ("the old house", "an old red house", True),
    ],
)
def test_alike(first, second, same):
    assert alike(first, second, "en", 0.5) == same
    assert alike(second, first, "en", 0.5) == same


def test_agreement_is_symmetric_and_bounded():
    assert agreement("red house", "red house", "en") == 1
    assert agreement("red house", "", "en") == 0
    assert agreement("red house", "house", "en") == agreement("house", "red house", "en")


@pytest.mark.parametrize(
    ("question", "answer", "reason"),
    [
        ("Where is it?", "In Rome", None),
        ("Where now?", "In Rome", "question_too_short"),
        ("where " * 41, "In Rome", "question_too_long"),
        ("Where is it?", "rome " * 61, "answer_too_long"),
    ],
)
def test_lengths(question, answer, reason):
    (verdict,) = LengthFilter(FilterOptions()).judge([Candidate(question, answer, SHOP, "en")])
    assert (None if verdict is None else verdict.reason) == reason


@pytest.mark.parametrize(
    ("question", "answer", "language", "kept"),
    [
        ("When does the shop on main street open in the morning?", "At nine o'clock.", "en", True),
        ("Um wie viel Uhr öffnet der Laden in der Hauptstraße?", "Um neun Uhr.", "de", True),
        ("When does the shop on main street open in the morning?", "At nine o'clock.", "de", False),
        ("¿A qué hora abre la tienda de la calle principal?", "A las nueve de la mañana.", "en", False),
    ],
)
def test_language(question, answer, language, kept):
    (verdict,) = LanguageFilter(0.9).judge([Candidate(question, answer, SHOP, language)])
    assert (verdict is None) == kept
    if verdict is not None:
        assert verdict.reason == "wrong_language"


def test_what_the_llm_knows_without_the_recording_is_refused():
    oracle = Oracle(lambda text: '{"answer": "Paris"}' if "France" in text else '{"answer": "none"}')
    known = Candidate("What is the capital of France?", "It is Paris.", "paris is the capital of france", "en")
    heard = Candidate("When does the shop open?", "At nine.", SHOP, "en")
    fixed = Candidate("Who likes France?", "The recording does not say.", SHOP, "en", answerable=False)
    verdicts = BlindFilter(oracle, PROMPTS, 0.5).judge([known, heard, fixed])
    assert [verdict and verdict.reason for verdict in verdicts] == ["answerable_without_recording", None, None]
    assert len(oracle.asked) == 2
    assert not any(SHOP in text for text in oracle.asked)


def test_a_wrong_guess_is_no_knowledge():
    heard = Candidate("When does the shop open?", "At nine.", SHOP, "en")
    assert BlindFilter(Oracle(lambda _: "At noon."), PROMPTS, 0.5).judge([heard]) == [None]


def test_a_second_reading_has_to_agree():
    def answer(text):
        return '{"answer": "at nine"}' if "open" in text.split("Question:")[1] else '{"answer": "none"}'

    oracle = Oracle(answer)
    candidates = [
        Candidate("When does the shop open?", "At nine.", SHOP, "en"),
        Candidate("When does it open?", "At six.", SHOP, "en"),
        Candidate("Who owns it?", "Anna.", SHOP, "en"),
        Candidate("Who owns it?", "The recording does not say.", SHOP, "en", answerable=False),
        Candidate("Since when is it open?", "The recording does not say.", SHOP, "en", answerable=False),
    ]
    verdicts = RereadFilter(oracle, PROMPTS, 0.5).judge(candidates)
    reasons = [verdict and verdict.reason for verdict in verdicts]
    assert reasons == [None, "reread_differs", "reread_differs", None, "answerable_after_all"]
    assert all(SHOP in text for text in oracle.asked)


def test_a_second_reading_may_say_in_words_that_there_is_no_answer():
    fixed = Candidate("Who owns it?", "The recording does not say.", SHOP, "en", answerable=False)
    for words_of, kept in (("The recording does not say that.", True), ("Mrs Weber.", False)):
        (verdict,) = RereadFilter(Oracle(lambda _, text=words_of: text), PROMPTS, 0.5).judge([fixed])
        assert (verdict is None) == kept


@pytest.mark.parametrize("kind", [BlindFilter, RereadFilter])
def test_without_a_verdict_nothing_is_kept(kind):
    oracle = Oracle(lambda _: Refused("reply_cut_off", "and so on"))
    (verdict,) = kind(oracle, PROMPTS, 0.5).judge([Candidate("When does it open?", "At nine.", SHOP, "en")])
    assert verdict == Refused(f"{kind.__name__.removesuffix('Filter').lower()}_reply_cut_off", "and so on")


def test_filters_are_switched():
    def kinds(**options):
        return [type(one) for one in make_filters(FilterOptions(**options), Oracle(str), PROMPTS)]

    assert kinds() == [LengthFilter, LanguageFilter, GroundedFilter, RereadFilter]
    assert kinds(grounded=False, language=False, unanswerable=False) == [LengthFilter]
    assert kinds(grounded=False, language=False, unanswerable=False, length=False) == []
    assert kinds(blind=True, reread=True) == [LengthFilter, LanguageFilter, GroundedFilter, BlindFilter, RereadFilter]


@pytest.mark.parametrize(
    ("switches", "asked"),
    [
        ({}, ["Who owns it?"]),
        ({"reread": True}, ["When does it open?", "Who owns it?"]),
        ({"reread": True, "unanswerable": False}, ["When does it open?"]),
        ({"unanswerable": False}, []),
    ],
)
def test_which_questions_are_read_again(switches, asked):
    oracle = Oracle(lambda _: '{"answer": "Mrs Weber"}')
    candidates = [
        Candidate("When does it open?", "At nine.", SHOP, "en"),
        Candidate("Who owns it?", "The recording does not say.", SHOP, "en", answerable=False),
    ]
    filters = make_filters(FilterOptions(grounded=False, language=False, length=False, **switches), oracle, PROMPTS)
    verdicts = [verdict for one in filters for verdict in one.judge(candidates)]
    assert [question for question in asked if not any(question in text for text in oracle.asked)] == []
    assert len(oracle.asked) == len(asked)
    reasons = {"When does it open?": "reread_differs", "Who owns it?": "answerable_after_all"}
    assert [verdict.reason for verdict in verdicts if verdict] == [reasons[question] for question in asked]


@pytest.mark.parametrize("name", ["min_grounded", "min_agreement", "min_language_probability"])
def test_limits_are_shares(name):
    for value in (0.0, 1.5, float("nan")):
        with pytest.raises(ConfigError, match=f"{name}.*--{name.replace('_', '-')}"):
            FilterOptions(**{name: value})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_question_words": -1}, "--min-question-words"),
        ({"max_answer_words": 0}, "--max-answer-words"),
        ({"min_question_words": 41}, "41 to 40 words.*--max-question-words"),
    ],
)
def test_lengths_that_cannot_be(options, message):
    with pytest.raises(ConfigError, match=message):
        FilterOptions(**options)
