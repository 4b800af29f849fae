"""Configurations: sources and data sections, task files, files of wordings and prompts, and archives of models."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tests.fuzz import files
from tests.fuzz.manifest import ITEM, ROW, SOURCES
from tests.fuzz.targets import Case, Target
from vtblender_nemo.common.errors import VTBlenderError
from vtblender_nemo.common.nemo_archive import CONFIG_FILE, WEIGHTS_FILE, check_archive
from vtblender_nemo.common.trusted_classes import VTBLENDER
from vtblender_nemo.data.config import TrainConfig, ValidationConfig
from vtblender_nemo.data.prompts import load_wordings
from vtblender_nemo.data.typed import read_config
from vtblender_nemo.data.weighted import read_sources
from vtblender_nemo.evaluation.tasks import load_tasks
from vtblender_nemo.synthesis.imitation.tasks import load_bank
from vtblender_nemo.synthesis.speech_qa.prompts import load_prompts
from vtblender_nemo.synthesis.tts.blend import read_blend

_CONF = Path(__file__).parents[2] / "conf"
_MODEL = {
    "target": "vtblender_nemo.models.vtblender.VTBlenderModel",
    "pretrained_llm": "x",
    "perception": {
        "encoder": {"_target_": "nemo.collections.asr.modules.ConformerEncoder", "d_model": 8},
        "modality_adapter": {"_target_": "nemo.collections.asr.modules.ConformerEncoder"},
        "spec_augment": {"_target_": "nemo.collections.asr.modules.SpectrogramAugmentation", "masks": [1, 2]},
    },
    "tokenizer": {"names": {"a": "tokenizer.json"}, "files": {"a": "nemo:0_tokenizer.json"}},
}


def make(folder: Path) -> Target:
    files.write_audio(folder)
    files.write(folder / "row.jsonl", ROW)
    files.write(folder / "item.jsonl", ITEM)

    def as_yaml(read: Callable[[Path], Any], name: str) -> Callable[[Any], None]:
        return lambda value: read(_write_yaml(folder / f"{name}.yaml", value))

    readers: dict[str, Callable[[Any], None]] = {
        "input_cfg": as_yaml(lambda path: _open(str(path)), "input_cfg"),
        "train_ds": _train,
        "validation_ds": lambda value: read_config(ValidationConfig, value, "validation_ds").check("validation_ds"),
        "tasks": as_yaml(load_tasks, "tasks"),
        "wordings": as_yaml(lambda path: load_wordings(path, "asr"), "wordings"),
        "imitation_tasks": as_yaml(lambda path: load_bank([path]), "bank"),
        "qa_prompts": as_yaml(load_prompts, "prompts"),
        "voices": read_blend,
        "archive": lambda value: check_archive(_archive(folder / "model.nemo", value), VTBLENDER),
    }
    return Target(_seeds(folder), readers, (VTBlenderError,))


def _open(path: str) -> None:
    read_sources(path, sampling_rate=files.RATE, temperature=1.0, place="input_cfg")


def _train(value: Any) -> None:
    config = read_config(TrainConfig, value, "train_ds")
    config.check("train_ds")


def _write_yaml(path: Path, value: Any) -> Path:
    path.write_bytes(value.encode("latin-1", "replace") if isinstance(value, str) else files.dumped(value).encode())
    return path


def _archive(path: Path, value: Any) -> Path:
    """A text is the file itself; {"config": ..., "members": [[NAME, TYPE, LINK], ...]} is packed."""
    if isinstance(value, str):
        path.write_bytes(value.encode("latin-1", "replace"))
        return path
    value = value if isinstance(value, dict) else {}
    members = value.get("members")
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for member in members if isinstance(members, list) else []:
            name, kind, link = _triple(member)
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, link
            content = files.dumped(value.get("config")).encode() if name.endswith(CONFIG_FILE) else b"x"
            info.size = len(content) if kind == tarfile.REGTYPE else 0
            tar.addfile(info, io.BytesIO(content) if kind == tarfile.REGTYPE else None)
    return path


def _triple(member: Any) -> tuple[str, bytes, str]:
    """A member's name, type and link out of whatever was made of them."""
    parts = [
        part if isinstance(part, str) else files.dumped(part)
        for part in (member if isinstance(member, list) else [member])
    ]
    name, kind, link = ([part.encode("utf-8", "replace").decode() for part in parts] + [""] * 3)[:3]
    known = {"dir": tarfile.DIRTYPE, "link": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE, "fifo": tarfile.FIFOTYPE}
    return name.replace("\0", "") or "x", known.get(kind, tarfile.REGTYPE), link.replace("\0", "")


