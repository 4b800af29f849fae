"""OpenAI's requests, as far as this server answers them. What would change an answer and is not supported is refused."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from vtblender_nemo.common.conversation import Audio, Text, Turn, merge_same_role
from vtblender_nemo.common.errors import DataError
from vtblender_nemo.serving.config import ServerConfig
from vtblender_nemo.serving.engine.requests import Sampling
from vtblender_nemo.serving.uploads import AudioLimits, decode_upload

MOST_MESSAGES, MOST_PARTS = 1024, 256
"""Of any request; `ServerConfig.max_turns` may allow fewer. Lists are not read any further than their first mistake."""

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_WITHOUT_EFFECT: dict[str, Sequence[Any]] = {
    "n": (1, None),
    "logprobs": (False, None),
    "top_logprobs": (0, None),
    "tools": ([], None),
    "tool_choice": ("none", "auto", None),
    "functions": ([], None),
    "response_format": ({"type": "text"}, None),
    "modalities": (["text"], None),
    "audio": (None,),
    "frequency_penalty": (0, None),
    "presence_penalty": (0, None),
    "logit_bias": ({}, None),
    "function_call": ("none", "auto", None),
    "top_k": (0, -1, None),
    "min_p": (0, None),
    "repetition_penalty": (1, None),
}
"""Fields that change what is answered, with the values at which they do not."""


class TextPart(BaseModel):
    """Text in a message."""

    type: Literal["text"]
    text: str


class InputAudio(BaseModel):
    """An audio file."""

    data: str = Field(description="The file in base64.")
    format: str | None = None


class AudioPart(BaseModel):
    """Audio in a message: the file itself, never a path or an address."""

    type: Literal["input_audio"]
    input_audio: InputAudio


_Part = Annotated[TextPart | AudioPart, Field(discriminator="type")]
_Parts = Annotated[list[_Part], Field(max_length=MOST_PARTS, fail_fast=True)]


class ChatMessage(BaseModel):
    """One message of a chat."""

    model_config = ConfigDict(extra="ignore")

    role: Literal["system", "developer", "user", "assistant"]
    content: str | _Parts | None = None


class StreamOptions(BaseModel):
    """How an answer is streamed."""

    include_usage: bool = False


class ChatRequest(BaseModel):
    """The body of `POST /v1/chat/completions`."""

    model_config = ConfigDict(extra="allow")

    messages: list[ChatMessage] = Field(min_length=1, max_length=MOST_MESSAGES, fail_fast=True)
    model: str | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: str | list[str] | None = None

    def check(self) -> None:
        """
        Raises:
            DataError: a field that would change the answer and is not supported.
        """
        for name, allowed in _WITHOUT_EFFECT.items():
            value = (self.model_extra or {}).get(name)
            if value not in allowed:
                raise DataError(f"{name} is not supported", value=value, expected=f"{allowed[0]!r}, or none", knob=name)

    def sampling(self, config: ServerConfig) -> Sampling:
        """How the answer is generated: greedily unless a temperature is given."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        asked = self.max_completion_tokens or self.max_tokens or config.max_new_tokens
        return Sampling(
            min(asked, config.max_new_tokens),
            temperature=self.temperature or 0.0,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=self.seed,
            stop=tuple(stop),
        )

    def turns(self, config: ServerConfig, sampling_rate: int) -> tuple[Turn, ...]:
        """The chat, its audio decoded; neighbouring messages of one role are one turn.

        Raises:
            DataError: too many messages.
            AudioError: audio that cannot be decoded, or is outside the limits.
        """
        if len(self.messages) > config.max_turns:
            raise DataError(
                "too many messages", value=len(self.messages), expected=f"at most {config.max_turns}", knob="messages"
            )
        decode = _Decoder(config.audio, sampling_rate)
        turns = [
            Turn(_ROLES[message.role], tuple(_parts(message, decode)))  # type: ignore[arg-type]
            for message in self.messages
        ]
        return merge_same_role(turns)


class _Decoder:
    """Decodes the audios of one request, all of which share the seconds that an audio may have."""

    def __init__(self, limits: AudioLimits, sampling_rate: int) -> None:
        self._left, self._sampling_rate = limits, sampling_rate

    def __call__(self, data: str) -> Audio:
        audio = decode_upload(_bytes_of(data), self._left, self._sampling_rate)
        self._left = replace(self._left, max_secs=self._left.max_secs - audio.duration_secs)
        return audio


def _parts(message: ChatMessage, decode: Callable[[str], Audio]) -> Iterator[Text | Audio]:
    content = message.content
    if content is None or isinstance(content, str):
        yield Text(content or "")
        return
    for part in content:
        yield Text(part.text) if isinstance(part, TextPart) else decode(part.input_audio.data)


def _bytes_of(data: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError("audio is no base64", value=data[:40], expected="the file in base64", knob="data") from error
