"""Model files and folders of strangers: whatever they name, no code of theirs runs, and nothing else of ours is opened."""

from __future__ import annotations

import ast
import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from nemo.core.classes import ModelPT
from nemo.utils.app_state import AppState
from omegaconf import OmegaConf
from safetensors.torch import save_file

from tests.helpers.hostile import CONFIG, Touch, changed_config, repacked
from tests.helpers.models import llm_folder, model_config
from vtblender_nemo import VTBlenderModel
from vtblender_nemo.alignment.aligner import open_aligner
from vtblender_nemo.backbones.llm_loading import llm_config, load_llm
from vtblender_nemo.common.errors import ModelFileError
from vtblender_nemo.common.nemo_restore import restore_nemo
from vtblender_nemo.common.trusted_classes import VOICE
from vtblender_nemo.export.importing import import_salm
from vtblender_nemo.export.quantized import hear_through
from vtblender_nemo.export.salm import OURS
from vtblender_nemo.modules.perception import load_speech_model
from vtblender_nemo.synthesis.mixed_modal.asr_gate import GateConfig, open_gate

WRITES = "nemo.collections.asr.parts.utils.manifest_utils.write_manifest"


def writing(proof: Path) -> dict[str, Any]:
    """A part of a model that, once it is made, has written a file; NeMo's own list lets it pass."""
    return {"_target_": WRITES, "output_path": str(proof), "target_manifest": [{"a": 1}]}


@pytest.fixture(scope="module")
def saved(vtblender: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "model.nemo"
    vtblender.save_to(path)
    return path


def readers_of_recognisers(path: str) -> list[Callable[[], Any]]:
    return [
        lambda: load_speech_model(path),
        lambda: open_aligner(path, 1, "cpu"),
        lambda: open_gate(GateConfig(model=path, device="cpu"), "en"),
    ]


def refused(read: Callable[[], Any], message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        read()
    assert not AppState().is_model_being_restored


def test_recognisers_make_nothing_that_their_file_invents(canary: Path, tmp_path: Path) -> None:
    proof = tmp_path / "proof"

    def change(config: dict[str, Any]) -> None:
        config["preprocessor"] = writing(proof)

    hostile = repacked(canary, tmp_path / "m.nemo", {CONFIG: changed_config(canary, change)})
    for read in readers_of_recognisers(str(hostile)):
        refused(read, "a class that such models do not have.*")
    assert not proof.exists()
    change_target = changed_config(
        canary, lambda config: config.update(target="nemo.collections.speechlm2.models.SALM")
    )
    other = repacked(canary, tmp_path / "n.nemo", {CONFIG: change_target})
    refused(lambda: load_speech_model(str(other)), "holds another model.*SALM.*model.pretrained_asr")


def test_recognisers_have_weights_without_code(canary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    proof = tmp_path / "proof"
    hostile = repacked(canary, tmp_path / "m.nemo", {"model_weights.ckpt": pickle.dumps(Touch(proof))})
    for read in readers_of_recognisers(str(hostile)):
        refused(read, "cannot be loaded safely")
    assert not proof.exists()


def test_voices_make_nothing_that_their_file_invents(canary: Path, tmp_path: Path) -> None:
    def change(config: dict[str, Any]) -> None:
        config.clear()
        config.update(target="nemo.collections.tts.models.FastPitchModel", preprocessor=writing(tmp_path / "proof"))

    hostile = repacked(canary, tmp_path / "m.nemo", {CONFIG: changed_config(canary, change)})
    refused(lambda: restore_nemo(ModelPT, hostile, VOICE), WRITES)
    assert not (tmp_path / "proof").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c, proof: c["perception"].update(spec_augment=writing(proof)), "perception.spec_augment._target_"),
        (
            lambda c, proof: c["perception"]["encoder"].update(extra=[{"x": writing(proof)}]),
            r"encoder.extra\[0\].x._target_",
        ),
        (lambda c, proof: c.update(optim=writing(proof)), "optim._target_"),
        (
            lambda c, proof: c.update(model={**c, "perception": {**c["perception"], "encoder": writing(proof)}}),
            "inside the conf",
        ),
        (lambda c, proof: c["lora"].update(megatron_config={}, megatron_core="os"), "LoRA that imports modules"),
        (lambda c, proof: c.update(llm_attention="somebody/kernel"), "attention that is code of others"),
        (lambda c, proof: c["llm_config"].update(attn_implementation="somebody/kernel"), "code of others"),
        (
            lambda c, proof: c.update(llm_fingerprint="0", pretrained_llm="https://example.org/llm"),
            "no LLM.*example.org",
        ),
        (lambda c, proof: c.update(llm_fingerprint="0", pretrained_llm="../../llm"), "no LLM.*hub name"),
        (lambda c, proof: c.update(llm_fingerprint="0", trust_remote_code=True), "trust_remote_code"),
        (lambda c, proof: c["tokenizer"]["names"].update(tokenizer_json="adapter.py"), "unsafe file name"),
    ],
)
def test_restored_models_ask_for_nothing_foreign(saved: Path, tmp_path: Path, change: Any, message: str) -> None:
    proof = tmp_path / "proof"
    hostile = repacked(
        saved, tmp_path / "m.nemo", {CONFIG: changed_config(saved, lambda config: change(config, proof))}
    )
    refused(lambda: VTBlenderModel.restore_from(hostile), message)
    assert not proof.exists()