def _seeds(folder: Path) -> list[Case]:
    manifest = str(folder / "row.jsonl")
    source = {
        "type": "nemo",
        "name": "a",
        "weight": 0.5,
        "manifest_filepath": manifest,
        "prompts": ["Say:"],
        "tags": {"x": "y"},
    }
    group = {
        "type": "group",
        "name": "g",
        "weight": 0.5,
        "temperature": 0.5,
        "input_cfg": [source, {**source, "name": "b"}],
    }
    train = {
        **{
            "input_cfg": [source],
            "batch_tokens": 100,
            "num_buckets": 2,
            "bucket_bins": [10, 20],
            "seed": 1,
            "shuffle": True,
        },
        **{"fusion": "rows", "min_duration": 0.1, "max_duration": 30.0, "max_tokens": 500, "on_bad_row": "skip"},
        **{"bucket_batch_size": [4, 2, 1], "quadratic_length": 100.0, "sampler_weights": {"a": 1.0}},
        "augment": {
            **{
                "speed": {"prob": 0.5, "factors": [0.9]},
                "reverb": {"prob": 0.1, "t60": [0.2, 0.4]},
                "telephone": {"prob": 0.1},
            },
            **{"noise": {"prob": 0.2, "snr": [5.0, 10.0]}, "bandwidth": {"prob": 0.1, "rates": [8000]}},
        },
    }
    item_file = str(folder / "item.jsonl")
    task = {"kind": "sqa", "items": [item_file], "measures": ["f1_percent"], "limit": 1}
    voices = {"kind": "noise", "noise": {"sounds": ["silence"], "secs": [1.0], "items": 1}}
    asr = {
        "kind": "asr",
        "input_cfg": [source],
        "prompt": "Say:",
        "variants": ["no_audio_silence"],
        "group_by": ["secs"],
    }
    tasks = {"variables": {"a": "b"}, "include": [], "tasks": {"one": task, "two": asr, "three": voices}}
    members = [
        ["./", "dir", ""],
        [f"./{CONFIG_FILE}", "", ""],
        [f"./{WEIGHTS_FILE}", "", ""],
        ["./0_tokenizer.json", "", ""],
    ]
    with_all = [source, group, *({"type": kind, **more} for kind, (more, _) in SOURCES.items())]
    bank, prompts = (
        yaml.safe_load((_CONF / "prompts" / f"{name}.yaml").read_text()) for name in ("imitation_tiny", "sqa_synthesis")
    )
    return [
        *(
            ("input_cfg", value)
            for value in ([source], [group], with_all, {"input_cfg": [source]}, "- {type: nemo}\n- 1\n")
        ),
        *(
            ("train_ds", train),
            ("train_ds", {**train, "input_cfg": None, "fusion": "randomized_round_robin", "samplers": {"a": {}}}),
        ),
        ("validation_ds", {"sets": {"a": {"input_cfg": [source]}}, "batch_size": 8, "max_rows": 3}),
        *(("tasks", tasks), ("tasks", {"tasks": {"one": task}}), ("tasks", "tasks: {a: {kind: noise}}\n")),
        *(("wordings", {"asr": ["Say: {audio}", "To {target_language}"]}), ("wordings", "asr: [a, b]\n")),
        *(("imitation_tasks", bank), ("qa_prompts", prompts)),
        ("voices", [{"type": "espeak", "weight": 1.0}, {"type": "flite", "weight": 0.5}]),
        *(
            ("archive", {"config": _MODEL, "members": members}),
            ("archive", {"config": _MODEL, "members": members[1:3]}),
        ),
    ]
