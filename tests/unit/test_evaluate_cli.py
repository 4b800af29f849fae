from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from tests.helpers.listener import Listener, write_tone
from vtblender_nemo.common.audio import cut_from_file
from vtblender_nemo.common.conversation import Audio, Conversation, Text, Turn
from vtblender_nemo.evaluation import evaluate
from vtblender_nemo.evaluation.evaluate import prediction_row
from vtblender_nemo.evaluation.items import Item
from vtblender_nemo.evaluation.runner import Prediction
from vtblender_nemo.evaluation.scores import read_scores

SCRIPT = Path(__file__).parents[2] / "examples/evaluate_vtb.py"


@pytest.fixture
def page(monkeypatch) -> list[tuple[Any, ...]]:
    """Stands in for the report; keeps what it was asked for."""
    asked: list[tuple[Any, ...]] = []
    module = ModuleType("write")
    module.write_page = lambda *args: asked.append(args)
    monkeypatch.setitem(sys.modules, "vtblender_nemo.evaluation.page.write", module)
    return asked


@pytest.fixture
def model(monkeypatch, page) -> Listener:
    """Stands in for the model that is restored."""
    listener = Listener()
    listener.restored = []
    listener.cfg = SimpleNamespace(pretrained_llm="some/llm", pretrained_asr="some/asr")
    listener.trained_parameters = lambda: {"lora": 5}
    monkeypatch.setattr(evaluate, "load_model", lambda *args: listener.restored.append(args) or listener)
    return listener


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "my_model.nemo").write_bytes(b"weights")
    rows = []
    for number in range(1, 5):
        path = write_tone(tmp_path / f"{number}.wav", 10 * number, secs=number)
        content = [{"type": "audio", "audio": str(path)}]
        custom = {
            "transcript": f"heard {10 * number}" if number < 3 else "other words",
            "lang": "en" if number < 3 else "de",
        }
        rows.append(
            {
                "id": f"i{number}",
                "task": "asr",
                "messages": [{"role": "user", "content": content}],
                "reference": f"heard {10 * number}" if number != 2 else "heard nothing",
                "custom": custom,
            }
        )
    (tmp_path / "asr.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tasks = {
        "asr": {"kind": "asr", "items": ["${variables.data}/asr.jsonl"]},
        "qa": {"kind": "sqa", "items": ["${variables.data}/asr.jsonl"], "max_new_tokens": 9},
    }
    file = {"variables": {"data": str(tmp_path)}, "tasks": tasks}
    (tmp_path / "tasks.yaml").write_text(yaml.safe_dump(file))
    return tmp_path


def run(folder: Path, *flags: str, model: str = "my_model.nemo") -> Result:
    spec = importlib.util.spec_from_file_location("evaluate_vtb", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    paths = {"--model": folder / model, "--output-dir": folder / "out", "--config": folder / "tasks.yaml"}
    given = [text for flag, path in paths.items() if flag not in flags for text in (flag, str(path))]
    return CliRunner().invoke(script.app, [*given, "--device", "cpu", *flags], env={"COLUMNS": "100"})


def predictions(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"out/predictions/{name}.jsonl").read_text().splitlines()]


