"""A small blend of all four sources, and small models, for whole trainings."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import soundfile as sf
from omegaconf import DictConfig, OmegaConf

from tests.helpers import models


@pytest.fixture(scope="session")
def blend(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """An `input_cfg` over rows of every source; the speech is noise."""
    folder = tmp_path_factory.mktemp("blend")
    secs = [0.4 + 0.2 * number for number in range(8)]
    for number, duration in enumerate(secs):
        sf.write(folder / f"{number}.wav", models.speech(duration, number), models.SAMPLING_RATE)
    audio = [{"audio_filepath": f"{n}.wav", "duration": d, "text": f"number {n}"} for n, d in enumerate(secs)]
    _write(folder / "text.jsonl", [_chat(n) for n in range(8)])
    _write(folder / "asr.jsonl", audio)
    _write(folder / "sqa.jsonl", [{**row, "question": "which?", "answer": f"the {row['text']}"} for row in audio])
    _write(folder / "mixed.jsonl", [_mixed(n, d) for n, d in enumerate(secs)])
    return [
        {"type": "text_chat", "name": "text", "weight": 1, "manifest_filepath": str(folder / "text.jsonl")},
        {
            "type": "nemo",
            "name": "asr",
            "weight": 1,
            "manifest_filepath": str(folder / "asr.jsonl"),
            "prompts": ["Transcribe:", "Write: {audio}"],
        },
        {"type": "speech_qa", "name": "speech_qa", "weight": 1, "manifest_filepath": str(folder / "sqa.jsonl")},
        {
            "type": "multimodal_conversation",
            "name": "mixed_modal",
            "weight": 1,
            "manifest_filepath": str(folder / "mixed.jsonl"),
        },
    ]


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny LLM's folder and a tiny Canary's file."""
    models.quiet()
    folder = tmp_path_factory.mktemp("bases")
    return models.llm_folder(folder), models.canary_file(folder)


@pytest.fixture
def make_config(bases: tuple[Path, Path], blend: list[dict[str, Any]], tmp_path: Path) -> Any:
    """`conf/base.yaml` with small models and the small blend; takes overrides."""
    return partial(small_config, bases, blend, tmp_path)


def small_config(bases: tuple[Path, Path], blend: list[dict[str, Any]], folder: Path, **overrides: Any) -> DictConfig:
    """`conf/base.yaml` with an LLM's folder and a Canary's file, and a blend; `folder` gets the run."""
    base = OmegaConf.load(Path(models.__file__).parents[2] / "conf" / "base.yaml")
    llm, canary = bases
    small = {
        "output_dir": str(folder / "run"),
        "save_checkpoint": "last",
        "data": {
            "train_ds": {"seed": 1, "batch_size": 6, "num_buckets": 2, "buffer_size": 40, "input_cfg": blend},
            "validation_ds": {"batch_size": 4, "max_rows": 4, "sets": {"asr": {"input_cfg": [blend[1]]}}},
        },
        "trainer": {
            "accelerator": "cpu",
            "devices": 1,
            "precision": "32-true",
            "max_steps": 4,
            "val_check_interval": 2,
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
        },
        "exp_manager": {"create_tensorboard_logger": False},
    }
    model = {"model": models.model_config(llm, canary, validation={"metrics": {"asr": "wer"}})}
    return OmegaConf.merge(base, OmegaConf.create(model), OmegaConf.create(small), OmegaConf.create(overrides))


def _chat(number: int) -> dict[str, Any]:
    turns = [("user", f"say {number}"), ("assistant", f"{number}"), ("user", "again"), ("assistant", f"{number}!")]
    return {"id": f"chat{number}", "messages": [{"role": role, "content": text} for role, text in turns]}


def _mixed(number: int, secs: float) -> dict[str, Any]:
    parts = [
        {"type": "text", "from": "User", "value": "hear"},
        {"type": "audio", "from": "User", "value": f"{number}.wav", "duration": secs},
        {"type": "audio", "from": "User", "value": f"{(number + 1) % 8}.wav", "duration": 0.4},
        {"type": "text", "from": "Assistant", "value": f"heard {number}"},
    ]
    return {"id": f"mixed{number}", "conversations": parts}


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
