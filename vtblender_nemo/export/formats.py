"""The formats that a model can be written in, by their names, and the one way to write any of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.export.about import About
from vtblender_nemo.export.card import write_card
from vtblender_nemo.export.encoder import write_encoder
from vtblender_nemo.export.folders import new_folder
from vtblender_nemo.export.hf_folders import write_merged, write_peft
from vtblender_nemo.export.options import ExportOptions, Written
from vtblender_nemo.export.quantized import write_quantized
from vtblender_nemo.export.salm import write_salm
from vtblender_nemo.export.vllm import write_vllm

if TYPE_CHECKING:
    from vtblender_nemo.models.vtblender import VTBlenderModel

Writer = Callable[["VTBlenderModel", Path, ExportOptions], Written]

FORMATS: dict[str, Writer] = {
    "salm": write_salm,
    "vllm": write_vllm,
    "merged": write_merged,
    "peft": write_peft,
    "encoder": write_encoder,
    "quantized": write_quantized,
}


def find_writer(format: str) -> Writer:
    """
    Raises:
        ConfigError: an unknown format; the known ones are named.
    """
    if format not in FORMATS:
        raise ConfigError("unknown format", value=format, expected=f"one of {', '.join(FORMATS)}", knob="--format")
    return FORMATS[format]


def export(model: VTBlenderModel, format: str, options: ExportOptions, about: About) -> Written:
    """Writes a model and its card, all of it or nothing.

    Args:
        model: in eval mode.
        format: a name in `FORMATS`.
        options: what the format leaves to choose, and where it goes.
        about: what is known of the model beside its weights, for the card.

    Raises:
        ConfigError: an unknown format, an output folder that holds something else, or a setting that the format cannot express.
        ModelFileError: a file that the format needs is not there, or not what it should be.
        MissingDependencyError: the format needs a package that is not installed.
    """
    writer = find_writer(format)
    if model.cfg.get("tensor_parallel", 1) > 1:
        raise ConfigError(
            "every process of this model holds a part of it",
            value=f"tensor_parallel {model.cfg.tensor_parallel}",
            expected="its .nemo, restored in one process",
            knob="model.save_to, then examples/export_vtb.py",
        )
    with new_folder(options.output_dir) as folder:
        written = writer(model, folder, options)
        write_card(model, written, about, folder, name=options.output_dir.resolve().name)
    return written