def test_predictions_scores_and_report(folder, model, page):
    result = run(folder)
    assert result.exit_code == 0, result.output
    sheet = read_scores(folder / "out")
    values = {(one.task, one.measure, one.variant, one.group): one.value for one in sheet.measures}
    assert sheet.measures[0].measure == "wer_percent"
    assert values["asr", "wer_percent", "", ""] == 12.5  # one word of eight
    assert values["asr", "wer_percent", "", "language=en"] == 25
    assert values["asr", "substitutions_percent", "", "secs=2-5"] == pytest.approx(100 / 6, abs=1e-3)
    assert values["asr", "rtfx", "", ""] > 0
    assert values["qa", "exact_match_percent", "", ""] == 75
    assert values["qa", "exact_match_percent", "text_twin", ""] == 25
    assert values["qa", "exact_match_percent", "minus_text_twin", ""] == 50
    assert sheet.model == {
        "path": str(folder / "my_model.nemo"),
        "sha256": hashlib.sha256(b"weights").hexdigest(),
        "name": "my_model",
        "llm": "some/llm",
        "asr": "some/asr",
        "trained_parameters": {"lora": 5},
    }
    assert (sheet.base, set(sheet.seconds)) == (None, {"asr", "qa"})
    assert sheet.item_sets["asr"] == sheet.item_sets["qa"] != ""
    assert predictions(folder, "asr")[1] == {
        "id": "i2",
        "task": "asr",
        "prediction": "heard 20",
        "reference": "heard nothing",
        "asked": "[audio]",
        "audio_secs": 2.0,
        "audios": [{"path": str(folder / "2.wav"), "offset": 0.0, "duration": 2.0}],
        "custom": {"transcript": "heard 20", "lang": "en"},
    }
    twin = predictions(folder, "qa.text_twin")[2]
    assert (twin["prediction"], twin["audio_secs"], twin["audios"]) == ("other words", 0, [])
    assert page == [(folder / "out", [])]
    assert {256, 9} == set(model.max_new_tokens)
    assert "wer %" in result.output
    assert "report.html" in result.output


def test_the_same_command_again_answers_nothing_anew(folder, model):
    assert run(folder).exit_code == 0
    before = read_scores(folder / "out")
    model.batches.clear()
    assert run(folder).exit_code == 0
    assert model.batches == []
    assert read_scores(folder / "out") == before  # times of generation are kept, too


def test_a_stopped_run_goes_on(folder, model):
    model._fail_after = 2
    assert run(folder, "--batch-size", "2").exit_code != 0
    assert {one.task for one in read_scores(folder / "out").measures} == {"asr"}
    done = model.answered
    model._fail_after = None
    model.batches.clear()
    assert run(folder, "--batch-size", "2").exit_code == 0
    assert done + model.answered == 12  # asr, qa, qa.text_twin


def test_tasks_are_added_to_those_before(folder, model):
    assert run(folder, "--tasks", "qa").exit_code == 0
    assert {one.task for one in read_scores(folder / "out").measures} == {"qa"}
    assert run(folder, "--tasks", " asr ,").exit_code == 0
    assert {one.task for one in read_scores(folder / "out").measures} == {"qa", "asr"}
    assert run(folder, "--tasks", "asr", "--limit", "2").exit_code == 0
    assert {one.task: one.items for one in read_scores(folder / "out").measures if not one.group} == {"qa": 4, "asr": 2}
    assert run(folder, "--tasks", "qa").exit_code == 0
    assert list(read_scores(folder / "out").seconds) == ["qa", "asr"]
    assert read_scores(folder / "out").measures[0].task == "qa"


def test_another_models_folder_is_left_alone(folder, model):
    assert run(folder, "--tasks", "asr").exit_code == 0
    before = (folder / "out/scores.json").read_text()
    (folder / "other.nemo").write_bytes(b"other weights")
    result = run(folder, model="other.nemo")
    assert result.exit_code == 2
    assert "the folder holds scores of another model" in result.output.replace("\n", "")
    assert (folder / "out/scores.json").read_text() == before
    (folder / "moved.nemo").write_bytes(b"weights")  # the same model, elsewhere
    model.batches.clear()
    assert run(folder, "--tasks", "asr", model="moved.nemo").exit_code == 0
    assert model.batches == []


