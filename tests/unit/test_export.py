"""What is exported computes what the model does, and what a format cannot hold is refused; stock SALMs have tests in recipes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf, open_dict
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.helpers import commands
from tests.helpers.exports import our_text_logits, randomize, text_logits, trained_model
from tests.helpers.models import audio_part, canary_file, llm_folder, model_config, quiet, user
from vtblender_nemo import VTBlenderModel
from vtblender_nemo.common.errors import ConfigError, MissingDependencyError, ModelFileError
from vtblender_nemo.export import quantized
from vtblender_nemo.export.about import About
from vtblender_nemo.export.formats import export
from vtblender_nemo.export.importing import import_salm
from vtblender_nemo.export.options import ExportOptions, Written

IDS = torch.arange(20, 60).view(2, 20)
TEXTS = [[user("hello there")], [user("what is two plus three?")]]


@pytest.fixture(scope="module")
def model(canary: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """With LoRA and separator that are not zero, on Gemma."""
    quiet()
    folder = llm_folder(tmp_path_factory.mktemp("gemma"))
    made = VTBlenderModel(model_config(folder, canary)).eval()
    randomize(made)
    return made


def write(model: Any, format: str, folder: Path, **options: Any) -> Written:
    return export(model, format, ExportOptions(folder, **options), About(folder / "model.nemo"))


def run_usage(written: Written, folder: Path, **names: Any) -> dict[str, Any]:
    """Runs what the card tells to do, and returns what it has come to."""
    exec(written.usage.replace("FOLDER", str(folder)), names)
    return names


def plain_answers(llm: Any, folder: Path) -> list[str]:
    """Answers of a Hugging Face LLM by its own template and settings."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    answers = []
    for chat in TEXTS:
        messages = [{"role": "user", "content": chat[0]["content"][0]["text"]}]
        prompt = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        ids = llm.generate(**prompt, max_new_tokens=8)[0, prompt["input_ids"].shape[1] :]
        answers.append(tokenizer.decode(ids, skip_special_tokens=True).strip())
    return answers


def test_merged_is_a_plain_llm_with_the_same_logits_and_answers(
    model: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = write(model, "merged", tmp_path / "out")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    found, wanted = text_logits(merged, IDS), our_text_logits(model, IDS)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    with model.llm.without_lora():
        assert not torch.allclose(our_text_logits(model, IDS), wanted, atol=0.1), "LoRA has to matter here"
    assert plain_answers(merged, tmp_path / "out") == model.generate(TEXTS, 8)
    assert merged.generation_config.eos_token_id == list(model.chat_format.stop_ids)
    assert merged.config.tie_word_embeddings
    assert (tmp_path / "out/README.md").read_text().startswith("---\n")
    assert written.notes == ["It reads and writes text; it cannot hear."]
    run_usage(written, tmp_path / "out")
    assert capsys.readouterr().out.strip() == model.generate([[user("Hello!")]], 128)[0]
    readers = (tmp_path / "out").stat().st_mode & 0o666
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()} == {readers}


def test_merged_rounds_once_where_it_is_asked_to(model: Any, tmp_path: Path) -> None:
    written = write(model, "merged", tmp_path / "out", dtype="bfloat16")
    name = "model.layers.0.self_attn.q_proj.weight"
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()[name]
    layer = model.llm.causal_lm.model.layers[0].self_attn.q_proj
    exact = layer.base_layer.weight + layer.lora_B["default"].weight @ layer.lora_A["default"].weight  # alpha / r is 1
    assert torch.equal(found, exact.to(torch.bfloat16))
    assert any("rounded to bfloat16" in note for note in written.notes)
    with pytest.raises(ConfigError, match=r"float16.*one of float32, bfloat16"):
        write(model, "merged", tmp_path / "half", dtype="float16")


