"""A sweep at a micro scale, by its command: one world for all runs, stages, an LLM without LoRA, and a report."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.recipes.test_main_job import MICRO, run

pytestmark = pytest.mark.slow


def sweep(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    world = f"tiny.directory={folder / 'world'}"
    where = ("--config-name", "experiment/forgetting", f"sweep.directory={folder}", world)
    return run("ablate_vtb.py", *where, "seed=1", *MICRO, *overrides)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    done = sweep(folder, "experiment/forgetting=joint,two_stages,without_lora")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder


def test_the_world_is_made_by_one_run_alone(swept: Path) -> None:
    logs = [path.read_text() for path in swept.glob("runs/*/log.txt")]
    assert len(logs) == 3
    assert sum("content: speaking" in log for log in logs) == 1
    assert sum("language model: reused" in log for log in logs) == 2
    bases = [json.loads(path.read_text())["about"]["bases"] for path in swept.glob("runs/*/run.json")]
    assert bases[0].keys() == {"llm", "encoder"}
    assert bases == [bases[0]] * 3


def test_scores_are_those_of_each_runs_own_report(swept: Path) -> None:
    for name in ("joint", "two_stages", "without_lora"):
        folder = swept / "runs" / f"{name}-seed1"
        measures = json.loads((folder / "run.json").read_text())["measures"]
        report = json.loads((folder / "report.json").read_text())
        assert measures["asr.wer"]["value"] == report["asr"]["wer"]
        assert measures["ast.ast_de.bleu"]["value"] == report["ast"]["by_kind"]["ast_de"]["bleu"]
        assert measures["sqa.shuffle.exact_match"]["value"] == report["sqa"]["blind"]
        assert measures["sqa.text.exact_match"]["value"] == report["sqa"]["text"]["exact_match"]
        assert measures["text.base_accuracy"]["value"] == report["text"]["base_accuracy"]


def test_stages_are_trainings_of_their_own(swept: Path) -> None:
    folder = swept / "runs" / "two_stages-seed1"
    assert (folder / "stages" / "hearing" / "hearing.nemo").exists()
    facts = json.loads((folder / "stages" / "hearing" / "facts.json").read_text())
    assert facts["sources"].keys() == {"asr", "ast_de", "ast_es"}
    assert json.loads((folder / "report.json").read_text())["sources"].keys() > facts["sources"].keys()


def test_the_report_compares_them(swept: Path) -> None:
    report = json.loads((swept / "report.json").read_text())
    assert list(report["variants"]) == ["joint", "without_lora", "two_stages"]
    assert "asr.wer" in report["variants"]["two_stages"]["minus_reference"]
    assert {claim["verdict"] for claim in report["claims"]} == {"undecided", "not measured"}  # one seed


def test_another_test_needs_no_other_training(swept: Path) -> None:
    folder = swept / "runs" / "joint-seed1"
    before = (folder / "joint-seed1.nemo").stat().st_mtime_ns
    task = f"{{metric: rouge_l, items: [{swept}/world/content/tests/sqa.jsonl]}}"
    done = sweep(swept, "experiment/forgetting=joint", f"+evaluation.tasks.words={task}")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    measures = json.loads((folder / "run.json").read_text())["measures"]
    assert {"words.rouge_l", "asr.wer"} <= measures.keys()
    assert (folder / "joint-seed1.nemo").stat().st_mtime_ns == before