def test_the_host_itself_makes_nothing_foreign_of_our_files(saved: Path, tmp_path: Path) -> None:
    """`ModelPT.restore_from` does not come by our archive reader: the model checks what it is made of."""
    proof = tmp_path / "proof"
    config = changed_config(saved, lambda c: c["perception"].update(spec_augment=writing(proof)))
    with pytest.raises(Exception, match=r"spec_augment._target_|abstract"):
        ModelPT.restore_from(str(repacked(saved, tmp_path / "m.nemo", {CONFIG: config})))
    AppState().is_model_being_restored = False
    assert not proof.exists()


def test_named_code_is_dropped_from_an_llm_that_transformers_knows(saved: Path, tmp_path: Path) -> None:
    config = changed_config(saved, lambda c: c["llm_config"].update(auto_map={"AutoConfig": "evil--code.Config"}))
    model = VTBlenderModel.restore_from(repacked(saved, tmp_path / "m.nemo", {CONFIG: config}))
    assert not hasattr(model.llm.causal_lm.config, "auto_map")


def with_code(folder: Path, proof: Path) -> Path:
    """An LLM's folder of an unknown type, whose own code would write a file when it is imported."""
    (folder / "evil.py").write_text(
        f"open({str(proof)!r}, 'w')\nclass Config: pass\nclass Model: pass\nclass Tokenizer: pass\n"
    )
    classes = {f"Auto{name}": f"evil.{one}" for name, one in (("Config", "Config"), ("ModelForCausalLM", "Model"))}
    for name, more in (("config.json", {"model_type": "evil", "auto_map": classes}), ("tokenizer_config.json", {})):
        path = folder / name
        tokenizer = {"tokenizer_class": "Tokenizer", "auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}}
        path.write_text(json.dumps({**json.loads(path.read_text()), **(more or tokenizer)}))
    return folder


def test_folders_with_code_are_refused(
    canary: Path, vtblender: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    proof = tmp_path / "proof"
    folder = with_code(llm_folder(tmp_path), proof)
    for read in (
        lambda: llm_config(str(folder)),
        lambda: VTBlenderModel(model_config(folder, canary)),
        lambda: hear_through(vtblender, folder),
    ):
        refused(read, "trust_remote_code|custom code|cannot be loaded|Unrecognized")
    assert not proof.exists()


def test_kernels_are_not_fetched_for_a_folder(tmp_path: Path) -> None:
    folder = llm_folder(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "attn_implementation": "somebody/kernel"}))
    refused(lambda: llm_config(str(folder)), "code of others.*somebody/kernel")


def test_pickled_weights_of_an_llm_run_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    folder, proof = llm_folder(tmp_path), tmp_path / "proof"
    (folder / "model.safetensors").unlink()
    torch.save({"a": Touch(proof)}, folder / "pytorch_model.bin")
    with pytest.raises((ModelFileError, pickle.UnpicklingError)):
        load_llm(str(folder), llm_config(str(folder)), "float32")
    assert not proof.exists()


def salm_folder(model: Any, folder: Path, **changes: Any) -> Path:
    folder.mkdir()
    perception = OmegaConf.to_container(model.cfg.perception, resolve=True)
    config = {
        **{
            "pretrained_llm": str(model.cfg.pretrained_llm),
            "pretrained_asr": "x",
            "audio_locator_tag": "<unused0>",
        },
        **{"prompt_format": "gemma", "perception": perception, **changes},
    }
    (folder / "config.json").write_text(json.dumps(config))
    save_file({"llm.a": torch.zeros(1)}, folder / "model.safetensors")
    return folder


