"""An LLM that several ranks hold together computes, learns and is saved as one in a single process.

What ranks measure together is in `tensor_parallel_step.py`, which is run once for all.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

pytest.importorskip("megatron.core")

from tests.helpers import models
from tests.helpers.small_run import small_config
from tests.recipes import tensor_parallel_step as steps
from tests.recipes.tensor_parallel_llm import FAMILIES, IDS
from vtblender_nemo import VTBlenderModel

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
CLOSE = 1e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, blend: list[dict[str, Any]]) -> Path:
    """Models, configurations, and what one process alone has made."""
    models.quiet()
    folder = tmp_path_factory.mktemp("tensor_parallel")
    for family, heads in FAMILIES:
        made = models.llm_folder(folder, family, vocab_size=IDS, num_key_value_heads=heads)
        made.rename(folder / f"{family}-{heads}")
    bases = folder / "gemma-1", models.canary_file(folder)
    model = models.with_loud_lora(VTBlenderModel(models.model_config(*bases)))
    torch.save(model.state_dict(), folder / "weights.pt")
    model.save_to(folder / "whole.nemo")
    for name, size in (("whole", 1), ("cut", 2), ("stopped_whole", 1), ("stopped_cut", 2), ("four", 2)):
        cfg = small_config(
            bases,
            blend,
            folder,
            output_dir=str(folder / name),
            model={
                "tensor_parallel": size,
                "init_from": str(folder / "whole.nemo"),
                # ranks drop of their own heads, so that other numbers follow than in one process
                "llm_overrides": {"attention_dropout": 0.1 if name == "four" else 0.0},
                "lora": {"lora_dropout": 0.1 if name == "four" else 0.0},
            },
            trainer={"devices": 4 if name == "four" else 2 if size == 2 else 1},
        )
        OmegaConf.save(cfg, folder / f"{name}.yaml")
    cfg = OmegaConf.load(folder / "stopped_whole.yaml")
    steps.train(folder / "whole.yaml")
    steps.train(folder / "stopped_whole.yaml", kill_at=3)
    cfg.trainer.devices = 2
    OmegaConf.save(cfg, folder / "stopped_whole.yaml")
    return folder


@pytest.fixture(scope="module")
def measured(folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.recipes.tensor_parallel_step", str(folder), *steps.CHECKS]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-6000:]
    return {name: torch.load(folder / f"{name}.pt", weights_only=False) for name in steps.CHECKS}


@pytest.fixture(scope="module")
def pair(measured: dict[str, Any]) -> dict[str, Any]:
    return measured["pair"]


@pytest.fixture(scope="module")
def four(measured: dict[str, Any]) -> dict[str, Any]:
    return measured["four"]


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Gradients of one process."""
    config = models.model_config(folder / "gemma-1", folder / "canary.nemo", optim={"sched": {"warmup_steps": 0}})
    return {f"step {clip}": steps.one_step(config, [0, 1, 2, 3], clip, folder) for clip in (None, 0.01)}


def as_whole(found: dict[str, Any]) -> None:
    assert found["answers"]
    assert found["fingerprint"]
    assert found["parts"]
    assert found["cut"] > 20
    for name in ("logits", "plain logits", "padded", "embeds", "teacher", "lora"):
        assert found[name] < CLOSE, name


def as_gradients(expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor]) -> None:
    """Norms of differences, as single numbers are near zero."""
    assert found.keys() == expected.keys()
    assert any("perception.encoder" in name for name in found)
    assert any(".lora_B" in name for name in found)
    scale = torch.stack([gradient.norm() for gradient in expected.values()]).norm()
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() < CLOSE * (gradient.norm() + 1e-2 * scale), name


def history(run: Path) -> list[tuple[str, float]]:
    """Losses of the last two steps and of the validation behind them."""
    rows = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    losses = [(row["name"], row["value"]) for row in rows if row["name"] in ("train_loss", "val_loss")]
    assert [name for name, _ in losses[-3:]] == ["train_loss", "train_loss", "val_loss"]
    return losses[-3:]


def test_every_family_computes_and_learns_as_a_whole_llm(pair: dict[str, Any]) -> None:
    for found in pair["families"].values():
        as_whole(found)
    as_whole(pair["recomputed"])


def test_more_ranks_than_heads_of_keys(four: dict[str, Any]) -> None:
    for found in four["families"].values():
        as_whole(found)


def test_a_reduction_that_is_left_out_shows(pair: dict[str, Any]) -> None:
    assert pair["without reduction"] > 0.1


def test_bfloat16_differs_by_rounding_alone(pair: dict[str, Any]) -> None:
    assert 0 < pair["bfloat16"] < 0.05


def test_divergence_over_all_tokens_and_over_the_likeliest(pair: dict[str, Any]) -> None:
    for values, gradients in pair["divergence"].values():
        assert values < CLOSE
        assert gradients < CLOSE


