"""What a VTBlender's `.nemo` may bring along beside its weights, and may make us open."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from vtblender_nemo.common.audio import first_line
from vtblender_nemo.common.errors import ModelFileError, VTBlenderError
from vtblender_nemo.common.nemo_archive import WEIGHTS_FILE, check_archive, unpack
from vtblender_nemo.common.nemo_restore import SafeConnector, load_weights
from vtblender_nemo.common.trusted_classes import VTBLENDER, check_classes

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_IMPORTING_LORA = ("megatron_config", "megatron_core", "auto_mapping")  # with which peft imports modules by name
_TOKENIZER_ENDS = (".json", ".jinja", ".model", ".txt")


class PartsConnector(SafeConnector):
    """For a process that holds a part of a model: the file's weights stay on the CPU, and of them the part goes to its device."""

    @staticmethod
    def _load_state_dict_from_disk(model_weights: str, map_location: Any = "cpu") -> dict[str, torch.Tensor]:
        return load_weights(Path(model_weights), "cpu", mmap=True)


def extract_weights(path: str | Path, directory: str | Path) -> dict[str, torch.Tensor]:
    """The state dict inside an archive, which is checked and unpacked to `directory`."""
    check_archive(path, VTBLENDER)
    unpack(path, directory)
    return load_weights(Path(directory) / WEIGHTS_FILE)


def with_changes(config: Any, changes: dict[str, Any]) -> DictConfig:
    """A configuration, or the one in a YAML file, with some values replaced."""
    given = OmegaConf.load(config) if isinstance(config, (str, Path)) else config
    return OmegaConf.merge(given, changes)


def check_restored(cfg: DictConfig) -> None:
    """Holds a `model` section that came out of a file to what it may ask for, whoever restores it.

    Raises:
        ModelFileError: other classes than those of such models, LoRA that imports modules, attention from the hub, an LLM
            from elsewhere than a folder or the hub.
    """
    values: Any = OmegaConf.to_container(cfg, resolve=False)
    place = "the model's configuration"
    check_classes(values, VTBLENDER, place)
    lora = values.get("lora") or {}
    if isinstance(lora, Mapping) and (found := sorted(set(lora) & set(_IMPORTING_LORA))):
        raise ModelFileError(
            "LoRA that imports modules", path=place, value=found, expected="none of these", knob="lora"
        )
    if "/" in str(values.get("llm_attention")):
        raise ModelFileError(
            "attention that is code of others",
            path=place,
            value=values["llm_attention"],
            expected="eager, sdpa, flash_attention_2, ... or null",
            knob="llm_attention",
        )
    if values.get("llm_fingerprint") is not None:  # only then the LLM is opened
        check_llm_name(values.get("pretrained_llm"), place)


def check_llm_name(name: Any, place: str | Path) -> None:
    """Holds the name of an LLM, as a file gives it, to folders that are there and to names of the hub.

    Raises:
        ModelFileError: anything else, as an address.
    """
    if not isinstance(name, str) or not (_HUB_NAME.fullmatch(name) or Path(name).is_dir()):
        raise ModelFileError(
            "no LLM that could be opened",
            path=place,
            value=name,
            expected="a folder that is there, or a hub name as owner/name",
            knob="pretrained_llm",
        )


@contextmanager
def restoring_told(path: str | Path) -> Iterator[None]:
    """What the host, OmegaConf, torch or transformers raise of a configuration that is none, as our error."""
    try:
        yield
    except (VTBlenderError, MemoryError):
        raise
    except Exception as error:
        raise ModelFileError(
            f"the model cannot be made of its file ({type(error).__name__}: {first_line(error)})",
            path=path,
            expected="a file as save_to wrote it",
        ) from error


def check_artifact(name: Any, packed: Any) -> None:
    """A restored configuration names files to copy: they may come only out of the archive, and go only into our folder.

    Raises:
        ModelFileError: any other name, or one that no tokenizer has.
    """
    inside = str(packed).removeprefix("nemo:")
    plain = Path(inside).name == inside and Path(str(name)).name == str(name) and str(name) not in ("", "..")
    if not str(packed).startswith("nemo:") or not plain or not str(name).endswith(_TOKENIZER_ENDS):
        raise ModelFileError(
            "unsafe file name in the model's configuration",
            value={name: packed},
            expected=f"plain names of files inside the archive, which end in {', '.join(_TOKENIZER_ENDS)}",
            knob="tokenizer",
        )