def test_imported_folders_make_nothing_foreign(vtblender: Any, tmp_path: Path) -> None:
    proof, defaults = tmp_path / "proof", OmegaConf.create({"perception": {}})
    perception = OmegaConf.to_container(vtblender.cfg.perception, resolve=True)
    hostile = {**perception, "preprocessor": writing(proof)}
    for number, (changes, message) in enumerate(
        [
            ({"perception": hostile}, f"preprocessor._target_|{WRITES}"),
            ({"pretrained_llm": "https://example.org/llm"}, "no LLM that could be opened"),
            ({OURS: [1]}, "no configuration of a SALM"),
        ]
    ):
        folder = salm_folder(vtblender, tmp_path / str(number), **changes)
        refused(lambda folder=folder: import_salm(folder, tmp_path / "out.nemo", defaults), message)
    pickled = salm_folder(vtblender, tmp_path / "pickled")
    (pickled / "model.safetensors").write_bytes(pickle.dumps(Touch(proof)))
    refused(lambda: import_salm(pickled, tmp_path / "out.nemo", defaults), "weights cannot be read")
    coded = salm_folder(vtblender, tmp_path / "coded", pretrained_llm=str(with_code(llm_folder(tmp_path), proof)))
    refused(
        lambda: import_salm(coded, tmp_path / "out.nemo", defaults), "cannot be read|cannot be loaded|trust_remote_code"
    )
    assert not proof.exists()
    assert not (tmp_path / "out.nemo").exists()


def test_head_starts_of_others_are_refused(vtblender: Any, tmp_path: Path) -> None:
    from vtblender_nemo.training.warm_start import warm_start

    path, proof = tmp_path / "head.safetensors", tmp_path / "proof"
    for content in (pickle.dumps(Touch(proof)), b""):
        path.write_bytes(content)
        refused(lambda: warm_start(vtblender, None, None, path), "head start cannot be read")
    save_file({"proj.weight": torch.zeros(1)}, path)
    refused(lambda: warm_start(vtblender, None, None, path), "of another adapter.*modality_adapter")
    assert not proof.exists()


def test_nothing_in_the_package_lets_code_of_others_run() -> None:
    """Every call that could is told not to, in every module; what loads NeMo's files does so through the checks."""
    package = Path(__file__).parents[2] / "vtblender_nemo"
    found = []
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                found += [f"{path.relative_to(package)}:{node.lineno}: {why}" for why in _unsafe(node)]
    assert [one for one in found if not one.startswith(ALLOWED)] == []


ALLOWED = (
    "training/fit.py",  # checkpoints of its own run
    "synthesis/engine/local_processes.py",  # errors between our own processes
    "common/nemo_restore.py",  # is told its connector
)


def _unsafe(call: ast.Call) -> Iterator[str]:
    name = ast.unparse(call.func)
    last, given = name.rpartition(".")[2], {one.arg: ast.unparse(one.value) for one in call.keywords}
    if last in ("eval", "exec", "__import__") and name == last:
        yield name
    if name.startswith(("pickle.", "joblib.", "dill.")) and last in ("load", "loads", "Unpickler"):
        yield name
    if name in ("yaml.load", "yaml.unsafe_load", "yaml.full_load") and "_OnceLoader" not in ast.unparse(call):
        yield name
    if name == "torch.load" and given.get("weights_only") != "True":
        yield f"{name} without weights_only=True"
    if name in ("np.load", "numpy.load") and given.get("allow_pickle", "False") != "False":
        yield name
    if (
        last in ("extract", "extractall")
        and "tar" in ast.unparse(call).lower() + "archive"
        and given.get("filter") != "'data'"
    ):
        yield f"{name} without filter='data'"
    if (
        last == "from_pretrained"
        and name.partition(".")[0].startswith("Auto")
        and given.get("trust_remote_code") != "False"
    ):
        yield f"{name} without trust_remote_code=False"
    if given.get("trust_remote_code", "False") != "False":
        yield f"{name} with trust_remote_code"
    if last in ("restore_from", "from_config_dict", "instantiate") and not name.startswith(
        ("VTBlenderModel", "super()")
    ):
        yield name
    if given.get("shell", "False") != "False":
        yield f"{name} in a shell"
