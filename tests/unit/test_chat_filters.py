"""Which chats are taken."""

from __future__ import annotations

import pytest
from tokenizers.processors import TemplateProcessing

from tests.helpers.tokenizer import make_tokenizer
from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.synthesis.mixed_modal.chat_filters import ChatFilterConfig, open_counter, read_chat, turn_text
from vtblender_nemo.synthesis.work import InputRow, Refused

WORDS = open_counter(None)


def row(*contents: str, **more) -> InputRow:
    roles = ["user", "assistant"]
    messages = [{"role": roles[place % 2], "content": content} for place, content in enumerate(contents)]
    return InputRow("r", "chats.jsonl:1", {"id": "r", "messages": messages, **more})


def taken(chat: InputRow, **config):
    return read_chat(chat, ChatFilterConfig(**config), WORDS)


def test_a_chat_that_passes_is_given_as_turns():
    turns = taken(row("Hi.", "Hello."))
    assert [(turn.role, turn_text(turn)) for turn in turns] == [("user", "Hi."), ("assistant", "Hello.")]


@pytest.mark.parametrize(
    ("chat", "config", "reason"),
    [
        (row("Hi.", "Hello.", language="DE"), {"languages": ["en"]}, "language"),
        (row("Hi.", "Hello."), {"languages": ["en"]}, "no_language"),
        (row("Hi.", "Hello.", task_category="Math"), {"excluded_categories": ["math"]}, "category"),
        (row("Hi.", "Hello."), {"excluded_categories": ["math"]}, "no_category"),
        (row("one two three", "Hello."), {"prompt_tokens_under": 3}, "long_prompt"),
        (row("Hi.", "one two three"), {"answer_tokens_under": 3}, "long_answer"),
        (row("Hi.", "Hello.", "one two three", "Bye."), {"prompt_tokens_under": 3}, "long_prompt"),
        (row("Hi.", "Hello.", "And?", "Bye."), {"single_turn": True}, "several_turns"),
        (row("Hi."), {}, "bad_chat"),
        (row(), {}, "bad_chat"),
        (row("", "Hello."), {}, "bad_chat"),
        (InputRow("r", "p", {"id": "r"}), {}, "bad_chat"),
        (InputRow("r", "p", {"id": "r", "messages": [{"role": "user"}]}), {}, "bad_chat"),
    ],
)
def test_every_filter_has_its_reason(chat, config, reason):
    refused = taken(chat, **config)
    assert isinstance(refused, Refused)
    assert refused.reason == reason


def test_labels_are_compared_without_case_and_under_the_field_that_is_named():
    chat = row("Hi.", "Hello.", lang="EN", kind="Chat")
    config = {"languages": ["en"], "language_field": "lang", "excluded_categories": ["MATH"], "category_field": "kind"}
    assert not isinstance(taken(chat, **config), Refused)


def test_limits_are_those_of_the_paper_and_exclusive():
    assert not isinstance(taken(row("w " * 127, "a " * 1023)), Refused)
    assert taken(row("w " * 128, "a")).reason == "long_prompt"
    assert taken(row("w", "a " * 1024)).reason == "long_answer"
    assert not isinstance(taken(row("w " * 128, "a"), prompt_tokens_under=None), Refused)


def test_tokens_of_a_tokenizer_are_counted_without_special_ones(tmp_path):
    tokenizer = make_tokenizer()
    bos = ("<bos>", tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[bos])
    tokenizer.save_pretrained(tmp_path)
    assert len(tokenizer("hello")["input_ids"]) == 6
    assert open_counter(str(tmp_path))("hello") == 5
    with pytest.raises(ConfigError, match="tokenizer"):
        open_counter(str(tmp_path / "none"))


def test_a_limit_that_nothing_meets_names_its_knob():
    with pytest.raises(ConfigError, match="filters.prompt_tokens_under"):
        ChatFilterConfig(prompt_tokens_under=1).check("filters")
