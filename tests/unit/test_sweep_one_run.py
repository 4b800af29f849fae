"""What one run makes of its variant, with a stub for training and evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from vtblender_nemo.common.errors import ConfigError, DataError
from vtblender_nemo.experiments import main_job, one_run
from vtblender_nemo.experiments.launch import _hold_to_settings
from vtblender_nemo.experiments.measures import read_run
from vtblender_nemo.experiments.settings import deciding_settings, read_variant

CONF = Path(__file__).parents[2] / "conf"


def variant_of(name: str, *overrides: str, sweep: str = "forgetting") -> DictConfig:
    with initialize_config_dir(str(CONF), version_base=None):
        group = [f"experiment/{sweep}={name}"] if name else []
        return compose(f"experiment/{sweep}", overrides=[*group, *overrides])


def changed(cfg: DictConfig) -> DictConfig:
    return one_run.changed(cfg, read_variant(cfg))


def types(cfg: DictConfig) -> set[str]:
    return {source.type for source in cfg.data.train_ds.input_cfg}


def test_joint_is_the_main_configuration() -> None:
    with initialize_config_dir(str(CONF), version_base=None):
        main = compose("vtb_tiny")
    found = changed(variant_of("joint", "warm_start.keep_in=null"))
    for section in ("model", "data", "trainer", "warm_start", "save_checkpoint"):
        assert OmegaConf.to_container(found)[section] == OmegaConf.to_container(main, resolve=True)[section]
    assert found.tiny is None  # the world is made


def test_variants_of_forgetting() -> None:
    assert types(changed(variant_of("speech_only"))) == {"group", "speech_qa"}
    assert types(changed(variant_of("without_mixed_modal"))) == {"group", "speech_qa", "text_chat"}
    frozen = changed(variant_of("without_lora"))
    assert (frozen.model.get("lora"), frozen.model.train_llm) == (None, False)
    tuned = changed(variant_of("full_finetuning"))
    assert (tuned.model.get("lora"), tuned.model.train_llm) == (None, True)
    for cfg in (frozen, tuned):
        assert "lora" not in cfg.model.optim.lr_scale
        assert cfg.model.optim.lr_scale.encoder == 0.7


def test_little_speech_is_little_for_the_warm_start_too(tmp_path: Path) -> None:
    """Rows are of two clips of half a minute; the warm start has both, and hears the one that is drawn."""
    rows = [{"audio_filepath": f"{clip}.wav", "duration": 30.0, "text": clip} for clip in ("one", "two")]
    (tmp_path / "asr.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"type": "nemo", "name": "asr", "weight": 1, "manifest_filepath": str(tmp_path / "asr.jsonl")}
    cfg = variant_of(
        "", "variant.speech_minutes=0.5", "variant.name=half", f"output_dir={tmp_path / 'run'}", sweep="hours"
    )
    cfg.data.train_ds.input_cfg = cfg.warm_start.input_cfg = [source]
    found = changed(cfg)
    trained, warmed = found.data.train_ds.input_cfg[0], found.warm_start.input_cfg[0]
    assert trained.manifest_filepath != warmed.manifest_filepath
    texts = [Path(entry.manifest_filepath).read_text() for entry in (trained, warmed)]
    assert texts[0] == texts[1]
    assert texts[0].count("\n") == 1


def test_other_recipes_need_no_such_key() -> None:
    cfg = variant_of(
        "without_lora", "recipe=vtb_blend", "data.train_ds.input_cfg=[{type: nemo}]", "evaluation.tasks={}"
    )
    assert "lora" not in changed(cfg).model
    with pytest.raises(ConfigError, match="no such key to remove"):
        changed(variant_of("joint", "variant.remove=[model.optim.lr_scale.lroa]"))


def test_two_stages_share_the_steps_and_the_second_starts_from_the_first() -> None:
    cfg = variant_of("two_stages", "trainer.max_steps=101", "trainer.val_check_interval=72")
    first, second = one_run.staged(changed(cfg), read_variant(cfg))
    assert [stage.trainer.max_steps for stage in (first, second)] == [50, 51]
    assert [stage.trainer.val_check_interval for stage in (first, second)] == [50, 51]
    assert types(first) == {"group"}
    assert types(second) == {"group", "speech_qa", "text_chat", "multimodal_conversation"}
    assert second.output_dir == cfg.output_dir
    assert first.output_dir == f"{cfg.output_dir}/stages/hearing"
    assert (first.model.init_from, second.model.init_from) == (None, f"{first.output_dir}/hearing.nemo")
    assert (first.warm_start.steps, second.warm_start.steps) == (200, 0)


def test_stages_have_to_share_all_steps() -> None:
    cfg = variant_of("joint", "variant.stages=[{name: a, steps_percent: 50}, {name: b, steps_percent: 40}]")
    with pytest.raises(ConfigError, match="do not share the steps"):
        one_run.staged(changed(cfg), read_variant(cfg))


def test_the_blend_of_a_round_robin_is_not_changed() -> None:
    cfg = variant_of("joint", "variant.leave_out=[text_chat]", "+data.train_ds.fusion=randomized_round_robin")
    with pytest.raises(ConfigError, match="fusion: rows"):
        changed(cfg)


def test_settings_do_not_know_seed_folder_and_world() -> None:
    one = variant_of("joint", "seed=1")
    other = variant_of("joint", "seed=2", "sweep.directory=/elsewhere", "tiny.directory=/world", "trainer.devices=2")
    assert deciding_settings(one) == deciding_settings(other)
    assert deciding_settings(one)["evaluation.tasks.asr.items"] == ["WORLD/content/tests/asr.jsonl"]
    for change in ("model.lora.r=4", "tiny.llm.layers=2", "evaluation.tasks.asr.metric=bleu", "trainer.max_steps=9"):
        assert deciding_settings(variant_of("joint", change)) != deciding_settings(one)


def test_sweeps_have_the_default_in_common() -> None:
    def but_name(cfg: DictConfig) -> dict[str, Any]:
        return {key: value for key, value in deciding_settings(cfg).items() if key not in ("variant.name", "variant.x")}

    joint = but_name(variant_of("joint"))
    rank = "model.lora={r:16,lora_alpha:32}"
    assert (
        but_name(variant_of("", rank, sweep="lora_rank")) == but_name(variant_of("medium", sweep="model_size")) == joint
    )


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, DictConfig]]:
    """Stands for training and evaluation: notes what was asked for, and leaves predictions."""
    asked: list[tuple[str, DictConfig]] = []

    def answers(folder: Path, task: str, prediction: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        kinds = [{"id": str(n), "task": task, "prediction": prediction, "reference": "yes"} for n in range(4)]
        rows = [row | {"custom": {"kind": "ab"[n % 2]}} for n, row in enumerate(kinds)]
        (folder / f"{task}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def train(cfg: DictConfig, clock: main_job.Clock) -> Path:
        asked.append(("train", cfg))
        return main_job.nemo_path(cfg)

    def run(cfg: DictConfig) -> None:
        asked.append(("run", cfg))
        predictions = Path(cfg.output_dir) / "predictions"
        for name, task in cfg.evaluation.tasks.items():
            for variant in ("", *task.get("variants", ())):
                answers(predictions, f"{name}.{variant}" if variant else name, "no" if variant == "shuffle" else "yes")
        answers(predictions / "base", "text", "no")

    def transcripts(cfg: DictConfig, tasks: dict[str, Any], model: Path, directory: Path) -> None:
        for name in tasks:
            answers(directory, name, "yes")

    monkeypatch.setattr(main_job, "train", train)
    monkeypatch.setattr(main_job, "run", run)
    monkeypatch.setattr(main_job, "check_tests", lambda cfg: None)
    monkeypatch.setattr(main_job, "answer_transcripts", transcripts)
    monkeypatch.setattr(one_run, "shared_world", lambda cfg, take_from: {"llm": {"accuracy": 91}})
    return asked


def test_a_run_leaves_all_its_measures(tmp_path: Path, trainings: list[tuple[str, DictConfig]]) -> None:
    cfg = variant_of("two_stages", f"output_dir={tmp_path}", "seed=3", "variant.ceilings=[sqa]")
    (tmp_path / one_run.JOB_FILE).write_text(OmegaConf.to_yaml(cfg, resolve=True))
    one_run.main(str(tmp_path))
    assert [(kind, cfg.trainer.max_steps) for kind, cfg in trainings] == [("train", 192), ("run", 192)]
    assert json.loads((tmp_path / "world.json").read_text()) == {"llm": {"accuracy": 91}}
    scores = read_run(tmp_path)
    assert scores is not None
    assert (scores.variant, scores.seed) == ("two_stages", 3)
    values = {name: one.value for name, one in scores.measures.items()}
    expected = {
        "asr.wer": 0,
        "text.accuracy": 100,
        "text.base_accuracy": 0,
        "sqa.exact_match": 100,
        "sqa.a.exact_match": 100,
        "sqa.shuffle.exact_match": 0,
        "sqa.text.exact_match": 100,
        "sqa.ceiling_exact_match": 100,
        "sqa.agreement_exact_match": 100,
        "sqa.a.agreement_exact_match": 100,
    }
    assert expected.items() <= values.items()
    assert "asr.base_wer" not in values


def test_a_run_tells_when_its_validation_reached_a_level(
    tmp_path: Path, trainings: list[tuple[str, DictConfig]]
) -> None:
    cfg = variant_of("joint", f"output_dir={tmp_path}", "variant.levels={sqa.exact_match: [50, 90], asr.wer: [20]}")
    rows = [(71, "val/sqa.exact_match", 20.0), (143, "val/sqa.exact_match", 60.0), (71, "val/asr.wer", 15.0)]
    (tmp_path / "history.jsonl").write_text(
        "".join(json.dumps({"step": step, "name": name, "value": value}) + "\n" for step, name, value in rows)
    )
    scores = one_run.make_run(cfg)
    found = {name: one.value for name, one in scores.measures.items() if "steps_to" in name}
    assert found == {"sqa.steps_to_50": 126.0, "sqa.steps_to_90": 384.0, "asr.steps_to_20": 72.0}
    assert scores.about["never_reached"] == ["sqa.steps_to_90"]


def test_levels_are_of_scores_that_are_validated(tmp_path: Path, trainings: list[tuple[str, DictConfig]]) -> None:
    cfg = variant_of("joint", f"output_dir={tmp_path}", "variant.levels={asr.exact_match: [50]}")
    with pytest.raises(ConfigError, match="no such validation score") as raised:
        one_run.make_run(cfg)
    assert "asr.wer, sqa.exact_match" in str(raised.value)
    assert trainings == []


def test_validations_decide_where_levels_are_measured() -> None:
    change = "trainer.val_check_interval=36"
    assert deciding_settings(variant_of("joint", change)) == deciding_settings(variant_of("joint"))
    levels = "variant.levels={asr.wer: [20]}"
    assert deciding_settings(variant_of("joint", levels, change)) != deciding_settings(variant_of("joint", levels))


def test_what_the_user_can_mend_is_told_without_a_traceback(
    tmp_path: Path, trainings: list[tuple[str, DictConfig]]
) -> None:
    cfg = variant_of("joint", f"output_dir={tmp_path}", "variant.ceilings=[nothing]")
    (tmp_path / one_run.JOB_FILE).write_text(OmegaConf.to_yaml(cfg, resolve=True))
    with pytest.raises(SystemExit, match="ConfigError: no such task"):
        one_run.main(str(tmp_path))
    assert read_run(tmp_path) is None
    assert trainings == []


def test_tests_are_read_before_the_training(
    tmp_path: Path, trainings: list[tuple[str, DictConfig]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(main_job, "train", lambda *_: pytest.fail("trained before the tests were read"))
    tests = tmp_path / "tests.jsonl"
    task = f"text: {{metric: exact_match, items: [{tests}], variants: []}}"
    cfg = variant_of("joint", f"output_dir={tmp_path}", "recipe=vtb_blend", f"evaluation.tasks={{{task}}}")
    cfg.data.train_ds.input_cfg = [{"type": "text_chat"}]
    with pytest.raises(DataError, match="missing"):
        one_run.make_run(cfg)
    tests.write_text(
        '{"id": "1", "task": "text", "messages": [{"role": "user", "content": "Hi"}], "reference": "Hi"}\n'
    )
    cfg.evaluation.tasks.text.metric = "exactly"
    with pytest.raises(ConfigError, match="unknown metric"):
        one_run.make_run(cfg)
    cfg.evaluation.tasks.text.metric = "exact_match"
    cfg.evaluation.tasks.text.variants = ["shuffle"]
    with pytest.raises(DataError, match="without audio"):
        one_run.make_run(cfg)


def test_runs_of_before_a_setting_was_known_are_continued_where_it_changes_nothing(tmp_path: Path) -> None:
    settings = deciding_settings(variant_of("joint"))
    assert "variant.line" not in settings
    kept = {key: value for key, value in settings.items() if key not in ("variant.levels", "tiny.imitation")}
    (tmp_path / "settings.json").write_text(json.dumps(kept))
    (tmp_path / "run.json").write_text("{}")
    _hold_to_settings(settings, tmp_path)
    assert (tmp_path / "run.json").exists()
    assert json.loads((tmp_path / "settings.json").read_text()) == json.loads(json.dumps(settings))
    _hold_to_settings({**settings, "tiny.sets.generalisation": 9}, tmp_path)  # a test alone
    assert not (tmp_path / "run.json").exists()
    with pytest.raises(ConfigError, match=r"another tiny\.imitation"):
        _hold_to_settings({**settings, "tiny.imitation": "some"}, tmp_path)
