"""Readers of rows that are conversations already: text chats, ShareGPT, mixed-modal conversations, test items."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vtblender_nemo.common.conversation import ROLES, Audio, Conversation, Text, Turn, from_messages, merge_same_role
from vtblender_nemo.common.errors import DataError
from vtblender_nemo.data.config import SourceConfig
from vtblender_nemo.data.interleave import Interleaved, open_interleaver, replaced
from vtblender_nemo.data.lazy_audio import lazy_cut
from vtblender_nemo.data.rows import Member, Row, TarShards
from vtblender_nemo.data.sources import JsonlSource, source_type

_SPEAKERS = {"human": "user", "gpt": "assistant", "model": "assistant"} | {role: role for role in ROLES}


def _field(row: Row, name: str, kind: type, expected: str) -> Any:
    value = row.data.get(name)
    if not isinstance(value, kind):
        raise DataError(f"row without {name}", path=row.path, line=row.line, value=value, expected=expected)
    return value


def _role(name: Any) -> Any:
    role = _SPEAKERS.get(name.lower()) if isinstance(name, str) else None
    if role is None:
        raise DataError("unknown speaker", value=name, expected=f"one of {', '.join(_SPEAKERS)}")
    return role


class _ChatSource(JsonlSource):
    keys = frozenset({"manifest_filepath", "task", "audio_dir"})

    def _audio(self, row: Row, path: str, offset_secs: float | None, duration_secs: float | None) -> Audio:
        file, member = self._find(row, path)
        cut = lazy_cut(
            file,
            duration_secs=duration_secs,
            offset_secs=offset_secs,
            sampling_rate=self.sampling_rate,
            member=member,
        )
        return Audio(cut)

    def _find(self, row: Row, path: str) -> tuple[Path, Member | None]:
        """The file of an audio; inside a tar also its place there."""
        folder = Path(self.config.audio_dir) if self.config.audio_dir else row.path.parent
        return folder / path, None

    def _messages(self, row: Row, index: int) -> tuple[Turn, ...]:
        messages = _field(row, "messages", list, '[{"role": ..., "content": ...}, ...]')
        lazy = [self._lazy_message(row, message) for message in messages]
        return from_messages(lazy, id=self._id(row, index)).turns

    def _lazy_message(self, row: Row, message: Any) -> Any:
        content = message.get("content") if isinstance(message, dict) else None
        return (
            message
            if not isinstance(content, list)
            else {**message, "content": [self._lazy_part(row, p) for p in content]}
        )

    def _lazy_part(self, row: Row, part: Any) -> Any:
        if not isinstance(part, dict) or part.get("type") != "audio" or not isinstance(part.get("audio"), str):
            return part
        return {"type": "audio", "audio": self._audio(row, part["audio"], part.get("offset"), part.get("duration")).cut}


@source_type("text_chat")
class TextChat(_ChatSource):
    """Chats as messages: `{"id", "messages": [{"role", "content"}, ...], "task"?}`."""

    def _convert(self, row: Row, index: int, rng: random.Random) -> Conversation:
        turns = self._messages(row, index)
        return Conversation(self._id(row, index), turns, self.name, self._custom(row, frozenset({"id", "messages"})))


@source_type("items")
class Items(_ChatSource):
    """Test items: messages that end with the user, and a `reference` that becomes the final answer."""

    def _convert(self, row: Row, index: int, rng: random.Random) -> Conversation:
        reference = _field(row, "reference", str, '"reference": text')
        turns = (*self._messages(row, index), Turn("assistant", (Text(reference),)))
        custom = self._custom(row, frozenset({"id", "messages", "reference", "custom"}))
        return Conversation(self._id(row, index), turns, self.name, {**custom, **row.data.get("custom", {})})


@source_type("share_gpt")
class ShareGpt(_ChatSource):
    """Chats as ShareGPT writes them: `{"id", "conversations": [{"from": "human|gpt|system", "value"}, ...]}`."""

    def _convert(self, row: Row, index: int, rng: random.Random) -> Conversation:
        parts = _field(row, "conversations", list, '[{"from": "human", "value": ...}, ...]')
        turns = tuple(self._turn(row, part) for part in parts)
        return Conversation(
            self._id(row, index),
            merge_same_role(turns),
            self.name,
            self._custom(row, frozenset({"id", "conversations"})),
        )

    def _turn(self, row: Row, part: Any) -> Turn:
        if not isinstance(part, dict) or not isinstance(part.get("value"), str):
            raise DataError("turn without text", value=part, expected='{"from": ..., "value": text}')
        return Turn(_role(part.get("from")), (Text(part["value"]),))


@source_type("multimodal_conversation")
class MultimodalConversation(ShareGpt):
    """NeMo's mixed-modal rows: every part is a turn, `type` text or audio; neighbours of one speaker are one turn.

    With `tarred_audio_filepaths` the audio stands in tars, one manifest a tar in the same order, and an audio's value is
    the name of a member. With `interleave` every audio has its transcript as `text`, and its `alignment`; `custom["transcript"]`
    then lists the transcripts of the audios that are left.
    """

    keys = ShareGpt.keys | {"tarred_audio_filepaths", "shard_window", "interleave"}

    def __init__(self, config: SourceConfig, sampling_rate: int) -> None:
        super().__init__(config, sampling_rate)
        tars = config.tarred_audio_filepaths
        self.tars = None if tars is None else TarShards(tars, self.rows)
        self.interleaver = open_interleaver(config.interleave)

    @property
    def shard_sizes(self) -> list[int]:
        return super().shard_sizes if self.tars is None else self.rows.sizes

    def _convert(self, row: Row, index: int, rng: random.Random) -> Conversation:
        conversation = super()._convert(row, index, rng)
        if self.interleaver is None:
            return conversation
        entries = [entry for entry in row.data["conversations"] if entry.get("type") == "audio"]
        given = [self.interleaver(audio, entry, rng) for audio, entry in zip(conversation.audios, entries, strict=True)]
        return _interleaved(conversation, given)

    def _find(self, row: Row, path: str) -> tuple[Path, Member | None]:
        if self.tars is None:
            return super()._find(row, path)
        tar = self.tars.of(row)
        return tar.path, tar.find(path)

    def _turn(self, row: Row, part: Any) -> Turn:
        if isinstance(part, dict) and part.get("type") == "audio":
            if not isinstance(part.get("value"), str):
                raise DataError("audio turn without a path", value=part, expected='{"type": "audio", "value": path}')
            audio = self._audio(row, part["value"], part.get("offset"), part.get("duration"))
            return Turn(_role(part.get("from")), (audio,))
        if isinstance(part, dict) and part.get("type", "text") != "text":
            raise DataError("unknown type of turn", value=part["type"], expected="text or audio")
        return super()._turn(row, part)


def _interleaved(conversation: Conversation, given: Sequence[Interleaved]) -> Conversation:
    """The conversation with what is given in place of every audio."""
    turns = list(conversation.turns)
    for audio, one in zip(conversation.audios, given, strict=True):
        turns = [Turn(turn.role, replaced(turn.parts, audio, one.parts)) for turn in turns]
    transcripts = [text for one in given for text in one.transcripts]
    return replace(conversation, turns=tuple(turns), custom={**conversation.custom, "transcript": transcripts})
