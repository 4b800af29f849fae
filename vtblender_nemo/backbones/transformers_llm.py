"""The LLM behind five calls: embed, hidden, hidden_packed, logits, generate. Any Hugging Face causal LM will do.

Shapes: B conversations, T positions of the longest one, P positions of all of them, H hidden, V vocabulary, N rows or wanted
positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from torch import Tensor, nn
from transformers import (
    GenerationConfig,
    PreTrainedModel,
)

from vtblender_nemo.backbones import packed_attention
from vtblender_nemo.backbones.checks import check_head, check_packing, head_of, packed_hidden
from vtblender_nemo.backbones.decoding import Chooser, decode, prefill
from vtblender_nemo.backbones.decoding_weights import DecodingWeights
from vtblender_nemo.backbones.kv_cache import GrowingCache, can_grow
from vtblender_nemo.backbones.last_layer import LastLayer
from vtblender_nemo.common.errors import ConfigError
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
    def vocab_size(self) -> int:
        """Rows of the token table, which may be more than the tokenizer has tokens."""
        return self.causal_lm.config.get_text_config().vocab_size

    @property
    def max_positions(self) -> int:
        return self.causal_lm.config.get_text_config().max_position_embeddings

    @property
    def device(self) -> torch.device:
        return self.causal_lm.get_input_embeddings().weight.device

    @torch.no_grad()
    def embed_rms(self) -> float:
        """Root mean square of the token embeddings as the first layer sees them."""
        ids = torch.arange(min(self.vocab_size, 4096))
        return float(self.embed(ids.to(self.device)).float().pow(2).mean().sqrt())

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids (...) -> embeddings (..., H), scaled as the first layer wants them."""
        return self.causal_lm.get_input_embeddings()(ids)

    def token_table(self) -> Tensor:
        """The table of token embeddings (V, H), without gradients; the first layer sees `embed_scale` times its rows."""
        return self.causal_lm.get_input_embeddings().weight.detach()

    @torch.no_grad()
    def embed_scale(self) -> float:
        """The factor from the table of embeddings to what the first layer gets, as Gemma has one.

        Raises:
            ConfigError: it is more than a factor.
        """
        table = self.token_table()
        ids = torch.arange(1, min(len(table), 257), device=table.device)
        rows, found = table[ids].double(), self.embed(ids).double()
        scale = float((rows * found).sum() / rows.pow(2).sum())
        if not torch.allclose(found, scale * rows, rtol=1e-2, atol=1e-2 * float(found.abs().max())):
            raise ConfigError(
                "the LLM's embeddings are not rows of its table times a factor",
                value=type(self.causal_lm).__name__,
                knob="model.pretrained_llm",
            )
        return scale if abs(scale - 1) > 1e-3 else 1.0

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