def test_items_that_failed_are_told(folder, model, caplog):
    (folder / "3.wav").unlink()
    result = run(folder, "--tasks", "asr")
    assert result.exit_code == 1, result.output
    assert predictions(folder, "asr")[2]["prediction"] is None
    assert "3.wav: audio file is missing" in predictions(folder, "asr")[2]["error"]
    main = read_scores(folder / "out").measures[0]
    assert (main.items, main.failed) == (3, 1)
    assert "3 of 4" in result.output
    assert "1 of 4 items failed" in caplog.text


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tasks", "asr,ast"], "unknown task; found ['ast']; expected among asr, qa"),
        (["--set", "data"], "no variable; found 'data'; expected NAME=VALUE"),
        (["--set", "date=x"], "unknown variable; found ['date']"),
        (["--set", "data=/nowhere"], "/nowhere/asr.jsonl: file is missing"),
        (["--config", "nothing"], "task file is missing"),
        (["--compare", "nowhere"], "file is missing"),
    ],
)
def test_mistakes_show_before_the_model_is_loaded(folder, model, flags, message):
    result = run(folder, *flags)
    assert result.exit_code == 2
    assert message in result.output.replace("\n", "")
    assert model.restored == []


def test_unknown_devices(folder, model):
    assert "unknown device; found 'abacus'" in run(folder, "--device", "abacus").output
    assert model.restored == []


def test_a_model_that_swallows_answers_is_caught(folder, model, monkeypatch):
    monkeypatch.setattr(model, "generate", lambda conversations, **options: ["one"])
    result = run(folder)
    assert result.exit_code == 2
    assert "not as many answers as it was asked for; found 1; expected 4 answers" in result.output.replace("\n", "")


