"""The way back: the folder of a stock SALM becomes a `.nemo` of this package, with the same answers.

An archive is made of the folder's files, and restored like any other, which finds a weight that is unknown or of a wrong shape.
"""

from __future__ import annotations

import json
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from transformers import AutoTokenizer

from vtblender_nemo.backbones.llm_loading import llm_config
from vtblender_nemo.common.errors import ConfigError, ModelFileError
from vtblender_nemo.common.nemo_archive import CONFIG_FILE, WEIGHTS_FILE
from vtblender_nemo.common.trusted_classes import VTBLENDER, check_parts
from vtblender_nemo.export.chat_templates import fit_template
from vtblender_nemo.export.markers import with_row
from vtblender_nemo.export.salm import BACKBONE, CONFIG, OURS, REPLACED_ROW, WEIGHTS
from vtblender_nemo.models.nemo_file import check_llm_name
from vtblender_nemo.models.vtblender import VTBlenderModel

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_TARGET = f"{VTBlenderModel.__module__}.{VTBlenderModel.__qualname__}"
_NEEDED = ("pretrained_llm", "pretrained_asr", "audio_locator_tag", "prompt_format", "perception")
_NEEDED_PERCEPTION = ("preprocessor", "encoder", "modality_adapter", "output_dim")
_ADAPTERS = ("ConformerEncoder", "IdentityConnector")
_OUR_LLM, _PEFT = "speech_llm.llm.model.", "base_model.model."
_TABLE, _HEAD = "embed_tokens.weight", "lm_head.weight"


