"""Imitation in the tiny world at a micro scale, by the commands of two sweeps: its main configuration, and SFT with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.recipes.test_main_job import MICRO, run
from vtblender_nemo.tiny.config import ImitationConfig
from vtblender_nemo.tiny.imitation import asked_by
from vtblender_nemo.tiny.jobs import read_jsonl
from vtblender_nemo.tiny.sets import SETS

pytestmark = pytest.mark.slow
TALKING = [  # as small as it can be and yet end what it says
    "tiny.llm.hidden=64",
    "tiny.llm.feed_forward=128",
    "tiny.llm.steps=150",
    "tiny.llm.muon_lr=0.01",
    "tiny.llm.adamw_lr=0.01",
]
ARGUMENTS = [
    *(argument for argument in MICRO if not argument.startswith(("model.lora", "warm_start"))),
    *(f"tiny.sets.{name}=6" for name in SETS),
    "tiny.sets.voice_rows=6",
    *TALKING,
    "tiny.sets.generalisation=24",
    "variant.world_from=null",
    "seed=1",
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("imitation") / "world"


def swept(name: str, variant: str, world: Path, *overrides: str) -> Path:
    """The folder of a run."""
    folder = world.parent / name
    where = (f"experiment/{name}={variant}", f"sweep.directory={folder}", f"tiny.directory={world}")
    done = run("ablate_vtb.py", "--config-name", f"experiment/{name}", *where, *ARGUMENTS, *overrides)
    found = folder / "runs" / f"{variant}-seed1"
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return found


@pytest.fixture(scope="module")
def interleaved(world: Path) -> Path:
    return swept("interleaving", "interleaved", world, "trainer.val_check_interval=2")


@pytest.fixture(scope="module")
def both(world: Path, interleaved: Path) -> Path:
    more = ("warm_start.steps=2", "warm_start.optim.sched.warmup_steps=1", "model.lora.r=2")
    return swept("imitation", "both", world, *more, "variant.speech_minutes=1")


def measures(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text())["measures"]


def sources(folder: Path) -> set[str]:
    return set(json.loads((folder / "facts.json").read_text())["sources"])


def test_the_language_model_answers_what_is_taught_about_training_speech(world: Path, interleaved: Path) -> None:
    (entry,) = yaml.safe_load((world / "imitation" / "input_cfg.yaml").read_text())
    assert (entry["type"], entry["name"], entry["audio_dir"]) == ("imitation", "imitation", "../content/sources")
    rows = [row for path in world.glob("imitation/shard_*/manifest.jsonl") for row in read_jsonl(path)]
    report = json.loads((world / "report.json").read_text())["imitation"]
    assert 0 < len(rows) == report["rows"] == 3 * report["transcripts"] - sum(report["refused"].values())
    asked = asked_by(ImitationConfig())
    speech = {row["audio_filepath"]: row for row in read_jsonl(world / "content" / "sources" / "asr.jsonl")}
    for row in rows:
        assert row["prompt"] == asked.taught[row["task"]][row["provenance"]["wording"]]
        assert row["answer"]
        heard = speech[row["audio_filepath"]]
        assert (row["text"], row["alignment"]) == (heard["text"], heard["alignment"])
        assert heard["alignment"]
        assert str(world) not in json.dumps(row)  # a world that moves stays the same
    tests = read_jsonl(world / "content" / "tests" / "generalisation.jsonl")
    assert len(tests) == 24
    assert not {row["text"] for row in rows} & {text for item in tests for text in item["custom"]["transcript"]}


def test_the_main_configuration_trains_the_adapter_alone_and_is_scored(interleaved: Path) -> None:
    assert sources(interleaved) == {"imitation"}
    facts = json.loads((interleaved / "facts.json").read_text())
    assert set(facts["trained_parameters"]) == {"modality_adapter", "projection"}
    assert not facts["skipped"]
    found = measures(interleaved)
    groups = {f"generalisation.{group}.{score}" for group in ("known", "prompt", "task")
              for score in ("exact_match", "agreement_exact_match", "ceiling_exact_match")}  # fmt: skip
    assert groups | {"generalisation.text.task.exact_match", "asr.wer"} <= found.keys()
    twin, ceiling = (found[f"generalisation.{kind}"]["value"] for kind in ("text.exact_match", "ceiling_exact_match"))
    assert twin == ceiling  # its LLM is the base LLM
    assert 0 < found["generalisation.steps_to_30"]["value"] <= 4
    assert not (interleaved / "warm_start.safetensors").exists()


def test_sft_with_imitation_takes_the_same_world_and_hears_so_much(both: Path) -> None:
    log = (both / "log.txt").read_text()
    assert "imitation: reused" in log
    assert "content: speaking" not in log
    assert sources(both) == {"text", "asr", "ast_de", "ast_es", "speech_qa", "mixed_modal", "imitation"}
    limited = {name: read_jsonl(both / "speech" / f"{name}.jsonl") for name in ("asr", "imitation")}
    heard = {name: {row["audio_filepath"]: row["duration"] for row in rows} for name, rows in limited.items()}
    assert heard["imitation"].keys() <= heard["asr"].keys()
    assert 0 < sum(heard["asr"].values()) <= 60
    assert {"generalisation.task.agreement_exact_match", "sqa.exact_match", "text.accuracy"} <= measures(both).keys()
