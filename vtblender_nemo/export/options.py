"""What can be chosen of an export, and what an export tells of itself."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from vtblender_nemo.common.errors import ConfigError

BITS = (8, 4)
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class ExportOptions:
    """What can be chosen; each format takes what concerns it.

    Attributes:
        output_dir: where the folder will stand, for formats that name it inside.
        llm: hub name or folder that takes the place of `model.pretrained_llm` in what is written.
        asr: `.nemo` or public name of the speech model whose decoder completes the encoder; `model.pretrained_asr` if None.
        dtype: of merged weights, "float32" or "bfloat16"; that of the LLM if None.
        bits: of quantised weights, 8 or 4.
    """

    output_dir: Path
    llm: str | None = None
    asr: str | None = None
    dtype: str | None = None
    bits: int = 8

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise ConfigError("unknown number of bits", value=self.bits, expected="8 or 4", knob="--bits")


@dataclass(frozen=True)
class Written:
    """What a reader of the folder has to know.

    Attributes:
        what: what the folder holds, in one sentence.
        usage: Python that uses it, or a shell command.
        language: of `usage`, for the fence around it.
        library: that loads it, as the hub calls it.
        task: as the hub calls it.
        notes: what differs from the model, one sentence each.
    """

    what: str
    usage: str
    library: str
    task: str
    language: str = "python"
    notes: list[str] = field(default_factory=list)


def is_hub_name(name_or_path: str) -> bool:
    """Whether a name is one of the Hugging Face hub, and no path of this machine."""
    return _HUB_NAME.fullmatch(name_or_path) is not None and not Path(name_or_path).exists()


def shown(name_or_path: str) -> str:
    """A model's name for readers elsewhere: of a path, its last part."""
    return name_or_path if is_hub_name(name_or_path) else Path(name_or_path).name
