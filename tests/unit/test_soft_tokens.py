"""Soft tokens: which frames they are made of, what they are worth, and that models with them are trained, kept and refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from tests.helpers.models import audio_part, llm_folder, model_config, quiet, user
from vtblender_nemo import VTBlenderModel
from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.common.parallel import check_tensor_parallel
from vtblender_nemo.export.about import About
from vtblender_nemo.export.formats import export
from vtblender_nemo.export.options import ExportOptions
from vtblender_nemo.modules import soft_tokens
from vtblender_nemo.modules.soft_tokens import TokenCTC

EMBEDDINGS = torch.tensor([[3.0, 0.0, 0.0], [0.0, 3.0, 0.0]])
TOKEN_0, TOKEN_1, BLANK = torch.eye(3) * 90
SOFT = {"perception": {"soft_tokens": True, "separator": False}, "lora": None}


@pytest.fixture
def ctc() -> TokenCTC:
    """Logits are frames times three; the blank's is the third."""
    made = TokenCTC(hidden_size=3, vocab_size=2, embed_rms=1.0)
    with torch.no_grad():
        made.blank.copy_(torch.tensor([[0.0, 0.0, 3.0]]))
        made.temperature.fill_(1.0)
    return made


def lens(*values: int) -> torch.Tensor:
    return torch.tensor(values)


def test_blanks_are_left_out_and_repeats_are_joined_but_not_over_blanks_and_segments(ctc: TokenCTC) -> None:
    frames = torch.stack([BLANK, TOKEN_0, TOKEN_0, BLANK, TOKEN_0, TOKEN_1, TOKEN_1, BLANK])
    rows, found = ctc.soft_tokens(frames, lens(6, 2), EMBEDDINGS)
    assert found.tolist() == [3, 1]
    assert torch.equal(rows, EMBEDDINGS[[0, 0, 1, 1]])


def test_a_row_is_the_mean_embedding_weighed_by_how_little_its_frames_are_blank(ctc: TokenCTC) -> None:
    frames = torch.tensor([[0.4, 0.1, 0.2], [0.5, 0.0, -0.3]])
    rows, _ = ctc.soft_tokens(frames, lens(2), EMBEDDINGS)
    expected, total = [0.0, 0.0], 0.0
    for zero, one, blank in frames.tolist():
        e0, e1, eb = math.exp(3 * zero), math.exp(3 * one), math.exp(3 * blank)
        weight = (e0 + e1) / (e0 + e1 + eb)
        expected = [expected[0] + weight * 3 * e0 / (e0 + e1), expected[1] + weight * 3 * e1 / (e0 + e1)]
        total += weight
    assert rows[0].tolist() == pytest.approx([expected[0] / total, expected[1] / total, 0.0])


def test_silence_keeps_the_frame_that_is_most_like_a_token(ctc: TokenCTC) -> None:
    frames = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.8, 1.0], [0.0, 0.1, 1.0]])
    rows, found = ctc.soft_tokens(torch.cat([frames, TOKEN_0[None]]), lens(3, 1), EMBEDDINGS)
    assert found.tolist() == [1, 1]
    share = 1 / (1 + math.exp(-3 * 0.8))
    assert rows[0].tolist() == pytest.approx([3 * (1 - share), 3 * share, 0.0])


def test_logits_are_at_the_scale_of_the_embeddings(ctc: TokenCTC) -> None:
    ctc.embed_rms = 2.0
    frame = torch.tensor([[1.0, 4.0, 6.0]])
    assert ctc.logits(frame, EMBEDDINGS).tolist() == [[3 / 4, 12 / 4, 18 / 2]]


def test_chunks_change_neither_rows_nor_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    ctc, embeddings, frames = TokenCTC(8, 5, 1.0), torch.randn(5, 8), torch.randn(40, 8)

    def made() -> list[torch.Tensor]:
        heard = frames.clone().requires_grad_()
        rows, found = ctc.soft_tokens(heard, lens(25, 15), embeddings)
        ctc.zero_grad()
        (rows**2).sum().backward()
        return [rows, found, heard.grad, *(parameter.grad for parameter in ctc.parameters())]

    whole = made()
    assert all(grad.abs().max() > 0 for grad in whole[2:])
    monkeypatch.setattr(soft_tokens, "_CHUNK_LOGITS", 1)
    monkeypatch.setattr(soft_tokens, "_MIN_CHUNK_ROWS", 7)
    for one, other in zip(whole, made(), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


# In the model ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(canary: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    quiet()
    return VTBlenderModel(model_config(llm_folder(tmp_path_factory.mktemp("llm")), canary, **SOFT)).eval()


def test_the_llm_reads_mixtures_of_its_embeddings_fewer_than_frames(model: Any, tmp_path: Path) -> None:
    """Given a head whose blank wins everywhere but for one token's frames, every audio is that token."""
    spelled = model.llm.embedding_table()[7]
    with torch.no_grad():
        model.perception.token_ctc.bias[7] = 50.0
        model.perception.token_ctc.bias[-1] = 0.0
    chats = [[user("hello ", audio_part(1.0))], [user("hello ", audio_part(2.0, seed=1))]]
    heard: list[torch.Tensor] = []
    hook = model.llm.causal_lm.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: heard.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    answers = model.generate(chats, 8)
    hook.remove()
    is_spelled = (heard[0] - spelled).abs().amax(-1) < 1e-4
    assert is_spelled.sum(1).tolist() == [1, 1]
    model.save_to(tmp_path / "soft.nemo")
    assert VTBlenderModel.restore_from(tmp_path / "soft.nemo").eval().generate(chats, 8) == answers


def test_its_output_layer_is_trained_with_the_projection(model: Any) -> None:
    names = [name for name, _ in model.trainable_parts()["projection"]]
    assert {f"perception.token_ctc.{name}" for name in ("blank", "bias", "temperature")} < set(names)


@pytest.mark.parametrize("format", ["salm", "vllm"])
def test_other_programs_are_not_given_frames_that_their_llm_never_met(model: Any, tmp_path: Path, format: str) -> None:
    with pytest.raises(ConfigError, match=r"soft tokens.*merged, peft or encoder.*perception\.soft_tokens"):
        export(model, format, ExportOptions(tmp_path / "out"), About(tmp_path / "model.nemo"))


def test_a_separator_or_a_parted_table_excludes_them(canary: Path, tmp_path: Path) -> None:
    both = model_config(llm_folder(tmp_path), canary, perception={"soft_tokens": True})
    with pytest.raises(ConfigError, match=r"separator.*perception\.soft_tokens=false"):
        VTBlenderModel(both)
    with pytest.raises(ConfigError, match=r"tensor parallelism.*model\.tensor_parallel=1"):
        check_tensor_parallel(OmegaConf.create({"tensor_parallel": 2, **SOFT}))
