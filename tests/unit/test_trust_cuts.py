"""Rows and archives of speech that strangers made: Lhotse would run what their cuts say, and hand their file names to a shell."""

from __future__ import annotations

import gzip
import io
import json
import random
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz import files
from tests.helpers.hostile import member
from vtblender_nemo.common.audio import cut_from_file, load_samples
from vtblender_nemo.common.conversation import from_messages
from vtblender_nemo.common.errors import AudioError, ConfigError, DataError, VTBlenderError
from vtblender_nemo.data import rows
from vtblender_nemo.data.rows import LineFile, TarFile, expand_paths
from vtblender_nemo.data.sources import make_source
from vtblender_nemo.synthesis.inputs.speech import open_speech


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files.write_audio(tmp_path)
    return tmp_path


def heard(folder: Path, row: Any, kind: str = "lhotse") -> None:
    """Reads a row as training does, audio and all."""
    path = files.write(folder / ("shar/cuts.000000.jsonl" if kind == "lhotse_shar" else "cuts.jsonl"), row)
    where = {"lhotse": {"cuts_path": str(path)}, "lhotse_shar": {"shar_path": str(folder / "shar")}}
    where |= {"nemo": {"manifest_filepath": str(path)}}
    source = make_source({"type": kind, "prompts": ["p"], **where[kind]}, files.RATE, "input_cfg[0]")
    for audio in source.conversation(0, random.Random(0)).audios:
        load_samples(audio.cut, files.RATE)


def room(command: str) -> list[dict[str, Any]]:
    """A reverberation whose impulse response is what a command says."""
    rir = files.cut("command", command)["recording"]
    return [{"name": "ReverbWithImpulseResponse", "kwargs": {"rir": rir, "affix_id": False}}]


@pytest.mark.parametrize("kind", ["lhotse", "lhotse_shar"])
def test_commands_in_cuts_are_not_run(folder: Path, kind: str) -> None:
    proof = folder / "proof"
    command = f"touch {proof}; cat {folder / files.SHORT}"
    with_room = files.cut("shar" if kind == "lhotse_shar" else "file", files.SHORT)
    with_room["recording"]["transforms"] = room(command)
    hidden = files.cut("file", files.SHORT, custom={"noise": files.cut("command", command)["recording"]})
    for row in (files.cut("command", command), files.mixed("command", command), with_room, hidden):
        with pytest.raises(AudioError, match="neither a file nor in memory.*'command'"):
            heard(folder, row, kind)
        cuts = open_speech([files.write(folder / "in.jsonl", row)]) if "tracks" not in row else None
        if cuts is not None:
            with pytest.raises(DataError, match="neither a file nor in memory"):
                cuts[0]
    for source in ("https://example.org/a.wav", f"pipe:touch {proof}"):
        with pytest.raises(AudioError, match="neither a file nor in memory.*'url'"):
            heard(folder, files.cut("url", source), kind)
    assert not proof.exists()


@pytest.mark.parametrize("name", ["$(touch proof).sph", "a;touch proof;.sph", "a'$(touch proof)'.opus"])
def test_names_of_files_are_not_run(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (folder / name).write_bytes(files.wave())
    nemo = {"audio_filepath": name, "duration": 0.5, "text": "x"}
    readers = [
        lambda: heard(folder, files.cut("file", name)),
        lambda: heard(folder, nemo, "nemo"),
        lambda: heard(folder, {**nemo, "duration": None}, "nemo"),
        lambda: cut_from_file(name),
        lambda: from_messages([{"role": "user", "content": [{"type": "audio", "audio": name}]}]),
    ]
    for read in readers:
        with pytest.raises(AudioError, match="not safe to hand to its decoder.*the file's name"):
            read()
    assert not (folder / "proof").exists()


def test_other_names_are_what_they_are(folder: Path) -> None:
    odd = folder / "it's $(a) file;.wav"
    odd.write_bytes(files.wave())
    assert cut_from_file(odd).duration == pytest.approx(0.5)


def test_rows_that_unpack_to_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "_SMALL_BYTES", 1 << 20)
    (path := tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(bytes(8 << 20)))
    with pytest.raises(DataError, match="unpacks to more than rows can.*at most 1"):
        LineFile(path)
    path.write_bytes(gzip.compress(b"{}\n")[:-4])
    with pytest.raises(DataError, match="cannot be unpacked"):
        LineFile(path)


def test_tars_whose_members_are_none(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        tar.addfile(member("link.wav", tarfile.SYMTYPE, "/etc/passwd"))
        tar.addfile(member("dir", tarfile.DIRTYPE))
        tar.addfile(member("../a.wav", size=3), io.BytesIO(b"abc"))
    assert [one.name for one in TarFile(path).members] == [
        "../a.wav"
    ]  # a name to find bytes by, which are not unpacked
    with pytest.raises(DataError, match="no such file.*link.wav"):
        TarFile(path).find("link.wav")
    path.write_bytes(path.read_bytes()[:512] + member("a.wav", size=1 << 40).tobuf(tarfile.GNU_FORMAT))
    with pytest.raises(DataError, match="tar cannot be read"):
        _ = TarFile(path).members


@pytest.mark.parametrize(
    "pattern", ["a_{0..99999999999}.json", "a__OP_0..9999999_CL_.json", "{0..9999}{0..9999}", "{a,b,c}" * 20]
)
def test_patterns_of_more_files_than_memory_holds(pattern: str) -> None:
    with pytest.raises(ConfigError, match="pattern of too many files.*manifest_filepath"):
        expand_paths(pattern, knob="manifest_filepath")


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", "a\0b", "x" * 5000, "{"])
def test_paths_that_are_no_files(path: str) -> None:
    with pytest.raises(ConfigError, match=r"missing|neither a file nor a folder|no numbered pattern"):
        expand_paths(path, knob="manifest_filepath")


def test_values_too_deep_or_long_to_be_shown_are_told_all_the_same(tmp_path: Path) -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    for value in (deep, 10**5000):
        assert "too large to be shown" in str(VTBlenderError("x", value=value))
    (tmp_path / "rows.jsonl").write_text("[" * 100_000)
    with pytest.raises(DataError, match=r"rows.jsonl:1: line is not JSON"):
        rows.JsonlRows([tmp_path / "rows.jsonl"], knob="k")[0]
    while deep:
        deep = deep.pop()
    assert json.loads("{}") == {}
