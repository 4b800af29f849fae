"""Micro-batches in two halves: what each half holds, and that their gradients are those of the whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from tests.helpers.imitation import batch_of, imitated
from tests.helpers.models import assistant, audio_part, model_config, user
from vtblender_nemo import VTBlenderModel
from vtblender_nemo.common.batch import Batch
from vtblender_nemo.common.conversation import from_messages
from vtblender_nemo.common.errors import TrainingError

CHATS = [
    imitated("a", 0.7, "good morning", "greeting"),
    from_messages([user("hello"), assistant("good day")], id="text"),
    imitated("b", 1.1, "good night", "farewell"),
    from_messages([user(audio_part(0.5, 2), "and", audio_part(0.8, 3)), assistant("no")], id="two"),
    imitated("c", 0.4, "good bye", "farewell again"),
]


@pytest.fixture
def model(gemma: Path, canary: Path) -> VTBlenderModel:
    model = VTBlenderModel(model_config(gemma, canary, imitation={"kl_weight": 1.0})).eval()
    model.set_trainer(
        pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu", accumulate_grad_batches=2)
    )
    return model


def test_halves_hold_each_conversation_with_its_audios_and_twin(model: VTBlenderModel) -> None:
    whole = batch_of(model, CHATS)
    first, second = whole.halves(model.speech_llm.audio_locator_id)
    assert (first.ids, second.ids) == (["a", "text"], ["b", "two", "c"])
    assert (len(first.audios), len(second.audios)) == (1, 4)
    assert torch.equal(torch.cat([first.audio_lens, second.audio_lens]), whole.audio_lens)
    assert torch.equal(torch.cat([first.input_ids, second.input_ids]), whole.input_ids)
    assert (first.twin.ids, second.twin.ids) == (["a"], ["b", "c"])
    assert first.twin_rows.tolist() == [0]
    assert second.twin_rows.tolist() == [0, 2]
    text_alone = second.halves(model.speech_llm.audio_locator_id)[0].halves(model.speech_llm.audio_locator_id)
    assert [len(part) for part in text_alone] == [0, 1]


class TooLarge:
    """A forward pass that bears only so many conversations."""

    def __init__(self, model: VTBlenderModel, most: int) -> None:
        self._forward, self._most = model.speech_llm.forward, most

    def __call__(self, batch: Batch) -> Any:
        if len(batch) > self._most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self._forward(batch)


def gradients(model: VTBlenderModel, batch: Batch) -> tuple[dict[str, torch.Tensor], float, int]:
    model.zero_grad()
    model.step_losses.clear()
    (model.training_step(batch, 0)["loss"] / 2).backward()  # Lightning divides by the micro-batches of a step
    totals = model.step_losses.totals(model.device, 1)
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}, totals.loss, totals.targets


def test_two_halves_give_the_gradients_of_the_whole(
    model: VTBlenderModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    batch = batch_of(model, CHATS)
    whole, loss, targets = gradients(model, batch)
    monkeypatch.setattr(model.speech_llm, "forward", TooLarge(model, 3))
    model.split_when_out_of_memory = True
    halves, loss_of_halves, targets_of_halves = gradients(model, batch)
    assert targets == targets_of_halves
    assert loss == pytest.approx(loss_of_halves, rel=1e-5)
    assert whole.keys() == halves.keys()
    least = 1e-3 * max(gradient.norm() for gradient in whole.values())  # of some the true gradient is 0
    for name, gradient in whole.items():
        difference = (halves[name] - gradient).norm() / gradient.norm().clamp(min=least)
        assert difference < 1e-4, f"{name}: {difference}"
    assert "the micro-batch of a, text, b, two, c is computed in two halves" in caplog.text


def test_unasked_the_training_ends(model: VTBlenderModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.speech_llm, "forward", TooLarge(model, 3))
    with pytest.raises(torch.OutOfMemoryError):
        model.training_step(batch_of(model, CHATS), 0)


def test_one_conversation_that_does_not_fit_is_named(model: VTBlenderModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.speech_llm, "forward", TooLarge(model, 0))
    model.split_when_out_of_memory = True
    with pytest.raises(TrainingError, match=r"one conversation alone.*2.00 GiB.*found \['a'\].*max_tokens"):
        model.training_step(batch_of(model, CHATS[:1]), 0)
    with pytest.raises(torch.OutOfMemoryError):  # halves are not split again
        model.training_step(batch_of(model, CHATS), 0)
