"""Answers token by token, on top of the LLM's forward with a cache.

Shapes: B conversations, T positions of prompts, P packed positions, H hidden, V vocabulary, N tokens of the longest answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    NoRepeatNGramLogitsProcessor,
    PretrainedConfig,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)
from transformers.cache_utils import Cache

from vtblender_nemo.backbones.kv_cache import GrowingCache
from vtblender_nemo.backbones.packed_attention import Packing, can_pack

if TYPE_CHECKING:
    from vtblender_nemo.backbones.transformers_llm import TransformersLLM

_BOOL_MASKS = ("sdpa", "packed_sdpa")


class Chooser:
    """The next token of every row: what transformers' `generate` would choose, given the same settings and random numbers.

    Args:
        stop_ids: ids that end an answer.
        min_new_tokens: answers do not end before.
        generator: draws what is sampled; torch's own if None.
        sampling: `do_sample`, `temperature`, `top_k`, `top_p`, `min_p`, `typical_p`, `repetition_penalty`,
            `no_repeat_ngram_size`; greedy if empty.
    """

    def __init__(
        self,
        stop_ids: Sequence[int],
        *,
        min_new_tokens: int = 0,
        generator: torch.Generator | None = None,
        **sampling: Any,
    ) -> None:
        self._stop_ids = list(stop_ids)
        self._min_new_tokens = min_new_tokens
        self._generator = generator
        self.samples = bool(sampling.get("do_sample"))
        self._penalties, self._warpers = _penalties(sampling), _warpers(sampling) if self.samples else None

    def __call__(self, logits: Tensor, answered: Tensor) -> Tensor:
        """Logits (B, V) and the tokens of the answers so far (B, n) -> (B,) ids."""
        scores = self._penalties(answered, logits.float()) if self._penalties else logits
        if answered.shape[1] < self._min_new_tokens:
            scores = scores.index_fill(1, torch.tensor(self._stop_ids, device=scores.device), float("-inf"))
        if self._warpers is None:
            return scores.argmax(-1)
        shares = self._warpers(answered, scores.float()).softmax(-1)
        return torch.multinomial(shares, 1, generator=self._generator)[:, 0]


def _penalties(sampling: Mapping[str, Any]) -> LogitsProcessorList:
    made = LogitsProcessorList()
    if (penalty := sampling.get("repetition_penalty", 1.0)) != 1.0:
        made.append(RepetitionPenaltyLogitsProcessor(penalty))
    if size := sampling.get("no_repeat_ngram_size", 0):
        made.append(NoRepeatNGramLogitsProcessor(size))
    return made


def _warpers(sampling: Mapping[str, Any]) -> LogitsProcessorList:
    made = LogitsProcessorList()
    if (temperature := sampling.get("temperature", 1.0)) != 1.0:
        made.append(TemperatureLogitsWarper(temperature))
    if top_k := sampling.get("top_k", 50):  # transformers' default
        made.append(TopKLogitsWarper(top_k))
    if (top_p := sampling.get("top_p", 1.0)) < 1.0:
        made.append(TopPLogitsWarper(top_p))
    if (min_p := sampling.get("min_p")) is not None:
        made.append(MinPLogitsWarper(min_p))
    if (typical_p := sampling.get("typical_p", 1.0)) < 1.0:
        made.append(TypicalLogitsWarper(typical_p))
    return made


def advance(
    llm: TransformersLLM, embeds: Tensor, cache: Cache, *, mask: Tensor | None = None, positions: Tensor | None = None
) -> Tensor:
    """Runs new positions behind those of a cache, which grows by them.

    Args:
        llm: the LLM.
        embeds: (B, T, H) new positions.
        cache: holds (B, K) positions.
        mask: (B, K + T) bool, False at padding; None without.
        positions: (B, T) places of the new positions in their conversations; None where nothing is padded.

    Returns:
        (B, T, H) last hidden states, before the head.
    """
    if mask is not None and embeds.shape[1] == 1 and _is_whole_mask(llm.causal_lm.config.get_text_config(), mask):
        mask = mask[:, None, None, :]  # transformers takes masks of four dimensions as they are; making one costs time
    output = llm.causal_lm.base_model(
        inputs_embeds=embeds, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
    )
    return output.last_hidden_state


def _is_whole_mask(config: PretrainedConfig, mask: Tensor) -> bool:
    """Whether a single new position sees all that is no padding, and attention takes a bool for it."""
    window = getattr(config, "sliding_window", None) or mask.shape[1]
    return config._attn_implementation in _BOOL_MASKS and mask.shape[1] <= window


def prefill(llm: TransformersLLM, embeds: Tensor, mask: Tensor, cache: GrowingCache) -> Tensor:
    """Runs prompts through the LLM, without their padding where attention can part conversations.

    Args:
        llm: the LLM.
        embeds: (B, T, H), padded on the left.
        mask: (B, T) bool.
        cache: empty; afterwards it holds (B, T) positions.

    Returns:
        (B, H) the hidden state of each prompt's last position.
    """
    lens = mask.sum(1).tolist()
    last = torch.arange(1, len(embeds) + 1, device=embeds.device) * embeds.shape[1] - 1
    if min(lens) == mask.shape[1]:
        with llm.reading(last):
            return advance(llm, embeds, cache)[:, -1]
    attention = llm.causal_lm.config.get_text_config()._attn_implementation
    if not can_pack(attention):
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        with llm.reading(last):
            return advance(llm, embeds, cache, mask=mask, positions=positions)[:, -1]
    last = mask.sum(1).cumsum(0) - 1  # without the padding
    with llm.reading(last):
        hidden = llm.causal_lm.base_model(
            inputs_embeds=embeds[mask][None],
            past_key_values=cache,
            use_cache=True,
            **Packing.of(lens, embeds.device).arguments(attention),
        ).last_hidden_state[0]
    cache.place_left_padded(lens)
    return hidden[last]


def decode(
    llm: TransformersLLM,
    hidden: Tensor,
    mask: Tensor,
    cache: GrowingCache,
    choose: Chooser,
    *,
    max_new_tokens: int,
    stop_ids: Sequence[int],
) -> Tensor:
    """Continues from what a cache holds.

    Rows that have ended leave the batch when half of it has, so that long answers do not pay for short ones; not where tokens are
    sampled, as the random numbers of a row would then depend on the others' lengths.

    Args:
        llm: the LLM.
        hidden: (B, H) hidden state of each row's last position.
        mask: (B, T) bool, which positions of the cache are no padding.
        cache: (B, T) positions; afterwards all but the last of the new tokens stand in it, of the rows that were left.
        choose: the next tokens.
        max_new_tokens: of each answer.
        stop_ids: ids that end an answer.

    Returns:
        (B, N at most max_new_tokens) ids, filled up with the first of `stop_ids`.
    """
    rows = torch.arange(len(hidden), device=hidden.device)
    stops = torch.tensor(list(stop_ids), device=hidden.device)
    answers = torch.full((len(hidden), max_new_tokens), stop_ids[0], device=hidden.device)
    is_padded = not bool(mask.all())
    positions = mask.sum(1)
    mask = torch.cat([mask, mask.new_ones(len(mask), max_new_tokens)], dim=1)
    ended = torch.zeros_like(rows, dtype=torch.bool)
    for step in range(max_new_tokens):
        chosen = choose(llm.logits(hidden), answers[rows, :step])
        chosen = chosen.masked_fill(ended, stop_ids[0])
        answers[rows, step] = chosen
        ended = ended | torch.isin(chosen, stops)
        left = int((~ended).sum())
        if left == 0 or step + 1 == max_new_tokens:
            return answers[:, : step + 1]
        if not choose.samples and left <= len(rows) // 2:
            keep = (~ended).nonzero()[:, 0]
            cache.batch_select_indices(keep)
            rows, chosen, positions, mask, ended = (part[keep] for part in (rows, chosen, positions, mask, ended))
        seen = mask[:, : cache.get_seq_length() + 1] if is_padded else None
        hidden = advance(llm, llm.embed(chosen[:, None]), cache, mask=seen, positions=positions[:, None])[:, -1]
        positions = positions + 1
    return answers[:, :0]
