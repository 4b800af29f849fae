"""The text LLM with LoRA inside weights of 8 or 4 bits, and a model that hears through it.

Weights alone are quantised. 8 bits are torchao's: bitsandbytes' own would treat columns by what else stands in the batch, so that
answers would depend on it. 4 bits are bitsandbytes' NormalFloat, since torchao packs 4-bit integers only for some devices.
"""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, TorchAoConfig

from vtblender_nemo.backbones.llm_loading import torch_dtype
from vtblender_nemo.backbones.transformers_llm import TransformersLLM
from vtblender_nemo.common.errors import ConfigError, MissingDependencyError, ModelFileError
from vtblender_nemo.export.hf_folders import chat_usage
from vtblender_nemo.export.llm_weights import generation_config, merged_llm, own_tokenizer
from vtblender_nemo.export.options import ExportOptions, Written

if TYPE_CHECKING:
    from vtblender_nemo.models.vtblender import VTBlenderModel

_EXTRA = 'pip install "vtblender_nemo[quant]"'
_LIBRARIES = {8: "torchao", 4: "bitsandbytes"}
_BLOCK = 64  # weights that share a scale in 4 bits


def write_quantized(model: VTBlenderModel, folder: Path, options: ExportOptions) -> Written:
    """The LLM as a Hugging Face folder whose linear layers, but for the head, are of 8-bit integers or 4-bit NormalFloat.

    Raises:
        MissingDependencyError: the library for so many bits is not installed.
        ConfigError: see `merged_llm`; or layers that are no multiple of 4-bit blocks.
    """
    check_installed(options.bits)
    dtype = options.dtype or model.cfg.llm_dtype
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".merged_") as merged:
        llm = merged_llm(model, dtype)
        if options.bits == 4:
            _check_blocks(llm)
        llm.save_pretrained(merged)
        quantized = AutoModelForCausalLM.from_pretrained(
            merged,
            dtype=torch_dtype(dtype),
            trust_remote_code=False,
            quantization_config=_config(options.bits, dtype),
        )
    quantized.generation_config = generation_config(model)
    quantized.save_pretrained(folder)
    own_tokenizer(model).save_pretrained(folder)
    kind = "8-bit integers" if options.bits == 8 else "4-bit NormalFloat"
    return Written(
        what=f"The text LLM of the model, with LoRA inside its weights, which are {kind}.",
        usage=chat_usage("FOLDER", 'model = AutoModelForCausalLM.from_pretrained("FOLDER")'),
        library="transformers",
        task="text-generation",
        notes=[
            f"It needs {_LIBRARIES[options.bits]}: `{_EXTRA}`.",
            "By itself it reads and writes text. `vtblender_nemo.export.quantized.hear_through(model, FOLDER)` lets the model "
            "hear through it.",
            "What it costs in WER and text skills is measured by `tests/benchmark/quantized.py`.",
        ],
    )


def hear_through(model: VTBlenderModel, folder: str | Path) -> None:
    """Puts the LLM of a folder, LoRA inside its weights, in the place of the model's; for answers, not for training.

    Args:
        model: it is changed.
        folder: as `write_quantized` or `write_merged` left it, of the same model.

    Raises:
        ModelFileError: no such LLM there, the library that it needs is not installed, or it has another width or vocabulary.
    """
    try:
        causal_lm = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False)
    except (ImportError, OSError, ValueError, RuntimeError) as error:
        raise ModelFileError(
            f"the LLM cannot be loaded ({error})", path=folder, expected="a folder of --format quantized or merged"
        ) from error
    shapes = [tuple(llm.get_input_embeddings().weight.shape) for llm in (causal_lm, model.llm.causal_lm)]
    if shapes[0] != shapes[1]:
        raise ModelFileError(
            "the LLM is not the model's", path=folder, value=shapes[0], expected=f"embeddings {shapes[1]}"
        )
    llm = TransformersLLM(causal_lm, lora=None, packing=model.cfg.packing)
    model.speech_llm.llm = llm.train(model.training).requires_grad_(False)


def check_installed(bits: int) -> None:
    """
    Raises:
        MissingDependencyError: the library for so many bits is not installed.
    """
    library = _LIBRARIES[bits]
    try:
        importlib.import_module(library)
    except ImportError as error:
        raise MissingDependencyError(f"weights of {bits} bits need {library}", knob=_EXTRA) from error


def _check_blocks(llm: nn.Module) -> None:
    """On some processors bitsandbytes cannot load what it has written of other widths."""
    layers = {name: layer for name, layer in llm.named_modules() if isinstance(layer, nn.Linear)}
    for name, layer in layers.items():
        shape = (layer.out_features, layer.in_features)
        if name != "lm_head" and (shape[1] % _BLOCK or shape[0] % (_BLOCK // 2)):
            raise ConfigError(
                f"the layer {name} cannot be packed in 4 bits",
                value=shape,
                expected=f"outputs in multiples of {_BLOCK // 2} and inputs of {_BLOCK}, or --bits 8",
                knob="--bits",
            )


def _config(bits: int, dtype: str) -> Any:
    if bits == 8:
        from torchao.quantization import Int8WeightOnlyConfig

        return TorchAoConfig(Int8WeightOnlyConfig())
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch_dtype(dtype))
