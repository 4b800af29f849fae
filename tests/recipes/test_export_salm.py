"""What is exported answers as ours does: by NeMo's stock SALM, and by its plugin for vLLM as far as that runs without a GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from tests.helpers import vllm_plugin
from tests.helpers.exports import (
    FOREIGN_TEMPLATE,
    NEW,
    QWEN_TEMPLATE,
    chats,
    our_answers,
    stock_turns,
    trained_model,
)
from vtblender_nemo.common.audio import load_samples
from vtblender_nemo.common.conversation import from_messages
from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.export.about import About
from vtblender_nemo.export.formats import export
from vtblender_nemo.export.importing import import_salm
from vtblender_nemo.export.options import ExportOptions, Written
from vtblender_nemo.models.generation import until_stop

pytestmark = pytest.mark.slow

DEFAULTS = OmegaConf.load(Path(__file__).parents[2] / "conf/base.yaml").model


def write(model: Any, format: str, folder: Path) -> Written:
    return export(model, format, ExportOptions(folder), About(folder.with_suffix(".nemo")))


def salm_answers(salm: Any, folder: Path, some: list[Any], separator: bool, *, through_template: bool) -> list[Any]:
    """As the card says; ids of answers."""
    config = GenerationConfig.from_pretrained(folder)
    audio = salm.audio_locator_tag + ("<|audio_end|>" if separator else "")
    answers = []
    for chat in some:
        turns, paths = stock_turns(chat, audio)
        if through_template:
            text = salm.tokenizer.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
            turns = [{"role": "user", "content": text}]
        turns[-1]["audio"] = paths
        ids = salm.generate([turns], generation_config=config, max_new_tokens=NEW)[0].tolist()
        answers.append(until_stop(ids, config.eos_token_id))
    return answers


@pytest.mark.parametrize(
    ("family", "template", "prompt_format", "separator", "lora"),
    [
        ("gemma", None, "gemma", True, True),
        ("gemma", None, "gemma", False, True),
        ("gemma2", None, "gemma", True, True),
        ("qwen2", QWEN_TEMPLATE, "qwen", True, True),
        ("llama", FOREIGN_TEMPLATE, "plain", True, False),
    ],
)
def test_the_stock_class_answers_as_ours_and_gives_the_same_weights_back(
    tmp_path: Path,
    family: str,
    template: str | None,
    prompt_format: str,
    separator: bool,
    lora: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from nemo.collections.speechlm2 import SALM

    more: dict[str, Any] = {"perception": {"separator": separator}}
    if not lora:
        more["lora"] = None
    model = trained_model(tmp_path / "parts", family, template, **more)
    some = chats(tmp_path)
    wanted = our_answers(model, some)
    assert len({tuple(ids) for ids in wanted}) > 1, "answers that do not depend on the prompt would show nothing"
    written = write(model, "salm", folder := tmp_path / "salm")
    for source in (Path(model.cfg.pretrained_llm), Path(model.cfg.pretrained_asr)):
        source.rename(f"{source}.hidden")  # the folder needs neither

    assert json.loads((folder / "config.json").read_text())["prompt_format"] == prompt_format
    salm = SALM.from_pretrained(str(folder)).eval()
    found = salm_answers(salm, folder, some, separator, through_template=prompt_format == "plain")
    assert found == wanted
    speech = some[0][0]["content"][1]["audio"]
    capsys.readouterr()
    exec(written.usage.replace("FOLDER", str(folder)).replace("speech.wav", speech), {})
    said = capsys.readouterr().out.removeprefix("Loading weights from local directory\n")  # by the hub's library
    assert said.strip() == model.generate(some[:1], 128)[0]

    back = import_salm(folder, tmp_path / "back.nemo", DEFAULTS)
    ours, theirs = model.state_dict(), back.state_dict()
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert our_answers(back, some) == wanted


def test_a_folder_that_the_stock_class_saved_becomes_ours(tmp_path: Path) -> None:
    """As Canary-Qwen's: no tokenizer, an adapter that passes its input on, a prompt format that is not the LLM's template."""
    from nemo.collections.speechlm2 import SALM

    from tests.helpers.salm import salm_config
    from vtblender_nemo import VTBlenderModel

    model = trained_model(tmp_path / "parts", "qwen3", FOREIGN_TEMPLATE, perception={"separator": False})
    config = salm_config(model, "qwen")
    config["audio_locator_tag"] = "<|audioplaceholder|>"
    config["perception"]["modality_adapter"] = {
        "_target_": "nemo.collections.speechlm2.modules.perception.IdentityConnector",
        "d_model": 32,
    }
    salm = SALM(config).eval()
    with torch.no_grad():
        for name, weight in salm.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.2)
        salm.perception.proj.weight.mul_(5)
    stock = tmp_path / "stock"
    salm.save_pretrained(stock)
    some = chats(tmp_path)
    stops = GenerationConfig(eos_token_id=[salm.tokenizer.eos_id], pad_token_id=0)
    stops.save_pretrained(stock)
    wanted = salm_answers(salm, stock, some, False, through_template=False)
    assert len({tuple(ids) for ids in wanted}) > 1

    import_salm(stock, tmp_path / "imported.nemo", DEFAULTS)
    imported = VTBlenderModel.restore_from(tmp_path / "imported.nemo").eval()
    assert our_answers(imported, some) == wanted
    assert imported.cfg.pretrained_asr == config["pretrained_asr"]


@torch.inference_mode()
def vllm_answers(folder: Path, some: list[Any], plugin: tuple[Any, Any]) -> list[list[int]]:
    """By the plugin's own reading of configuration and weights, its count of frames, and a Hugging Face LLM as vLLM's."""
    from nemo.collections.speechlm2.vllm.salm.config import NeMoSpeechLMConfig

    backends, audio = plugin
    config = NeMoSpeechLMConfig.from_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    perception = audio._load_nemo_perception(config.perception)
    own = {name.removeprefix("perception."): w for name, w in weights.items() if name.startswith("perception.")}
    assert perception.load_state_dict(own, strict=False).missing_keys == []
    backend = backends.make_backend(config)
    rest = [(name, weight) for name, weight in weights.items() if not name.startswith("perception.")]
    llm_weights = dict(backend.nemo_to_hf_llm_weights(backend.preprocess_llm_weights(rest)))
    backbone = AutoConfig.from_pretrained(config.pretrained_llm)
    backbone.vocab_size = config.text_config.vocab_size
    llm = AutoModelForCausalLM.from_config(backbone).eval()
    missing, unknown = llm.load_state_dict(llm_weights, strict=False)
    assert not unknown
    assert missing == (["lm_head.weight"] if backbone.tie_word_embeddings else [])
    llm.tie_weights()
    scale = backbone.hidden_size**0.5 if backbone.model_type == "gemma" else 1.0

    tokenizer = AutoTokenizer.from_pretrained(folder)
    stops = GenerationConfig.from_pretrained(folder)
    tag = tokenizer.convert_tokens_to_ids("<|audio|>")
    table = llm.get_input_embeddings().weight
    answers = []
    for chat in some:
        turns, paths = stock_turns(chat, "<|audio|>")
        prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        heard = iter([load_samples(from_messages([_hear(path)]).audios[0].cut, 16000) for path in paths])
        embeds = []
        for token in tokenizer.encode(prompt, add_special_tokens=False):
            if token != tag:
                embeds.append(table[[token]])
                continue
            wave = torch.as_tensor(next(heard))[None]
            frames, lens = perception(input_signal=wave, input_signal_length=torch.tensor([wave.shape[1]]))
            counted = audio.NeMoSpeechLMProcessingInfo._estimate_audio_tokens(wave.shape[1], 40.0)
            assert counted == int(lens[0])
            embeds.append(frames[0, :counted])
        ids = llm.generate(
            inputs_embeds=torch.cat(embeds)[None] * scale,
            attention_mask=torch.ones(1, sum(map(len, embeds))),
            generation_config=stops,
            max_new_tokens=NEW,
        )
        answers.append(until_stop(ids[0].tolist(), stops.eos_token_id))
    return answers


def _hear(path: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "audio", "audio": path}]}


@pytest.mark.parametrize(
    ("family", "template", "separator"),
    [("gemma", None, False), ("qwen3", QWEN_TEMPLATE, True), ("llama", FOREIGN_TEMPLATE, False)],
)
def test_vllms_plugin_reads_the_same_answers(
    tmp_path: Path, family: str, template: str | None, separator: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = trained_model(tmp_path / "parts", family, template, perception={"separator": separator})
    some = chats(tmp_path)
    write(model, "vllm", folder := tmp_path / "vllm")
    found = vllm_answers(folder, some, vllm_plugin.load(monkeypatch))
    assert found == our_answers(model, some)
    if family == "gemma":
        with pytest.raises(ConfigError, match=r"divided for vLLM.*--input"):
            import_salm(folder, tmp_path / "back.nemo", DEFAULTS)
