"""Two trainings of the same weights on the same blend: ours, and the host's stock SALM.

The blend is speech recognition, speech QA and mixed-modal talk with LibriSpeech's spread of lengths; text-only chats are left
out, as a batch of them alone stops SALM. Both sides read the same file through their own loaders.
"""

from __future__ import annotations

import ctypes
import gc
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import soundfile as sf
import torch
from omegaconf import OmegaConf
from torch import Tensor

from tests.benchmark.blend_rate import make_llm, sentence
from tests.benchmark.shapes import small_gemma_proportions
from tests.helpers.corpus import RATE, write_jsonl
from tests.helpers.models import speech
from tests.helpers.salm import build_salm, salm_loader
from vtblender_nemo import VTBlenderModel
from vtblender_nemo.data.loader import BlendDataModule
from vtblender_nemo.modules.splice import IGNORE

ROWS = 160
SHARES = {"asr": 5, "qa": 2, "talk": 3}
# Regularisation that draws random numbers is off on both sides, so that losses can be compared.
PLAIN = {
    "llm_overrides": {"attention_dropout": 0.0},
    "perception": {
        "modality_adapter": {"dropout": 0.0, "dropout_pre_encoder": 0.0, "dropout_att": 0.0},
        "spec_augment": {"freq_masks": 0, "time_masks": 0},
    },
}


@dataclass
class Side:
    """One of the two trainings.

    Attributes:
        batches: what its loader gave.
        step: one micro-batch -> the summed loss of its targets.
        size: one micro-batch -> positions that hold something, positions computed, and targets.
        parameters: what is trained.
        module: that holds them.
    """

    batches: list[Any]
    step: Callable[[Any], Tensor]
    size: Callable[[Any], tuple[int, int, int]]
    parameters: list[torch.nn.Parameter]
    module: torch.nn.Module

    def train_on(self, batch: Any, optimizer: torch.optim.Optimizer) -> float:
        """A whole step; returns the summed loss."""
        loss = self.step(batch)
        (loss / self.size(batch)[2]).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    def optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters, lr=1e-5, fused=True)


def make_model(
    folder: Path, shape: Callable[..., VTBlenderModel] = small_gemma_proportions, **overrides: Any
) -> VTBlenderModel:
    """A model of `shapes`, with a tokenizer of byte pairs, in train mode."""
    make_llm(folder / "words")
    model = shape(folder, model=OmegaConf.merge(PLAIN, overrides), tokenizer=folder / "words")
    model.perception.preprocessor.featurizer.dither = 0.0
    return model.train()


def write_blend(folder: Path, rows: int = ROWS) -> str:
    """Rows that both loaders read, as `multimodal_conversation`."""
    rng = random.Random(0)
    return write_jsonl(folder / "blend.jsonl", [_row(folder, number, rng) for number in range(rows)])


def _row(folder: Path, number: int, rng: random.Random) -> dict[str, Any]:
    secs = round(rng.triangular(2, 19, 15), 2)
    sf.write(folder / f"{number}.flac", speech(secs, number), RATE)
    kind = rng.choices(list(SHARES), list(SHARES.values()))[0]
    said = sentence(rng, int(2.7 * secs))
    before, answer = {
        "asr": ("transcribe what is said", said),
        "qa": (sentence(rng, 9), sentence(rng, rng.randint(2, 25))),
        "talk": (sentence(rng, rng.randint(5, 60)), sentence(rng, rng.randint(20, 100))),
    }[kind]
    turns = [
        {"type": "text", "from": "User", "value": before},
        {"type": "audio", "from": "User", "value": f"{number}.flac", "duration": secs},
        {"type": "text", "from": "Assistant", "value": answer},
    ]
    return {"id": f"{kind}{number}", "conversations": turns}


def our_batches(model: VTBlenderModel, manifests: Sequence[str], batch_tokens: int, buckets: int) -> Iterator[Any]:
    """Micro-batches of our loader, from alike many rows of each file."""
    entries = [
        {"type": "multimodal_conversation", "name": Path(manifest).stem, "manifest_filepath": manifest, "weight": 1}
        for manifest in manifests
    ]
    settings = {"input_cfg": entries, "batch_tokens": batch_tokens, "num_buckets": buckets, "num_workers": 0, "seed": 0}
    data = BlendDataModule(
        OmegaConf.create({"train_ds": settings, "validation_ds": None}),
        chat_format=model.chat_format,
        token_equivalent_duration=model.token_equivalent_duration,
        sampling_rate=model.sampling_rate,
    )
    return iter(data.train_dataloader())


def salm_batches(peer: Any, manifests: Sequence[str], batch_tokens: int, buckets: int) -> Iterator[Any]:
    """Micro-batches of the host's loader, from alike many rows of each file."""
    entries = [{"type": "multimodal_conversation", "manifest_filepath": file, "weight": 1} for file in manifests]
    loader = salm_loader(
        peer,
        entries,
        batch_tokens=batch_tokens,
        use_bucketing=buckets > 1,
        num_buckets=buckets,
        concurrent_bucketing=False,  # its thread has been seen to stop
    )
    return iter(loader)


def ours(model: VTBlenderModel, manifest: str, *, batch_tokens: int, buckets: int, count: int) -> Side:
    """Our training, fed by our loader."""

    def size(batch: Any) -> tuple[int, int, int]:
        with torch.no_grad():
            _, plan = model.speech_llm.splice(batch)
        positions = len(plan.source)
        return positions, positions + -positions % model.speech_llm.pad_positions_to, int((plan.target != IGNORE).sum())

    return Side(
        batches=list(islice(our_batches(model, [manifest], batch_tokens, buckets), count)),
        step=lambda batch: model.speech_llm(batch).sum,
        size=_remembered(size),
        parameters=[p for p in model.parameters() if p.requires_grad],
        module=model,
    )


def salm(model: VTBlenderModel, manifest: str, *, batch_tokens: int, buckets: int, count: int) -> Side:
    """The host's training with the weights of `model`, fed by the host's loader."""
    peer = build_salm(model).train()
    peer.perception.preprocessor.featurizer.dither = 0.0

    def step(batch: Any) -> Tensor:
        result = peer.training_step(batch, 0)
        return result["loss"] * result["num_frames"]

    def size(batch: Any) -> tuple[int, int, int]:
        with torch.no_grad():
            inputs = peer.prepare_inputs(batch)
        mask = inputs["attention_mask"]
        return int(mask.sum()), mask.numel(), int((inputs["target_ids"] != IGNORE).sum())

    return Side(
        batches=list(islice(salm_batches(peer, [manifest], batch_tokens, buckets), count)),
        step=step,
        size=_remembered(size),
        parameters=[p for p in peer.parameters() if p.requires_grad],
        module=peer,
    )


def _remembered(size: Callable[[Any], tuple[int, int, int]]) -> Callable[[Any], tuple[int, int, int]]:
    known: dict[int, tuple[int, int, int]] = {}

    def remembered(batch: Any) -> tuple[int, int, int]:
        if id(batch) not in known:
            known[id(batch)] = size(batch)
        return known[id(batch)]

    return remembered


def padding_share(side: Side) -> float:
    """The part of the LLM's positions that hold nothing."""
    sizes = [side.size(batch) for batch in side.batches]
    return 1 - sum(size[0] for size in sizes) / sum(size[1] for size in sizes)


def peak_above(work: Callable[[], Any]) -> float:
    """MiB of memory that `work` needs beyond what this process holds before it (Linux with glibc)."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed while loading goes back
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew here
    before = _status("VmRSS")
    work()
    return (_status("VmHWM") - before) / 1024


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))
