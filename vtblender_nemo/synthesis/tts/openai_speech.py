"""Any server that speaks OpenAI's `/v1/audio/speech` as a speech engine."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vtblender_nemo.common.errors import ConfigError, MissingDependencyError
from vtblender_nemo.synthesis.llm.endpoint import EndpointError
from vtblender_nemo.synthesis.tts.base import (
    EngineConfig,
    Speech,
    SpeechEngine,
    SpeechRequest,
    check_range,
    resampled,
)
from vtblender_nemo.synthesis.work import Refused

_MOST_REFUSALS = 16
"""So many bad requests before the first good one are the settings' fault and not the texts'."""


@dataclass
class OpenAISpeechConfig(EngineConfig):
    """Which server speaks, and how."""

    model: str = "???"
    """The model's name on the server."""
    voices: list[str] = field(default_factory=list)
    """Voices of the model; every row draws one."""
    speed: list[float] = field(default_factory=lambda: [1.0, 1.0])
    """Slowest and fastest speech, as factors."""
    base_url: str | None = None
    """The server, such as http://localhost:8000/v1; null: OPENAI_BASE_URL, or OpenAI's own."""
    api_key_env: str = "OPENAI_API_KEY"
    """The environment variable that holds the key; the key itself is written nowhere."""
    concurrency: int = 8
    """Most requests under way at once, in each process."""
    retries: int = 5
    """How often a request is repeated, with growing pauses, when the server is busy or does not answer."""
    timeout_secs: float = 120.0
    """Longest wait for one answer."""

    free = frozenset({"base_url", "api_key_env", "concurrency", "retries", "timeout_secs"})

    def check(self, place: str) -> None:
        """
        Raises:
            ConfigError: no model or voice, or numbers out of range.
        """
        check_range(self.speed, 0.25, 4.0, f"{place}.speed")
        if self.model in ("", "???"):
            raise ConfigError("no model is given", expected="the model's name on the server", knob=f"{place}.model")
        if not self.voices:
            raise ConfigError("no voice is given", value=[], expected="at least one", knob=f"{place}.voices")
        if self.concurrency < 1 or self.retries < 0 or not self.timeout_secs > 0:
            raise ConfigError(
                "numbers out of range",
                value=[self.concurrency, self.retries, self.timeout_secs],
                expected="at least 1, at least 0, more than 0",
                knob=f"{place}.concurrency, {place}.retries, {place}.timeout_secs",
            )

    def open(self, language: str) -> SpeechEngine:
        return OpenAISpeech(self)


class OpenAISpeech(SpeechEngine):
    """Speaks by asking a server; a text that the server refuses is refused, a server that cannot be used stops the job.

    Raises:
        MissingDependencyError: the package openai is missing.
    """

    def __init__(self, config: OpenAISpeechConfig) -> None:
        try:
            import openai
        except ImportError as error:
            raise MissingDependencyError(
                "asking a speech server needs the package openai", expected="pip install 'vtblender_nemo[synthesis]'"
            ) from error
        self._openai, self._config = openai, config
        self.model = config.model
        self._answered, self._refused = False, 0

    def speak(self, requests: Sequence[SpeechRequest]) -> list[Speech | Refused]:
        return asyncio.run(self._speak_all(requests))

    async def _speak_all(self, requests: Sequence[SpeechRequest]) -> list[Speech | Refused]:
        config, slots = self._config, asyncio.Semaphore(self._config.concurrency)
        client = self._openai.AsyncOpenAI(
            # Local servers want none, but the client refuses to start without.
            api_key=os.environ.get(config.api_key_env) or "none",
            base_url=config.base_url,
            max_retries=config.retries,
            timeout=config.timeout_secs,
        )
        async with client:
            tasks = [asyncio.create_task(self._speak(client, slots, request)) for request in requests]
            try:
                return await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()

    async def _speak(self, client: Any, slots: asyncio.Semaphore, request: SpeechRequest) -> Speech | Refused:
        rng, config = request.rng(), self._config
        voice, speed = rng.choice(config.voices), round(rng.uniform(*config.speed), 2)
        async with slots:
            try:
                answer = await client.audio.speech.create(
                    model=config.model, voice=voice, input=request.text, response_format="wav", speed=speed
                )
            except (self._openai.BadRequestError, self._openai.UnprocessableEntityError) as error:
                return self._refusal(error)
            except self._openai.OpenAIError as error:
                raise EndpointError(
                    f"the speech server cannot be used ({type(error).__name__}: {error})",
                    value=str(client.base_url),
                    expected=f"a server with /audio/speech, and its key in {config.api_key_env}",
                    knob="engines[].base_url, engines[].api_key_env",
                ) from error
            content = answer.content
        self._answered = True
        return self._decoded(content, f"{voice} at speed {speed}" if speed != 1 else voice)

    def _refusal(self, error: Exception) -> Refused:
        self._refused += 1
        if not self._answered and self._refused >= _MOST_REFUSALS:
            raise EndpointError(
                f"the speech server refuses every text ({error})",
                value={"model": self._config.model, "voices": self._config.voices},
                expected="a model, voices and speed that the server has",
                knob="engines[].model, engines[].voices, engines[].speed",
            ) from error
        return Refused("not_spoken", f"{self._config.model}: {error}")

    def _decoded(self, content: bytes, voice: str) -> Speech | Refused:
        import soundfile

        try:
            samples, rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            return Refused("not_spoken", f"{self._config.model} sent no audio ({error})")
        if not len(samples):
            return Refused("not_spoken", f"{self._config.model} sent audio without samples")
        return Speech(resampled(samples.mean(axis=1), rate), voice)
