"""Answers: conversations in, one string each out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from vtblender_nemo.backbones.transformers_llm import TransformersLLM
from vtblender_nemo.common.batch import Batch
from vtblender_nemo.common.chat import ChatFormat
from vtblender_nemo.common.conversation import Conversation, Message, from_messages
from vtblender_nemo.common.errors import DataError
from vtblender_nemo.data.collate import Collator
from vtblender_nemo.models.long_audio import split_long_audio
from vtblender_nemo.models.speech_llm import SpeechLLM

_PARTS_AT_ONCE = 16  # an hour has hundreds of them


def as_conversations(conversations: Sequence[Conversation | Sequence[Message]]) -> list[Conversation]:
    """Reads chats in the format of Hugging Face processors where they are not conversations yet."""
    if isinstance(conversations, str) or (conversations and isinstance(conversations[0], dict)):
        raise DataError(
            "a single conversation where a list of conversations belongs",
            value=conversations,
            expected="[[{'role': ..., 'content': ...}], ...]",
        )
    return [
        chat if isinstance(chat, Conversation) else from_messages(chat, id=str(number))
        for number, chat in enumerate(conversations)
    ]


def collate(conversations: Sequence[Conversation], chat_format: ChatFormat, sampling_rate: int) -> Batch:
    """Conversations as one batch, all of them.

    Raises:
        DataError: turns in a wrong order.
        AudioError: an audio that cannot be decoded.
    """
    batch, errors = collate_usable(conversations, chat_format, sampling_rate)
    for error in errors.values():
        raise error
    assert batch is not None, "without errors nothing was left out"
    return batch


def collate_usable(
    conversations: Sequence[Conversation], chat_format: ChatFormat, sampling_rate: int
) -> tuple[Batch | None, dict[int, DataError]]:
    """Conversations as one batch but for those whose audio cannot be decoded; see `Collator`."""
    prompts = [chat_format.encode(conversation.turns) for conversation in conversations]
    return Collator(chat_format.audio_locator_id, sampling_rate)(conversations, prompts)


@torch.inference_mode()
def answer(
    model: SpeechLLM,
    chat_format: ChatFormat,
    conversations: Sequence[Conversation],
    *,
    max_new_tokens: int,
    **sampling: Any,
) -> list[str]:
    """Answers conversations that end with a user turn, all in one batch.

    Args:
        model: in eval mode.
        chat_format: of the model's tokenizer.
        conversations: any number of audios each, none included.
        max_new_tokens: of each answer.
        sampling: see `TransformersLLM.generate`; greedy if empty.

    Raises:
        DataError: turns in a wrong order, or a prompt too long for the LLM.
        AudioError: an audio that cannot be decoded.
    """
    if not conversations:
        return []
    batch = collate(conversations, chat_format, model.perception.sampling_rate).to(model.llm.device)
    embeds, mask = model.prompt_embeds(batch)
    check_length(embeds.shape[1], max_new_tokens, model.llm)
    ids = model.llm.generate(embeds, mask, max_new_tokens=max_new_tokens, stop_ids=chat_format.stop_ids, **sampling)
    return [chat_format.decode(until_stop(row, chat_format.stop_ids)) for row in ids.tolist()]


def answer_parts(
    model: SpeechLLM,
    chat_format: ChatFormat,
    conversations: Sequence[Conversation],
    part_secs: float,
    max_new_tokens: int,
    **sampling: Any,
) -> list[str]:
    """As `answer`, but for long audio: one answer for each part of at most `part_secs`, joined; see `split_long_audio`."""
    parts = split_long_audio(conversations, part_secs, model.perception.sampling_rate)
    size = max(len(conversations), _PARTS_AT_ONCE)
    answers: list[str] = []
    for start in range(0, len(parts.conversations), size):
        some = parts.conversations[start : start + size]
        answers += answer(model, chat_format, some, max_new_tokens=max_new_tokens, **sampling)
    return parts.join(answers)


@contextmanager
def answering(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients as long as the context lasts; every module's own mode comes back afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
            if mode and isinstance(module, TransformersLLM):
                module.decoding_weights.drop()  # training needs the memory


def check_length(positions: int, max_new_tokens: int, llm: TransformersLLM) -> None:
    """Holds prompt and answer together to the LLM's context.

    Raises:
        DataError: they are longer.
    """
    if positions + max_new_tokens > llm.max_positions:
        raise DataError(
            "prompt and answer are longer than the LLM's context",
            value=f"{positions} + {max_new_tokens} positions",
            expected=f"at most {llm.max_positions}",
            knob="max_new_tokens, or shorter audio",
        )


def until_stop(ids: list[int], stop_ids: Sequence[int]) -> list[int]:
    """What stands before the first of `stop_ids`."""
    for position, token in enumerate(ids):
        if token in stop_ids:
            return ids[:position]
    return ids
