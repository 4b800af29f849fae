"""Frames as soft tokens: CTC over the LLM's own embeddings tells of which token a frame is, and the LLM reads mixtures of these.

A frame is a distribution over the LLM's tokens and a blank (CTC: Graves et al., 2006). Blank frames are left out, neighbours of
one token become one row (Gaido et al., 2021, arXiv 2102.01578), and the row is the mean of the token embeddings under the
distribution (as in LegoSLM, arXiv 2505.11352). So an LLM without LoRA is given nearly what the transcript would give it, at
nearly the transcript's length. What no token tells, as who speaks and how, is lost.

Shapes: A audio segments, F frames of all of them, K frames that are kept, R rows of soft tokens, H hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vtblender_nemo.common.errors import ConfigError

_CHUNK_LOGITS = 2**24  # 64 MiB in float32
_MIN_CHUNK_ROWS = 64


class TokenCTC(nn.Module):
    """Frames -> logits of the LLM's tokens, whose embeddings are the output layer, and of a blank.

    Args:
        hidden_size: H.
        vocab_size: V.
        embed_rms: root mean square of the token embeddings.
    """

    def __init__(self, hidden_size: int, vocab_size: int, embed_rms: float) -> None:
        super().__init__()
        self.embed_rms = embed_rms
        self.blank = nn.Parameter(torch.randn(1, hidden_size))
        self.bias = nn.Parameter(torch.zeros(vocab_size + 1))
        self.temperature = nn.Parameter(torch.tensor(float(hidden_size) ** -0.5))

    def logits(self, frames: Tensor, embeddings: Tensor) -> Tensor:
        """
        Args:
            frames: (F, H).
            embeddings: (V, H), of all tokens.

        Returns:
            (F, V + 1) float32; the blank is the last one.
        """
        scale = self.temperature / self.embed_rms
        tokens = (frames.to(embeddings.dtype) @ embeddings.t()).float() / self.embed_rms
        blank = frames.float() @ self.blank.float().t()
        return scale * torch.cat([tokens, blank], dim=1) + self.bias

    def soft_tokens(self, frames: Tensor, frame_lens: Tensor, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """Frames to soft tokens; audio without any token keeps the frame that is most like one.

        Args:
            frames: (F, H), segment after segment.
            frame_lens: (A,) frames of each segment, 1 or more.
            embeddings: (V, H), of all tokens.

        Returns:
            Rows (R, H) at the scale of the embeddings, and how many each segment has (A,).
        """
        with torch.autocast(frames.device.type, enabled=False):
            best, tokenness = _in_chunks(lambda rows: self._best(rows, embeddings), frames.detach(), len(embeddings))
            segment = torch.repeat_interleave(torch.arange(len(frame_lens), device=frames.device), frame_lens)
            kept, row = _join(best, tokenness, segment, frame_lens, blank=len(embeddings))
            rows, weights = _in_chunks(lambda rows: self._mixtures(rows, embeddings), frames[kept], len(embeddings))
        count = int(row[-1]) + 1
        total = weights.new_zeros(count).index_add(0, row, weights)
        joined = rows.new_zeros(count, rows.shape[1]).index_add(0, row, rows * weights[:, None]) / total[:, None]
        owner = segment.new_zeros(count).index_copy(0, row, segment[kept])
        return joined.to(frames.dtype), torch.bincount(owner, minlength=len(frame_lens))

    @torch.no_grad()
    def _best(self, frames: Tensor, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """The likeliest token or blank (F,), and by how much the likeliest token beats the blank (F,)."""
        logits = self.logits(frames, embeddings)
        return logits.argmax(-1), logits[:, :-1].amax(-1) - logits[:, -1]

    def _mixtures(self, frames: Tensor, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """Mean embeddings (K, H) float32 if it is no blank, and the probability of that (K,)."""
        logits = self.logits(frames, embeddings)
        tokens, blank = logits[:, :-1], logits[:, -1]
        rows = (tokens.softmax(-1).to(embeddings.dtype) @ embeddings).float()
        return rows, (tokens.logsumexp(-1) - blank).sigmoid()


def check_soft_tokens(perception: Mapping[str, Any]) -> None:
    """
    Args:
        perception: the section `model.perception`.

    Raises:
        ConfigError: soft tokens and a separator, which would have to be a token.
    """
    if perception.get("soft_tokens", False) and perception.get("separator", False):
        raise ConfigError(
            "soft tokens have no separator behind them",
            value="both true",
            expected="one of both",
            knob="model.perception.separator=false, or model.perception.soft_tokens=false",
        )


def _join(best: Tensor, tokenness: Tensor, segment: Tensor, frame_lens: Tensor, *, blank: int) -> tuple[Tensor, Tensor]:
    """Which frames (K,) are kept, and the row of each (K,): rows of neighbours that are of one token are one."""
    is_token = best != blank
    first = torch.ones_like(is_token)
    first[1:] = (best[1:] != best[:-1]) | (segment[1:] != segment[:-1])
    silent = torch.zeros_like(frame_lens).index_add(0, segment, is_token.to(frame_lens)) == 0
    if silent.any():
        most = tokenness.new_full((len(frame_lens),), -torch.inf).scatter_reduce(0, segment, tokenness, "amax")
        likest = silent[segment] & (tokenness == most[segment])
        is_token = is_token | likest
        first = first | likest
    kept = is_token.nonzero()[:, 0]
    runs = (first.cumsum(0) - 1)[kept]
    return kept, runs.unique_consecutive(return_inverse=True)[1]


def _in_chunks(
    function: Callable[[Tensor], tuple[Tensor, Tensor]], rows: Tensor, vocab_size: int
) -> tuple[Tensor, Tensor]:
    """The function of all rows, of which few chunks' logits exist at a time; those of several are made again for gradients."""
    chunks = rows.split(max(_MIN_CHUNK_ROWS, _CHUNK_LOGITS // vocab_size))
    if len(chunks) == 1:
        return function(rows)
    if torch.is_grad_enabled():
        made = [checkpoint(function, chunk, use_reentrant=False) for chunk in chunks]
    else:
        made = [function(chunk) for chunk in chunks]
    first, second = zip(*made, strict=True)
    return torch.cat(first), torch.cat(second)
