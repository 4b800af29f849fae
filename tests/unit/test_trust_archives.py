"""`.nemo` archives of strangers: what is checked is what is unpacked, and nothing gets out or grows without end."""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.helpers.hostile import CONFIG, Touch, member, write_archive
from vtblender_nemo.common import nemo_archive
from vtblender_nemo.common.errors import ModelFileError
from vtblender_nemo.common.nemo_archive import check_archive, unpack
from vtblender_nemo.common.trusted_classes import RECOGNISER, VOICE, VTBLENDER, check_classes, check_parts

WEIGHTS = "model_weights.ckpt"
MODEL = {"target": "vtblender_nemo.models.vtblender.VTBlenderModel"}
FILES = {f"./{CONFIG}": yaml.safe_dump(MODEL).encode(), f"./{WEIGHTS}": b"weights"}


def refused(path: Path, message: str) -> None:
    """Checking and unpacking refuse it, and nothing is left of it."""
    with pytest.raises(ModelFileError, match=message):
        check_archive(path, VTBLENDER)
    folder = path.parent / "unpacked"
    with pytest.raises(ModelFileError, match=message):
        unpack(path, folder)
    assert not folder.exists() or not list(folder.iterdir())


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_an_honest_archive_is_read_and_unpacked(tmp_path: Path, mode: str) -> None:
    path = write_archive(tmp_path / "m.nemo", FILES, mode, [member("./sub", tarfile.DIRTYPE)])
    assert check_archive(path, VTBLENDER) == MODEL
    unpack(path, tmp_path / "out")
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == b"weights"


@pytest.mark.parametrize(
    "hostile",
    [
        member("../outside"),
        member("/tmp/outside"),
        member("a/../../outside"),
        member("a\\..\\outside"),
        member("link", tarfile.SYMTYPE, "/etc/passwd"),
        member("hard", tarfile.LNKTYPE, "../../outside"),
        member("fifo", tarfile.FIFOTYPE),
        member("device", tarfile.CHRTYPE),
        member("sparse", tarfile.GNUTYPE_SPARSE),
    ],
    ids=lambda info: info.name,
)
def test_members_that_are_no_plain_files_inside(tmp_path: Path, hostile: tarfile.TarInfo) -> None:
    refused(write_archive(tmp_path / "m.nemo", FILES, last=[hostile]), "unsafe member|not a .nemo archive")
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize("twin", [f"./{CONFIG}", CONFIG, f".//{CONFIG}", f"./{CONFIG.upper()}", f"./{WEIGHTS}"])
def test_a_second_member_of_a_name_cannot_replace_the_checked_one(tmp_path: Path, twin: str) -> None:
    refused(write_archive(tmp_path / "m.nemo", FILES, last=[member(twin)]), "twice")


def test_a_file_that_becomes_another_between_check_and_use(tmp_path: Path) -> None:
    """What is unpacked is checked in the same pass, whatever the file was when it was looked at first."""
    path = write_archive(tmp_path / "m.nemo", FILES)
    check_archive(path, VTBLENDER)
    write_archive(path, FILES, last=[member("../outside")])
    with pytest.raises(ModelFileError, match="unsafe member"):
        unpack(path, tmp_path / "out")


def test_an_archive_that_unpacks_to_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nemo_archive, "_SMALL_BYTES", 1 << 20)
    path = tmp_path / "m.nemo"
    write_archive(path, {**FILES, "zeros": bytes(4 << 20)}, "w:gz")
    assert path.stat().st_size < 100_000
    refused(path, r"unpacks to more than a model's can; found '\d+ bytes in 3 files")
    monkeypatch.setattr(nemo_archive, "_MOST_MEMBERS", 5)
    refused(write_archive(path, FILES, last=[member(f"n{number}") for number in range(9)]), "in 6 files or more")