def test_peft_is_the_lora_of_its_base(model: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from peft import PeftModel

    run_usage(write(model, "peft", tmp_path / "near"), tmp_path / "near")
    assert capsys.readouterr().out.strip() == model.generate([[user("Hello!")]], 128)[0]
    written = write(model, "peft", tmp_path / "out", llm="someone/llm")
    assert json.loads((tmp_path / "out/adapter_config.json").read_text())["base_model_name_or_path"] == "someone/llm"
    assert model.llm.fingerprint() in written.notes[1]
    base = AutoModelForCausalLM.from_pretrained(model.cfg.pretrained_llm)
    adapted = PeftModel.from_pretrained(base, tmp_path / "out").eval()
    torch.testing.assert_close(text_logits(adapted, IDS), our_text_logits(model, IDS), rtol=1e-4, atol=1e-4)
    assert model.llm.model.peft_config["default"].base_model_name_or_path != "someone/llm"


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_other_families_are_merged_alike(family: str, canary: Path, tmp_path: Path) -> None:
    quiet()
    model = trained_model(tmp_path / "parts", family, canary=canary)
    write(model, "merged", tmp_path / "out")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(text_logits(merged, IDS), our_text_logits(model, IDS), rtol=1e-4, atol=1e-4)


def test_the_encoder_goes_back_into_its_canary(model: Any, canary: Path, tmp_path: Path) -> None:
    from nemo.collections.asr.models import EncDecMultiTaskModel

    changed = model.perception.encoder.layers[0].feed_forward1.linear1.weight
    kept = changed.detach().clone()
    with torch.no_grad():
        changed.add_(0.1)
    try:
        written = write(model, "encoder", tmp_path / "out")
        speech_model = EncDecMultiTaskModel.restore_from(tmp_path / "out/encoder.nemo", map_location="cpu").eval()
        waves, lens = torch.randn(2, 16000), torch.tensor([16000, 9000])
        with torch.inference_mode():
            features = [part.preprocessor(input_signal=waves, length=lens) for part in (model.perception, speech_model)]
            encoded = [
                part.encoder(audio_signal=found, length=n)
                for part, (found, n) in zip((model.perception, speech_model), features, strict=True)
            ]
    finally:
        with torch.no_grad():
            changed.copy_(kept)
    assert torch.equal(encoded[0][0], encoded[1][0])
    assert torch.equal(encoded[0][1], encoded[1][1])
    before = EncDecMultiTaskModel.restore_from(canary, map_location="cpu").state_dict()
    after = speech_model.state_dict()
    decoder = [name for name in before if not name.startswith(("encoder.", "preprocessor."))]
    assert decoder
    assert all(torch.equal(before[name], after[name]) for name in decoder)
    assert any("decoder" in note and canary.name in note for note in written.notes)
    names = run_usage(written, tmp_path / "out", waveforms=waves, samples=lens)
    assert torch.equal(names["lens"], encoded[0][1])


def test_the_encoder_wants_the_speech_model_that_it_came_from(model: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"speech model not found.*--asr"):
        write(model, "encoder", tmp_path / "out", asr="gone.nemo")
    (other := tmp_path / "other").mkdir()
    with pytest.raises(ConfigError, match=r"another encoder.*n_layers.*--asr"):
        write(model, "encoder", tmp_path / "out", asr=str(canary_file(other, encoder={"n_layers": 1})))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("format", "setting", "value", "message"),
    [
        ("salm", "quantization", "4bit", r"loaded quantised.*model\.quantization"),
        ("merged", "quantization", "4bit", r"loaded quantised.*model\.quantization"),
        ("salm", "lora.use_rslora", True, r"this form of LoRA.*model\.lora\.use_rslora"),
        ("vllm", "lora.use_dora", True, r"separator after each audio.*model\.perception\.separator=false"),
    ],
)
def test_what_a_format_cannot_hold_is_refused(
    model: Any, format: str, setting: str, value: Any, message: str, tmp_path: Path
) -> None:
    kept = model.cfg.copy()
    with open_dict(model.cfg):
        OmegaConf.update(model.cfg, setting, value, force_add=True)
    try:
        with pytest.raises(ConfigError, match=message):
            write(model, format, tmp_path / "out")
    finally:
        model._cfg = kept
    assert list(tmp_path.iterdir()) == []


