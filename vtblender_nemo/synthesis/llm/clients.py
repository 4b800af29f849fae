"""LLMs that answer prompts: what the ways to run one have in common.

An `LLM` says which model is asked and how; it is pickled to every process, and opened there. `local.py` runs a Hugging Face
model, `endpoint.py` asks a server that speaks OpenAI's chat API.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.synthesis.work import Refused

Messages = Sequence[Mapping[str, str]]
"""A prompt: `{"role": ..., "content": text}` in order, the last of them the user's."""


@dataclass(frozen=True)
class Decoding:
    """How an answer is drawn from the LLM's probabilities.

    Attributes:
        max_new_tokens: of an answer; one that is longer is refused, as half of a JSON object is of no use.
        temperature: 0 takes the likeliest token each time.
        top_p: only the likeliest tokens that have this probability together are drawn from.
        seed: of all draws.
    """

    max_new_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ConfigError(
                "answers without room", value=self.max_new_tokens, expected="at least 1 token", knob="--max-new-tokens"
            )
        if not self.temperature >= 0:
            raise ConfigError(
                "negative temperature", value=self.temperature, expected="0 or more", knob="--temperature"
            )
        if not 0 < self.top_p <= 1:
            raise ConfigError("top_p is no share", value=self.top_p, expected="more than 0, at most 1", knob="--top-p")

    def seed_of(self, messages: Messages) -> int:
        """The seed of one prompt, 31 bits: it follows from the prompt, so that its company in a batch changes nothing."""
        content = json.dumps([self.seed, [dict(message) for message in messages]], sort_keys=True)
        return int.from_bytes(hashlib.sha256(content.encode()).digest()[:4], "big") >> 1


class LLMClient(Protocol):
    """An LLM that is open."""

    def complete(
        self, prompts: Sequence[Messages], *, json_schema: Mapping[str, Any] | None = None
    ) -> list[str | Refused]:
        """Answers prompts, in their order.

        Args:
            prompts: any number.
            json_schema: what the answers are held to where the LLM's host can do that; elsewhere they are free text, and the
                prompt has to ask for JSON.

        Returns:
            A text for every prompt, or why there is none; one prompt that cannot be answered costs the others nothing.

        Raises:
            VTBlenderError: nothing more can be answered until something is mended (not a `DataError`).
        """


@dataclass(frozen=True)
class LLM(ABC):
    """Which LLM is asked, and how.

    Attributes:
        model: its name, for provenance.
        decoding: how answers are drawn.
    """

    model: str
    decoding: Decoding = Decoding()

    engine = ""
    """What runs it, for provenance."""

    def settings(self) -> dict[str, Any]:
        """All that decides its answers, as JSON; not where it runs or how fast it is asked."""
        return {"engine": self.engine, "model": self.model, **asdict(self.decoding)}

    @abstractmethod
    def open(self) -> LLMClient:
        """Loads the model, or connects to it."""
