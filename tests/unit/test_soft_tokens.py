"""Soft tokens: which frames they are made of, what they are worth, and that models with them are trained, kept and refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from tests.helpers.models import assistant, audio_part, llm_folder, model_config, quiet, user
from vtblender_nemo import VTBlenderModel
from vtblender_nemo.common.conversation import from_messages
from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.common.parallel import check_tensor_parallel
from vtblender_nemo.export.about import About
from vtblender_nemo.export.formats import export
from vtblender_nemo.export.options import ExportOptions
from vtblender_nemo.models.generation import collate
from vtblender_nemo.models.slots import embed_slots, read_slots
from vtblender_nemo.modules import soft_tokens
from vtblender_nemo.modules.soft_tokens import TokenCTC
from vtblender_nemo.training.checks import _check_soft_tokens
from vtblender_nemo.training.run_config import check_same_run

TABLE = torch.tensor([[1.5, 0.0, 0.0], [0.0, 1.5, 0.0]])
EMBEDDINGS = 2 * TABLE
TOKEN_0, TOKEN_1, BLANK = torch.eye(3) * 90
SOFT = {"perception": {"soft_tokens": True, "separator": False}, "lora": None}


@pytest.fixture
def ctc() -> TokenCTC:
    """Logits are frames times three; the blank's is the third."""
    made = TokenCTC(hidden_size=3, vocab_size=2, embed_scale=2.0, embed_rms=1.0)
    with torch.no_grad():
        made.blank.copy_(torch.tensor([[0.0, 0.0, 3.0]]))
        made.log_sharpness.fill_(0.0)
    return made


def lens(*values: int) -> torch.Tensor:
    return torch.tensor(values)


def test_blanks_are_left_out_and_repeats_are_joined_but_not_over_blanks_and_segments(ctc: TokenCTC) -> None:
    frames = torch.stack([BLANK, TOKEN_0, TOKEN_0, BLANK, TOKEN_0, TOKEN_1, TOKEN_1, BLANK])
    rows, found = ctc.soft_tokens(frames, lens(6, 2), TABLE)
    assert found.tolist() == [3, 1]
    assert torch.equal(rows, EMBEDDINGS[[0, 0, 1, 1]])


def test_a_row_is_the_mean_embedding_weighed_by_how_little_its_frames_are_blank(ctc: TokenCTC) -> None:
    frames = torch.tensor([[0.4, 0.1, 0.2], [0.5, 0.0, -0.3]])
    rows, _ = ctc.soft_tokens(frames, lens(2), TABLE)
    expected, total = [0.0, 0.0], 0.0
    for zero, one, blank in frames.tolist():
        e0, e1, eb = math.exp(3 * zero), math.exp(3 * one), math.exp(3 * blank)
        weight = (e0 + e1) / (e0 + e1 + eb)
        expected = [expected[0] + weight * 3 * e0 / (e0 + e1), expected[1] + weight * 3 * e1 / (e0 + e1)]
        total += weight
    assert rows[0].tolist() == pytest.approx([expected[0] / total, expected[1] / total, 0.0])


def test_silence_keeps_the_first_frame_that_is_most_like_a_token(ctc: TokenCTC) -> None:
    frames = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.8, 1.0], [0.8, 0.0, 1.0]])
    rows, found = ctc.soft_tokens(torch.cat([frames, TOKEN_0[None]]), lens(3, 1), TABLE)
    assert found.tolist() == [1, 1]
    share = 1 / (1 + math.exp(-3 * 0.8))
    assert rows[0].tolist() == pytest.approx([3 * (1 - share), 3 * share, 0.0])


def test_certain_silence_is_a_row_and_a_gradient(ctc: TokenCTC) -> None:
    """The blank is ahead by 270, the exponential of which no float32 holds."""
    frames = torch.stack([BLANK, BLANK]).requires_grad_()
    rows, found = ctc.soft_tokens(frames, lens(2), TABLE)
    rows.sum().backward()
    assert found.tolist() == [1]
    assert rows[0].tolist() == [1.5, 1.5, 0.0]
    assert torch.isfinite(frames.grad).all()


