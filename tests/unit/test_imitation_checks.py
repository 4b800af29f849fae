"""What is wrong with imitation is told before training, with the key that mends it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from tests.helpers.imitation import imitation_entry
from tests.helpers.models import model_config
from vtblender_nemo import VTBlenderModel
from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.common.llm_fingerprint import folder_fingerprint
from vtblender_nemo.models.target_loss import Imitation
from vtblender_nemo.training import fit
from vtblender_nemo.training.checks import check_config
from vtblender_nemo.training.imitation_checks import check_answering_llm, check_twins, read_imitation
from vtblender_nemo.training.run_config import check_same_run

CONF = Path(__file__).parents[2] / "conf"
CHATS = {"type": "text_chat", "manifest_filepath": "chats.jsonl"}
ANSWERS = {"type": "imitation", "name": "answers", "manifest_filepath": "answers.jsonl"}
DISTIL = Imitation(kl_weight=1.0)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"kl_weight": -0.1}, r"found -0.1; expected 0 or more.*model.imitation.kl_weight"),
        ({"ce_weight": float("nan")}, r"found nan.*model.imitation.ce_weight"),
        ({"kl_weight": float("inf")}, r"found inf.*model.imitation.kl_weight"),
        ({"temperature": 0}, r"found 0; expected a positive number.*model.imitation.temperature"),
        ({"top_k": 0}, r"found 0; expected 1 or more.*model.imitation.top_k"),
        ({"top_k": 1.5}, r"wrong type; found 1.5; expected a whole number or null.*model.imitation.top_k"),
        ({"ce_weight": 0.0}, r"without any loss.*model.imitation.ce_weight, model.imitation.kl_weight"),
        ({"kl": 1}, r"unknown key; found 'kl'; expected one of ce_weight, kl_weight, temperature, top_k"),
    ],
)
def test_settings_out_of_range(values: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        read_imitation(OmegaConf.create({"imitation": values}))


def test_a_trained_llm_is_no_teacher(gemma: Path, canary: Path) -> None:
    section = {"train_llm": True, "lora": None, "imitation": {"kl_weight": 1.0}}
    with pytest.raises(ConfigError, match=r"the frozen LLM.*model.train_llm=false, or model.imitation.kl_weight=0"):
        read_imitation(OmegaConf.create(section))
    with pytest.raises(ConfigError, match="the frozen LLM"):
        VTBlenderModel(model_config(gemma, canary, **section))
    Imitation(ce_weight=0.5).check(train_llm=True)


def test_models_of_before_have_the_defaults() -> None:
    assert read_imitation(OmegaConf.create({})) == Imitation()
    base = OmegaConf.to_container(OmegaConf.load(CONF / "base.yaml").model.imitation)
    assert base == vars(Imitation())


def samplers(*entries: dict[str, Any]) -> dict[str, Any]:
    return {
        "fusion": "randomized_round_robin",
        "samplers": {"a": {"input_cfg": [CHATS]}, "b": {"input_cfg": list(entries)}},
    }


def grouped(*entries: dict[str, Any]) -> dict[str, Any]:
    return {"input_cfg": [CHATS, {"type": "group", "input_cfg": list(entries)}]}


@pytest.mark.parametrize("blend", [samplers, grouped])
def test_a_blend_without_anything_to_imitate_is_refused(blend: Any) -> None:
    check_twins(DISTIL, blend(CHATS, ANSWERS))
    check_twins(Imitation(), blend(CHATS))
    for settings in (DISTIL, Imitation(ce_weight=0.5)):
        with pytest.raises(
            ConfigError, match=r"nothing|anything to be imitated.*text_chat.*type imitation.*model.imitation"
        ):
            check_twins(settings, blend(CHATS))


class Llm:
    """Counts how often its weights are read."""

    def __init__(self) -> None:
        self.reads = 0

    def fingerprint(self) -> str:
        self.reads += 1
        return "aa11"


def model(**cfg: Any) -> Any:
    return SimpleNamespace(llm=Llm(), cfg=OmegaConf.create({"pretrained_llm": "google/gemma-2b-it", **cfg}))


@pytest.mark.parametrize(
    ("blend", "place"),
    [(samplers, "data.train_ds.samplers.b.input_cfg[1]"), (grouped, "data.train_ds.input_cfg[1].input_cfg[1]")],
)
def test_answers_of_another_llm_are_refused(blend: Any, place: str) -> None:
    own, others = ({**ANSWERS, "llm_fingerprint": which} for which in ("aa11", "bb22"))
    with pytest.raises(ConfigError) as told:
        check_answering_llm(blend(own, others), model())
    message = str(told.value)
    assert "another LLM's; found 'bb22'; expected aa11, of google/gemma-2b-it" in message
    assert f"(change it with: {place}.llm_fingerprint" in message


def test_weights_are_read_once_and_not_at_all_where_nobody_asks() -> None:
    asked, not_asked = model(), model()
    named = {**ANSWERS, "llm_fingerprint": "aa11"}
    check_answering_llm(grouped(named, named, ANSWERS), asked)
    check_answering_llm(grouped(ANSWERS, CHATS), not_asked)
    assert (asked.llm.reads, not_asked.llm.reads) == (1, 0)


def test_a_quantised_llm_is_told_by_the_files_that_it_was_loaded_from(gemma: Path) -> None:
    asked = model(quantization="4bit", pretrained_llm=str(gemma))
    own = folder_fingerprint(gemma, knob="llm")
    check_answering_llm(grouped({**ANSWERS, "llm_fingerprint": own}), asked)
    with pytest.raises(ConfigError, match="another LLM's; found 'bb22'"):
        check_answering_llm(grouped({**ANSWERS, "llm_fingerprint": "bb22"}), asked)
    assert asked.llm.reads == 0


def test_data_are_checked_against_the_model_that_is_trained(gemma: Path, canary: Path, tmp_path: Path) -> None:
    made = VTBlenderModel(model_config(gemma, canary, imitation={"kl_weight": 1.0}))

    def build(**keys: Any) -> Any:
        entry = imitation_entry(tmp_path, **keys)
        train = {"input_cfg": [entry], "batch_size": 2, "num_buckets": 1}
        return fit.build_data(OmegaConf.create({"output_dir": str(tmp_path), "data": {"train_ds": train}}), made)

    batch = next(iter(build(llm_fingerprint=made.llm.fingerprint()).train_dataloader()))
    assert len(batch.twin) == 2
    with pytest.raises(ConfigError, match=r"another LLM's; found 'ab'.*data.train_ds.input_cfg\[0\].llm_fingerprint"):
        build(llm_fingerprint="ab")
    (tmp_path / "chats.jsonl").write_text("{}\n")
    cfg = {"output_dir": "x", "data": {"train_ds": {"input_cfg": [CHATS], "batch_size": 2}}}
    with pytest.raises(ConfigError, match="anything to be imitated"):
        fit.build_data(OmegaConf.create(cfg), made)


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base=None):
        return compose("vtb_mtbi", overrides=list(overrides))


def test_a_run_is_checked_before_its_models_are_loaded(tmp_path: Path) -> None:
    chat = {"id": "1", "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    (tmp_path / "chats.jsonl").write_text(json.dumps(chat) + "\n")
    blends = {"answers": imitation_entry(tmp_path), "chats": {**CHATS, "manifest_filepath": "chats.jsonl"}}
    for name, entry in blends.items():
        OmegaConf.save(OmegaConf.create([entry]), tmp_path / f"{name}.yaml")
    answers, chats = (f"data.train_ds.input_cfg={tmp_path / name}.yaml" for name in blends)
    check_config(composed(answers, "model.imitation.kl_weight=1"))
    check_config(composed(chats))
    for wrong in (
        [chats, "model.imitation.kl_weight=1"],
        [answers, "model.imitation.kl_weight=1", "model.train_llm=true"],
        [answers, "model.imitation.temperature=0"],
    ):
        with pytest.raises(ConfigError, match=r"model\.imitation"):
            check_config(composed(*wrong))


def test_a_run_of_before_goes_on_only_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    OmegaConf.save(OmegaConf.create({"model": {"packing": True}}), path)

    def now(**imitation: Any) -> DictConfig:
        return OmegaConf.create({"model": {"packing": True, "imitation": {**vars(Imitation()), **imitation}}})

    check_same_run(now(), path)
    with pytest.raises(ConfigError, match="another model.imitation"):
        check_same_run(now(kl_weight=1.0), path)
