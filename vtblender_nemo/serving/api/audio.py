"""`POST /v1/audio/transcriptions` and `/v1/audio/translations`: a file in, its words out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Annotated, Literal

from fastapi import APIRouter, Form, Request, UploadFile
from starlette.responses import JSONResponse, PlainTextResponse, Response

from vtblender_nemo.common.conversation import Audio, Conversation, Text, Turn
from vtblender_nemo.common.errors import DataError
from vtblender_nemo.common.subtitles import Segment, subtitles
from vtblender_nemo.models.long_audio import split_long_audio
from vtblender_nemo.serving.api.answers import Pieces, while_connected
from vtblender_nemo.serving.api.state import ServerState, state_of
from vtblender_nemo.serving.engine.requests import BusyError, Sampling
from vtblender_nemo.serving.uploads import decode_upload

router = APIRouter()

Format = Literal["json", "text", "verbose_json", "srt", "vtt"]
_TIMED: Sequence[Format] = ("verbose_json", "srt", "vtt")
_PARTS_AT_ONCE = 4  # so that an hour of speech leaves room for others


@router.post("/v1/audio/transcriptions")
async def transcriptions(
    client: Request,
    file: UploadFile,
    model: Annotated[str | None, Form()] = None,
    language: Annotated[str | None, Form()] = None,
    prompt: Annotated[str | None, Form()] = None,
    response_format: Annotated[Format, Form()] = "json",
    temperature: Annotated[float, Form(ge=0, le=2)] = 0.0,
) -> Response:
    """The words of a recording; `prompt` names words that may occur in it, `language` is repeated in the response alone."""
    state = state_of(client)
    asked = _Asked("transcribe", state.config.transcription_prompt, prompt, response_format, temperature, language)
    return await _told(client, file, asked)


@router.post("/v1/audio/translations")
async def translations(
    client: Request,
    file: UploadFile,
    model: Annotated[str | None, Form()] = None,
    prompt: Annotated[str | None, Form()] = None,
    response_format: Annotated[Format, Form()] = "json",
    temperature: Annotated[float, Form(ge=0, le=2)] = 0.0,
) -> Response:
    """The words of a recording in English; `prompt` names words that may occur."""
    state = state_of(client)
    asked = _Asked("translate", state.config.translation_prompt, prompt, response_format, temperature, "en")
    return await _told(client, file, asked)


@dataclass(frozen=True)
class _Asked:
    """What is asked about a file."""

    task: Literal["transcribe", "translate"]
    instruction: str
    words: str | None
    form: Format
    temperature: float
    language: str | None


async def _told(client: Request, file: UploadFile, asked: _Asked) -> Response:
    fields = await client.form()
    if str(fields.get("stream", "false")).lower() == "true":
        raise DataError(
            "transcripts are not streamed", value="stream=true", expected="stream=false, or a chat completion"
        )
    state = state_of(client)
    data = await file.read()
    audio = await state.decode(lambda: decode_upload(data, state.config.audio, state.sampling_rate))
    instruction = asked.instruction
    if asked.words:
        instruction = f"{state.config.bias_prompt.replace('{words}', asked.words)} {instruction}"
    part_secs = state.config.subtitle_secs if asked.form in _TIMED else state.config.part_secs
    sampling = Sampling(state.config.max_new_tokens, temperature=asked.temperature)
    segments = await while_connected(client, _segments(state, instruction, audio, part_secs, sampling))
    return written(segments, asked.form, audio.duration_secs, asked.task, asked.language)


async def _segments(
    state: ServerState, instruction: str, audio: Audio, part_secs: float, sampling: Sampling
) -> list[Segment]:
    """The parts of a recording with their words, in order; a few are answered at a time, all within one time limit.

    Raises:
        BusyError: the queue has no room for the first part; later ones wait.
        VTBlenderError: whatever kept the engine from answering one of them.
    """
    whole = Conversation("upload", (Turn("user", (Text(instruction), audio)),))
    parts = await state.decode(lambda: split_long_audio([whole], part_secs, state.sampling_rate))
    room, end = asyncio.Semaphore(_PARTS_AT_ONCE), time.monotonic() + state.config.timeout_secs

    def asked(part: Conversation) -> Pieces:
        return Pieces(state.engine, state.metrics, part.turns, sampling, end - time.monotonic())

    async def words_of(part: Conversation) -> str:
        async with room:
            while True:
                try:
                    return (await asked(part).whole()).text
                except BusyError as error:
                    if part is parts.conversations[0] or time.monotonic() > end:
                        raise
                    await asyncio.sleep(error.retry_secs / 10)

    tasks = [asyncio.create_task(words_of(part)) for part in parts.conversations]
    try:
        texts = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
    ends = list(accumulate(part.audio_secs for part in parts.conversations))
    return [Segment(start, end, text) for start, end, text in zip([0.0, *ends], ends, texts, strict=False)]


def written(
    segments: Sequence[Segment], form: Format, duration_secs: float, task: str, language: str | None
) -> Response:
    """Segments in one of OpenAI's formats."""
    text = " ".join(segment.text for segment in segments if segment.text)
    if form == "json":
        return JSONResponse({"text": text, "usage": {"type": "duration", "seconds": round(duration_secs)}})
    if form == "verbose_json":
        rows = [
            {"id": number, "start": round(one.start_secs, 3), "end": round(one.end_secs, 3), "text": one.text}
            for number, one in enumerate(segments)
        ]
        about = {"task": task, "language": language or "", "duration": round(duration_secs, 3)}
        return JSONResponse({**about, "text": text, "segments": rows})
    if form == "text":
        return PlainTextResponse(text + "\n")
    return PlainTextResponse(subtitles(segments, form))
