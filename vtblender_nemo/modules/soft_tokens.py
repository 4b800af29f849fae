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
        embed_scale: what the LLM multiplies the rows of its table by.
        embed_rms: root mean square of the embeddings after that.
    """

    def __init__(self, hidden_size: int, vocab_size: int, *, embed_scale: float, embed_rms: float) -> None:
        super().__init__()
        self.embed_scale = embed_scale
        self.embed_rms = embed_rms
        self.blank = nn.Parameter(torch.randn(1, hidden_size))
        self.bias = nn.Parameter(torch.zeros(vocab_size + 1))
        self.log_sharpness = nn.Parameter(torch.tensor(float(hidden_size)).log() / -2)

    def logits(self, frames: Tensor, table: Tensor) -> Tensor:
        """
        Args:
            frames: (F, H).
            table: (V, H), as the LLM keeps it.

        Returns:
            (F, V + 1) float32; the blank is the last one.
        """
        tokens = (frames.to(table.dtype) @ table.t()).float() * (self.embed_scale / self.embed_rms)
        blank = frames.float() @ self.blank.float().t()
        return self.log_sharpness.exp() / self.embed_rms * torch.cat([tokens, blank], dim=1) + self.bias

    def loss(self, frames: Tensor, frame_lens: Tensor, targets: Tensor, target_lens: Tensor, table: Tensor) -> Tensor:
        """CTC of transcripts, the mean over segments of their losses by target.

        Args:
            frames: (F, H), segment after segment.
            frame_lens: (A,).
            targets: (sum of target_lens,) token ids, transcript after transcript.
            target_lens: (A,).
            table: see `logits`.
        """
        told, targets = targets.unique(return_inverse=True)  # no other token's probability matters by itself
        columns = torch.cat([told, told.new_tensor([len(table)])])

        def told_and_others(rows: Tensor) -> tuple[Tensor, Tensor]:
            logits = self.logits(rows, table)
            return logits.index_select(1, columns), logits.index_fill(1, columns, -torch.inf).logsumexp(-1)

        with torch.autocast(frames.device.type, enabled=False):
            logits, others = _in_chunks(told_and_others, frames, len(table))
            # the others as one class: torch's gradient of the loss is right for whole distributions alone
            log_probs = torch.cat([logits, others[:, None]], dim=1).log_softmax(-1).split(frame_lens.tolist())
            return nn.functional.ctc_loss(
                nn.utils.rnn.pad_sequence(log_probs),
                targets,
                frame_lens,
                target_lens,
                blank=len(told),
                zero_infinity=True,
            )

    def soft_tokens(self, frames: Tensor, frame_lens: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        """Frames to soft tokens; a segment without any token keeps the frame that is most like one.

        Args:
            frames: (F, H), segment after segment.
            frame_lens: (A,) frames of each segment.
            table: see `logits`.

        Returns:
            Rows (R, H) in the table's type, as loud as embeddings are, and how many each segment has (A,).
        """
        if not len(frames):
            return table.new_zeros(0, table.shape[1]), torch.zeros_like(frame_lens)
        segment = torch.repeat_interleave(torch.arange(len(frame_lens), device=frames.device), frame_lens)
        with torch.autocast(frames.device.type, enabled=False):
            best, tokenness = _in_chunks(lambda rows: self._best(rows, table), frames.detach(), len(table))
            kept, row = _join(best, tokenness, segment, frame_lens, blank=len(table))
            mixtures, log_weights = _in_chunks(lambda rows: self._mixtures(rows, table), frames[kept], len(table))
            count = int(row[-1]) + 1
            loudest = log_weights.new_full((count,), -torch.inf).scatter_reduce(0, row, log_weights.detach(), "amax")
            weights = (log_weights - loudest[row]).exp()
            total = weights.new_zeros(count).index_add(0, row, weights)
            joined = mixtures.new_zeros(count, mixtures.shape[1]).index_add(0, row, mixtures * weights[:, None])
        owner = segment.new_zeros(count).index_copy(0, row, segment[kept])
        return (joined / total[:, None]).to(table.dtype), torch.bincount(owner, minlength=len(frame_lens))

    @torch.no_grad()
    def _best(self, frames: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        """The likeliest token or blank (F,), and by how much the likeliest token beats the blank (F,)."""
        logits = self.logits(frames, table)
        return logits.argmax(-1), logits[:, :-1].amax(-1) - logits[:, -1]

    def _mixtures(self, frames: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        """Mean embeddings (K, H) float32 of frames that are no blanks, and the logarithm of the probability of that (K,)."""
        logits = self.logits(frames, table)
        tokens, blank = logits[:, :-1], logits[:, -1]
        rows = (tokens.softmax(-1).to(table.dtype) @ table).float() * self.embed_scale
        return rows, nn.functional.logsigmoid(tokens.logsumexp(-1) - blank)


def check_soft_tokens(model: Mapping[str, Any]) -> None:
    """
    Args:
        model: the section `model` of a configuration.

    Raises:
        ConfigError: soft tokens with a separator, which would have to be a token, or with a table that is trained.
    """
    perception = model.get("perception") or {}
    if not perception.get("soft_tokens", False):
        return
    if perception.get("separator", False):
        raise ConfigError(
            "soft tokens have no separator behind them",
            value="both true",
            expected="one of both",
            knob="model.perception.separator=false, or model.perception.soft_tokens=false",
        )
    if model.get("train_llm", False):
        raise ConfigError(
            "soft tokens are of a table that stays as it is",
            value="train_llm true",
            expected="a frozen LLM, with LoRA or without",
            knob="model.train_llm=false, or model.perception.soft_tokens=false",
        )


def _join(best: Tensor, tokenness: Tensor, segment: Tensor, frame_lens: Tensor, *, blank: int) -> tuple[Tensor, Tensor]:
    """Which frames (K,) are kept, and the row of each (K,): rows of neighbours that are of one token are one."""
    is_token = best != blank
    first = torch.ones_like(is_token)
    first[1:] = (best[1:] != best[:-1]) | (segment[1:] != segment[:-1])
    silent = torch.zeros_like(frame_lens).index_add(0, segment, is_token.to(frame_lens)) == 0
    if silent.any():
        most = tokenness.new_full((len(frame_lens),), -torch.inf).scatter_reduce(0, segment, tokenness, "amax")
        likest = (silent[segment] & (tokenness == most[segment])).nonzero()[:, 0]
        likest = likest[segment[likest].diff(prepend=segment.new_tensor([-1])) != 0]  # the first one of each segment
        is_token[likest] = first[likest] = True
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
