"""`.nemo` files: bit for bit there and back, and nothing hostile gets in."""

from __future__ import annotations

import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from nemo.core.classes import ModelPT
from nemo.utils.app_state import AppState
from omegaconf import open_dict

from tests.helpers.models import audio_part, llm_folder, model_config, user
from vtblender_nemo import VTBlenderModel
from vtblender_nemo.common.errors import ModelFileError

CHATS = [[user("hello")], [user("Transcribe:", audio_part(0.8))]]


@pytest.fixture(scope="session")
def saved(vtblender: VTBlenderModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "model.nemo"
    vtblender.save_to(path)
    return path


def same_weights(first: VTBlenderModel, second: VTBlenderModel) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_host_restores_it_bit_for_bit_without_other_files(
    vtblender: VTBlenderModel, saved: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "elsewhere.nemo"
    moved.write_bytes(saved.read_bytes())
    sources = [Path(vtblender.cfg.pretrained_llm), Path(vtblender.cfg.pretrained_asr)]
    for folder in sources:
        folder.rename(f"{folder}.hidden")
    try:
        restored = ModelPT.restore_from(str(moved))
        moved.unlink()
        restored.save_to(tmp_path / "again.nemo")  # needs nothing of the file it came from
        again = VTBlenderModel.restore_from(tmp_path / "again.nemo")
    finally:
        for folder in sources:
            Path(f"{folder}.hidden").rename(folder)
    assert isinstance(restored, VTBlenderModel)
    for model in (restored, again):
        assert same_weights(model, vtblender)
        assert model.generate(CHATS, 8) == vtblender.generate(CHATS, 8)
        assert model.cfg.llm_config == vtblender.cfg.llm_config
        assert model.tokenizer.chat_template == vtblender.tokenizer.chat_template


def test_without_the_llm_it_is_found_by_name_and_hash(
    vtblender: VTBlenderModel, saved: Path, tmp_path: Path, gemma: Path
) -> None:
    path = tmp_path / "small.nemo"
    with open_dict(vtblender.cfg):
        vtblender.cfg.save_llm = False
    try:
        vtblender.save_to(path)
    finally:
        with open_dict(vtblender.cfg):
            vtblender.cfg.save_llm, vtblender.cfg.llm_fingerprint = True, None
    assert path.stat().st_size < saved.stat().st_size - sum(w.nbytes for w in vtblender.llm.base_weights().values()) / 2
    assert same_weights(VTBlenderModel.restore_from(path), vtblender)

    weights = gemma / "model.safetensors"
    kept = weights.read_bytes()
    weights.write_bytes((llm_folder(tmp_path, "gemma", initializer_range=0.2) / "model.safetensors").read_bytes())
    try:
        with pytest.raises(ModelFileError, match="not the one that this model was trained with"):
            VTBlenderModel.restore_from(path)
    finally:
        weights.write_bytes(kept)
    assert not AppState().is_model_being_restored


def test_init_from_starts_with_the_weights_of_another_model(
    vtblender: VTBlenderModel, saved: Path, canary: Path, gemma: Path
) -> None:
    torch.manual_seed(99)
    assert same_weights(VTBlenderModel(model_config(gemma, canary, init_from=str(saved))), vtblender)
    with pytest.raises(ModelFileError, match="weights do not fit the model"):
        VTBlenderModel(model_config(gemma, canary, init_from=str(saved), lora={"r": 8}))


def repack(source: Path, target: Path, replace: dict[str, bytes], extra: list[tarfile.TarInfo] | None = None) -> Path:
    """A copy of an archive with some members' contents replaced and others added."""
    with tarfile.open(source) as old, tarfile.open(target, "w") as new:
        for member in old.getmembers():
            content = old.extractfile(member)
            data = replace.get(member.name.removeprefix("./"), content.read() if content else b"")
            member.size = len(data)
            new.addfile(member, io.BytesIO(data) if member.isreg() else None)
        for member in extra or []:
            new.addfile(member, io.BytesIO(b"x" * member.size))
    return target


class Touch:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, 1 if kind == tarfile.REGTYPE else 0
    return info


def config_with(saved: Path, change: Any) -> bytes:
    with tarfile.open(saved) as archive:
        content = archive.extractfile("./model_config.yaml")
        assert content is not None
        config = yaml.safe_load(content.read())
    change(config)
    return yaml.safe_dump(config).encode()


def test_pickled_code_is_not_run(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    proof = tmp_path / "proof"
    hostile = repack(saved, tmp_path / "hostile.nemo", {"model_weights.ckpt": pickle.dumps(Touch(proof))})
    with pytest.raises(ModelFileError, match="cannot be loaded safely"):
        VTBlenderModel.restore_from(hostile)
    assert not proof.exists()
    assert not AppState().is_model_being_restored


@pytest.mark.parametrize(
    "extra",
    [member("../outside"), member("/outside"), member("a/../../b"), member("link", tarfile.SYMTYPE, "/etc/passwd")],
)
def test_members_outside_the_archive_are_refused(saved: Path, tmp_path: Path, extra: tarfile.TarInfo) -> None:
    hostile = repack(saved, tmp_path / "hostile.nemo", {}, [extra])
    with pytest.raises(ModelFileError, match="unsafe member"):
        VTBlenderModel.restore_from(hostile)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(target="nemo.collections.asr.models.EncDecCTCModel"), "holds another model"),
        (lambda c: c["perception"]["modality_adapter"].update(_target_="os.system"), "os.system"),
        (lambda c: c["perception"]["encoder"].update(_target_="torch.nn.Linear"), "torch.nn.Linear"),
        (lambda c: c["tokenizer"]["names"].update(tokenizer_json="/somewhere/else"), "unsafe file name"),
        (lambda c: c["tokenizer"]["names"].update(tokenizer_json="../else"), "unsafe file name"),
        (lambda c: c["tokenizer"]["files"].update(tokenizer_json="/etc/passwd"), "unsafe file name"),
        (lambda c: c["tokenizer"]["files"].update(tokenizer_json="nemo:../else"), "unsafe file name"),
        (
            lambda c: c["llm_config"].update(model_type="mine", auto_map={"AutoConfig": "evil.Config"}),
            "unknown LLM type",
        ),
    ],
)
def test_foreign_classes_are_not_made(saved: Path, tmp_path: Path, change: Any, message: str) -> None:
    hostile = repack(saved, tmp_path / "hostile.nemo", {"model_config.yaml": config_with(saved, change)})
    with pytest.raises(ModelFileError, match=message):
        VTBlenderModel.restore_from(hostile)
    assert not AppState().is_model_being_restored


def test_other_files_are_named(canary: Path, tmp_path: Path) -> None:
    (broken := tmp_path / "broken.nemo").write_bytes(b"not a tar")
    for path, message in (
        (canary, "holds another model"),
        (broken, "not a .nemo"),
        (tmp_path / "none.nemo", "not found"),
    ):
        with pytest.raises(ModelFileError, match=message):
            VTBlenderModel.restore_from(path)


def test_an_llm_that_is_not_there_is_told(canary: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"tokenizer cannot be loaded.*model.pretrained_llm"):
        VTBlenderModel(model_config(tmp_path / "nowhere", canary))
