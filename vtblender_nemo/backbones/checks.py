"""Some tokens through an LLM before it is trained: what would go wrong without a word stops here."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from vtblender_nemo.backbones import packed_attention
from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.modules.losses import Head


def head_of(causal_lm: PreTrainedModel) -> Head:
    """The linear layer, with the adjustments that some families make between it and the softmax."""
    config = causal_lm.config.get_text_config()
    layer = causal_lm.get_output_embeddings()
    scale = getattr(config, "logit_scale", None) or 1.0  # Cohere
    scale /= getattr(config, "logits_scaling", None) or 1.0  # Granite
    softcap = getattr(config, "final_logit_softcapping", None)
    if hasattr(layer, "as_head"):  # one that is cut over several processes
        return layer.as_head(scale, softcap)
    return Head(layer.weight, layer.bias, scale, softcap)


def packed_hidden(causal_lm: PreTrainedModel, embeds: Tensor, lens: Sequence[int]) -> Tensor:
    """Embeddings (P, H) of conversations behind each other, with the positions of each -> last hidden states (P, H)."""
    attention = causal_lm.config.get_text_config()._attn_implementation
    where = packed_attention.Packing.of(lens, embeds.device).arguments(attention)
    return causal_lm.base_model(inputs_embeds=embeds[None], use_cache=False, **where).last_hidden_state[0]


@torch.no_grad()
def check_packing(causal_lm: PreTrainedModel) -> None:
    """Two conversations behind each other: an LLM that would mix them must not be trained so.

    Raises:
        ConfigError: it mixes them.
    """
    embedding = causal_lm.get_input_embeddings()
    if embedding.weight.is_meta:
        return
    was_training = causal_lm.training
    causal_lm.eval()
    attention = causal_lm.config.get_text_config()._attn_implementation
    first, second = (embedding(ids.to(embedding.weight.device)) for ids in torch.arange(1, 10).split(5))
    apart = False
    if packed_attention.can_pack(attention):
        packed = packed_hidden(causal_lm, torch.cat([first, second]), [len(first), len(second)])
        alone = [causal_lm.base_model(inputs_embeds=part[None]).last_hidden_state[0] for part in (first, second)]
        apart = torch.allclose(packed.float(), torch.cat(alone).float(), rtol=1e-2, atol=1e-2)
    causal_lm.train(was_training)
    if not apart:
        raise ConfigError(
            "this LLM cannot compute conversations behind each other without mixing them",
            value=f"{type(causal_lm).__name__} with attention {attention}",
            expected=f"attention {', '.join(packed_attention.BASES)} or flash_attention_2 in all layers",
            knob="model.packing=false",
        )


@torch.no_grad()
def check_head(causal_lm: PreTrainedModel) -> None:
    """Some tokens through the model: an LLM that makes its logits in a way unknown here must not be trained on wrong ones.

    Raises:
        ConfigError: its logits are others.
    """
    embedding = causal_lm.get_input_embeddings().weight
    if embedding.is_meta:
        return
    was_training = causal_lm.training
    causal_lm.eval()
    ids = torch.arange(1, 9, device=embedding.device)[None]  # 0 is often the padding, whose embedding may be all zeros
    wanted = causal_lm(input_ids=ids, use_cache=False).logits[0]
    found = head_of(causal_lm)(causal_lm.base_model(input_ids=ids, use_cache=False).last_hidden_state[0])
    causal_lm.train(was_training)
    if not torch.allclose(found.float(), wanted.float(), rtol=1e-2, atol=1e-2):
        raise ConfigError(
            "this LLM makes its logits in a way that is not supported",
            value=type(causal_lm).__name__,
            expected="a plain, scaled or soft-capped linear head",
            knob="model.pretrained_llm",
        )
