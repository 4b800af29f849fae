"""The peer: NeMo's stock `SALM` with the weights of one of our models, fed by NeMo's own loader."""

from __future__ import annotations

from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from vtblender_nemo import VTBlenderModel
from vtblender_nemo.common.batch import Batch

LORA_INSIDE = ("llm.model.base_model.", "llm.base_model.")  # names of ours and of the peer


def build_salm(model: VTBlenderModel, prompt_format: str = "gemma") -> Any:
    """A `SALM` that computes what `model` computes; its perception has no separator, so `model`'s must have none.

    Args:
        model: with LoRA, made from a Hugging Face folder and a `.nemo` that are still there.
        prompt_format: NeMo's name of the LLM's chat template.
    """
    from nemo.collections.speechlm2 import SALM

    assert model.perception.separator is None, "the peer knows no separator"
    salm = SALM(salm_config(model, prompt_format))
    ours = {name.removeprefix("speech_llm."): weight for name, weight in model.state_dict().items()}
    theirs = {name.replace(*LORA_INSIDE): weight for name, weight in ours.items()}
    theirs["embed_tokens.weight"] = model.llm.causal_lm.get_input_embeddings().weight
    missing, _ = salm.load_state_dict(theirs, strict=False)
    assert not [name for name in missing if "lm_head" not in name], missing
    salm.log = salm.log_dict = lambda *args, **kwargs: None
    salm.configure_optimizers()  # freezes what its configuration names
    return salm


def copy_from_salm(salm: Any, model: VTBlenderModel) -> None:
    """The way back: `model`, which `salm` was built from, computes what `salm` has come to."""
    theirs = {name.replace(*reversed(LORA_INSIDE)): weight for name, weight in salm.state_dict().items()}
    trained = {f"speech_llm.{name}": weight for name, weight in theirs.items() if not name.startswith("embed_tokens")}
    missing, unknown = model.load_state_dict(trained, strict=False)
    assert not unknown, unknown
    assert not [name for name in missing if "embed_tokens" not in name and "lm_head" not in name], missing


def salm_config(model: VTBlenderModel, prompt_format: str) -> dict[str, Any]:
    """The peer's `model` section with our perception, LoRA and tag."""
    cfg = model.cfg
    return {
        "pretrained_llm": str(cfg.pretrained_llm),
        "pretrained_asr": str(cfg.pretrained_asr),
        "pretrained_weights": True,
        "audio_locator_tag": cfg.audio_locator_tag,
        "prompt_format": prompt_format,
        "freeze_params": [r"^llm\..+$", r"^embed_tokens\..+$"],
        "prevent_freeze_params": [],
        "perception": {
            "target": "nemo.collections.speechlm2.modules.perception.AudioPerceptionModule",
            "output_dim": model.llm.hidden_size,
            "modality_adapter": OmegaConf.to_container(model.perception.cfg.modality_adapter, resolve=True),
            "spec_augment": OmegaConf.to_container(model.perception.cfg.spec_augment, resolve=True),
        },
        "lora": {"task_type": "CAUSAL_LM", **OmegaConf.to_container(cfg.lora, resolve=True)},
        "optimizer": {"_target_": "torch.optim.AdamW", "lr": 1e-4},
    }


def salm_batch(batch: Batch, pad_id: int) -> dict[str, Tensor]:
    """Our micro-batch as the peer's dataset would have made it: padded on the left."""
    ids, mask = torch.full_like(batch.input_ids, pad_id), torch.zeros_like(batch.loss_mask)
    for row, length in enumerate(batch.input_lens.tolist()):
        ids[row, ids.shape[1] - length :] = batch.input_ids[row, :length]
        mask[row, mask.shape[1] - length :] = batch.loss_mask[row, :length]
    longest = int(batch.input_lens.max())
    return {
        "audios": batch.audios,
        "audio_lens": batch.audio_lens,
        "input_ids": ids[:, -longest:],
        "loss_mask": mask[:, -longest:],
    }


def salm_loader(salm: Any, entries: list[dict[str, Any]], **options: Any) -> Any:
    """NeMo's dataloader for conversations.

    Args:
        salm: gives tokenizer, tag and frame length.
        entries: its `input_cfg`.
        options: of NeMo's `LhotseDataLoadingConfig`, as `batch_tokens` or `num_buckets`.
    """
    from nemo.collections.common.data.fallback import FallbackDataset
    from nemo.collections.common.data.lhotse import get_lhotse_dataloader_from_config
    from nemo.collections.speechlm2.data.salm_dataset import SALMDataset

    settings = {
        "input_cfg": entries,
        "use_multimodal_sampling": True,
        "measure_total_length": True,
        "prompt_format": salm.cfg.prompt_format,
        "audio_locator_tag": salm.audio_locator_tag,
        "token_equivalent_duration": salm.token_equivalent_duration,
        "sample_rate": salm.sampling_rate,
        "shuffle": True,
        "shard_seed": 0,
        "seed": 0,
        "num_workers": 0,
        **options,
    }
    dataset = FallbackDataset(SALMDataset(salm.tokenizer))
    return get_lhotse_dataloader_from_config(
        OmegaConf.create(settings), global_rank=0, world_size=1, dataset=dataset, tokenizer=salm.tokenizer
    )