def test_a_member_is_told_too_large_by_its_header(tmp_path: Path) -> None:
    """Nobody waits until terabytes of zeros were unpacked: the header is enough."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for name, content in FILES.items():
            tar.addfile(member(name, size=len(content)), io.BytesIO(content))
        raw.write(member("huge", size=1 << 42).tobuf(tarfile.GNU_FORMAT))
    path = tmp_path / "m.nemo"
    path.write_bytes(gzip.compress(raw.getvalue()[: 5 * 512] + member("huge", size=1 << 42).tobuf(tarfile.GNU_FORMAT)))
    refused(path, "unpacks to more|not a .nemo archive")


def test_a_configuration_without_end(tmp_path: Path) -> None:
    laughs = ["target: vtblender_nemo.models.vtblender.VTBlenderModel", "a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    laughs += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    loop = "target: vtblender_nemo.models.vtblender.VTBlenderModel\nx: &x [*x]"
    deep = "target: " + "[" * 3000
    for text, message in (("\n".join(laughs), "too large"), (loop, "too large"), (deep, "no plain YAML")):
        path = write_archive(tmp_path / "m.nemo", {**FILES, f"./{CONFIG}": text.encode()})
        with pytest.raises(ModelFileError, match=message):
            check_archive(path, VTBLENDER)


def test_yaml_that_would_make_objects(tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    text = f"target: !!python/object/apply:os.mknod ['{proof}']"
    path = write_archive(tmp_path / "m.nemo", {**FILES, f"./{CONFIG}": text.encode()})
    with pytest.raises(ModelFileError, match="no plain YAML"):
        check_archive(path, VTBLENDER)
    assert not proof.exists()


def test_a_key_that_stands_twice_has_no_second_value(tmp_path: Path) -> None:
    text = "target: os.system\ntarget: vtblender_nemo.models.vtblender.VTBlenderModel\n"
    path = write_archive(tmp_path / "m.nemo", {**FILES, f"./{CONFIG}": text.encode()})
    with pytest.raises(ModelFileError, match="'target' stands twice"):
        check_archive(path, VTBLENDER)


MANIFESTS = (
    "nemo.collections.asr.parts.utils.manifest_utils.write_manifest"  # a function that NeMo's own list lets pass
)


@pytest.mark.parametrize(
    ("more", "knob"),
    [
        ({"perception": {"encoder": {"_target_": "os.system"}}}, "perception.encoder._target_"),
        ({"a": [{"b": [{"_target_": MANIFESTS}]}]}, r"a\[0\].b\[0\]._target_"),
        ({"a": {"cls": MANIFESTS, "params": {}}}, "a.cls"),
        ({"a": {"target": MANIFESTS, "params": {}}}, "a.target"),
        ({"a": {"type": "subprocess.Popen"}}, "a.type"),
        ({"a": {"_target_": "${b}"}, "b": "os.system"}, "a._target_"),
        ({"a": {"_target_": "nemo.collections.asr.modules.conformer_encoder.torch.load"}}, "a._target_"),
        ({"a": {"_target_": "nemo.collections.asr.modulesX.ConformerEncoder"}}, "a._target_"),
        ({"a": {"_target_": ["os.system"]}}, "a._target_"),
        ({"a": {"_target_": {"b": 1}}}, "a._target_"),
        ({"a": "${oc.env:HOME}"}, r"\(change it with: a\)"),
        ({"a": {"b": "${oc.create:'{_target_: os.system}'}"}}, "a.b"),
        ({"a": {"trust_remote_code": True}}, "a.trust_remote_code"),
        ({"a": "nemo:../../etc/passwd"}, r"\(change it with: a\)"),
        ({"tokenizer": {"model_path": __file__}}, "tokenizer.model_path"),
        ({"model": {"target": "os.system"}}, r"\(change it with: model\)"),
    ],
)
def test_configurations_name_no_foreign_classes_wherever_they_stand(more: dict[str, Any], knob: str) -> None:
    with pytest.raises(ModelFileError, match=knob):
        check_classes({**MODEL, **more}, VTBLENDER, "m.nemo")


@pytest.mark.parametrize(
    "target", ["nemo.collections.speechlm2.models.SALM", "vtblender_nemo.data.rows.LineFile", None, 1, ["x"]]
)
def test_other_models_are_named(target: Any) -> None:
    with pytest.raises(ModelFileError, match="holds another model"):
        check_classes({"target": target}, VTBLENDER, "m.nemo")
    with pytest.raises(ModelFileError, match="holds another model"):
        check_classes({"target": target}, RECOGNISER, "m.nemo")


def test_what_honest_models_consist_of_passes() -> None:
    asr, tts = "nemo.collections.asr.modules.", "nemo.collections.tts."
    check_parts([{"_target_": f"{asr}audio_preprocessing.AudioToMelSpectrogramPreprocessor"}], RECOGNISER, "m")
    check_parts({"type": "bpe", "target": None, "_target_": f"{asr}transformer.get_nemo_transformer"}, RECOGNISER, "m")
    check_parts({"_target_": f"{tts}g2p.models.en_us_arpabet.EnglishG2p", "phoneme_dict": "nemo:dict.txt"}, VOICE, "m")
    check_parts({"_target_": f"{asr}ConformerEncoder", "dir": "${a.b}", "prompt": "type: os.system"}, VTBLENDER, "m")
    with pytest.raises(ModelFileError, match="FastPitchModel"):
        check_parts({"_target_": f"{tts}models.FastPitchModel"}, VOICE, "m")


def test_weights_are_neither_unpickled_nor_unpacked_to_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vtblender_nemo.common.nemo_restore import load_weights

    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    proof, path = tmp_path / "proof", tmp_path / WEIGHTS
    path.write_bytes(pickle.dumps(Touch(proof)))
    with pytest.raises(ModelFileError, match="cannot be loaded safely"):
        load_weights(path)
    assert not proof.exists()
    torch.save({"a": torch.zeros(4)}, path)
    assert load_weights(path)["a"].tolist() == [0.0] * 4
    with zipfile.ZipFile(path) as stored, zipfile.ZipFile(tmp_path / "packed", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in stored.namelist():
            packed.writestr(name, stored.read(name))
    with pytest.raises(ModelFileError, match="compressed weights"):
        load_weights(tmp_path / "packed")
    torch.save([1], path)
    with pytest.raises(ModelFileError, match="not tensors by name"):
        load_weights(path)
