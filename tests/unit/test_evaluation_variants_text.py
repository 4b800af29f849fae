"""Test items without the facts that they give in writing."""

from __future__ import annotations

import pytest

from tests.helpers.listener import write_tone
from vtblender_nemo.common.conversation import Text, from_messages
from vtblender_nemo.common.errors import DataError
from vtblender_nemo.evaluation.items import Item
from vtblender_nemo.evaluation.variants import SCORED_VARIANTS, without_text


@pytest.fixture
def make(tmp_path):
    """Items from turns, users' and assistants' in turn; a part is a text, or `None` for audio."""
    tone = {"type": "audio", "audio": str(write_tone(tmp_path / "tone.wav", 10))}

    def item(*turns: list[str | None], **custom) -> Item:
        messages = [
            {
                "role": "user" if number % 2 == 0 else "assistant",
                "content": [tone if part is None else {"type": "text", "text": part} for part in parts],
            }
            for number, parts in enumerate(turns)
        ]
        return Item("7", "mixed", from_messages(messages, id="7"), "x", custom)

    return item


def said(item: Item) -> list[list[str | None]]:
    return [[part.text if isinstance(part, Text) else None for part in turn.parts] for turn in item.conversation.turns]


def test_all_text_but_the_question_goes(make):
    (left,) = without_text([make(["The dog is red.", None, "It barks.", "What barks?"])])
    assert said(left) == [[None, "What barks?"]]


def test_the_question_may_come_first_or_stand_between(make):
    item = make(["Is it red?", None], fact_text="")
    with pytest.raises(DataError, match="no item has a fact in writing"):
        without_text([item])
    (left,) = without_text([make(["What barks?", None, "The dog is red."], fact_text="The dog is red. ")])
    assert said(left) == [["What barks?", None]]


def test_a_spoken_question_keeps_nothing_of_the_written_fact(make):
    (left,) = without_text([make(["The dog is red.", None], fact_text=["The dog is red."])])
    assert said(left) == [[None]]


def test_items_without_written_facts_are_left_out(make):
    kept = make(["A fact.", None, "Question?"])
    assert [said(item) for item in without_text([make([None, "Question?"]), kept])] == [[[None, "Question?"]]]


def test_a_turn_of_facts_goes_with_its_answer(make):
    (left,) = without_text([make(["The dog is red."], ["I see."], [None, "Listen."], ["Yes."], [None, "What barks?"])])
    assert said(left) == [[None], ["Yes."], [None, "What barks?"]]
    (left,) = without_text([make(["The dog is red."], ["I see."], [None, "What barks?"])])
    assert said(left) == [[None, "What barks?"]]


def test_items_that_failed_stay(make):
    failed = Item("0", "mixed", None, error="missing")
    assert without_text([failed, make(["A fact.", None, "Question?"])])[0] is failed


def test_a_fact_that_nobody_says_is_a_mistake(make):
    with pytest.raises(DataError, match="'7' does not say its own fact; found.*The cat.*custom.fact_text"):
        without_text([make(["The dog is red.", None, "What barks?"], fact_text="The cat")])


def test_nothing_left_to_ask_is_a_mistake(make):
    with pytest.raises(DataError, match="nothing is left to ask of item '7'"):
        without_text([make(["The dog is red."], fact_text="The dog is red.")])


def test_names_of_the_scores():
    assert list(SCORED_VARIANTS) == ["text_twin", "no_audio_silence", "no_audio_shuffle", "no_text"]
