"""The folder of a stock SALM as NeMo's plugin for vLLM wants it.

The plugin reads one locator tag alone, merges LoRA by alpha / r, computes the number of frames from that of samples, takes its
config of the LLM from where `pretrained_llm` points, and makes all its layers attend to everything. vLLM's own Gemma multiplies
what is embedded, frames among it, by the square root of the width, and ties its head to its embeddings.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.export.llm_weights import own_tokenizer
from vtblender_nemo.export.markers import Markers, add_markers
from vtblender_nemo.export.options import ExportOptions, Written
from vtblender_nemo.export.prompts import PromptFormat, find_format
from vtblender_nemo.export.salm import BACKBONE, Layout, lay_out, prompt_notes, write_layout

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from vtblender_nemo.models.vtblender import VTBlenderModel

TAG = "<|audio|>"
FRAMES_SCALED = {"gemma": True, "llama": False, "qwen2": False, "qwen3": False}
"""By type of the LLM, whether vLLM multiplies frames as it does embeddings (read in its sources)."""

_ALWAYS_TIED = ("gemma",)
_AUDIO_SHAPE = {"sampling rate": 16000, "hop": 160, "window of the FFT": 512, "subsampling": 8}
_MARKED = (
    "{{%- set marked = namespace(messages=[]) -%}}{{%- for message in messages -%}}{{%- set marked.messages = marked.messages + "
    "[dict(message, content=message['content'] | replace('{tag}', '{audio}'))] -%}}{{%- endfor -%}}"
    "{{%- set messages = marked.messages -%}}"
)


def write_vllm(model: VTBlenderModel, folder: Path, options: ExportOptions) -> Written:
    """The folder that `vllm serve` takes.

    Raises:
        ConfigError: what the plugin or a stock SALM cannot express; the setting is named.
    """
    _check(model, options)
    tokenizer = own_tokenizer(model)
    markers = add_markers(tokenizer, TAG, separator=model.perception.separator is not None)
    tokenizer.save_pretrained(folder)
    layout = lay_out(model, markers)
    _scale_frames(model, layout)
    found = find_format(model.chat_format, folder, markers)
    mark_template(tokenizer, markers)
    tokenizer.save_pretrained(folder)
    pretrained_llm = options.llm or str(options.output_dir.resolve() / BACKBONE)
    write_layout(model, layout, folder, found, pretrained_llm)
    return Written(
        what="The whole model for vLLM with the plugin that comes with NeMo.",
        usage=_usage(model),
        language="sh",
        library="nemo",
        task="audio-text-to-text",
        notes=layout.notes + _notes(tokenizer, markers, found),
    )


def _check(model: VTBlenderModel, options: ExportOptions) -> None:
    config = model.llm.causal_lm.config
    kind, perception = config.model_type, model.perception
    if kind not in FRAMES_SCALED:
        raise ConfigError(
            "what vLLM and its plugin make of this LLM is not known, or differs from what it is",
            value=kind,
            expected=f"one of {', '.join(sorted(FRAMES_SCALED))}; or --format salm",
            knob="model.pretrained_llm",
        )
    if kind in _ALWAYS_TIED and perception.separator is not None:
        raise ConfigError(
            "the separator after each audio would be a token that this LLM could say, as vLLM ties its head to its embeddings",
            value=True,
            expected="a model trained without it, another LLM, or --format salm",
            knob="model.perception.separator=false",
        )
    if options.llm is not None and perception.separator is not None:
        raise ConfigError(
            "the separator after each audio is one more row in the LLM's tables, of which its own configuration does not know",
            value=options.llm,
            expected="the configuration inside the export",
            knob="--llm, which has to be left out",
        )
    featurizer = perception.preprocessor.featurizer
    subsampling = perception.encoder.subsampling_factor * getattr(perception.modality_adapter, "subsampling_factor", 1)
    shape = (featurizer.sample_rate, featurizer.hop_length, featurizer.n_fft, subsampling)
    found = dict(zip(_AUDIO_SHAPE, map(int, shape), strict=True))
    if found != _AUDIO_SHAPE:
        raise ConfigError(
            "vLLM's plugin would count other frames than the encoder makes",
            value=found,
            expected=str(_AUDIO_SHAPE),
            knob="model.pretrained_asr",
        )


def _scale_frames(model: VTBlenderModel, layout: Layout) -> None:
    """Frames as they have to be before vLLM multiplies them."""
    scale = model.llm.embed_scale() if FRAMES_SCALED[model.llm.causal_lm.config.model_type] else 1.0
    if scale != 1.0:
        for name in ("perception.proj.weight", "perception.proj.bias"):
            layout.weights[name] = layout.weights[name] / scale
        layout.notes.append(
            f"The projection is divided by {scale:.4f}, by which vLLM multiplies frames: other programs hear nothing in them."
        )
    layout.ours["frames_divided_by"] = scale


def mark_template(tokenizer: PreTrainedTokenizerBase, markers: Markers) -> None:
    """Has the chat template write the separator's token behind every locator."""
    if markers.separator is not None:
        tokenizer.chat_template = _MARKED.format(tag=markers.tag, audio=markers.audio) + str(tokenizer.chat_template)


def _notes(tokenizer: PreTrainedTokenizerBase, markers: Markers, found: PromptFormat) -> list[str]:
    notes = [
        "`pretrained_llm` in `config.json` says where the LLM's configuration lies: change it when the folder moves.",
        "The plugin computes perception in bfloat16, whatever the type of the weights.",
        f"Write `{TAG}` in the text of a message where an audio stands, right behind the text before it: what has no place there "
        "is put first, with a line break behind it, which training did not show.",
    ]
    if markers.separator is not None:
        notes.append(
            f"The chat template puts `{markers.separator}` behind every `{TAG}`; prompts without it need it too."
        )
    written = str(tokenizer.bos_token)
    adds = tokenizer("x")["input_ids"][:1] == [tokenizer.bos_token_id]
    if adds and written in _first_text(tokenizer):
        notes.append(f"Chat template and tokenizer both begin with `{written}`, which would stand twice where both do.")
    return notes + prompt_notes(found, markers)[1:]


def _first_text(tokenizer: PreTrainedTokenizerBase) -> str:
    text: Any = tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)
    return str(text)


def _usage(model: VTBlenderModel) -> str:
    request = '{"model": "FOLDER", "messages": [{"role": "user", "content": [{"type": "text", "text": "Transcribe:<|audio|>"}, '
    audio = '{"type": "input_audio", "input_audio": {"data": "BASE64", "format": "wav"}}]}], "temperature": 0}'
    return (
        f"vllm serve FOLDER --max-model-len {model.llm.max_positions}\n"
        f"curl localhost:8000/v1/chat/completions -H 'Content-Type: application/json' -d '{request}{audio}'"
    )
