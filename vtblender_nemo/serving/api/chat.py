"""`POST /v1/chat/completions`."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from vtblender_nemo.common.errors import VTBlenderError
from vtblender_nemo.serving.api.answers import Pieces, while_connected
from vtblender_nemo.serving.api.problems import of_error
from vtblender_nemo.serving.api.schemas import ChatRequest
from vtblender_nemo.serving.api.state import state_of
from vtblender_nemo.serving.engine.requests import Usage

router = APIRouter()


@router.post("/v1/chat/completions")
async def chat_completions(body: ChatRequest, client: Request) -> Response:
    """The next answer of a chat, whole or in pieces."""
    state = state_of(client)
    body.check()
    turns = await state.decode(lambda: body.turns(state.config, state.sampling_rate))
    pieces = Pieces(state.engine, state.metrics, turns, body.sampling(state.config), state.config.timeout_secs)
    about = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": state.config.model_name}
    if body.stream:
        first = await while_connected(client, _first(pieces))  # what cannot be answered has its status code
        with_usage = body.stream_options is not None and body.stream_options.include_usage
        return StreamingResponse(_chunks(first, about, pieces, with_usage), media_type="text/event-stream")
    answer = await while_connected(client, pieces.whole())
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": answer.text, "refusal": None},
        "finish_reason": answer.done.reason.value,
        "logprobs": None,
    }
    usage = usage_row(answer.done.usage)
    return JSONResponse({**about, "object": "chat.completion", "choices": [choice], "usage": usage})


def usage_row(usage: Usage) -> dict[str, Any]:
    """A usage in OpenAI's form; speech frames are tokens of the prompt."""
    return {
        "prompt_tokens": usage.prompt_positions,
        "completion_tokens": usage.answer_tokens,
        "total_tokens": usage.prompt_positions + usage.answer_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_positions},
    }


async def _first(pieces: Pieces) -> AsyncIterator[str]:
    """The same pieces, of which the first has come.

    Raises:
        VTBlenderError: it never will.
    """
    running = aiter(pieces)
    try:
        head = [await anext(running)]
    except StopAsyncIteration:  # an answer without text
        head = []

    async def all_of_them() -> AsyncIterator[str]:
        try:
            for piece in head:
                yield piece
            async for piece in running:
                yield piece
        finally:
            await running.aclose()  # type: ignore[attr-defined]

    return all_of_them()


async def _chunks(
    texts: AsyncIterator[str], about: dict[str, Any], pieces: Pieces, with_usage: bool
) -> AsyncIterator[str]:
    """Server-sent events; the answer is cancelled when the client has left, which ends this generator."""
    about = {**about, "object": "chat.completion.chunk"}

    def event(delta: dict[str, Any] | None, reason: str | None = None, **more: Any) -> str:
        choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}]
        return f"data: {json.dumps({**about, 'choices': choices, **more}, ensure_ascii=False)}\n\n"

    try:
        yield event({"role": "assistant", "content": ""})
        async for text in texts:
            yield event({"content": text})
    except VTBlenderError as error:  # the status code has gone out already
        yield f"data: {bytes(of_error(error).body).decode()}\n\n"
        return
    finally:
        await texts.aclose()  # type: ignore[attr-defined]
    assert pieces.done is not None, "pieces without an error end with it"
    yield event({}, pieces.done.reason.value)
    if with_usage:
        yield event(None, usage=usage_row(pieces.done.usage))
    yield "data: [DONE]\n\n"