def test_segments_without_frames_have_no_rows(ctc: TokenCTC) -> None:
    rows, found = ctc.soft_tokens(TOKEN_1[None], lens(0, 1), TABLE)
    assert (rows.tolist(), found.tolist()) == ([[0.0, 3.0, 0.0]], [0, 1])
    rows, found = ctc.soft_tokens(torch.zeros(0, 3), lens(0), TABLE)
    assert (rows.shape, found.tolist()) == ((0, 3), [0])


def test_logits_are_at_the_scale_of_the_embeddings(ctc: TokenCTC) -> None:
    ctc.embed_rms = 2.0
    frame = torch.tensor([[1.0, 4.0, 6.0]])
    assert ctc.logits(frame, TABLE).tolist() == [[3 / 4, 12 / 4, 18 / 2]]


def test_the_loss_is_torchs_ctc_over_the_whole_vocabulary() -> None:
    ctc, table = TokenCTC(8, 50, embed_scale=1.0, embed_rms=1.0), torch.randn(50, 8)
    frames, frame_lens = torch.randn(17, 8).requires_grad_(), lens(10, 7)
    targets, target_lens = torch.tensor([40, 7, 7, 40, 3]), lens(3, 2)
    loss = ctc.loss(frames, frame_lens, targets, target_lens, table)
    log_probs = ctc.logits(frames, table).log_softmax(-1).split([10, 7])
    expected = torch.nn.functional.ctc_loss(
        torch.nn.utils.rnn.pad_sequence(log_probs), targets, frame_lens, target_lens, blank=50
    )
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    found, wanted = (torch.autograd.grad(value, frames, retain_graph=True)[0] for value in (loss, expected))
    assert torch.allclose(found, wanted, atol=1e-6)


