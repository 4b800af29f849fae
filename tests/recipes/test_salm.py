"""The peer of the benchmarks is NeMo's stock SALM, and computes what ours does from the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.models import assistant, audio_part, canary_file, llm_folder, model_config, user
from tests.helpers.salm import build_salm, copy_from_salm, salm_batch
from vtblender_nemo import VTBlenderModel
from vtblender_nemo.common.conversation import from_messages
from vtblender_nemo.models.generation import collate

pytestmark = pytest.mark.slow

CHATS = [
    from_messages([user("Transcribe:", audio_part(1.3, 1)), assistant("one two")], id="a"),
    from_messages([user("what", audio_part(0.9, 2), "and"), assistant("a longer answer than before")], id="b"),
]


def salm_loss(salm: Any, model: VTBlenderModel) -> torch.Tensor:
    """Summed over targets."""
    batch = collate(CHATS, model.chat_format, model.sampling_rate)
    result = salm.training_step(salm_batch(batch, pad_id=0), 0)
    return result["loss"] * result["num_frames"]


def our_loss(model: VTBlenderModel) -> torch.Tensor:
    return model.speech_llm(collate(CHATS, model.chat_format, model.sampling_rate)).sum


def test_loss_and_gradients_are_salms_and_weights_go_both_ways(tmp_path: Path) -> None:
    perception = {"separator": False, "max_padding": 1.0, "encoder_chunk_secs": None}
    config = model_config(llm_folder(tmp_path), canary_file(tmp_path), perception=perception)
    model = VTBlenderModel(config).eval()
    torch.manual_seed(0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    salm = build_salm(model).eval()
    ours, theirs = our_loss(model), salm_loss(salm, model)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    ours.backward()
    theirs.backward()
    their_gradients = {name: p.grad for name, p in salm.named_parameters() if p.grad is not None}
    for name in ("perception.proj.weight", "perception.encoder.layers.0.feed_forward1.linear1.weight"):
        wanted = their_gradients[name]
        found = model.get_parameter(f"speech_llm.{name}").grad
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))
    with torch.no_grad():
        for parameter in salm.parameters():
            if parameter.requires_grad:
                parameter.add_(0.01 * torch.randn_like(parameter))
    changed = salm_loss(salm, model)
    assert abs(float(changed - ours)) > 1e-2
    copy_from_salm(salm, model)
    torch.testing.assert_close(our_loss(model), changed, rtol=1e-4, atol=1e-4)
