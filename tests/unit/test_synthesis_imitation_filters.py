"""Which answers are no targets: each check refuses what it should, and nothing that a faithful answer says."""

from __future__ import annotations

import pytest

from vtblender_nemo.synthesis.imitation.filters import FilterOptions, judge, most_repeats
from vtblender_nemo.synthesis.work import Refused

SHOP = "the shop opens at nine in the morning"


def reason(answer: str, transcript: str = SHOP, **options: bool) -> str | None:
    verdict = judge(answer, transcript, FilterOptions(**options))
    return None if verdict is None else verdict.reason


@pytest.mark.parametrize(
    "answer",
    [
        "The shop opens at nine in the morning.",
        "**Key words:** shop, nine, morning",
        "- It opens at nine.\n- It is a shop.",
        "Der Laden öffnet um neun Uhr morgens.",
        "商店早上九点开门。",
        "None",
        "It can't be closed then, can it? I don't know.",
        "An opening hour is mentioned: 9 a.m.",
        "The speaker says when the shop opens.",
        "no no no no",
    ],
)
def test_good_answers_are_kept(answer):
    assert judge(answer, SHOP, FilterOptions()) is None


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ("", "reply_empty"),
        (" \n\t", "reply_empty"),
        ("...", "answer_without_words"),
        ("<think>The user wants", "reply_thinks_aloud"),
        ("So he wants a title.</think>Shop", "reply_thinks_aloud"),
        ("I'm sorry, but I cannot help with that.", "answer_declines"),
        ("I can’t translate this.", "answer_declines"),
        ("I am unable to provide a summary.", "answer_declines"),
        ("As an AI language model, I have no opinion.", "answer_declines"),
        ("I'm just a language model.", "answer_declines"),
        ("I don't have access to the shop.", "answer_declines"),
        ("Sure! Please provide the text you want summarised.", "answer_declines"),
        ("Es tut mir leid, aber ich kann dabei nicht helfen.", "answer_declines"),
        ("Je suis désolé, je ne peux pas vous aider.", "answer_declines"),
        ("Lo siento, no puedo ayudar con eso.", "answer_declines"),
        ("抱歉，我无法回答这个问题。", "answer_declines"),
        ("The text says when the shop opens.", "answer_speaks_of_a_text"),
        ("The main topic of this short passage is a shop.", "answer_speaks_of_a_text"),
        ("No dates occur in the given transcript.", "answer_speaks_of_a_text"),
        ("Here is what you pasted: a shop", "answer_speaks_of_a_text"),
        ("Im Text geht es um einen Laden.", "answer_speaks_of_a_text"),
        ("El texto habla de una tienda.", "answer_speaks_of_a_text"),
        ("Le texte parle d'un magasin.", "answer_speaks_of_a_text"),
        ("这段文本说的是商店。", "answer_speaks_of_a_text"),
        ("The shop " * 5, "answer_loops"),
        ("It opens. It opens. It opens. It opens. It opens. And so on.", "answer_loops"),
        ("ha" * 30, "answer_loops"),
        ("开门" * 20, "answer_loops"),
    ],
)
def test_bad_answers_are_refused_by_name(answer, wanted):
    assert reason(answer) == wanted


@pytest.mark.parametrize(
    ("transcript", "answer"),
    [
        ("i can't help it said the man", "I can't help it, said the man."),
        ("i can not help you my friend", "Je ne peux pas vous aider, mon ami."),
        ("he walked through the passage", "The man walked through the passage."),
        ("read the text aloud", "Lesen Sie den Text laut vor."),
        ("never never never never never never", "never never never never never never"),
    ],
)
def test_what_is_said_may_be_said_again(transcript, answer):
    assert reason(answer, transcript) is None
    assert reason(answer) is not None


def test_every_check_can_be_switched_off():
    declines, reads, loops = "I cannot help with that.", "The text is short.", "so " * 9
    assert reason(declines, refusals=False) is None
    assert reason(reads, reading=False) is None
    assert reason(loops, loops=False) is None
    assert [reason(one, loops=False) for one in (declines, reads)] == ["answer_declines", "answer_speaks_of_a_text"]
    assert judge(reads, SHOP, FilterOptions()) == Refused("answer_speaks_of_a_text", reads)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", 0),
        ("a", 1),
        ("so so so so so", 5),
        ("a b a b a b a b a b c", 5),
        ("a b c d e f g h", 1),
        ("x a a y a a a z z", 3),
    ],
)
def test_repeats_are_counted(text, wanted):
    assert most_repeats(text) == wanted


def test_long_answers_are_judged_in_time():
    """Quadratic in words at most: 2000 of them are no matter of minutes."""
    assert reason(" ".join(f"word{number}" for number in range(2000))) is None
