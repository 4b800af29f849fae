"""The LLM behind five calls: embed, hidden, hidden_packed, logits, generate. Any Hugging Face causal LM will do.

Shapes: B conversations, T positions of the longest one, P positions of all of them, H hidden, V vocabulary, N rows or wanted
positions.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from torch import Tensor, nn
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
)

from vtblender_nemo.backbones import packed_attention
from vtblender_nemo.backbones.checks import check_head, check_packing, head_of, packed_hidden
from vtblender_nemo.backbones.decoding import Chooser, decode, prefill
from vtblender_nemo.backbones.decoding_weights import DecodingWeights
from vtblender_nemo.backbones.kv_cache import GrowingCache, can_grow
from vtblender_nemo.backbones.last_layer import LastLayer
from vtblender_nemo.common.errors import ConfigError, MissingDependencyError, ModelFileError
from vtblender_nemo.common.llm_fingerprint import fingerprint
from vtblender_nemo.modules.lora import FROZEN_LAYERS, add_lora
from vtblender_nemo.modules.losses import Head
from vtblender_nemo.modules.recompute import Degree, recompute_products

_ONLY_SAMPLED = frozenset({"temperature", "top_k", "top_p", "min_p", "typical_p"})
_SAMPLING = _ONLY_SAMPLED | {
    "do_sample",
    "num_beams",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "length_penalty",
    "min_new_tokens",
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class TransformersLLM(nn.Module):
    """A causal LM whose own weights are frozen, with or without LoRA beside them.

    Args:
        causal_lm: the pretrained model.
        lora: arguments of `peft.LoraConfig`, or None for no adapters.
        trainable: leave the model's own weights trainable (full fine-tuning; excludes `lora`).
        packing: `hidden_packed` will be called.
        recompute: what is computed again in the backward pass: none, cheap or layers.

    Raises:
        ConfigError: LoRA together with full fine-tuning; a model whose logits are not made as `logits` makes them, or that
            cannot keep packed conversations apart.
    """

    lora_layers: Mapping[type[nn.Module], type[nn.Module]] = FROZEN_LAYERS

    def __init__(
        self,
        causal_lm: PreTrainedModel,
        *,
        lora: Mapping[str, Any] | None,
        trainable: bool = False,
        packing: bool = True,
        recompute: Degree = "none",
    ) -> None:
        super().__init__()
        if trainable and lora:
            raise ConfigError("LoRA and a trainable LLM exclude each other", knob="model.lora or model.train_llm")
        causal_lm.requires_grad_(trainable)
        causal_lm.config.use_cache = False
        causal_lm.generation_config = GenerationConfig()  # answers follow from the arguments of `generate` alone
        check_head(causal_lm)
        if packing:
            packed_attention.install(causal_lm)
            check_packing(causal_lm)
        if recompute == "layers":
            causal_lm.gradient_checkpointing_enable({"use_reentrant": False})
        self.model = self._add_lora(causal_lm, dict(lora)) if lora else causal_lm
        if lora:
            causal_lm.get_input_embeddings().requires_grad_(False)
        if recompute == "cheap":
            recompute_products(causal_lm)
        self.last_layer = LastLayer(causal_lm)
        self.decoding_weights = DecodingWeights(self.model)

    def _add_lora(self, causal_lm: PreTrainedModel, lora: dict[str, Any]) -> nn.Module:
        return add_lora(causal_lm, lora, self.lora_layers)

    def train(self, mode: bool = True) -> TransformersLLM:
        """Training frees the copies of weights that answers were generated with."""
        if mode:
            self.decoding_weights.drop()
        return super().train(mode)

    @property
    def causal_lm(self) -> PreTrainedModel:
        """The Hugging Face model; LoRA layers, where there are any, stand inside it."""
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model

    @property
    def layers(self) -> list[nn.Module]:
        """The decoder's layers, one after the other; empty where the model is built otherwise."""
        return list(getattr(self.causal_lm.base_model, "layers", ()))

    @property
    def hidden_size(self) -> int:
        return self.causal_lm.config.get_text_config().hidden_size

    @property
    def max_positions(self) -> int:
        return self.causal_lm.config.get_text_config().max_position_embeddings

    @property
    def device(self) -> torch.device:
        return self.causal_lm.get_input_embeddings().weight.device

    @torch.no_grad()
    def embed_rms(self) -> float:
        """Root mean square of the token embeddings as the first layer sees them."""
        ids = torch.arange(min(self.causal_lm.config.get_text_config().vocab_size, 4096))
        return float(self.embed(ids.to(self.device)).float().pow(2).mean().sqrt())

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids (...) -> embeddings (..., H), scaled as the first layer wants them."""
        return self.causal_lm.get_input_embeddings()(ids)

    def hidden(
        self, embeds: Tensor, mask: Tensor, positions: Tensor | None = None, wanted: Tensor | None = None
    ) -> Tensor:
        """Last hidden states, before the head.

        Args:
            embeds: (B, T, H).
            mask: (B, T).
            positions: (B, T) places in conversations; None where nothing is padded on the left.
            wanted: (N,) of B * T places.

        Returns:
            (N, H) at the wanted places; (B, T, H) if none are named.
        """
        decoder = self.causal_lm.base_model
        with self.reading(wanted):
            output = decoder(inputs_embeds=embeds, attention_mask=mask, position_ids=positions, use_cache=False)
        hidden = output.last_hidden_state
        return hidden if wanted is None else hidden.flatten(0, 1).index_select(0, wanted)

    def hidden_packed(self, embeds: Tensor, lens: Sequence[int], wanted: Tensor | None = None) -> Tensor:
        """Embeddings (P, H) of conversations behind each other, with the positions of each -> as `hidden`, (N, H) or (P, H)."""
        with self.reading(wanted):
            hidden = packed_hidden(self.causal_lm, embeds, lens)
        return hidden if wanted is None else hidden.index_select(0, wanted)

    def reading(self, wanted: Tensor | None) -> AbstractContextManager[None]:
        """As long as the context lasts, hidden states need to be right at the wanted (N,) places alone; everywhere if None."""
        return nullcontext() if wanted is None or not self.last_layer.found else self.last_layer.at(wanted)

    def logits(self, rows: Tensor) -> Tensor:
        """Hidden rows (N, H) -> logits (N, V), by the layer itself, which may compute with a copy of its weight."""
        return self.head.bent(self.causal_lm.get_output_embeddings()(rows))

    @property
    def head(self) -> Head:
        """What makes logits of hidden rows."""
        return head_of(self.causal_lm)

    @torch.no_grad()
    def generate(
        self, embeds: Tensor, mask: Tensor, *, max_new_tokens: int, stop_ids: Sequence[int], **sampling: Any
    ) -> Tensor:
        """Continues prompts that are padded on the left.

        Args:
            embeds: (B, T, H).
            mask: (B, T) bool.
            max_new_tokens: of each answer.
            stop_ids: ids that end an answer.
            sampling: `do_sample`, `temperature`, `top_p`, `top_k`, ... of `transformers.GenerationConfig`; greedy if empty.

        Returns:
            (B, at most max_new_tokens) ids, filled up with the first of `stop_ids`.
        """
        check_sampling(sampling, max_new_tokens)
        if sampling.get("num_beams", 1) == 1 and can_grow(self.causal_lm.config):
            choose = Chooser(stop_ids, **sampling)
            with self.decoding_weights():
                hidden = prefill(self, embeds, mask := mask.bool(), cache := GrowingCache())
                return decode(self, hidden, mask, cache, choose, max_new_tokens=max_new_tokens, stop_ids=stop_ids)
        settings = {"do_sample": False, **sampling}
        config = GenerationConfig(
            max_new_tokens=max_new_tokens,
            eos_token_id=list(stop_ids),
            pad_token_id=stop_ids[0],
            use_cache=True,
            **settings,
        )
        with self.decoding_weights():
            return self.causal_lm.generate(inputs_embeds=embeds, attention_mask=mask.long(), generation_config=config)

    @contextmanager
    def pretrained(self) -> Iterator[None]:
        """The pretrained model as a teacher, as long as the context lasts: without LoRA, dropout or gradients.

        Modes and LoRA are back afterwards, whatever happens inside.
        """
        training = [module for module in self.modules() if module.training]
        try:
            for module in training:
                module.training = False
            with self.without_lora(), torch.no_grad():
                yield
        finally:
            for module in training:
                module.training = True

    @contextmanager
    def without_lora(self) -> Iterator[None]:
        """The pretrained model itself, as long as the context lasts."""
        with self.model.disable_adapter() if isinstance(self.model, PeftModel) else nullcontext():
            yield

    def fingerprint(self) -> str:
        """Which LLM this is: the fingerprint of its own weights, with or without LoRA that of the folder they came from."""
        return fingerprint(self.base_weights().values())

    def adapter_weights(self) -> dict[str, Tensor]:
        """LoRA's weights by the names in peft's files."""
        return get_peft_model_state_dict(self.model, save_embedding_layers=False)

    def base_weights(self) -> dict[str, Tensor]:
        """The model's own weights by their names in this module's state dict."""
        return {name: weight for name, weight in self.state_dict().items() if ".lora_" not in name}


def llm_config(name_or_path: str, overrides: Mapping[str, Any] | None = None) -> PretrainedConfig:
    """The Hugging Face config of a folder or hub name, with some values replaced (for example `attention_dropout`).

    Raises:
        ModelFileError: nothing there that transformers can read.
        ConfigError: an override that the config does not have.
    """
    try:
        config = AutoConfig.from_pretrained(name_or_path, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise _unreadable(name_or_path, error) from error
    _check_attention(config, name_or_path)
    for key, value in (overrides or {}).items():
        if not hasattr(config, key):
            raise ConfigError(
                f"the LLM's config has no value {key!r}", value=name_or_path, knob=f"model.llm_overrides.{key}"
            )
        setattr(config, key, value)
    return config


def config_from_dict(values: Mapping[str, Any]) -> PretrainedConfig:
    """A Hugging Face config from its dictionary, of a model type that transformers itself knows."""
    model_type = values.get("model_type")
    if model_type not in CONFIG_MAPPING:
        raise ModelFileError(
            "unknown LLM type in the model file", value=model_type, expected="a type known to transformers"
        )
    try:
        config = CONFIG_MAPPING[model_type].from_dict(_without_code(values))
    except (TypeError, ValueError, LookupError, AttributeError, ImportError) as error:
        raise ModelFileError(
            f"the LLM's configuration cannot be used ({error})", value=model_type, knob="llm_config"
        ) from error
    _check_attention(config, "llm_config")
    return config


def _without_code(values: Any) -> Any:
    """A configuration without what names the code of a repository, which is never run here."""
    if isinstance(values, Mapping):
        return {
            key: _without_code(value) for key, value in values.items() if key not in ("auto_map", "custom_pipelines")
        }
    return values


def _check_attention(config: PretrainedConfig, place: str) -> None:
    """Transformers loads kernels, which are code, from hub repositories that a configuration names."""
    named = getattr(config, "_attn_implementation_internal", None) or getattr(config, "_attn_implementation", None)
    if "/" in str(named):
        raise ModelFileError(
            "the LLM's configuration asks for code of others",
            path=place,
            value=named,
            expected="no attn_implementation from the hub",
            knob="attn_implementation",
        )


def build_llm(config: PretrainedConfig, dtype: str, *, attention: str | None = None) -> PreTrainedModel:
    """An LLM with random weights, to be overwritten or for measuring."""
    return AutoModelForCausalLM.from_config(
        config, dtype=torch_dtype(dtype), trust_remote_code=False, attn_implementation=attention
    )


def load_llm(
    name_or_path: str,
    config: PretrainedConfig,
    dtype: str,
    *,
    attention: str | None = None,
    quantization: str | None = None,
) -> PreTrainedModel:
    """Pretrained weights from a folder or the hub.

    Args:
        name_or_path: folder or hub name.
        config: from `llm_config`.
        dtype: "float32" or "bfloat16".
        attention: transformers' `attn_implementation`, as "sdpa" or "flash_attention_2"; None leaves the choice to it.
        quantization: None, or "4bit" for an NF4 base by bitsandbytes (CUDA only).

    Raises:
        ModelFileError: weights that are missing or do not fit the config.
        ConfigError: an unknown `quantization`, or 4-bit weights without CUDA.
    """
    extra: dict[str, Any] = {}
    if quantization is not None:
        device = int(os.environ.get("LOCAL_RANK", "0"))
        extra = {"quantization_config": _quantization(quantization), "device_map": {"": device}}
    try:
        causal_lm, loaded = AutoModelForCausalLM.from_pretrained(
            name_or_path,
            config=config,
            dtype=torch_dtype(dtype),
            trust_remote_code=False,
            attn_implementation=attention,
            output_loading_info=True,
            **extra,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise _unreadable(name_or_path, error) from error
    absent = sorted({*loaded["missing_keys"], *(entry[0] for entry in loaded["mismatched_keys"])})
    if absent:
        raise ModelFileError(
            "the LLM's files lack weights, which would be left at random",
            path=name_or_path,
            value=absent[:5],
            expected="every weight of the model that its config describes",
            knob="model.pretrained_llm",
        )
    return causal_lm


def torch_dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise ConfigError(
            "unknown type of weights", value=name, expected=f"one of {', '.join(DTYPES)}", knob="model.llm_dtype"
        )
    return DTYPES[name]


def _quantization(kind: str) -> Any:
    if kind != "4bit":
        raise ConfigError("unknown quantization", value=kind, expected="null or 4bit", knob="model.quantization")
    if not torch.cuda.is_available():
        raise ConfigError("4-bit weights need a CUDA device", value=kind, knob="model.quantization=null")
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            "4-bit weights need bitsandbytes", knob='pip install "vtblender_nemo[quant]"'
        ) from error
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.bfloat16,
        bnb_4bit_use_double_quant=True,
    )


def check_sampling(sampling: Mapping[str, Any], max_new_tokens: int) -> None:
    """Transformers ignores what it does not know, and temperatures without `do_sample`; both would mislead.

    Raises:
        ConfigError: an unknown argument, one without effect, or no token to be generated.
    """
    if max_new_tokens < 1:
        raise ConfigError("no room for an answer", value=max_new_tokens, expected="1 or more", knob="max_new_tokens")
    unknown = sorted(set(sampling) - _SAMPLING)
    if unknown:
        raise ConfigError(
            "unknown argument of generate", value=unknown, expected=f"some of {', '.join(sorted(_SAMPLING))}"
        )
    without_effect = sorted(set(sampling) & _ONLY_SAMPLED)
    if without_effect and not sampling.get("do_sample"):
        raise ConfigError("has no effect on greedy answers", value=without_effect, knob="do_sample=True")


def _unreadable(name_or_path: str, error: Exception) -> ModelFileError:
    return ModelFileError(
        f"the LLM cannot be loaded ({error})",
        value=name_or_path,
        expected="a Hugging Face folder or hub name of a causal LM",
        knob="model.pretrained_llm",
    )