def test_a_batch_that_memory_does_not_hold_names_the_flags(folder, model, monkeypatch):
    import torch

    def full(conversations, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(model, "generate", full)
    result = run(folder, "--batch-tokens", "999")
    assert result.exit_code == 2
    assert "does not hold a batch of asr" in result.output
    assert "--batch-tokens or --batch-size" in result.output.replace("\n", "")


def test_a_prediction_tells_what_was_asked_turn_by_turn(tmp_path):
    heard = Audio(cut_from_file(write_tone(tmp_path / "a.wav", 10)))
    turns = (
        Turn("user", (Text("Listen: "), heard)),
        Turn("assistant", (Text("Done."),)),
        Turn("user", (Text("Who?"),)),
    )
    item = Item("1", "multi_turn", Conversation("1", turns), "Anna")
    asked = prediction_row(item, Prediction("Bruno"))["asked"]
    assert asked == "user: Listen: [audio]\nassistant: Done.\nuser: Who?"


def test_noise_has_audio_but_no_file(folder, model):
    (folder / "tasks.yaml").write_text(
        yaml.safe_dump({"tasks": {"noise": {"kind": "noise", "noise": {"secs": [1], "repeats": 1}, "prompt": ""}}})
    )
    assert run(folder).exit_code == 0
    assert predictions(folder, "noise")[0] == {
        "id": "silence_1s_0",
        "task": "noise",
        "prediction": "heard 0",
        "reference": "",
        "asked": "[audio]",
        "audio_secs": 1.0,
        "audios": [],
        "custom": {"noise": "silence", "seed": [0, 0, 1000, 0]},
    }
    main, *groups = read_scores(folder / "out").of_task("noise")[:5]
    assert main.measure == "hallucinated_characters_per_minute"
    assert [one.group for one in groups] == ["noise=hum", "noise=pink", "noise=silence", "noise=white"]
    assert groups[2].value == 7 * 60


def test_text_tasks_are_given_to_the_harness(folder, model, monkeypatch):
    from vtblender_nemo.evaluation.scores import Measure

    asked = []

    def evaluate_text(given, cfg, output_dir, *, model_id):
        asked.append((given, cfg, output_dir, model_id))
        return [
            Measure("text", "text", "exact_match_percent", 90.0, 88, 92, 10, variant=variant, better="higher")
            for variant in ("", "base", "minus_base")
        ]

    module = ModuleType("text")
    module.evaluate_text = evaluate_text
    monkeypatch.setitem(sys.modules, "vtblender_nemo.evaluation.text.evaluate", module)
    settings = {"kind": "text", "tasks": ["t"], "measures": [{"name": "a", "metric": "b"}]}
    (folder / "tasks.yaml").write_text(yaml.safe_dump({"tasks": {"text": settings}}))
    assert run(folder, "--limit", "3").exit_code == 0
    cfg = {"text": {"tasks": ["t"], "measures": [{"name": "a", "metric": "b"}], "limit": 3}}
    assert asked == [(model, cfg, folder / "out", evaluate.file_sha256(folder / "my_model.nemo"))]
    assert read_scores(folder / "out").base == {"name": "some/llm"}


def test_scores_that_are_not_finite_are_not_written(folder, model, monkeypatch):
    def nan(*args, **kwargs):
        from dataclasses import replace

        return [replace(one, value=float("nan")) for one in real(*args, **kwargs)]

    real = evaluate.score_task
    monkeypatch.setattr(evaluate, "score_task", nan)
    result = run(folder)
    assert result.exit_code == 2
    assert "no finite number at measures[0].value (asr.wer_percent)" in result.output.replace("\n", "")
    assert not (folder / "out/scores.json").exists()


def test_places_of_audio(tmp_path):
    from vtblender_nemo.common.audio import cut_from_file
    from vtblender_nemo.common.conversation import Audio
    from vtblender_nemo.data.lazy_audio import lazy_cut

    path = write_tone(tmp_path / "a.wav", 10, secs=3)
    opened = cut_from_file(path, offset_secs=0.5, duration_secs=1.25)
    unopened = lazy_cut(path, duration_secs=1.25, offset_secs=0.5, sampling_rate=16000)
    expected = {"path": str(path), "offset": 0.5, "duration": 1.25}
    assert evaluate._audio_row(Audio(opened)) == expected
    assert evaluate._audio_row(Audio(unopened)) == expected


def test_the_base_llm_answers_without_what_was_learned(vtblender):
    conversation = [{"role": "user", "content": "the cat sat on the mat"}]

    def answer() -> str:
        return vtblender.generate([conversation], max_new_tokens=12)[0]

    import torch

    own, llm = answer(), vtblender.llm
    changed = [p for name, p in vtblender.named_parameters() if "lora_B" in name]
    assert changed, "the model has LoRA"
    before = [p.detach().clone() for p in changed]
    try:
        with torch.no_grad():
            for parameter in changed:
                parameter.add_(torch.linspace(-3, 3, parameter.numel()).reshape(parameter.shape))
        assert answer() != own
        with evaluate.as_base(vtblender):
            assert answer() == own  # LoRA began as zeros
        assert vtblender.llm is llm
        assert answer() != own
    finally:
        with torch.no_grad():
            for parameter, value in zip(changed, before, strict=True):
                parameter.copy_(value)


def test_a_trained_model_is_evaluated(folder, vtblender, page):
    (folder / "my_model.nemo").unlink()
    vtblender.save_to(str(folder / "my_model.nemo"))
    result = run(folder, "--limit", "2")
    assert result.exit_code == 0, result.output
    sheet = read_scores(folder / "out")
    assert sheet.model["trained_parameters"] == vtblender.trained_parameters()
    messages = [{"role": "user", "content": [{"type": "audio", "audio": str(folder / "1.wav")}]}]
    assert predictions(folder, "qa")[0]["prediction"] == vtblender.generate([messages], max_new_tokens=9)[0]


def test_every_item_failed(folder, model):
    for path in folder.glob("*.wav"):
        path.unlink()
    result = run(folder, "--tasks", "asr")
    assert result.exit_code == 2
    assert "task asr cannot be scored: every item failed, the first with" in result.output.replace("\n", "")


def test_a_base_that_is_loaded_anew_answers_and_goes_again(monkeypatch):
    @contextmanager
    def base_llm(given):
        yield "base"

    def stopped() -> None:
        with evaluate.as_base(model):
            assert model.speech_llm.llm == "base"
            raise KeyboardInterrupt

    model = SimpleNamespace(speech_llm=SimpleNamespace(llm="fine-tuned"))
    module = ModuleType("text")
    module.base_llm = base_llm
    monkeypatch.setitem(sys.modules, "vtblender_nemo.evaluation.text.evaluate", module)
    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert model.speech_llm.llm == "fine-tuned"