def test_a_batch_without_targets_has_no_losses(pair: dict[str, Any]) -> None:
    assert pair["no targets"] == (0,)


def test_random_weights_do_not_repeat_themselves(pair: dict[str, Any]) -> None:
    assert pair["random"]["finite"]
    assert pair["random"]["norm"] == 0.0  # Gemma's is added to 1
    assert pair["random"]["parts"] > 1.0


def test_lora_begins_alike_everywhere_and_can_be_merged(pair: dict[str, Any]) -> None:
    assert pair["lora"]["alike"]
    assert pair["lora"]["zero"] == 0.0
    assert pair["lora"]["std"] == pytest.approx(1.0, abs=0.25)
    assert pair["lora"]["merged"] < CLOSE


def test_lora_stands_where_it_stands_in_a_whole_llm(pair: dict[str, Any]) -> None:
    assert pair["lora on"]["all-linear"] == "equal"
    assert "LoRA on embeddings or head does not go with tensor parallelism" in pair["lora on"]["['lm_head']"]


def test_lora_is_exported_as_that_of_a_whole_llm(pair: dict[str, Any]) -> None:
    assert pair["adapter"]["equal"]
    assert pair["adapter"]["logits"] < CLOSE


def test_peft_by_itself_still_cannot(pair: dict[str, Any]) -> None:
    """When this fails, peft can: then `backbones/megatron_llm/lora.py` may have become needless."""
    assert pair["stock peft"] == "KeyError: 'fan_in_fan_out'"


def test_optimisers_step_as_on_whole_matrices_also_from_a_state_of_whole_ones(pair: dict[str, Any]) -> None:
    assert pair["optimizers"] < 1e-3  # Muon computes in bfloat16


def test_gradients_of_what_ranks_hold_alike_become_the_same(pair: dict[str, Any]) -> None:
    assert pair["averaged"]


def test_gradients_of_two_ranks_that_hold_one_model(alone: dict[str, Any], pair: dict[str, Any]) -> None:
    as_gradients(alone["step None"], pair["step None"])


def test_gradients_of_two_models_one_of_which_hears_nothing(alone: dict[str, Any], four: dict[str, Any]) -> None:
    as_gradients(alone["step None"], four["step None"])


def test_gradients_are_clipped_by_the_norm_of_the_whole_model(
    alone: dict[str, Any], pair: dict[str, Any], four: dict[str, Any]
) -> None:
    as_gradients(alone["step 0.01"], pair["step 0.01"])
    as_gradients(alone["step 0.01"], four["step 0.01"])


def test_what_ranks_hold_alike_stays_alike(pair: dict[str, Any], four: dict[str, Any]) -> None:
    for found in (pair["trained"]["replicated"], four["drift"]):
        assert found["alike"] == 0.0
        assert found["copies"] == 0.0
        assert found["parts"] > 0.0
    assert four["drift"]["steps"] == 4
    assert four["drift"]["ranks with rows"] == 2
    assert four["drift"]["random states as the first one's"] == [True, True, False, False]


@pytest.mark.parametrize("name", ["cut", "stopped_whole", "stopped_cut"])
def test_a_training_goes_as_in_one_process_also_from_the_others_checkpoint(
    folder: Path, pair: dict[str, Any], name: str
) -> None:
    """Dropout and SpecAugment draw the same numbers; validation is scored by all ranks together."""
    if name == "stopped_cut":
        cfg = OmegaConf.load(folder / "stopped_cut.yaml")
        cfg.trainer.devices = 1
        OmegaConf.save(cfg, folder / "goes_on.yaml")
        steps.train(folder / "goes_on.yaml", tensor_parallel=1)
    for (_, expected), (_, found) in zip(history(folder / "whole"), history(folder / name), strict=True):
        assert found == pytest.approx(expected, rel=1e-4)


def test_files_are_those_of_a_whole_model(folder: Path, pair: dict[str, Any]) -> None:
    restored = VTBlenderModel.restore_from(folder / "cut.nemo").eval()
    assert restored.cfg.tensor_parallel == 1
    assert restored.generate(steps.CHAT, 6) == pair["trained"]["answers"]
    lean = VTBlenderModel.restore_from(folder / "lean.nemo").eval()  # whose LLM is named by path and fingerprint
    assert lean.generate(steps.CHAT, 6) == pair["trained"]["answers"]
    assert (folder / "lean.nemo").stat().st_size < (folder / "cut.nemo").stat().st_size
    whole = VTBlenderModel.restore_from(folder / "whole.nemo").eval()
    assert whole.generate(steps.CHAT, 6) == pair["trained"]["answers of whole"]
    assert restored.state_dict().keys() == whole.state_dict().keys()
    assert whole.trained_parameters() == pair["trained"]["parameters"]
    assert pair["trained"]["size after"] == 2
