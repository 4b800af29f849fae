"""A Hugging Face causal LM whose large layers are cut over a tensor group: every process holds, and reads, its own part alone."""

from __future__ import annotations

import torch
from accelerate import init_empty_weights
from megatron.core.model_parallel_config import ModelParallelConfig
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from vtblender_nemo.backbones.llm_loading import torch_dtype
from vtblender_nemo.backbones.megatron_llm.groups import join
from vtblender_nemo.backbones.megatron_llm.layers import (
    ParallelEmbedding,
    ParallelHead,
    ReplicatedLinear,
    column,
    parallel_config,
    row,
)
from vtblender_nemo.common.errors import ConfigError, ModelFileError
from vtblender_nemo.common.llm_fingerprint import weight_files
from vtblender_nemo.common.parallel import tensor_rank
from vtblender_nemo.common.shards import axis_of

FAMILIES = ("gemma", "gemma2", "gemma3_text", "llama", "qwen2", "qwen3")
"""`model_type` of the LLMs whose layers bear the names below, and nothing else that would have to be cut."""
_BY_OUTPUTS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj")
_BY_INPUTS = ("self_attn.o_proj", "mlp.down_proj")
CUT_LAYERS = (*_BY_OUTPUTS, *_BY_INPUTS)
_OF_KEYS = ("self_attn.k_proj", "self_attn.v_proj")
_KNOB = "model.tensor_parallel"


def build_parallel_llm(config: PretrainedConfig, dtype: str, size: int, *, attention: str | None) -> PreTrainedModel:
    """This process's part of an LLM with random weights, to be overwritten or for measuring; see `load_parallel_llm`."""
    causal_lm = _empty_llm(config, dtype, size, attention)
    # parts that are alike would make an LLM that repeats itself
    generator = torch.Generator().manual_seed(torch.initial_seed() + 1 + tensor_rank()[0])
    alike = torch.Generator().manual_seed(torch.initial_seed())
    std = getattr(config.get_text_config(), "initializer_range", 0.02)
    with torch.no_grad():
        for parameter in causal_lm.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, std, generator=generator if axis_of(parameter) is not None else alike)
            else:
                parameter.zero_()
        for module in causal_lm.modules():
            if "Norm" in type(module).__name__:
                causal_lm._init_weights(module)
    return causal_lm


def load_parallel_llm(
    name_or_path: str, config: PretrainedConfig, dtype: str, size: int, *, attention: str | None
) -> PreTrainedModel:
    """This process's part of pretrained weights; nothing else of them is ever in its memory.

    Args:
        name_or_path: folder or hub name.
        config: from `llm_config`.
        dtype: "float32" or "bfloat16".
        size: processes that hold the LLM together.
        attention: as for `load_llm`.

    Raises:
        ConfigError: an LLM that cannot be cut, or not by so many.
        ModelFileError: no safetensors, or weights that are missing or do not fit the config.
    """
    causal_lm = _empty_llm(config, dtype, size, attention)
    wanted = dict(causal_lm.named_parameters())
    try:
        for path in weight_files(name_or_path):
            with safe_open(path, framework="pt") as file:
                for name in wanted.keys() & set(file.keys()):
                    _fill(wanted.pop(name), file.get_slice(name), name, name_or_path)
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelFileError(
            f"the LLM cannot be loaded ({error})",
            value=name_or_path,
            expected="a Hugging Face folder or hub name with safetensors, of which every process reads a part",
            knob=f"model.pretrained_llm, or {_KNOB}=1",
        ) from error
    if wanted:
        raise ModelFileError(
            "the LLM's files lack weights, which would be left at random",
            path=name_or_path,
            value=sorted(wanted)[:5],
            expected="every weight of the model that its config describes",
            knob="model.pretrained_llm",
        )
    return causal_lm


def check_family(config: PretrainedConfig, size: int) -> None:
    """Sees that an LLM can be cut over so many processes.

    Raises:
        ConfigError: it cannot.
    """
    if config.model_type not in FAMILIES:
        raise ConfigError(
            "this LLM cannot be cut over several processes",
            value=config.model_type,
            expected=f"one of {', '.join(FAMILIES)}",
            knob=f"{_KNOB}=1, or model.pretrained_llm",
        )
    for name in ("num_attention_heads", "intermediate_size", "vocab_size"):
        if getattr(config, name) % size:
            raise ConfigError(
                f"the LLM's {name} is no multiple of the processes that hold it",
                value=size,
                expected=f"a divisor of {getattr(config, name)}",
                knob=_KNOB,
            )
    heads = config.num_key_value_heads
    if heads % size and size % heads:
        raise ConfigError(
            "the LLM's num_key_value_heads is neither multiple nor divisor of the processes that hold it",
            value=size,
            expected=f"a multiple or a divisor of {heads}",
            knob=_KNOB,
        )


def _empty_llm(config: PretrainedConfig, dtype: str, size: int, attention: str | None) -> PreTrainedModel:
    """The LLM with its layers cut and no weights yet; what is computed from the config alone is there."""
    check_family(config, size)
    join(size)
    kind = torch_dtype(dtype)
    with init_empty_weights(include_buffers=False):
        causal_lm = AutoModelForCausalLM.from_config(
            config, dtype=kind, trust_remote_code=False, attn_implementation=attention
        )
    _cut(causal_lm, kind)
    for module in causal_lm.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.is_meta:
                module._parameters[name] = nn.Parameter(torch.empty(parameter.shape, dtype=kind))
    return causal_lm


def _cut(causal_lm: PreTrainedModel, dtype: torch.dtype) -> None:
    model_config, config = causal_lm.config, parallel_config(dtype)
    heads, (_, size) = model_config.num_key_value_heads, tensor_rank()
    for layer in causal_lm.base_model.layers:
        for name in CUT_LAYERS:
            place, _, last = name.rpartition(".")
            parent = layer.get_submodule(place)
            setattr(parent, last, _cut_layer(getattr(parent, last), name, heads, config))
        if heads % size:
            layer.self_attn.num_key_value_groups = model_config.num_attention_heads // size
    embedding = ParallelEmbedding(causal_lm.get_input_embeddings(), config)
    head = column(causal_lm.get_output_embeddings(), config, ParallelHead)
    if model_config.tie_word_embeddings:
        head.weight = embedding.weight
    causal_lm.set_input_embeddings(embedding)
    causal_lm.set_output_embeddings(head)


def _cut_layer(layer: nn.Linear, name: str, heads: int, config: ModelParallelConfig) -> nn.Module:
    if name in _BY_INPUTS:
        return row(layer, config)
    if name in _OF_KEYS and heads % tensor_rank()[1]:
        return ReplicatedLinear(layer, heads, config.params_dtype)
    return column(layer, config)


@torch.no_grad()
def _fill(parameter: Tensor, stored: object, name: str, name_or_path: str) -> None:
    """Reads a parameter, or this process's part of it, out of a file."""
    shape = list(stored.get_shape())  # type: ignore[attr-defined]
    axis, (rank, size) = axis_of(parameter), tensor_rank()
    expected = [length * size if number == axis else length for number, length in enumerate(parameter.shape)]
    if shape != expected:
        raise ModelFileError(
            "a weight of the LLM has another shape than its config says",
            path=name_or_path,
            value={name: shape},
            expected=str(expected),
            knob="model.pretrained_llm",
        )
    where = [slice(None)] * len(shape)
    if axis is not None:
        length = parameter.shape[axis]
        where[axis] = slice(rank * length, (rank + 1) * length)
    parameter.copy_(stored[tuple(where)])  # type: ignore[index]
