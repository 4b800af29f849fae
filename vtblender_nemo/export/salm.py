"""NeMo's stock SALM: the folder that `SALM.from_pretrained` reads, without anything of this package.

Names of weights: ours are `llm.model.` and peft's or Hugging Face's name, a SALM's `llm.` and that name; the table of embeddings
stands by itself. Perception has the same names on both sides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf
from torch import Tensor
from transformers import PretrainedConfig

from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.common.files import write_json
from vtblender_nemo.export.folders import write_weights
from vtblender_nemo.export.llm_weights import (
    check_frames,
    check_not_quantized,
    check_plain_lora,
    generation_config,
    hf_config,
    own_tokenizer,
)
from vtblender_nemo.export.markers import Markers, add_markers, with_row, with_unlikely_rows
from vtblender_nemo.export.options import ExportOptions, Written
from vtblender_nemo.export.prompts import PromptFormat, find_format

if TYPE_CHECKING:
    from vtblender_nemo.models.vtblender import VTBlenderModel

CONFIG, WEIGHTS, BACKBONE = "config.json", "model.safetensors", "llm_backbone"
MODEL_TYPE, ARCHITECTURE = "nemo_speechlm", "NeMoSpeechLMForConditionalGeneration"
OURS = "vtblender"
"""Key of `config.json` for what the stock class does not read and the way back needs."""

REPLACED_ROW = "perception.replaced_row"
"""The spare row of the LLM's table that the separator's token took; the stock class passes it over, as it does the separator."""

_TABLE, _PEFT = "model.embed_tokens.weight", "base_model.model."
_HEAD = ("lm_head.weight", "lm_head.bias")
_STOCK_PERCEPTION = ("preprocessor", "encoder", "modality_adapter", "spec_augment", "output_dim")


@dataclass
class Layout:
    """What makes up the folder.

    Attributes:
        weights: by a SALM's names.
        llm_config: of the backbone.
        markers: what stands for audio in prompts.
        ours: see `OURS`.
        notes: what differs from the model.
    """

    weights: dict[str, Tensor]
    llm_config: PretrainedConfig
    markers: Markers
    ours: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def write_salm(model: VTBlenderModel, folder: Path, options: ExportOptions) -> Written:
    """The folder of a stock SALM.

    Raises:
        ConfigError: what a stock SALM cannot express; the setting is named.
    """
    tokenizer = own_tokenizer(model)
    separator = model.perception.separator is not None
    markers = add_markers(tokenizer, model.cfg.audio_locator_tag, separator=separator)
    tokenizer.save_pretrained(folder)
    layout = lay_out(model, markers)
    found = find_format(model.chat_format, folder, markers)
    pretrained_llm = options.llm or str(model.cfg.pretrained_llm)
    write_layout(model, layout, folder, found, pretrained_llm)
    return Written(
        what="The whole model in the layout of NeMo's stock SALM.",
        usage=_usage(found, layout.markers, list(model.chat_format.stop_ids)),
        library="nemo",
        task="audio-text-to-text",
        notes=layout.notes + prompt_notes(found, markers),
    )


def lay_out(model: VTBlenderModel, markers: Markers) -> Layout:
    """Weights and configuration under a SALM's names, the separator as a token's embedding.

    Raises:
        ConfigError: a quantised LLM, an unusual LoRA, or an LLM whose parts have other names than a SALM expects.
    """
    check_not_quantized(model)
    check_frames(model)
    check_plain_lora(model)
    weights = {f"perception.{name}": weight for name, weight in model.perception.state_dict().items()}
    llm = model.llm.causal_lm.state_dict()
    if _TABLE not in llm:
        raise ConfigError(
            "a stock SALM cannot hold this LLM",
            value=type(model.llm.causal_lm).__name__,
            expected=f"an LLM with weights {_TABLE}, as Gemma, Llama and Qwen have",
            knob="model.pretrained_llm",
        )
    inside = _PEFT if model.cfg.get("lora") else ""
    config = hf_config(model)
    skipped = {_TABLE, _HEAD[0]} if config.tie_word_embeddings else {_TABLE}
    weights |= {f"llm.{inside}{name}": weight for name, weight in llm.items() if name not in skipped}
    weights["embed_tokens.weight"] = llm[_TABLE]
    ours = {"audio_locator_tag": str(model.cfg.audio_locator_tag), "vocab_size": len(llm[_TABLE])}
    layout = Layout(weights, config, markers, ours, _precision_notes(model))
    if markers.separator is not None:
        _fold_separator(model, layout, f"llm.{inside}")
    return layout


def _fold_separator(model: VTBlenderModel, layout: Layout, prefix: str) -> None:
    """Makes the separator the embedding of its token, and leaves the head, which may be the same table, as it was."""
    row, separator = layout.markers.separator_id, model.perception.separator
    assert row is not None
    assert separator is not None
    table = layout.weights["embed_tokens.weight"]
    tied = layout.llm_config.tie_word_embeddings
    if tied:
        layout.weights[prefix + _HEAD[0]] = table
    if row < len(table):
        layout.weights[REPLACED_ROW] = table[row]
    longer = with_row(table, row, separator.detach() / model.llm.embed_scale())
    layout.weights["embed_tokens.weight"] = longer
    for name in _HEAD:
        if (head := layout.weights.get(prefix + name)) is not None:
            layout.weights[prefix + name] = with_unlikely_rows(head, len(longer))
    layout.llm_config.vocab_size = len(longer)
    layout.llm_config.tie_word_embeddings = False
    layout.ours |= {"separator_id": row, "tied": tied}
    layout.notes.append(
        f"The trained separator after each audio is the embedding of the token `{layout.markers.separator}`: every "
        f"`{layout.markers.tag}` in a prompt has to be followed by it."
        + (" The LLM's head is a table of its own for its sake." if tied else "")
    )


def _precision_notes(model: VTBlenderModel) -> list[str]:
    secs, dtype = model.perception.cfg.get("encoder_chunk_secs"), model.cfg.llm_dtype
    notes = []
    if secs is not None:
        notes.append(
            f"Audio longer than {secs:g} s is encoded in chunks of that length; the model itself cuts at pauses, so that answers "
            "about such audio may differ."
        )
    if dtype != "float32":
        notes.append(f"The model itself computes its LLM in {dtype}; other programs have a choice of their own.")
    return notes


def write_layout(
    model: VTBlenderModel, layout: Layout, folder: Path, prompt_format: PromptFormat, pretrained_llm: str
) -> None:
    """Writes configuration and weights."""
    perception = OmegaConf.to_container(model.perception.cfg, resolve=True)
    assert isinstance(perception, dict)
    config: dict[str, Any] = {
        "model_type": MODEL_TYPE,
        "architectures": [ARCHITECTURE],
        "pretrained_llm": pretrained_llm,
        "pretrained_asr": str(model.cfg.pretrained_asr),
        "pretrained_weights": False,
        "audio_locator_tag": layout.markers.tag,
        "prompt_format": prompt_format.name,
        "freeze_params": [r"^llm\..+$", r"^embed_tokens\..+$"],
        "prevent_freeze_params": [],
        "encoder_chunk_size_seconds": perception.get("encoder_chunk_secs"),
        "perception": {
            "target": "nemo.collections.speechlm2.modules.perception.AudioPerceptionModule",
            **{key: perception[key] for key in _STOCK_PERCEPTION if perception.get(key) is not None},
        },
        OURS: layout.ours,
    }
    if model.cfg.get("lora"):
        config["lora"] = {"task_type": "CAUSAL_LM", **_plain(model.cfg.lora)}
    write_weights(layout.weights, folder / WEIGHTS)
    write_json(config, folder / CONFIG)
    layout.llm_config.save_pretrained(folder / BACKBONE)
    generation_config(model).save_pretrained(folder)


def _plain(cfg: Any) -> Mapping[str, Any]:
    values = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(values, dict)
    return values


def prompt_notes(found: PromptFormat, markers: Markers) -> list[str]:
    """How prompts have to be written."""
    notes = [
        f"In a turn, `{markers.audio}` stands for an audio, right behind the text before it, and a space follows it where text "
        "comes next."
    ]
    if found.how == "template":
        notes.append(
            "NeMo has no prompt format for this LLM's chat template: the chat template writes the whole chat, and the text goes "
            "in as one turn of the format `plain`."
        )
    if found.how == "ids":
        notes.append(
            "NeMo has no prompt format that gives the token ids that the model was trained on, nor does its tokenizer: pass "
            "token ids, made by `ChatFormat` of vtblender_nemo."
        )
    if not found.in_chats:
        notes.append(
            "That holds for a single request. After earlier answers, NeMo's prompts are not those that the model was trained on: "
            "pass token ids there, made by `ChatFormat` of vtblender_nemo."
        )
    return notes


def _usage(found: PromptFormat, markers: Markers, stop_ids: list[int]) -> str:
    options = "".join(f", {key}={value}" for key, value in found.options.items())
    turn = f'{{"role": "user", "content": "Transcribe:{markers.audio}"'
    lines = [
        "from transformers import GenerationConfig",
        "from nemo.collections.speechlm2 import SALM",
        "",
        'model = SALM.from_pretrained("FOLDER").eval()',
        'config = GenerationConfig.from_pretrained("FOLDER")',
    ]
    prompt = f'[[{turn}, "audio": ["speech.wav"]}}]]'
    if found.how == "template":
        lines += [
            f"chat = [{turn}}}]",
            "text = model.tokenizer.tokenizer.apply_chat_template(",
            "    chat, tokenize=False, add_generation_prompt=True, enable_thinking=False",
            ")",
        ]
        prompt = '[[{"role": "user", "content": text, "audio": ["speech.wav"]}]]'
    if found.how == "ids":
        lines.append("# ids: (1, tokens), waveform: (1, samples) at 16 kHz")
        generate = (
            "model.generate(ids, audios=waveform, audio_lens=samples, generation_config=config, max_new_tokens=128)"
        )
    else:
        generate = f"model.generate({prompt}, generation_config=config, max_new_tokens=128{options})"
    stops = "{" + ", ".join(map(str, stop_ids)) + "}"
    return "\n".join(
        [
            *lines,
            f"answer = {generate}[0]",
            f"print(model.tokenizer.ids_to_text([token for token in answer.tolist() if token not in {stops}]))",
        ]
    )
