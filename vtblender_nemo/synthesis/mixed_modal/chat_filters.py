"""Which chats are taken: the paper's filters (language, category, token limits), each a setting and a reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vtblender_nemo.common.conversation import Text, Turn, check_turns, from_messages
from vtblender_nemo.common.errors import ConfigError, DataError
from vtblender_nemo.synthesis.work import InputRow, Refused

CountTokens = Callable[[str], int]


@dataclass
class ChatFilterConfig:
    """Which chats are taken."""

    languages: list[str] | None = None
    """Values of `language_field` that are taken, case aside; null: all, the field is not read."""
    language_field: str = "language"
    """Where a row says its language; Magpie's name."""
    excluded_categories: list[str] | None = None
    """Values of `category_field` that are not taken, case aside (the paper leaves maths and code out); null: none."""
    category_field: str = "task_category"
    """Where a row says its category; Magpie's name."""
    prompt_tokens_under: int | None = 128
    """Every user turn has fewer tokens than this (the paper's 128); null: no limit."""
    answer_tokens_under: int | None = 1024
    """Every assistant turn has fewer tokens than this (the paper's 1,024); null: no limit."""
    tokenizer: str | None = None
    """Counts tokens: folder or name of a Hugging Face tokenizer; null: words between spaces are counted."""
    single_turn: bool = False
    """Takes chats of one question and one answer only, as the paper does."""

    def check(self, place: str) -> None:
        """
        Raises:
            ConfigError: a limit that nothing can meet.
        """
        for name in ("prompt_tokens_under", "answer_tokens_under"):
            limit = getattr(self, name)
            if limit is not None and limit < 2:
                raise ConfigError("nothing is so short", value=limit, expected="at least 2", knob=f"{place}.{name}")


def open_counter(tokenizer: str | None) -> CountTokens:
    """A function that counts the tokens of a text.

    Raises:
        ConfigError: the tokenizer cannot be loaded.
    """
    if tokenizer is None:
        return lambda text: len(text.split())
    from transformers import AutoTokenizer

    try:
        loaded = AutoTokenizer.from_pretrained(tokenizer, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ConfigError(
            "the tokenizer cannot be loaded",
            value=tokenizer,
            expected="a folder or a name on the Hugging Face hub",
            knob="filters.tokenizer",
        ) from error
    return lambda text: len(loaded(text, add_special_tokens=False)["input_ids"])


def read_chat(row: InputRow, config: ChatFilterConfig, count_tokens: CountTokens) -> tuple[Turn, ...] | Refused:
    """The turns of a chat that is taken, or why it is not.

    Returns:
        Turns of one text each that end with the assistant, or a refusal: `bad_chat`, `no_language`, `language`, `no_category`,
        `category`, `several_turns`, `long_prompt`, `long_answer`.
    """
    if (refused := _by_label(row.data, config)) is not None:
        return refused
    try:
        turns = from_messages(row.data.get("messages") or [], id=row.id).turns
        check_turns(turns, answered=True)
    except DataError as error:
        return Refused("bad_chat", str(error))
    if any(not isinstance(part, Text) for turn in turns for part in turn.parts):
        return Refused("bad_chat", "the chat has audio already")
    return _by_length(turns, config, count_tokens) or turns


def turn_text(turn: Turn) -> str:
    """The text of a turn, its parts with a space between them."""
    return " ".join(part.text for part in turn.parts if isinstance(part, Text))


def _by_label(data: Mapping[str, Any], config: ChatFilterConfig) -> Refused | None:
    if config.languages is not None:
        language = data.get(config.language_field)
        if not isinstance(language, str):
            return Refused("no_language", f"no text in {config.language_field!r}")
        if language.lower() not in _lowered(config.languages):
            return Refused("language", language)
    if config.excluded_categories is not None:
        category = data.get(config.category_field)
        if not isinstance(category, str):
            return Refused("no_category", f"no text in {config.category_field!r}")
        if category.lower() in _lowered(config.excluded_categories):
            return Refused("category", category)
    return None


def _lowered(values: Sequence[str]) -> set[str]:
    return {value.lower() for value in values}


def _by_length(turns: Sequence[Turn], config: ChatFilterConfig, count_tokens: CountTokens) -> Refused | None:
    if config.single_turn and sum(turn.role == "user" for turn in turns) > 1:
        return Refused("several_turns", f"{len(turns)} turns")
    limits = {
        "user": ("long_prompt", config.prompt_tokens_under),
        "assistant": ("long_answer", config.answer_tokens_under),
    }
    for turn in turns:
        reason, limit = limits.get(turn.role, ("", None))
        if limit is not None and (tokens := count_tokens(turn_text(turn))) >= limit:
            return Refused(reason, f"{tokens} tokens, fewer than {limit} wanted")
    return None