def test_chunks_change_neither_rows_nor_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    ctc, table = TokenCTC(8, 5, embed_scale=1.0, embed_rms=1.0), torch.randn(5, 8)
    frames, frame_lens, targets = torch.randn(40, 8), lens(25, 15), torch.tensor([1, 2, 3, 4, 1])

    def made() -> list[torch.Tensor]:
        heard = frames.clone().requires_grad_()
        rows, found = ctc.soft_tokens(heard, frame_lens, table)
        loss = ctc.loss(heard, frame_lens, targets, lens(3, 2), table)
        ctc.zero_grad()
        (rows.pow(2).sum() + loss).backward()
        return [rows, found, loss, heard.grad, *(parameter.grad for parameter in ctc.parameters())]

    whole = made()
    assert all(grad.abs().max() > 0 for grad in whole[3:])
    monkeypatch.setattr(soft_tokens, "_CHUNK_LOGITS", 1)
    monkeypatch.setattr(soft_tokens, "_MIN_CHUNK_ROWS", 7)
    for one, other in zip(whole, made(), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


# In the model ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(canary: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    quiet()
    return VTBlenderModel(model_config(llm_folder(tmp_path_factory.mktemp("llm")), canary, **SOFT)).eval()


@pytest.fixture
def spelled(model: Any) -> torch.Tensor:
    """The embedding that every audio of the model becomes, all of its frames being of one token."""
    with torch.no_grad():
        model.perception.token_ctc.bias.zero_()[7] = 50.0
    return model.llm.embed(torch.tensor(7)).detach()


CHATS = [[user("hello ", audio_part(1.0))], [user("hello ", audio_part(2.0, seed=1))]]


def test_the_llm_reads_embeddings_of_its_own_fewer_than_frames(
    model: Any, spelled: torch.Tensor, tmp_path: Path
) -> None:
    heard: list[torch.Tensor] = []
    hook = model.llm.causal_lm.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: heard.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    answers = model.generate(CHATS, 8)
    hook.remove()
    is_spelled = (heard[0] - spelled).abs().amax(-1) < 1e-4
    assert is_spelled.sum(1).tolist() == [1, 1]
    model.save_to(tmp_path / "soft.nemo")
    assert VTBlenderModel.restore_from(tmp_path / "soft.nemo").eval().generate(CHATS, 8) == answers


def test_a_session_and_the_servers_engine_hear_what_generate_hears(model: Any, spelled: torch.Tensor) -> None:
    prompts = [list(read_slots(model.chat_format, from_messages(chat).turns)) for chat in CHATS]
    with torch.inference_mode():
        embedded = embed_slots(model.speech_llm, prompts)
    for embeds, slots in embedded:
        assert [slot.positions for slot in slots if slot.audio] == [1]
        assert ((embeds - spelled).abs().amax(-1) < 1e-4).sum() == 1
    assert [model.session().ask(chat[0]["content"], 8) for chat in CHATS] == model.generate(CHATS, 8)


def test_gradients_come_through_the_frozen_llm(canary: Path, tmp_path: Path) -> None:
    model = VTBlenderModel(model_config(llm_folder(tmp_path), canary, **SOFT)).train()
    conversation = from_messages([*CHATS[1], assistant("good day")])
    model(collate([conversation], model.chat_format, model.sampling_rate)).sum.backward()
    for part, named in model.trainable_parts().items():
        assert any(parameter.grad is not None and parameter.grad.abs().max() > 0 for _, parameter in named), part
    assert model.perception.token_ctc.bias.grad.abs().max() > 0


def test_its_output_layer_is_trained_with_the_projection(model: Any) -> None:
    names = [name for name, _ in model.trainable_parts()["projection"]]
    assert {f"perception.token_ctc.{name}" for name in ("blank", "bias", "log_sharpness")} < set(names)


@pytest.mark.parametrize("format", ["salm", "vllm"])
def test_other_programs_are_not_given_frames_that_their_llm_never_met(model: Any, tmp_path: Path, format: str) -> None:
    with pytest.raises(ConfigError, match=r"soft tokens.*merged, peft or encoder.*perception\.soft_tokens"):
        export(model, format, ExportOptions(tmp_path / "out"), About(tmp_path / "model.nemo"))


def test_a_separator_a_trained_table_or_a_parted_one_excludes_them(canary: Path, tmp_path: Path) -> None:
    both = model_config(llm_folder(tmp_path), canary, perception={"soft_tokens": True})
    with pytest.raises(ConfigError, match=r"separator.*perception\.soft_tokens=false"):
        VTBlenderModel(both)
    with pytest.raises(ConfigError, match=r"model\.train_llm=false"):
        VTBlenderModel(OmegaConf.merge(both, {"perception": {"separator": False}, "train_llm": True, "lora": None}))
    with pytest.raises(ConfigError, match=r"tensor parallelism.*model\.tensor_parallel=1"):
        check_tensor_parallel(OmegaConf.create({"tensor_parallel": 2, **SOFT}))


def test_a_model_to_start_from_must_have_learned_them(model: Any, canary: Path, tmp_path: Path) -> None:
    cfg = OmegaConf.create({"model": {**SOFT, "init_from": str(tmp_path / "soft.nemo")}})
    model.save_to(tmp_path / "soft.nemo")
    _check_soft_tokens(cfg)
    VTBlenderModel(model_config(llm_folder(tmp_path), canary)).save_to(tmp_path / "frames.nemo")
    cfg.model.init_from = str(tmp_path / "frames.nemo")
    with pytest.raises(ConfigError, match=r"has no soft tokens.*model\.init_from"):
        _check_soft_tokens(cfg)


def test_a_run_of_before_goes_on_with_frames_alone(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    OmegaConf.save(OmegaConf.create({"model": {"perception": {"recompute": "cheap"}}}), path)

    def now(soft: bool) -> Any:
        return OmegaConf.create({"model": {"perception": {"recompute": "cheap", "soft_tokens": soft}}})

    check_same_run(now(False), path)
    with pytest.raises(ConfigError, match=r"another model\.perception\.soft_tokens"):
        check_same_run(now(True), path)
