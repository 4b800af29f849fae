"""Prompts through encoder and LLM: those that begin anew together, those that go on from a cache one by one.

Shapes: B prompts, P positions of one, T positions of the longest, H hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vtblender_nemo.backbones.decoding import advance, prefill
from vtblender_nemo.backbones.kv_cache import GrowingCache
from vtblender_nemo.common.errors import AudioError, DataError
from vtblender_nemo.models.slots import Slot, embed_slots
from vtblender_nemo.models.speech_llm import SpeechLLM
from vtblender_nemo.serving.engine.prefixes import Prefix, marks_of
from vtblender_nemo.serving.engine.running import Row


@dataclass(frozen=True)
class Prompt:
    """What has to run before the first token of a row.

    Attributes:
        row: that waits for it.
        rest: slots behind the prefix.
        prefix: what need not run; None if all has to.
        embeds: (P, H) of the rest.
    """

    row: Row
    rest: Sequence[Slot]
    prefix: Prefix | None
    embeds: Tensor | None = None


@dataclass(frozen=True)
class Read:
    """Prompts that have been run: what `RunningRows.join` takes."""

    rows: list[Row]
    hidden: Tensor
    mask: Tensor
    cache: GrowingCache


def embed_prompts(model: SpeechLLM, prompts: Sequence[Prompt]) -> tuple[list[Prompt], dict[Row, DataError]]:
    """Prompts with their embeddings, and those whose audio cannot be decoded."""
    if not prompts:
        return [], {}
    try:
        embedded = embed_slots(model, [prompt.rest for prompt in prompts])
    except AudioError as error:
        if len(prompts) == 1:
            return [], {prompts[0].row: error}
        alone = [embed_prompts(model, [prompt]) for prompt in prompts]
        usable = [prompt for found, _ in alone for prompt in found]
        return usable, {row: error for _, failed in alone for row, error in failed.items()}
    usable = []
    for prompt, (embeds, placed) in zip(prompts, embedded, strict=True):
        prompt.row.marks = [*(prompt.prefix.marks if prompt.prefix else ()), *marks_of(placed)]
        usable.append(replace(prompt, embeds=embeds))
    return usable, {}


def run_prompts(model: SpeechLLM, prompts: Sequence[Prompt]) -> Iterator[Read]:
    """Runs embedded prompts through the LLM."""
    cold = [prompt for prompt in prompts if prompt.prefix is None]
    if cold:
        yield _run_cold(model, cold)
    for prompt in prompts:
        if prompt.prefix is not None:
            yield _run_on(model, prompt, prompt.prefix)


def _run_cold(model: SpeechLLM, prompts: Sequence[Prompt]) -> Read:
    embeds = [prompt.embeds for prompt in prompts if prompt.embeds is not None]
    padded = pad_sequence(embeds, batch_first=True, padding_side="left")
    lens = torch.tensor([len(rows) for rows in embeds], device=padded.device)
    mask = torch.arange(padded.shape[1], device=padded.device) >= padded.shape[1] - lens[:, None]
    cache = GrowingCache()
    return Read([prompt.row for prompt in prompts], prefill(model.llm, padded, mask, cache), mask, cache)


def _run_on(model: SpeechLLM, prompt: Prompt, prefix: Prefix) -> Read:
    assert prompt.embeds is not None, "prompts are embedded first"
    with model.llm.reading(torch.tensor([len(prompt.embeds) - 1], device=prompt.embeds.device)):
        hidden = advance(model.llm, prompt.embeds[None], prefix.cache)[:, -1]
    mask = torch.ones(1, prefix.cache.get_seq_length(), dtype=torch.bool, device=hidden.device)
    return Read([prompt.row], hidden, mask, prefix.cache)