def test_vllm_takes_no_llm_that_it_would_read_otherwise(canary: Path, tmp_path: Path) -> None:
    quiet()
    model = trained_model(tmp_path / "parts", "gemma3", canary=canary, perception={"separator": False})
    with pytest.raises(ConfigError, match=r"gemma3_text.*gemma, llama, qwen2, qwen3.*--format salm"):
        write(model, "vllm", tmp_path / "out")


@pytest.mark.parametrize("adds_bos", [False, True])
def test_a_token_that_would_stand_twice_before_vllms_prompts_is_told(
    adds_bos: bool, canary: Path, tmp_path: Path
) -> None:
    quiet()
    model = trained_model(tmp_path / "parts", "llama", canary=canary, perception={"separator": False})
    if adds_bos:
        tokenizer = AutoTokenizer.from_pretrained(model.tokenizer_folder)
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", tokenizer.bos_token_id)]
        )
        tokenizer.save_pretrained(model.tokenizer_folder)
    written = write(model, "vllm", tmp_path / "out")
    assert any("both begin with `<bos>`" in note for note in written.notes) == adds_bos


def test_vllm_gets_no_configuration_that_lacks_the_separators_row(canary: Path, tmp_path: Path) -> None:
    quiet()
    model = trained_model(tmp_path / "parts", "llama", canary=canary)
    with pytest.raises(ConfigError, match=r"'someone/llm'.*--llm"):
        write(model, "vllm", tmp_path / "out", llm="someone/llm")


def test_a_model_without_lora_has_none_to_give(canary: Path, gemma: Path, tmp_path: Path) -> None:
    model = VTBlenderModel(model_config(gemma, canary, lora=None)).eval()
    with pytest.raises(ConfigError, match=r"no LoRA.*--format merged"):
        write(model, "peft", tmp_path / "out")
    write(model, "merged", tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert torch.allclose(text_logits(merged, IDS), our_text_logits(model, IDS), rtol=1e-4, atol=1e-4)


# Quantised ------------------------------------------------------------------------------------------------------------


def wide_model(folder: Path, canary: Path) -> Any:
    """As wide as blocks of 4-bit weights."""
    llm = llm_folder(folder, "llama", hidden_size=64, intermediate_size=128, tie_word_embeddings=False)
    made = VTBlenderModel(model_config(llm, canary)).eval()
    randomize(made)
    return made


@pytest.mark.parametrize(("bits", "library", "most_off"), [(8, "torchao", 0.02), (4, "bitsandbytes", 0.15)])
def test_quantised_weights_are_small_and_near(
    bits: int, library: str, most_off: float, canary: Path, tmp_path: Path
) -> None:
    pytest.importorskip(library, reason='pip install "vtblender_nemo[quant]"')
    quiet()
    model = wide_model(tmp_path, canary)
    write(model, "quantized", tmp_path / "out", bits=bits)
    write(model, "merged", tmp_path / "merged")
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("out", "merged")]
    assert sizes[0] < 0.6 * sizes[1]
    llm = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    weights = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").state_dict()
    name = "model.layers.0.mlp.up_proj"
    with torch.inference_mode():
        unpacked = llm.get_submodule(name)(torch.eye(64)).T.float()
    wanted = weights[f"{name}.weight"]
    assert 0 < float((unpacked - wanted).norm() / wanted.norm()) < most_off
    chats = [[user("Transcribe:", audio_part(0.8))], [user("hello")]]
    quantized.hear_through(model, tmp_path / "out")
    together = model.generate(chats, 4)
    assert together == [model.generate([chat], 4)[0] for chat in chats]
    torch.testing.assert_close(our_text_logits(model, IDS), text_logits(llm, IDS), rtol=1e-2, atol=1e-2)


