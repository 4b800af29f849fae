"""The schema for NeMo's OOMptimizer drives the model, and sizes found by it bound micro-batches."""

from __future__ import annotations

import math
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from nemo.core.neural_types import LabelsType

from tests.helpers.corpus import RATE, chat_rows, speech_rows, write_jsonl
from tests.helpers.models import model_config
from tests.helpers.oomptimizer import random_batch, search
from vtblender_nemo import VTBlenderModel
from vtblender_nemo.common.batch import Batch
from vtblender_nemo.data.loader import BlendDataModule

SECS_AND_TOKENS = [(0.8, 20), (2.0, 40), (4.0, 80)]
MEMORY = 700  # positions


@pytest.fixture(scope="module")
def model(gemma: Path, canary: Path) -> VTBlenderModel:
    """Made as the script makes it."""
    made = VTBlenderModel(cfg=model_config(gemma, canary), trainer=Trainer(barebones=True))
    made.train()
    return made


def positions(model: VTBlenderModel, batch: Batch) -> int:
    with torch.no_grad():
        _, plan = model.speech_llm.splice(batch)
    return len(plan.source)


def test_schema_makes_conversations_of_the_lengths_asked_for(model: VTBlenderModel) -> None:
    locator = model.chat_format.audio_locator_id
    batch = random_batch(model.oomptimizer_schema, 3, (RATE, 700))
    assert isinstance(batch, Batch)
    assert batch.audios.shape == (3, RATE)
    assert batch.audio_lens.tolist() == [RATE] * 3
    assert batch.input_lens.tolist() == [700] * 3
    assert (batch.input_ids == locator).nonzero().tolist() == [[0, 0], [1, 0], [2, 0]]  # random ids hold it, too
    assert batch.loss_mask.sum(1).tolist() == [699] * 3
    frames = math.ceil(1 / model.token_equivalent_duration) + (model.perception.separator is not None)
    assert abs(positions(model, batch) - 3 * (699 + frames)) <= 3


def test_schema_says_that_audio_goes_in_and_text_comes_out(model: VTBlenderModel) -> None:
    """The script looks for labels to tell seconds from tokens in its buckets."""
    text = {
        item["seq_length"]
        for item in model.oomptimizer_schema["inputs"]
        if isinstance(item["type"].elements_type, LabelsType)
    }
    assert text == {"output"}


def test_sizes_that_the_search_finds_bound_micro_batches(model: VTBlenderModel, tmp_path: Path) -> None:
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    lengths = [(round(secs * model.sampling_rate), tokens) for secs, tokens in SECS_AND_TOKENS]
    sizes = search(model, lengths, lambda batch: positions(model, batch) > MEMORY)
    assert any(not torch.equal(p, before[name]) for name, p in model.named_parameters() if name in before)
    each = [positions(model, random_batch(model.oomptimizer_schema, 1, length)) for length in lengths]
    assert sizes == [MEMORY // length for length in each]

    data = BlendDataModule(
        {"train_ds": train_ds(tmp_path, each, sizes)},
        model.chat_format,
        model.token_equivalent_duration,
        model.sampling_rate,
        extra_frames=int(model.perception.separator is not None),
    )
    batches = list(islice(data.train_dataloader(), 40))
    full = {len(batch) for batch in batches}
    assert full <= set(sizes)
    assert len(full) > 1
    assert max(positions(model, batch) for batch in batches) <= MEMORY


def train_ds(folder: Path, lengths: list[int], sizes: list[int]) -> dict[str, Any]:
    speech = write_jsonl(folder / "speech.jsonl", speech_rows(folder, [0.3 + 0.1 * number for number in range(30)]))
    chats = write_jsonl(folder / "chats.jsonl", chat_rows(40, words=8))
    return {
        "input_cfg": [
            {"type": "nemo", "manifest_filepath": speech, "prompts": ["Write."], "weight": 1},
            {"type": "text_chat", "manifest_filepath": chats, "weight": 1},
        ],
        "bucket_bins": lengths[:-1],
        "max_tokens": lengths[-1],
        "bucket_batch_size": sizes,
    }
