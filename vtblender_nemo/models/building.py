"""The two large parts of a model from its `model` section: from pretrained models, or for weights that are restored."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict
from transformers import PretrainedConfig

from vtblender_nemo.backbones.llm_loading import build_llm, config_from_dict, llm_config, load_llm
from vtblender_nemo.backbones.transformers_llm import TransformersLLM
from vtblender_nemo.common.errors import ConfigError, ModelFileError
from vtblender_nemo.common.parallel import check_tensor_parallel
from vtblender_nemo.modules.perception import Perception, copy_encoder, load_speech_model, perception_config
from vtblender_nemo.modules.recompute import check_degree
from vtblender_nemo.modules.soft_tokens import check_soft_tokens


def make_llm(cfg: DictConfig, *, restoring: bool) -> TransformersLLM:
    """The LLM with LoRA.

    Args:
        cfg: the `model` section; `llm_config` is noted in it.
        restoring: weights that a model file holds will be loaded over it; those it left out are loaded here.

    Raises:
        ConfigError: settings that exclude each other.
        ModelFileError: nothing readable there, or not the LLM that the model was trained with.
    """
    check_degree(cfg.recompute, "model.recompute")
    check_tensor_parallel(cfg)
    inside = restoring and cfg.get("llm_fingerprint") is None
    if restoring:
        config = config_from_dict(OmegaConf.to_container(cfg.llm_config, resolve=True))
    else:
        config = llm_config(cfg.pretrained_llm, cfg.get("llm_overrides"))
        with open_dict(cfg):
            cfg.llm_config = config.to_diff_dict()
    is_random = inside or not cfg.get("pretrained_weights", True)
    lora = OmegaConf.to_container(cfg.lora, resolve=True) if cfg.get("lora") else None
    if cfg.get("tensor_parallel", 1) > 1:
        llm = _parallel_llm(cfg, config, lora, is_random=is_random)
        if restoring and not inside:
            _check_fingerprint(cfg, llm)
        return llm
    if is_random:
        causal_lm = build_llm(config, cfg.llm_dtype, attention=cfg.get("llm_attention"))
    else:
        causal_lm = load_llm(
            cfg.pretrained_llm,
            config,
            cfg.llm_dtype,
            attention=cfg.get("llm_attention"),
            quantization=cfg.get("quantization"),
        )
    if cfg.get("train_llm", False) and cfg.llm_dtype != "float32":
        raise ConfigError(
            "what is trained is kept in float32", value=cfg.llm_dtype, expected="float32", knob="model.llm_dtype"
        )
    llm = TransformersLLM(
        causal_lm,
        lora=lora,
        trainable=cfg.get("train_llm", False),
        packing=cfg.packing,
        recompute=cfg.recompute,
    )
    if restoring and not inside:
        _check_fingerprint(cfg, llm)
    return llm


def _parallel_llm(
    cfg: DictConfig, config: PretrainedConfig, lora: dict[str, Any] | None, *, is_random: bool
) -> TransformersLLM:
    from vtblender_nemo.backbones.megatron_llm.building import build_parallel_llm, load_parallel_llm
    from vtblender_nemo.backbones.megatron_llm.llm import MegatronLLM

    size, attention = cfg.tensor_parallel, cfg.get("llm_attention")
    if is_random:
        causal_lm = build_parallel_llm(config, cfg.llm_dtype, size, attention=attention)
    else:
        causal_lm = load_parallel_llm(cfg.pretrained_llm, config, cfg.llm_dtype, size, attention=attention)
    return MegatronLLM(causal_lm, lora=lora, packing=cfg.packing, recompute=cfg.recompute)


def _check_fingerprint(cfg: DictConfig, llm: TransformersLLM) -> None:
    found = llm.fingerprint()
    if found != cfg.llm_fingerprint:
        raise ModelFileError(
            "the LLM is not the one that this model was trained with",
            value=f"{cfg.pretrained_llm} with SHA-256 {found}",
            expected=cfg.llm_fingerprint,
            knob="model.pretrained_llm",
        )


def make_perception(cfg: DictConfig, llm: TransformersLLM, *, restoring: bool) -> Perception:
    """Encoder, adapter and projection to the LLM's width.

    Args:
        cfg: the `model` section; the encoder's configuration is noted in it.
        llm: what the frames are for.
        restoring: the section is complete, and weights will be loaded.

    Raises:
        ModelFileError: no speech model there that can be read.
        ConfigError: its encoder is not a Conformer, or soft tokens with what they do not go with.
    """
    check_soft_tokens(cfg)
    if restoring:
        return _freeze(Perception(cfg.perception))
    speech_model = load_speech_model(cfg.pretrained_asr)
    with open_dict(cfg):
        wanted: dict[str, Any] = {"output_dim": llm.hidden_size}
        if cfg.perception.get("soft_tokens", False):
            wanted |= {"vocab_size": llm.vocab_size, "embed_scale": llm.embed_scale(), "embed_rms": llm.embed_rms()}
        cfg.perception = perception_config(cfg.perception, speech_model.cfg, **wanted)
    perception = Perception(cfg.perception)
    copy_encoder(speech_model, perception)
    if cfg.perception.get("scale_projection", False):
        perception.scale_projection(llm.embed_rms())
    return _freeze(perception)


def _freeze(perception: Perception) -> Perception:
    perception.encoder.requires_grad_(not perception.cfg.get("freeze_encoder", False))
    return perception
