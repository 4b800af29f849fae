"""NeMo's prompt format that gives the ids of ours: found by trying, as both sides have many."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vtblender_nemo.common.chat import TEMPLATE_DATE, ChatFormat
from vtblender_nemo.common.conversation import Conversation, from_messages
from vtblender_nemo.export.markers import Markers

FORMATS = (
    "gemma",
    "qwen",
    "qwen3",
    "llama3",
    "llama2",
    "mistral",
    "nemotron-h",
    "nemotron-nano-v3",
    "phi2_chat",
)
"""NeMo's formats for chats; `plain` adds nothing to a text."""

Turns = Sequence[Mapping[str, str]]

_AUDIO = {"type": "audio", "audio": np.zeros(1600), "sampling_rate": 16000}
PROBES: tuple[Sequence[Mapping[str, Any]], ...] = (
    ({"role": "user", "content": [{"type": "text", "text": "Transcribe this, please:"}, _AUDIO]},),
    (
        {"role": "user", "content": [_AUDIO, {"type": "text", "text": "Who?\nTell me."}]},
        {"role": "assistant", "content": "Anna's friend."},
        {"role": "user", "content": "And where is she?"},
    ),
)
"""A single request, and a chat of several turns: formats that agree on their ids are the same."""


@dataclass(frozen=True)
class PromptFormat:
    """How a stock SALM is asked so that it gets our ids.

    Attributes:
        name: of NeMo's format.
        how: `format` takes turns as they are; `template` takes one turn of a text that the chat template has written; `ids` takes
            token ids alone, as neither of the two gives ours.
        options: of `SALM.generate`.
        in_chats: whether it gives our ids after earlier answers, too, and not for a single request alone.
    """

    name: str
    how: Literal["format", "template", "ids"]
    options: Mapping[str, Any] = field(default_factory=dict)
    in_chats: bool = True


def find_format(chat_format: ChatFormat, folder: Path, markers: Markers) -> PromptFormat:
    """The format of NeMo that writes the ids of ours: for chats if there is one, else for a single request.

    Args:
        chat_format: of the model.
        folder: with the tokenizer that a stock SALM will load.
        markers: what stands for audio there.
    """
    tokenizer = stock_tokenizer(folder, markers.tag)
    wanted = [our_ids(chat_format, chat, markers) for chat in PROBES]
    turns = [as_turns(chat, markers) for chat in PROBES]
    found = list(_written(tokenizer, turns))
    for probes in (len(PROBES), 1):
        for prompt_format, ids in found:
            if ids[:probes] == wanted[:probes]:
                return replace(prompt_format, in_chats=probes > 1)
    return PromptFormat("plain", "ids")


def _written(tokenizer: Any, turns: Sequence[Turns]) -> Iterator[tuple[PromptFormat, list[list[int] | None]]]:
    """Every way to ask, and the ids that it gives."""
    from nemo.collections.common.prompts import PromptFormatter

    for name in FORMATS:
        formatter = PromptFormatter.resolve(name)(tokenizer)
        for options in ({}, {"enable_thinking": False}):
            yield PromptFormat(name, "format", options), [stock_ids(formatter, some, options) for some in turns]
    plain = PromptFormatter.resolve("plain")(tokenizer)
    texts = [write_prompt(tokenizer.tokenizer, some) for some in turns]
    ids = [stock_ids(plain, [{"role": "user", "content": text}], {}) for text in texts]
    yield PromptFormat("plain", "template"), ids


def stock_tokenizer(folder: Path, tag: str) -> Any:
    """The tokenizer of a folder as a stock SALM has it."""
    from nemo.collections.common.tokenizers import AutoTokenizer

    tokenizer = AutoTokenizer(str(folder), use_fast=True)
    tokenizer.add_special_tokens({"additional_special_tokens": [tag]})
    return tokenizer


def our_ids(chat_format: ChatFormat, messages: Sequence[Mapping[str, Any]], markers: Markers) -> list[int]:
    """The ids of our prompt, with the markers in place of our locator."""
    return mark(chat_format.encode(_conversation(messages).turns).ids, chat_format.audio_locator_id, markers)


def mark(ids: Sequence[int], locator_id: int, markers: Markers) -> list[int]:
    """Ids with the markers' ids in place of a locator's."""
    return [new for token in ids for new in (markers.audio_ids if token == locator_id else [token])]


def write_prompt(tokenizer: Any, turns: Turns) -> str:
    """Turns as the chat template writes them, up to where an answer begins."""
    return tokenizer.apply_chat_template(
        list(turns), tokenize=False, add_generation_prompt=True, enable_thinking=False, date_string=TEMPLATE_DATE
    )


def _conversation(messages: Sequence[Mapping[str, Any]]) -> Conversation:
    return from_messages([dict(message) for message in messages], id="prompt")


def as_turns(messages: Sequence[Mapping[str, Any]], markers: Markers) -> list[dict[str, str]]:
    """Turns with the markers inside their text, a space before text that follows audio."""
    turns = []
    for message in messages:
        content = message["content"]
        parts = [content] if isinstance(content, str) else [part.get("text", markers.audio) for part in content]
        text = "".join(part if part == markers.audio or not at else f" {part}" for at, part in enumerate(parts))
        turns.append({"role": message["role"], "content": text})
    return turns


def stock_ids(formatter: Any, turns: Turns, options: Mapping[str, Any]) -> list[int] | None:
    """What a format makes of turns; None where it cannot, as it wants tokens that the vocabulary lacks."""
    try:
        return formatter.encode_dialog([dict(turn) for turn in turns], **options)["input_ids"].tolist()
    except (AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
        return None
