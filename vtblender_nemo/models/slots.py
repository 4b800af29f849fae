"""Prompts as slots: what a cache of keys and values is compared with, so that only what is new has to run.

Shapes: P positions of a prompt, H hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vtblender_nemo.common.audio import load_samples
from vtblender_nemo.common.batch import pad_right
from vtblender_nemo.common.chat import ChatFormat
from vtblender_nemo.common.conversation import Audio, Turn
from vtblender_nemo.models.speech_llm import SpeechLLM


@dataclass(frozen=True)
class Slot:
    """A token, or an audio with its frames, and how many positions it takes in the cache."""

    token: int
    audio: Audio | None = None
    positions: int = 1


def read_slots(chat_format: ChatFormat, turns: Sequence[Turn]) -> Iterator[Slot]:
    """The slots of a prompt; audios count one position until they are embedded.

    Raises:
        DataError: turns in a wrong order, or a text that holds a control token or is no Unicode.
    """
    audios = iter([audio for turn in turns for audio in turn.audios])
    for token in chat_format.encode(turns).ids:
        yield Slot(token, next(audios)) if token == chat_format.audio_locator_id else Slot(token)


def embed_slots(model: SpeechLLM, prompts: Sequence[Sequence[Slot]]) -> list[tuple[Tensor, list[Slot]]]:
    """Embeddings (P, H) of every prompt, and its slots with their number of positions; all audios are encoded together.

    Raises:
        AudioError: an audio that cannot be decoded.
    """
    llm, sampling_rate = model.llm, model.perception.sampling_rate
    waves = [load_samples(slot.audio.cut, sampling_rate) for slots in prompts for slot in slots if slot.audio]
    frames_of: Iterator[Tensor] = iter(())
    if waves:
        frames, lens = model.hear(*(part.to(llm.device) for part in pad_right(waves)))
        frames_of = iter(frames.split(lens.tolist()))
    embedded = []
    for slots in prompts:
        ids = torch.tensor([0 if slot.audio else slot.token for slot in slots], device=llm.device)
        tokens = llm.embed(ids).split(1)
        pieces = [next(frames_of).to(row) if slot.audio else row for slot, row in zip(slots, tokens, strict=True)]
        placed = [Slot(slot.token, slot.audio, len(piece)) for slot, piece in zip(slots, pieces, strict=True)]
        embedded.append((torch.cat(pieces), placed))
    return embedded
