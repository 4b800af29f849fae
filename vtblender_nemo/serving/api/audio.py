"""`POST /v1/audio/transcriptions` and `/v1/audio/translations`: a file in, its words out."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import accumulate
from typing import Annotated, Literal

from fastapi import APIRouter, Form, Request, UploadFile
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, PlainTextResponse, Response

from vtblender_nemo.common.conversation import Audio, Conversation, Text, Turn
from vtblender_nemo.common.errors import DataError
from vtblender_nemo.common.subtitles import Segment, subtitles
from vtblender_nemo.models.long_audio import split_long_audio
from vtblender_nemo.serving.api.answers import ClientLeft, Pieces
from vtblender_nemo.serving.api.state import ServerState, state_of
from vtblender_nemo.serving.engine.requests import Sampling
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
    """The words of a recording; `prompt` names words that may occur in it."""
    state = state_of(client)
    return await _told(client, file, state.config.transcription_prompt, prompt, response_format, temperature, language)


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
    return await _told(client, file, state.config.translation_prompt, prompt, response_format, temperature, "en")


async def _told(
    client: Request,
    file: UploadFile,
    instruction: str,
    words: str | None,
    form: Format,
    temperature: float,
    language: str | None,
) -> Response:
    form_fields = await client.form()
    if str(form_fields.get("stream", "false")).lower() == "true":
        raise DataError(
            "transcripts are not streamed", value="stream=true", expected="stream=false, or a chat completion"
        )
    state = state_of(client)
    audio = await run_in_threadpool(decode_upload, await file.read(), state.config.audio, state.sampling_rate)
    if words:
        instruction = f"{state.config.bias_prompt.replace('{words}', words)} {instruction}"
    part_secs = state.config.subtitle_secs if form in _TIMED else state.config.part_secs
    sampling = Sampling(state.config.max_new_tokens, temperature=temperature)
    segments = await _segments(client, state, instruction, audio, part_secs, sampling)
    return written(segments, form, audio.duration_secs, language)


async def _segments(
    client: Request, state: ServerState, instruction: str, audio: Audio, part_secs: float, sampling: Sampling
) -> list[Segment]:
    """The parts of a recording with their words, in order.

    Raises:
        ClientLeft: nobody waits for them any more.
        VTBlenderError: whatever kept the engine from answering one of them.
    """
    whole = Conversation("upload", (Turn("user", (Text(instruction), audio)),))
    parts = await run_in_threadpool(split_long_audio, [whole], part_secs, state.sampling_rate)
    room = asyncio.Semaphore(_PARTS_AT_ONCE)

    async def words_of(part: Conversation) -> str:
        async with room:
            if await client.is_disconnected():
                raise ClientLeft
            answer = Pieces(state.engine, state.metrics, part.turns, sampling, state.config.timeout_secs)
            return (await answer.whole()).text

    tasks = [asyncio.create_task(words_of(part)) for part in parts.conversations]
    try:
        texts = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
    ends = list(accumulate(part.audio_secs for part in parts.conversations))
    return [Segment(start, end, text) for start, end, text in zip([0.0, *ends], ends, texts, strict=False)]


def written(segments: Sequence[Segment], form: Format, duration_secs: float, language: str | None) -> Response:
    """Segments in one of OpenAI's formats."""
    text = " ".join(segment.text for segment in segments if segment.text)
    if form == "json":
        return JSONResponse({"text": text, "usage": {"type": "duration", "seconds": round(duration_secs)}})
    if form == "verbose_json":
        rows = [
            {"id": number, "start": round(one.start_secs, 3), "end": round(one.end_secs, 3), "text": one.text}
            for number, one in enumerate(segments)
        ]
        about = {"task": "transcribe", "language": language or "", "duration": round(duration_secs, 3)}
        return JSONResponse({**about, "text": text, "segments": rows})
    if form == "text":
        return PlainTextResponse(text + "\n")
    return PlainTextResponse(subtitles(segments, form))
