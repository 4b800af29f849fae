"""An LLM whose answers a test decides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vtblender_nemo.synthesis.llm.clients import LLM, Messages
from vtblender_nemo.synthesis.work import Refused


@dataclass(frozen=True)
class ScriptedLLM(LLM):
    """Answers by a function of the prompt's text."""

    answer: Callable[[str], str | Refused] = str
    engine = "script"

    def open(self) -> ScriptedLLM:
        return self

    def complete(
        self, prompts: Sequence[Messages], *, json_schema: Mapping[str, Any] | None = None
    ) -> list[str | Refused]:
        return [self.answer(prompt[-1]["content"]) for prompt in prompts]
