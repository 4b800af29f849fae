"""Waveforms in chunks no longer than the encoder was trained on, whose self-attention costs the square of the length.

Shapes: A audio segments, C chunks, S samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vtblender_nemo.common.quiet_cuts import quiet_spans

_CHUNKS_A_PASS = 8


@dataclass(frozen=True)
class Chunks:
    """Chunks in the order of the audios and of time.

    Attributes:
        audios: (C, S).
        lens: (C,) samples of each.
        owner: (C,) number of the audio that the chunk is of.
        is_last: (C,) bool, whether it is the audio's last.
        longest_pass: samples that the encoder should get at once, 0 where nothing was cut.
    """

    audios: Tensor
    lens: Tensor
    owner: Tensor
    is_last: Tensor
    longest_pass: int


def chunk(audios: Tensor, lens: Tensor, longest_secs: float | None, sampling_rate: int) -> Chunks:
    """Cuts audios (A, S) with lengths (A,) that are longer than `longest_secs` where little is heard.

    Args:
        audios: padded on the right.
        lens: samples of each.
        longest_secs: of a chunk; None for one chunk an audio.
        sampling_rate: Hz.
    """
    everything = torch.ones_like(lens, dtype=torch.bool)
    if longest_secs is None or int(lens.max()) <= longest_secs * sampling_rate:
        return Chunks(audios, lens, torch.arange(len(lens), device=lens.device), everything, 0)
    pieces: list[Tensor] = []
    counts: list[int] = []
    for audio, length in zip(audios, lens.tolist(), strict=True):
        spans = quiet_spans(audio[:length].float().cpu().numpy(), sampling_rate, longest_secs)
        pieces += [audio[start:end] for start, end in spans]
        counts.append(len(spans))
    owner = torch.repeat_interleave(torch.tensor(counts)).to(lens.device)
    is_last = torch.cat([owner[1:] != owner[:-1], everything[:1]])
    of_chunks = torch.tensor([len(piece) for piece in pieces], device=lens.device, dtype=lens.dtype)
    longest_pass = int(_CHUNKS_A_PASS * longest_secs * sampling_rate)
    return Chunks(pad_sequence(pieces, batch_first=True), of_chunks, owner, is_last, longest_pass)


def split_group(group: list[int], lens: Tensor, longest_pass: int) -> list[list[int]]:
    """Parts rows that would be computed together so that their padded samples stay within `longest_pass`."""
    rows = max(1, longest_pass // int(lens[group].max()))
    return [group[start : start + rows] for start in range(0, len(group), rows)]
