"""What is wrong in a configuration is told at once and together, before a model is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from vtblender_nemo.common.errors import ConfigError, MissingDependencyError
from vtblender_nemo.experiments import main_job
from vtblender_nemo.training.checks import check_config, saved_checkpoint, steps_between_validations
from vtblender_nemo.training.optim import check_schedule

CONF = Path(__file__).parents[2] / "conf"
LAUNCHER_VARIABLES = (
    *("MASTER_ADDR", "NODE_RANK", "TORCHELASTIC_RUN_ID", "WORLD_SIZE"),
    *("SLURM_NTASKS", "SLURM_JOB_NAME", "SLURM_STEP_ID"),
)
OF_TORCHRUN = {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "64"}
OF_SRUN = {"SLURM_NTASKS": "64", "SLURM_JOB_NAME": "train", "SLURM_STEP_ID": "0"}


@pytest.fixture(autouse=True)
def _one_process_without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LAUNCHER_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


@pytest.fixture
def blend(tmp_path: Path) -> Path:
    chat = {"id": "1", "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    (tmp_path / "text.jsonl").write_text(json.dumps(chat) + "\n")
    return write_blend(tmp_path, {"weight": 1}, {"weight": 2})


def write_blend(folder: Path, *entries: dict[str, Any]) -> Path:
    rows = [
        {"type": "text_chat", "name": f"text{number}", "manifest_filepath": "text.jsonl", **entry}
        for number, entry in enumerate(entries)
    ]
    OmegaConf.save(OmegaConf.create(rows), folder / "blend.yaml")
    return folder / "blend.yaml"


def config(name: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base=None):
        return compose(name, overrides=list(overrides))


def problem(name: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as told:
        check_config(config(name, *overrides))
    return str(told.value)


def test_a_blend_and_nothing_else_is_all_that_vtb_blend_takes(blend: Path) -> None:
    check_config(config("vtb_blend", f"data.train_ds.input_cfg={blend}"))
    check_config(
        config("vtb_blend", f"data.train_ds.input_cfg={blend}", "trainer.max_steps=5", "trainer.accelerator=cpu")
    )


def test_without_a_blend_the_knob_is_told() -> None:
    assert "data.train_ds.input_cfg=..." in problem("vtb_blend")


def test_all_mistakes_are_told_together(blend: Path) -> None:
    """What a newcomer met one after another, each after the models were loaded."""
    told = problem(
        "vtb_3b",
        f"data.train_ds.input_cfg={blend}",
        "hardware=gpu_24gb",
        "save_checkpoint=best",
        "trainer.max_steps=5",
        "model.pretrained_asr=none/such.nemo",
    )
    for part in (
        "data.train_ds.samplers.audio.input_cfg=...",
        "--config-name vtb_blend",
        "no checkpoint is the best",
        "more steps than its warm-up",
        "4-bit weights need a CUDA device",
        "none/such.nemo: no such file",
    ):
        assert part in told, told


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["model.optim.sched.warmup_steps=9", "trainer.max_steps=9"], "more steps than its warm-up"),
        (["+data.train_ds.fusion=columns"], "unknown choice; found 'columns'"),
        (["data.train_ds.batch_tokens=null"], "micro-batches have no bound"),
        (["+data.train_ds.bach_size=4"], "unknown key; found 'bach_size'"),
        (["trainer.timeout_secs=0"], "seconds, more than 0 (change it with: trainer.timeout_secs)"),
        (["trainer.timeout_secs=soon"], "no time to wait; found 'soon'"),
        (["+data.validation_ds.sets.dev.input_cfg=none.yaml"], "none.yaml: file of sources is missing"),
        (["+data.validation_ds.sets.dev.input_cfg=x.yaml", "trainer.max_steps=5"], "validation would never run"),
        (["model.pretrained_llm=/no/folder"], "/no/folder: no such file or folder"),
        (["model.quantization=2bit"], "unknown quantization; found '2bit'"),
        (["save_checkpoint=first"], "unknown choice; found 'first'"),
        (["warm_start.steps=5"], "(change it with: warm_start.input_cfg)"),
        (["model.perception.soft_tokens=true"], "soft tokens have no separator"),
        (
            ["model.perception.soft_tokens=true", "model.perception.separator=false"],
            "warm_start.steps, or model.init_from",
        ),
        (["model.tensor_parallel=0"], "no number of processes; found 0"),
        (["model.tensor_parallel=2"], "torchrun --nproc-per-node=2"),
        (["model.tensor_parallel=2", "model.quantization=4bit"], "tensor_parallel=1, or model.quantization=null"),
        (["model.tensor_parallel=2", "model.train_llm=true"], "training the LLM's own weights does not go with"),
    ],
)
def test_each_mistake_names_its_knob(blend: Path, overrides: list[str], told: str) -> None:
    assert told in problem("vtb_blend", f"data.train_ds.input_cfg={blend}", *overrides)


def test_sources_are_opened(blend: Path) -> None:
    write_blend(blend.parent, {"weight": 1}, {})
    assert "data.train_ds.input_cfg[1].weight" in problem("vtb_blend", f"data.train_ds.input_cfg={blend}")
    write_blend(blend.parent, {"manifest_filepath": "missing.jsonl"})
    assert "missing.jsonl" in problem("vtb_blend", f"data.train_ds.input_cfg={blend}")


def test_a_warm_start_takes_no_interleaved_source(blend: Path) -> None:
    (blend.parent / "asr.jsonl").write_text('{"audio_filepath": "a.wav", "duration": 1.0, "text": "a"}\n')
    asr = {"type": "nemo", "manifest_filepath": "asr.jsonl", "prompts": ["Write:"], "interleave": {}}
    write_blend(blend.parent, asr)
    overrides = [f"data.train_ds.input_cfg={blend}", "warm_start.steps=5", f"warm_start.input_cfg={blend}"]
    assert "hears all of its transcripts" in problem("vtb_blend", *overrides)


@pytest.mark.parametrize("devices", [[], ["trainer.accelerator=cpu"], ["trainer.devices=1"]])
def test_several_nodes_without_a_launcher_are_refused(blend: Path, devices: list[str]) -> None:
    told = problem("vtb_blend", f"data.train_ds.input_cfg={blend}", "hardware=cluster", *devices)
    assert "hardware=one_machine" in told
    assert "trainer.num_nodes=1" in told


@pytest.mark.parametrize("environment", [OF_TORCHRUN, OF_SRUN, {"MASTER_ADDR": "10.0.0.1", "NODE_RANK": "3"}])
def test_several_nodes_with_a_launcher_are_taken(
    blend: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    check_config(config("vtb_blend", f"data.train_ds.input_cfg={blend}", "hardware=cluster"))


@pytest.mark.parametrize("environment", [OF_TORCHRUN, OF_SRUN])
@pytest.mark.parametrize(
    "trainer",
    [
        ["trainer.num_nodes=1", "trainer.devices=1", "trainer.accelerator=cpu"],  # would train 64 times, each alone
        ["trainer.num_nodes=1", "trainer.devices=auto", "trainer.accelerator=cpu"],
        ["trainer.num_nodes=8", "trainer.devices=[0,1,2,3]"],
    ],
)
def test_processes_that_the_trainer_does_not_count_on_are_told(
    blend: Path, environment: dict[str, str], trainer: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    told = problem("vtb_blend", f"data.train_ds.input_cfg={blend}", *trainer)
    assert "64 processes" in told
    assert "trainer.num_nodes" in told


def test_a_batch_script_without_srun_is_told(blend: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_NTASKS", "SLURM_JOB_NAME"):
        monkeypatch.setenv(name, OF_SRUN[name])
    assert "srun before the command" in problem("vtb_blend", f"data.train_ds.input_cfg={blend}", "hardware=cluster")
    monkeypatch.setenv("SLURM_NTASKS", "1")
    check_config(
        config("vtb_blend", f"data.train_ds.input_cfg={blend}", "trainer.devices=1", "trainer.accelerator=cpu")
    )


@pytest.mark.parametrize("wanted", [["trainer.accelerator=gpu"], ["trainer.accelerator=cpu", "trainer.devices=100000"]])
def test_devices_that_are_not_there_are_told(blend: Path, wanted: list[str]) -> None:
    told = problem("vtb_blend", f"data.train_ds.input_cfg={blend}", *wanted)
    assert "this machine has not so many devices" in told


@pytest.mark.parametrize(
    ("devices", "enough"), [("2", True), ("-1", True), ("[0,1]", True), ("3", False), ("auto", True)]
)
def test_devices_are_counted_in_every_form(
    blend: Path, devices: str, enough: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    cfg = config("vtb_blend", f"data.train_ds.input_cfg={blend}", f"trainer.devices={devices}")
    if enough:
        check_config(cfg)
    else:
        with pytest.raises(ConfigError, match="not so many devices"):
            check_config(cfg)


def test_what_the_run_makes_first_is_not_looked_for(blend: Path, tmp_path: Path) -> None:
    cfg = config("vtb_tiny", f"tiny.directory={tmp_path / 'world'}")
    check_config(cfg, made=cfg.tiny.directory)
    with pytest.raises(ConfigError, match="missing"):
        check_config(cfg)


def test_the_tiny_world_says_what_it_does_with_another_blend(
    blend: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = f"tiny.directory={tmp_path / 'world'}"
    main_job._check(config("vtb_tiny", world))
    assert not caplog.records
    main_job._check(config("vtb_tiny", world, f"data.train_ds.input_cfg={blend}"))
    assert "made first" in caplog.text
    assert "--config-name vtb_blend" in caplog.text
    with pytest.raises(ConfigError, match="contrast"):
        main_job._check(config("vtb_tiny", world, f"data.train_ds.input_cfg={blend}", "contrast=true"))


def test_a_refused_configuration_leaves_nothing_behind(blend: Path, tmp_path: Path) -> None:
    """Else the mended command would be told that the folder holds another run."""
    folder = tmp_path / "run"
    with pytest.raises(ConfigError):
        main_job.run(config("vtb_blend", f"output_dir={folder}"))
    assert not folder.exists()


@pytest.mark.parametrize(
    ("choice", "validated", "kept"),
    [("auto", True, "best"), ("auto", False, "last"), ("last", True, "last"), ("best", True, "best")],
)
def test_the_weights_that_are_kept(choice: str, validated: bool, kept: str) -> None:
    assert saved_checkpoint(choice, validated=validated) == kept


def test_without_validation_a_short_training_still_ends_with_a_checkpoint() -> None:
    assert steps_between_validations({"max_steps": 5, "val_check_interval": 1000}, validated=False) == 5
    assert steps_between_validations({"max_steps": 5000, "val_check_interval": 1000}, validated=False) == 1000
    assert steps_between_validations({"max_steps": 5, "val_check_interval": None}, validated=True) == 5


@pytest.mark.parametrize(("steps", "warmup"), [(100_000, 2500), (1000, 25), (5, 0)])
def test_the_warm_up_of_vtb_blend_keeps_the_papers_share(steps: int, warmup: int) -> None:
    assert check_schedule(config("vtb_blend").model.optim.sched, steps) == warmup
    assert check_schedule(config("vtb_3b").model.optim.sched, 100_000) == 2500


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["model.tensor_parallel=3"], "found '3, and 4 processes'"),
        (["warm_start.steps=5", "warm_start.input_cfg=[]"], "a warm start is made in one process"),
        (["trainer.strategy=fsdp"], "has a strategy of its own; found 'fsdp'"),
        (["trainer.precision=bf16-mixed"], "no mixed precision on a CPU"),
    ],
)
def test_what_tensor_parallelism_does_not_go_with_is_told(
    blend: Path, overrides: list[str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("megatron.core")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    own = [
        f"data.train_ds.input_cfg={blend}",
        "model.tensor_parallel=2",
        "trainer.accelerator=cpu",
        "trainer.devices=4",
    ]
    check_config(config("vtb_blend", *own))
    assert told in problem("vtb_blend", *own, *overrides)


def test_tensor_parallelism_names_the_extra_that_it_needs(blend: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vtblender_nemo.common.parallel.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"vtblender_nemo\[megatron\]"):
        check_config(config("vtb_blend", f"data.train_ds.input_cfg={blend}", "model.tensor_parallel=2"))
