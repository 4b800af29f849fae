"""Conversations with twins: rows on disk, and micro-batches for a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.helpers.corpus import FRAME_SECS, write_jsonl, write_level
from tests.helpers.models import assistant, audio_part, user
from vtblender_nemo import VTBlenderModel
from vtblender_nemo.common.batch import Batch
from vtblender_nemo.common.conversation import Audio, Conversation, Text, Turn, from_messages
from vtblender_nemo.data.blend import Encoder
from vtblender_nemo.data.collate import Collator

TRANSCRIPT = "the shop opens at nine"


def imitation_rows(folder: Path, secs: Sequence[float], **fields: Any) -> list[dict[str, Any]]:
    """Rows of `type: imitation` with audio files of these lengths in `folder`; `fields` replace theirs."""
    for number, duration in enumerate(secs):
        write_level(folder / f"i{number}.wav", 0.1, duration)
    return [
        {
            "id": f"i{number}",
            "audio_filepath": f"i{number}.wav",
            "duration": duration,
            "text": TRANSCRIPT,
            "source_lang": "en",
            "task": "title",
            "prompt": "Give this a title: {audio} Be brief.",
            "answer": f"Opening {number}",
            **fields,
        }
        for number, duration in enumerate(secs)
    ]


def imitation_entry(folder: Path, secs: Sequence[float] = (0.3, 0.5, 0.7, 0.4, 0.6), **keys: Any) -> dict[str, Any]:
    """An entry of `input_cfg` over such rows, which are written."""
    manifest = write_jsonl(folder / "imitation.jsonl", imitation_rows(folder, secs))
    return {"type": "imitation", "manifest_filepath": manifest, **keys}


def imitated(id: str, secs: float, transcript: str, answer: str) -> Conversation:
    """A question about speech, whose twin asks about the transcript."""
    chat = from_messages([user("Sum this up:", audio_part(secs, len(transcript))), assistant(answer)], id=id)
    return with_twin(chat, transcript)


def with_twin(chat: Conversation, transcript: str = "") -> Conversation:
    """The conversation with a twin that has a transcript in place of every audio."""
    turns = (
        Turn(turn.role, tuple(Text(transcript) if isinstance(part, Audio) else part for part in turn.parts))
        for turn in chat.turns
    )
    return replace(chat, twin=tuple(turns))


def batch_of(model: VTBlenderModel, chats: Sequence[Conversation], *, twins: bool = True) -> Batch:
    """A micro-batch as training makes it."""
    encoder = Encoder(model.chat_format, FRAME_SECS, model.sampling_rate, twins=twins)
    prompts = [encoder.encode(chat)[0] for chat in chats]
    batch, errors = Collator(model.chat_format.audio_locator_id, model.sampling_rate)(chats, prompts)
    assert batch is not None
    assert not errors
    return batch
