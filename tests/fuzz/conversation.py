"""Chats: as Python callers give them, as an API request, and audio files that strangers upload."""

from __future__ import annotations

import base64
import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from pydantic import ValidationError

from tests.fuzz import files
from tests.fuzz.manifest import MESSAGES
from tests.fuzz.targets import Case, Target
from vtblender_nemo.common.audio import load_samples
from vtblender_nemo.common.conversation import check_turns, from_messages, merge_same_role
from vtblender_nemo.common.errors import VTBlenderError
from vtblender_nemo.models.generation import as_conversations
from vtblender_nemo.serving.api.schemas import ChatRequest
from vtblender_nemo.serving.config import ServerConfig
from vtblender_nemo.serving.uploads import AudioLimits, decode_upload

_CONFIG = ServerConfig(model_name="m")


def make(folder: Path) -> Target:
    files.write_audio(folder)

    def messages(value: Any) -> None:
        conversation = from_messages(value, base_dir=folder)
        check_turns(merge_same_role(conversation.turns), answered=False)
        for audio in conversation.audios:
            load_samples(audio.cut, files.RATE)

    readers = {
        "messages": messages,
        "generate": lambda value: as_conversations([value]),
        "request": _request,
        "upload": lambda value: decode_upload(_bytes(value), AudioLimits(max_secs=5), files.RATE),
    }
    return Target(_seeds(), readers, (VTBlenderError, ValidationError))  # the server answers both with 400


def _request(value: Any) -> None:
    request = ChatRequest.model_validate(value)
    request.check()
    request.sampling(_CONFIG)
    check_turns(request.turns(_CONFIG, files.RATE), answered=False)


def _bytes(value: Any) -> bytes:
    return value.encode("latin-1", "replace") if isinstance(value, str) else files.dumped(value).encode()


def _seeds() -> list[Case]:
    data = base64.b64encode(files.wave(0.05)).decode()
    parts = [{"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}, {"type": "text", "text": "what?"}]
    request = {
        **{"messages": [{"role": "system", "content": "be kind"}, {"role": "user", "content": parts}], "model": "m"},
        **{
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": 5,
            "temperature": 0.7,
            "top_p": 0.9,
        },
        **{"seed": 1, "stop": ["."], "n": 1, "logit_bias": {}, "response_format": {"type": "text"}},
    }
    plain = {"messages": [{"role": "user", "content": "hi"}]}
    chats = [("messages", MESSAGES), ("generate", MESSAGES[:1]), ("request", request), ("request", plain)]
    return [*chats, *(("upload", content.decode("latin-1")) for content in _encoded())]


def _encoded() -> list[bytes]:
    made = []
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, 800).astype(np.float32)
    kinds = (
        ("WAV", "PCM_16"),
        ("WAV", "FLOAT"),
        ("FLAC", "PCM_16"),
        ("OGG", "VORBIS"),
        ("AIFF", "PCM_16"),
        ("AU", "ULAW"),
    )
    for format, subtype in (*kinds, ("MP3", "MPEG_LAYER_III")):
        buffer = io.BytesIO()
        soundfile.write(buffer, noise, 8000, format=format, subtype=subtype)
        made.append(buffer.getvalue())
    random.Random(0).shuffle(made)
    return made