def import_salm(folder: Path, output: Path, defaults: DictConfig) -> VTBlenderModel:
    """Writes a `.nemo` of the model in a stock SALM's folder.

    Args:
        folder: as `SALM.save_pretrained`, or an export of format salm, left it.
        output: the `.nemo`; there must be none yet.
        defaults: the `model` section of `conf/base.yaml`, for what a SALM does not say.

    Returns:
        The model, as restored.

    Raises:
        ConfigError: an output that is there already, or what this package cannot express; the setting is named.
        ModelFileError: no such folder, or weights that are missing or do not fit.
    """
    if output.exists():
        raise ConfigError("the output is there already", path=output, expected="another name", knob="--output")
    config = _read_config(folder)
    with tempfile.TemporaryDirectory(prefix="vtblender_import_") as workspace:
        try:
            archive, names = _make_archive(folder, config, defaults, Path(workspace))
        except (TypeError, ValueError, LookupError, AttributeError, RuntimeError) as error:
            raise ModelFileError(
                f"configuration and weights do not fit each other ({type(error).__name__}: {error})",
                path=folder,
                expected="a SALM as it was written",
            ) from error
        model = VTBlenderModel.restore_from(archive, map_location=torch.device("cpu")).eval()
    if missing := sorted(set(model.state_dict()) - names):
        raise ModelFileError(
            "weights are missing", path=folder / WEIGHTS, value=missing[:5], expected="every weight of the model"
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    model.save_to(output)
    return model


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    expected = "the folder of a SALM, with config.json and model.safetensors"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFileError(f"no configuration of a SALM ({error})", path=path, expected=expected) from error
    _check_keys(config, _NEEDED, path)
    _check_keys(config["perception"], _NEEDED_PERCEPTION, path)
    _check(config, path)
    check_parts(config["perception"], VTBLENDER, path)
    if not (folder / BACKBONE).is_dir():
        check_llm_name(config["pretrained_llm"], path)
    return config


def _check_keys(values: Any, needed: tuple[str, ...], path: Path) -> None:
    if not isinstance(values, dict) or any(values.get(key) is None for key in needed):
        found = sorted(values) if isinstance(values, dict) else values
        raise ModelFileError("no configuration of a SALM", path=path, value=found, expected=", ".join(needed))


def _check(config: Mapping[str, Any], path: Path) -> None:
    if config.get("use_nemo_automodel"):
        raise ConfigError(
            "the LLM has the names and LoRA of NeMo Automodel",
            path=path,
            value=True,
            expected="a SALM with a Hugging Face LLM",
            knob="use_nemo_automodel",
        )
    if not isinstance(config.get(OURS, {}), Mapping) or not isinstance(
        config["perception"]["modality_adapter"], Mapping
    ):
        raise ModelFileError(
            "no configuration of a SALM", path=path, expected=f"mappings in {OURS} and modality_adapter"
        )
    if config.get(OURS, {}).get("frames_divided_by", 1.0) != 1.0:
        raise ConfigError(
            "the projection was divided for vLLM, which cannot be undone to the bit",
            path=path,
            expected="an export of format salm of the same model",
            knob="--input",
        )
    target = str(config["perception"].get("modality_adapter", {}).get("_target_"))
    if target.rpartition(".")[2] not in _ADAPTERS:
        raise ConfigError(
            "this adapter is not supported",
            path=path,
            value=target,
            expected=f"one of {', '.join(_ADAPTERS)}",
            knob="perception.modality_adapter._target_",
        )


def _make_archive(folder: Path, config: dict[str, Any], defaults: DictConfig, workspace: Path) -> tuple[Path, set[str]]:
    """An archive like those that `save_to` writes, and the names of its weights."""
    backbone = folder / BACKBONE
    llm = llm_config(str(backbone if backbone.is_dir() else config["pretrained_llm"]))
    weights = _read_weights(folder)
    _undo_separator(config, llm, weights)
    weights = _our_names(weights, llm)
    tokenizer_files = _save_tokenizer(folder, config, workspace / "tokenizer")
    section = _section(config, llm, weights, defaults)
    section["tokenizer"] = {
        "names": {path.name.replace(".", "_"): path.name for path in tokenizer_files},
        "files": {path.name.replace(".", "_"): f"nemo:{path.name}" for path in tokenizer_files},
    }
    (workspace / CONFIG_FILE).write_text(yaml.safe_dump(section), encoding="utf-8")
    torch.save(weights, workspace / WEIGHTS_FILE)
    archive = workspace / "imported.nemo"
    with tarfile.open(archive, "w") as tar:
        for path in (workspace / CONFIG_FILE, workspace / WEIGHTS_FILE, *tokenizer_files):
            tar.add(path, path.name)
    return archive, set(weights)


def _read_weights(folder: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ModelFileError(
            f"weights cannot be read ({error})", path=folder / WEIGHTS, expected="safetensors in one file"
        ) from error


def _undo_separator(config: Mapping[str, Any], llm: PretrainedConfig, weights: dict[str, Tensor]) -> None:
    """Takes the separator's token, which an export of ours has added, off the LLM's tables."""
    ours = config.get(OURS, {})
    if ours.get("separator_id") is None:
        return
    llm.vocab_size, llm.tie_word_embeddings = ours["vocab_size"], ours["tied"]
    for name in [name for name in weights if name == _TABLE or ".lm_head." in name]:
        weights[name] = weights[name][: llm.vocab_size]
    if (row := weights.pop(REPLACED_ROW, None)) is not None:
        weights[_TABLE] = with_row(weights[_TABLE], ours["separator_id"], row)
    if llm.tie_word_embeddings:  # a head of its own was for the separator's sake
        for name in [name for name in weights if name.endswith(f".{_HEAD}")]:
            del weights[name]


def _our_names(weights: Mapping[str, Tensor], llm: PretrainedConfig) -> dict[str, Tensor]:
    """A SALM's names -> ours; of a table that is there twice, stock folders hold one."""
    inside = _PEFT if any(name.startswith(f"llm.{_PEFT}") for name in weights) else ""
    table, head = f"{_OUR_LLM}{inside}model.{_TABLE}", f"{_OUR_LLM}{inside}{_HEAD}"
    ours = {}
    for name, weight in weights.items():
        part, _, rest = name.partition(".")
        ours[table if name == _TABLE else _OUR_LLM + rest if part == "llm" else f"speech_llm.{name}"] = weight
    if llm.tie_word_embeddings:
        for one, other in ((table, head), (head, table)):
            if one in ours:
                ours.setdefault(other, ours[one])
    return ours


def _save_tokenizer(folder: Path, config: Mapping[str, Any], target: Path) -> list[Path]:
    here = (folder / "tokenizer_config.json").is_file()
    source = str(folder if here else config["pretrained_llm"])
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelFileError(
            f"the tokenizer cannot be loaded ({error})", path=folder, value=source, knob="pretrained_llm in config.json"
        ) from error
    if OURS in config:  # its chat template is what the model was trained with
        tokenizer.save_pretrained(target)
    else:
        fit_template(tokenizer, config["prompt_format"], config["audio_locator_tag"], target)
    return sorted(path for path in target.iterdir() if path.is_file())


def _section(
    config: Mapping[str, Any], llm: PretrainedConfig, weights: Mapping[str, Tensor], defaults: DictConfig
) -> dict[str, Any]:
    """The `model` section of the archive."""
    default: Any = OmegaConf.to_container(defaults, resolve=True)
    lora = {key: value for key, value in (config.get("lora") or {}).items() if key != "task_type"}
    in_bfloat16 = any(name.endswith(_TABLE) and weight.dtype == torch.bfloat16 for name, weight in weights.items())
    settings = {key: value for key, value in default["perception"].items() if not isinstance(value, dict)}
    perception = {key: value for key, value in config["perception"].items() if key != "target"}
    return {
        **default,
        **{key: str(config[key]) for key in ("pretrained_llm", "pretrained_asr", "audio_locator_tag")},
        "target": _TARGET,
        "llm_config": llm.to_diff_dict(),
        "llm_fingerprint": None,
        "llm_dtype": "bfloat16" if in_bfloat16 else "float32",
        "llm_overrides": {},
        "lora": lora or None,
        "perception": {
            **settings,
            "spec_augment": None,
            **perception,
            "separator": "speech_llm.perception.separator" in weights,
            "encoder_chunk_secs": config.get("encoder_chunk_size_seconds"),
        },
    }
