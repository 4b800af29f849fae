"""Twins as token ids: what a teacher reads where the student hears."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from vtblender_nemo.common.chat import PromptIds
from vtblender_nemo.common.conversation import Conversation
from vtblender_nemo.common.errors import DataError

if TYPE_CHECKING:
    from vtblender_nemo.data.blend import TurnFormat


def twin_ids(chat_format: TurnFormat, conversation: Conversation, prompt: PromptIds) -> PromptIds | None:
    """The ids of a conversation's twin, or None if it has none.

    Args:
        chat_format: turns to token ids.
        conversation: any.
        prompt: its own ids.

    Raises:
        DataError: a twin with audio or with other answers, which nothing could be compared with.
    """
    if conversation.twin is None:
        return None
    twin = chat_format.encode(conversation.twin)
    if chat_format.audio_locator_id in twin.ids:
        raise DataError("a twin with audio", value=conversation.id, expected="the transcript in place of every audio")
    if list(_targets(twin)) != list(_targets(prompt)):
        raise DataError("a twin with other answers", value=conversation.id, expected="the conversation's own answers")
    return twin


def _targets(prompt: PromptIds) -> Iterator[int]:
    return (token for token, is_target in zip(prompt.ids, prompt.loss_mask, strict=True) if is_target)
