"""The conversation: what every data source yields, and what the model trains on and answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from vtblender_nemo.common.errors import DataError

if TYPE_CHECKING:
    from lhotse.cut import Cut

Role = Literal["system", "user", "assistant"]
ROLES: tuple[str, ...] = get_args(Role)


@dataclass(frozen=True)
class Text:
    """A piece of text in a turn."""

    text: str


@dataclass(frozen=True)
class Audio:
    """A piece of audio in a turn: a Lhotse cut, decoded only when it is needed."""

    cut: Cut

    @property
    def duration_secs(self) -> float:
        return self.cut.duration


@dataclass(frozen=True)
class Turn:
    """What one speaker says at once: text and audio in any order."""

    role: Role
    parts: tuple[Text | Audio, ...]

    @property
    def audios(self) -> tuple[Audio, ...]:
        return tuple(part for part in self.parts if isinstance(part, Audio))


@dataclass(frozen=True)
class Conversation:
    """Turns in order, and where they came from.

    Attributes:
        id: unique within its source.
        turns: a system turn may come first; then user and assistant in turn.
        source: the name of the data source, for shares and losses by source.
        custom: whatever else the row held.
        twin: the same turns, answers included, with the transcript as text in place of every audio; None where nobody knows it.
    """

    id: str
    turns: tuple[Turn, ...]
    source: str = ""
    custom: Mapping[str, Any] = field(default_factory=dict)
    twin: tuple[Turn, ...] | None = None

    @cached_property
    def audios(self) -> tuple[Audio, ...]:
        """Every audio in the order in which its frames stand in the prompt."""
        return tuple(audio for turn in self.turns for audio in turn.audios)

    @property
    def audio_secs(self) -> float:
        return sum(audio.duration_secs for audio in self.audios)

    @property
    def reference(self) -> str:
        """The text of the last assistant turn.

        Raises:
            DataError: the conversation does not end with an assistant turn.
        """
        last = self.turns[-1] if self.turns else None
        if last is None or last.role != "assistant":
            raise DataError("conversation has no final answer", value=self.id, expected="an assistant turn at the end")
        return "".join(part.text for part in last.parts if isinstance(part, Text))


def check_turns(turns: Sequence[Turn], *, answered: bool) -> None:
    """Holds a conversation to the order that chat templates and the loss rely on.

    Args:
        turns: the turns in order.
        answered: whether the last turn has to be the assistant's (training) or the user's (generation).

    Raises:
        DataError: no turns, an unknown role, roles that do not alternate, a turn with nothing in it, audio in a turn that
            is not the user's, or a last turn of the wrong role.
    """
    if not turns:
        raise DataError("conversation without turns", expected="at least one user turn")
    dialogue = turns[1:] if turns[0].role == "system" else turns
    for position, turn in enumerate(dialogue):
        wanted = "user" if position % 2 == 0 else "assistant"
        if turn.role != wanted:
            raise DataError(f"turn {position + 1} of the dialogue has the wrong role", value=turn.role, expected=wanted)
    for turn in turns:
        if not any(isinstance(part, Audio) or part.text.strip() for part in turn.parts):
            raise DataError("empty turn", value=turn.role, expected="text or audio in every turn")
        if turn.role != "user" and turn.audios:
            raise DataError(
                "audio in a turn that is not the user's", value=turn.role, expected="audio in user turns only"
            )
    last, wanted = turns[-1].role, "assistant" if answered else "user"
    if last != wanted:
        raise DataError("the last turn has the wrong role", value=last, expected=wanted)


def merge_same_role(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """Joins neighbouring turns of one role, as mixed-modal rows list every part as a turn of its own."""
    merged: list[Turn] = []
    for turn in turns:
        if merged and merged[-1].role == turn.role:
            merged[-1] = Turn(turn.role, merged[-1].parts + turn.parts)
        else:
            merged.append(turn)
    return tuple(merged)


Message = Mapping[str, Any]


def from_messages(
    messages: Sequence[Message], *, id: str = "", base_dir: Path | None = None, custom: Mapping[str, Any] | None = None
) -> Conversation:
    """Reads the chat format of Hugging Face processors.

    Args:
        messages: `{"role": ..., "content": text}` or `{"role": ..., "content": [{"type": "text", "text": ...}, {"type":
            "audio", "audio": path | array | Cut, "sampling_rate"?: Hz, "offset"?: s, "duration"?: s}]}`.
        id: name of the conversation, for errors.
        base_dir: folder that relative audio paths start from (default: the working directory).
        custom: kept as it is.

    Raises:
        DataError: a message without role or content, or with an unknown role or part.
        AudioError: an audio file that is missing or cannot be opened.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes):
        raise DataError(
            "a conversation is no list of messages", value=messages, expected='[{"role": ..., "content": ...}, ...]'
        )
    return Conversation(id, tuple(_turn(message, base_dir) for message in messages), custom=dict(custom or {}))


def _turn(message: Message, base_dir: Path | None) -> Turn:
    if not isinstance(message, Mapping) or "role" not in message or "content" not in message:
        raise DataError("message without role or content", value=message, expected='{"role": ..., "content": ...}')
    if message["role"] not in ROLES:
        raise DataError("unknown role", value=message["role"], expected=f"one of {', '.join(ROLES)}")
    content = message["content"]
    if isinstance(content, str):
        return Turn(message["role"], (Text(content),))
    if not isinstance(content, Sequence):
        raise DataError("content is neither text nor a list of parts", value=content, expected="str or list")
    return Turn(message["role"], tuple(_parts(content, base_dir)))


def _parts(content: Sequence[Message], base_dir: Path | None) -> Iterator[Text | Audio]:
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text" and isinstance(part.get("text"), str):
            yield Text(part["text"])
        elif kind == "audio" and part.get("audio") is not None:
            yield Audio(_cut(part, base_dir))
        else:
            raise DataError(
                "unknown part of a message",
                value=part,
                expected='{"type": "text", "text": ...} or {"type": "audio", "audio": ...}',
            )


def _cut(part: Message, base_dir: Path | None) -> Cut:
    from lhotse.cut import Cut

    from vtblender_nemo.common.audio import cut_from_array, cut_from_file, cut_span

    audio, offset, duration = part["audio"], part.get("offset") or 0.0, part.get("duration")
    for name, value in (("offset", offset), ("duration", duration)):
        if value is not None and (not isinstance(value, int | float) or isinstance(value, bool)):
            raise DataError(f"{name} of an audio is no number", value=value, expected="seconds", knob=name)
    if isinstance(audio, str | Path):
        path = Path(audio) if base_dir is None else base_dir / audio
        return cut_from_file(path, offset_secs=offset, duration_secs=duration)
    if isinstance(audio, np.ndarray) or hasattr(audio, "numpy"):
        if "sampling_rate" not in part:
            raise DataError("audio array without its rate", expected='"sampling_rate" in Hz beside "audio"')
        audio = cut_from_array(np.asarray(audio), part["sampling_rate"])
    if not isinstance(audio, Cut):
        raise DataError("audio is neither a path nor samples", value=audio, expected="a path, an array or a Lhotse cut")
    return audio if offset == 0 and duration is None else cut_span(audio, offset, duration, audio.id)
