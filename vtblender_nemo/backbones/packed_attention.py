"""Attention over conversations that stand behind each other in one row, without padding and without a mask.

Transformers calls attention through a table of functions. The entries made here do what the entry they stand for does, unless the
caller of the model hands in a `Packing`: then every conversation attends to itself alone.

Shapes: P packed positions, h heads, d width of a head, B conversations of a group, T positions of the longest of them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from vtblender_nemo.common.lengths import length_groups

BASES = ("sdpa", "eager")
_MAX_PADDING = 0.25  # of a group, which attention alone computes on
_PREFIX = "packed_"


@dataclass(frozen=True)
class Packing:
    """Where conversations end in a packed row.

    Attributes:
        lens: positions of each conversation, P together.
        positions: (1, P) position inside the conversation.
        ends: (conversations + 1,) int32, 0 and where each conversation ends.
        groups: by group of conversations of like length, (conversations of it, T) their packed positions; a conversation that
            is shorter than T goes on with its last one, which none of its own positions sees.
        places: (P,) where each packed position stands in all groups, one behind another.
    """

    lens: tuple[int, ...]
    positions: Tensor
    ends: Tensor
    groups: tuple[Tensor, ...]
    places: Tensor

    @classmethod
    def of(cls, lens: Sequence[int], device: torch.device) -> Packing:
        """Packing of conversations of these lengths; none may be 0."""
        positions = torch.cat([torch.arange(length) for length in lens])
        ends = torch.tensor([0, *accumulate(lens)], dtype=torch.int32)
        groups, places = _groups(lens)
        groups = tuple(group.to(device) for group in groups)
        return cls(tuple(lens), positions[None].to(device), ends.to(device), groups, places.to(device))

    def arguments(self, attention: str) -> dict[str, Any]:
        """What the model's forward takes, given the name of its attention."""
        if attention.startswith(_PREFIX):
            # transformers makes no mask where it is handed one of four dimensions; nobody reads it
            nobodys = torch.empty(1, 1, 0, 0, device=self.positions.device)
            return {"position_ids": self.positions, "attention_mask": nobodys, "packing": self}
        longest = max(self.lens)
        return {
            "position_ids": self.positions,
            "cu_seq_lens_q": self.ends,
            "cu_seq_lens_k": self.ends,
            "max_length_q": longest,
            "max_length_k": longest,
        }


def _groups(lens: Sequence[int]) -> tuple[tuple[Tensor, ...], Tensor]:
    """The groups and places of a `Packing`."""
    starts = [0, *accumulate(lens)]
    groups, places, behind = [], torch.empty(starts[-1], dtype=torch.int64), 0
    for members in length_groups(lens, _MAX_PADDING):
        longest = lens[members[0]]
        within = torch.arange(longest)
        groups.append(torch.stack([starts[one] + within.clamp(max=lens[one] - 1) for one in members]))
        for row, one in enumerate(members):
            places[starts[one] : starts[one + 1]] = behind + row * longest + within[: lens[one]]
        behind += len(members) * longest
    return tuple(groups), places


def can_pack(attention: str) -> bool:
    """Whether attention of this name parts conversations: what is made here, and FlashAttention by itself."""
    return attention.startswith(_PREFIX) or "flash" in attention


def install(causal_lm: PreTrainedModel) -> None:
    """Puts an entry of ours in place of the model's attention, where there is one."""
    base = causal_lm.config.get_text_config()._attn_implementation
    if base in BASES:
        causal_lm.set_attn_implementation(_PREFIX + base)


def _entry(base: str) -> Callable[..., tuple[Tensor, Tensor | None]]:
    def attention(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        packing = kwargs.pop("packing", None)
        if packing is None:
            default = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
            return ALL_ATTENTION_FUNCTIONS.get_interface(base, default)(module, query, key, value, *args, **kwargs)
        return _packed(packing, query, key, value, **kwargs), None

    return attention


for _base in BASES:
    ALL_ATTENTION_FUNCTIONS.register(_PREFIX + _base, _entry(_base))
    ALL_MASK_ATTENTION_FUNCTIONS.register(_PREFIX + _base, ALL_MASK_ATTENTION_FUNCTIONS[_base])


def _packed(
    packing: Packing,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> Tensor:
    """Query (1, h, P, d), key and value (1, heads of theirs, P, d) -> (1, P, h, d)."""
    if dropout == 0.0 and softcap is None and _has_varlen_kernel(query):
        return _varlen(packing, query, key, value, scaling, sliding_window)
    outputs = []
    for group in packing.groups:
        parts = (part[0].index_select(1, group.flatten()).unflatten(1, group.shape) for part in (query, key, value))
        output = _group(
            *(part.transpose(0, 1) for part in parts),
            scaling=scaling,
            dropout=dropout,
            softcap=softcap,
            sliding_window=sliding_window,
        )
        outputs.append(output.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs).index_select(0, packing.places)[None]


def _group(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scaling: float | None,
    dropout: float,
    softcap: float | None,
    sliding_window: int | None,
) -> Tensor:
    """Causal attention of conversations (B, h, T, d) each, keys and values with as many heads as they have."""
    length = query.shape[2]
    if softcap is None:
        is_windowed = sliding_window is not None and length > sliding_window
        mask = _causal_mask(length, sliding_window, query.device) if is_windowed else None
        return torch.nn.functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            is_causal=mask is None,
            scale=scaling,
            dropout_p=dropout,
            enable_gqa=query.shape[1] != key.shape[1],
        )
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = torch.tanh(scores / softcap) * softcap
    hidden = ~_causal_mask(length, sliding_window, query.device)
    weights = scores.masked_fill(hidden, float("-inf")).softmax(-1, dtype=torch.float32).to(query.dtype)
    return torch.nn.functional.dropout(weights, dropout) @ value


def _causal_mask(length: int, sliding_window: int | None, device: torch.device) -> Tensor:
    """(T, T) bool: True where a position (row) sees another (column); as far back as the window, itself included."""
    mask = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    return mask if sliding_window is None else mask.triu(1 - sliding_window)


def _has_varlen_kernel(query: Tensor) -> bool:
    if not (query.is_cuda and query.dtype in (torch.bfloat16, torch.float16) and query.shape[-1] <= 256):
        return False
    try:
        from torch.nn.attention.varlen import varlen_attn  # noqa: F401
    except ImportError:
        return False
    return True


def _varlen(
    packing: Packing, query: Tensor, key: Tensor, value: Tensor, scaling: float | None, sliding_window: int | None
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    rows = (part[0].transpose(0, 1) for part in (query, key, value))
    window = (-1 if sliding_window is None else sliding_window - 1, 0)
    longest, gqa = max(packing.lens), query.shape[1] != key.shape[1]
    output = varlen_attn(
        *rows, packing.ends, packing.ends, longest, longest, scale=scaling, window_size=window, enable_gqa=gqa
    )
    return output[None]
