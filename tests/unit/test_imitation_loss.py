"""Both losses of imitation against a reference that computes whole logits with a copy of the base LLM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.helpers.imitation import TRANSCRIPT, batch_of, imitated, with_twin
from tests.helpers.models import assistant, audio_part, model_config, user
from vtblender_nemo import VTBlenderModel
from vtblender_nemo.backbones.llm_loading import llm_config, load_llm
from vtblender_nemo.common.batch import Batch
from vtblender_nemo.common.conversation import Conversation, from_messages
from vtblender_nemo.models import target_loss
from vtblender_nemo.models.target_loss import Imitation, TargetLoss

BOTH = {"ce_weight": 0.7, "kl_weight": 1.3, "temperature": 2.0}
CHATS = [
    imitated("short", 0.5, "good morning", "greeting"),
    from_messages([user("hello"), assistant("good day")], id="plain text"),
    imitated("long", 1.4, TRANSCRIPT, "a shop"),
    from_messages([user(audio_part(0.7, 9)), assistant("words")], id="plain speech"),
]
IMITATED = [True, False, True, False]


def make(gemma: Path, canary: Path, imitation: dict[str, Any], **overrides: Any) -> VTBlenderModel:
    """In train mode with nothing that draws random numbers, and LoRA that is not zero."""
    perception = {
        "modality_adapter": {"dropout": 0.0, "dropout_pre_encoder": 0.0, "dropout_att": 0.0},
        "spec_augment": {"freq_masks": 0, "time_masks": 0},
        **overrides.pop("perception", {}),
    }
    plain = {"llm_overrides": {"attention_dropout": 0.0}, "perception": perception, **overrides}
    model = VTBlenderModel(model_config(gemma, canary, imitation=imitation, **plain)).train()
    model.perception.preprocessor.featurizer.dither = 0.0
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.3)
    return model


def base_llm(gemma: Path) -> Any:
    return load_llm(str(gemma), llm_config(str(gemma)), "float32").eval()


def student_logits(model: VTBlenderModel, batch: Batch, row: int, frames: list[Tensor]) -> Tensor:
    """Logits (target tokens, V) of one conversation, embedding by embedding; `frames` loses those that it takes."""
    pieces = []
    ids = batch.input_ids[row, : batch.input_lens[row]]
    is_target = []
    for token, learned in zip(ids, batch.loss_mask[row], strict=False):
        is_audio = int(token) == model.chat_format.audio_locator_id
        pieces.append(frames.pop(0) if is_audio else model.llm.embed(token[None]))
        is_target += [bool(learned)] * len(pieces[-1])
    logits = model.llm.causal_lm(inputs_embeds=torch.cat(pieces)[None]).logits[0]
    return logits[:-1][torch.tensor(is_target[1:])]


@torch.no_grad()
def teacher_logits(base: Any, model: VTBlenderModel, chat: Conversation) -> Tensor:
    assert chat.twin is not None
    prompt = model.chat_format.encode(chat.twin)
    logits = base(input_ids=torch.tensor([prompt.ids])).logits[0]
    return logits[:-1][torch.tensor(prompt.loss_mask[1:])]


def divergence(student: Tensor, teacher: Tensor, temperature: float, top_k: int | None) -> Tensor:
    if top_k is not None:
        unlikely = teacher < teacher.sort(descending=True).values[:, top_k - 1 : top_k]
        student, teacher = (part.masked_fill(unlikely, -1e9) for part in (student, teacher))
    p, q = (part / temperature for part in (teacher, student))
    return temperature**2 * nn.functional.kl_div(q.log_softmax(-1), p.softmax(-1), reduction="none").sum(-1)


def reference(model: VTBlenderModel, base: Any, chats: list[Conversation], settings: Imitation) -> Tensor:
    """What is minimised at each target (N,)."""
    batch = batch_of(model, chats, twins=False)
    found, lens = model.perception.encode(batch.audios, batch.audio_lens)
    frames, values = list(found.split(lens.tolist())), []
    for row, chat in enumerate(chats):
        logits = student_logits(model, batch, row, frames)
        ids = batch.input_ids[row][batch.loss_mask[row]]
        nll = nn.functional.cross_entropy(logits, ids, reduction="none")
        if chat.twin is None:
            values.append(nll)
            continue
        kl = divergence(logits, teacher_logits(base, model, chat), settings.temperature, settings.top_k)
        values.append(settings.ce_weight * nll + settings.kl_weight * kl)
    return torch.cat(values)


def gradients(model: VTBlenderModel, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_as_reference(model: VTBlenderModel, base: Any) -> TargetLoss:
    loss = model(batch_of(model, CHATS))
    wanted = reference(model, base, CHATS, model.speech_llm.imitation)
    torch.testing.assert_close(loss.values, wanted, rtol=1e-4, atol=1e-5)
    found, right = gradients(model, loss.sum), gradients(model, wanted.sum())
    assert found.keys() == right.keys()
    assert any("lora" in name for name in found)
    assert any("encoder" in name for name in found)
    whole = torch.stack([gradient.norm() for gradient in right.values()]).norm()
    for name, gradient in right.items():
        assert (found[name] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-6 * whole, name
    return loss


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("recompute", ["none", "cheap", "layers"])
def test_values_and_gradients_are_those_of_a_second_llm(
    gemma: Path, canary: Path, packing: bool, recompute: str
) -> None:
    perception = {"recompute": recompute}
    model = make(gemma, canary, BOTH, packing=packing, recompute=recompute, perception=perception)
    loss = assert_as_reference(model, base_llm(gemma))
    assert loss.kl is not None
    assert loss.kl.min() > 0.01  # far from what could be rounding


@pytest.mark.parametrize(
    "settings",
    [
        {"ce_weight": 0.0, "kl_weight": 1.0},
        {"ce_weight": 1.0, "kl_weight": 1.0, "temperature": 0.5},
        {"ce_weight": 0.0, "kl_weight": 2.0, "top_k": 5},
        {"ce_weight": 0.25, "kl_weight": 0.0},
    ],
)
def test_every_position_of_the_switch(gemma: Path, canary: Path, settings: dict[str, Any]) -> None:
    assert_as_reference(make(gemma, canary, settings), base_llm(gemma))


def test_an_llm_that_hears_nothing_but_its_own_text_has_nothing_to_learn(gemma: Path, canary: Path) -> None:
    """Text against the same text, with a LoRA that adds nothing: divergence and its gradients are 0."""
    model = make(gemma, canary, {"ce_weight": 0.0, "kl_weight": 1.0})
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.zero_()
    loss = model(batch_of(model, [with_twin(CHATS[1])]))
    assert loss.targets > 3
    assert loss.values.abs().max() < 1e-6
    assert all(gradient.abs().max() < 1e-5 for gradient in gradients(model, loss.sum).values())


def test_rows_without_a_twin_are_learned_as_ever_and_rows_without_targets_not_at_all(gemma: Path, canary: Path) -> None:
    model = make(gemma, canary, BOTH).eval()
    batch = batch_of(model, CHATS)
    assert batch.twin is not None
    batch.loss_mask[0] = batch.twin.loss_mask[0] = False  # a twin, and
    batch.loss_mask[1] = False  # a plain text
    loss = model(batch)
    plain = model(batch_of(model, CHATS, twins=False))
    lens = {row: int(batch.loss_mask[row].sum()) for row in (2, 3)}
    assert torch.bincount(loss.conversation).tolist() == [0, 0, lens[2], lens[3]]
    torch.testing.assert_close(loss.values[lens[2] :], plain.values[plain.conversation == 3], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(loss.nll, plain.nll[plain.conversation >= 2], rtol=1e-4, atol=1e-5)
    assert loss.kl is not None
    torch.testing.assert_close(loss.values[: lens[2]], 0.7 * loss.nll[: lens[2]] + 1.3 * loss.kl)


def test_without_any_target_the_sum_is_zero_and_differentiable(gemma: Path, canary: Path) -> None:
    model = make(gemma, canary, BOTH)
    batch = batch_of(model, CHATS[:1])
    assert batch.twin is not None
    batch.loss_mask[:] = batch.twin.loss_mask[:] = False
    loss = model(batch)
    assert (loss.targets, loss.sum.item()) == (0, 0.0)
    loss.sum.backward()


def test_without_a_weight_cross_entropy_is_not_computed_for_twins(
    gemma: Path, canary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    compute = target_loss.target_nll
    monkeypatch.setattr(
        target_loss, "target_nll", lambda hidden, *rest: rows.append(len(hidden)) or compute(hidden, *rest)
    )
    model = make(gemma, canary, {"ce_weight": 0.0, "kl_weight": 1.0})
    loss = model(batch_of(model, CHATS))
    of_plain = sum(int((loss.conversation == row).sum()) for row in (1, 3))
    assert rows == [of_plain]
    assert len(loss.nll) == of_plain
    assert loss.kl is not None
    assert len(loss.kl) == loss.targets - of_plain


def test_without_a_weight_no_teacher_is_asked(gemma: Path, canary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked() -> None:
        raise AssertionError("the teacher was asked")

    model = make(gemma, canary, {"ce_weight": 0.25, "kl_weight": 0.0})
    monkeypatch.setattr(model.llm, "pretrained", asked)
    assert model(batch_of(model, CHATS)).kl is None


def test_the_teacher_is_the_pretrained_llm_without_dropout_gradients_or_random_numbers(
    gemma: Path, canary: Path
) -> None:
    model = make(gemma, canary, BOTH, llm_overrides={"attention_dropout": 0.5})
    embeds = model.llm.embed(torch.arange(7, 27)).detach()
    wanted = base_llm(gemma).base_model(inputs_embeds=embeds[None]).last_hidden_state[0]
    before = torch.get_rng_state()
    with model.llm.pretrained():
        found = model.llm.hidden_packed(embeds.requires_grad_(), [20])
    assert not found.requires_grad
    torch.testing.assert_close(found, wanted)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.allclose(model.llm.hidden_packed(embeds, [20]), wanted, atol=0.1)


def test_lora_and_modes_are_back_even_after_an_error(gemma: Path, canary: Path) -> None:
    model = make(gemma, canary, BOTH)
    model.perception.encoder.eval()
    modes = [module.training for module in model.modules()]
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    embeds = model.llm.embed(torch.arange(7, 27))
    before = model.llm.hidden_packed(embeds, [20])
    with pytest.raises(KeyError), model.llm.pretrained():
        raise KeyError
    assert [module.training for module in model.modules()] == modes
    assert [name for name, p in model.named_parameters() if p.requires_grad] == trained
    assert torch.is_grad_enabled()
    assert torch.equal(model.llm.hidden_packed(embeds, [20]), before)


def test_a_step_in_bfloat16_trains_lora_after_its_teacher_has_used_the_same_layers(gemma: Path, canary: Path) -> None:
    """Autocast keeps its copies of weights; what is made without gradients must not be used with them."""
    model = make(gemma, canary, BOTH)
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(model, model(batch_of(model, CHATS)).sum)
    lora = [name for name, p in model.named_parameters() if "lora" in name]
    assert all(found[name].abs().sum() > 0 for name in lora)


def test_a_step_knows_each_loss_and_counts_every_target(gemma: Path, canary: Path) -> None:
    model = make(gemma, canary, BOTH)
    batch = batch_of(model, CHATS)
    batch.sources = ["imitated" if is_imitated else "other" for is_imitated in IMITATED]
    step, loss = model.training_step(batch, 0), model(batch)
    assert loss.kl is not None
    of_twins = torch.tensor([IMITATED[row] for row in loss.conversation])
    assert step["loss"].item() == pytest.approx(loss.values.sum().item(), rel=1e-5)
    totals = model.step_losses.totals(model.device)
    assert totals.targets == loss.targets == len(of_twins)
    assert totals.loss == pytest.approx(loss.values.sum().item(), rel=1e-5)
    wanted = {
        "train_loss/imitated": loss.values[of_twins].mean(),
        "train_loss/other": loss.values[~of_twins].mean(),
        "train_ce": loss.nll.mean(),
        "train_kl": loss.kl.mean(),
    }
    assert model.step_losses.means() == pytest.approx({name: float(value) for name, value in wanted.items()}, rel=1e-5)


def test_losses_of_micro_batches_are_added_up(gemma: Path, canary: Path) -> None:
    model = make(gemma, canary, BOTH).eval()
    losses = []
    for chats in (CHATS[:2], CHATS[2:]):
        batch = batch_of(model, chats)
        model.training_step(batch, 0)
        losses.append(model(batch).values)
    every = torch.cat(losses)
    assert model.step_losses.totals(model.device).targets == len(every)
    assert model.step_losses.means()[f"train_loss/{batch.sources[0]}"] == pytest.approx(float(every.mean()), rel=1e-5)
    model.step_losses.clear()
    assert model.step_losses.totals(model.device).targets == 0
    assert model.step_losses.means() == {}


def test_validation_is_plain_cross_entropy(gemma: Path, canary: Path) -> None:
    """Losses of runs with other weights can be compared there."""
    model = make(gemma, canary, {"ce_weight": 0.0, "kl_weight": 1.0}).eval()
    batch = batch_of(model, CHATS, twins=False)
    loss = model(batch)
    assert loss.values is loss.nll
    assert loss.targets == int(batch.loss_mask.sum())