def test_layers_that_are_no_multiple_of_blocks_are_refused(model: Any, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason='pip install "vtblender_nemo[quant]"')
    with pytest.raises(ConfigError, match=r"4 bits.*\(32, 32\).*--bits"):
        write(model, "quantized", tmp_path / "out", bits=4)
    assert list(tmp_path.iterdir()) == []


def test_hearing_through_the_merged_llm_changes_nothing(canary: Path, tmp_path: Path) -> None:
    quiet()
    model = trained_model(tmp_path / "parts", "llama", canary=canary)
    write(model, "merged", tmp_path / "out")
    chats = [[user("Transcribe:", audio_part(0.8))], [user("hello")]]
    wanted = model.generate(chats, 8)
    quantized.hear_through(model, tmp_path / "out")
    assert model.generate(chats, 8) == wanted
    assert "lora" not in model.trained_parameters()
    with pytest.raises(ModelFileError, match="not the model's"):
        quantized.hear_through(model, llm_folder(tmp_path / "other", "llama", hidden_size=64))
    with pytest.raises(ModelFileError, match="cannot be loaded"):
        quantized.hear_through(model, tmp_path / "nothing")


@pytest.mark.parametrize(("bits", "library"), [(8, "torchao"), (4, "bitsandbytes")])
def test_without_the_library_the_extra_is_named(
    model: Any, bits: int, library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingDependencyError, match=rf"{library}.*vtblender_nemo\[quant\]"):
        write(model, "quantized", tmp_path / "out", bits=bits)


# Commands -------------------------------------------------------------------------------------------------------------


def test_the_commands_write_and_read_back(model: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.nemo"
    model.save_to(path)
    flags = ("--model", path, "--output-dir", tmp_path / "salm", "--license", "mit")
    result = commands.run("export_vtb", *flags, "--format", "salm")
    assert result.exit_code == 0, result.output
    assert "<|audio_end|>" in result.output
    assert "license: mit" in (tmp_path / "salm/README.md").read_text()
    again = commands.run("export_vtb", *flags, "--format", "merged")
    assert again.exit_code == 2
    assert "error: " in again.output
    assert "holds something else" in again.output
    back = tmp_path / "back.nemo"
    result = commands.run("import_salm", "--input", tmp_path / "salm", "--output", back)
    assert result.exit_code == 0, result.output
    assert VTBlenderModel.restore_from(back).eval().generate(TEXTS, 8) == model.generate(TEXTS, 8)
    result = commands.run("import_salm", "--input", tmp_path / "salm", "--output", back)
    assert result.exit_code == 2
    assert "there already" in result.output


def test_folders_that_are_no_salm_are_told(model: Any, tmp_path: Path) -> None:
    defaults = OmegaConf.load(commands.EXAMPLES.parent / "conf/base.yaml").model
    output = tmp_path / "out.nemo"
    with pytest.raises(ModelFileError, match=r"no configuration of a SALM"):
        import_salm(tmp_path, output, defaults)
    write(model, "salm", folder := tmp_path / "salm")
    config = json.loads((folder / "config.json").read_text())
    foreign = {"modality_adapter": {"_target_": "nemo.collections.speechlm2.modules.perception.QformerConnector"}}
    for change, error, message in (
        ({"perception": None}, ModelFileError, "no configuration of a SALM"),
        ({"use_nemo_automodel": True}, ConfigError, "Automodel"),
        ({"perception": {"output_dim": 32}}, ModelFileError, "preprocessor, encoder, modality_adapter"),
        ({"perception": {**config["perception"], **foreign}}, ConfigError, "QformerConnector"),
    ):
        (folder / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(error, match=message):
            import_salm(folder, output, defaults)
    (folder / "config.json").write_text(json.dumps(config))
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    lost = next(name for name in weights if name.endswith("mlp.up_proj.base_layer.weight"))
    save_file({name: weight for name, weight in weights.items() if name != lost}, folder / "model.safetensors")
    with pytest.raises(ModelFileError, match=r"weights are missing.*up_proj"):
        import_salm(folder, output, defaults)
    assert not output.exists()
