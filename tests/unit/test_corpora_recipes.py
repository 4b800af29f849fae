"""LibriSpeech, Common Voice, MLS, VoxPopuli and FLEURS in their own layouts, read by Lhotse's recipes on a view."""

from __future__ import annotations

import socket

import numpy as np
import pytest

from tests.helpers.corpora import (
    common_voice,
    found_of,
    gzip_text,
    librispeech,
    noise,
    selection,
    tone,
    write_audio,
    write_lines,
)
from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.corpora.recipes import CommonVoice, LibriSpeech
from vtblender_nemo.corpora.recipes_multilingual import Fleurs, Mls, VoxPopuli


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Nothing may be fetched: the corpora are there."""

    def refuse(*_):
        raise AssertionError("a recipe went to the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_librispeech(tmp_path):
    librispeech(tmp_path / "LibriSpeech")
    taken, refused = found_of(LibriSpeech().read(selection(tmp_path)))
    assert not refused
    assert len(taken) == 6
    row = taken["100-7-0002"]
    assert (row.text, row.subset) == ("hello number 2", "en/train-clean-5")
    assert row.audio == (str(tmp_path / "LibriSpeech/train-clean-5/100/7/100-7-0002.flac"),)
    assert row.place == f"{tmp_path}/LibriSpeech/train-clean-5/100/7/100-7.trans.txt:3"
    assert row.fields == {"source_lang": "en", "speaker": "100"}


def test_bad_lines_are_refused_and_cost_nothing_else(tmp_path):
    librispeech(tmp_path, parts=["dev-clean"], rows=5)
    chapter = tmp_path / "dev-clean/100/7"
    (chapter / "100-7-0001.flac").write_bytes(b"no audio")
    (chapter / "100-7-0002.flac").unlink()
    lines = (chapter / "100-7.trans.txt").read_text().splitlines()
    write_lines(chapter / "100-7.trans.txt", [lines[0], *lines, "100-7-0009 "])
    taken, refused = found_of(LibriSpeech().read(selection(tmp_path)))
    assert sorted(taken) == ["100-7-0000", "100-7-0003", "100-7-0004"]
    assert refused == {
        "100-7-0000": "duplicate_id",
        "100-7-0001": "audio_unreadable",
        "100-7-0002": "audio_missing",
        "100-7-0009": "empty_transcript",
    }


def test_audio_that_no_list_has_is_counted(tmp_path):
    librispeech(tmp_path, parts=["dev-clean", "train-a", "train-b"], rows=2)
    (tmp_path / "dev-clean/100/7/100-7.trans.txt").write_text("")
    (tmp_path / "train-a/101/7/101-7.trans.txt").unlink()
    lines = (tmp_path / "train-b/102/7/102-7.trans.txt").read_text().splitlines()
    write_lines(tmp_path / "train-b/102/7/102-7.trans.txt", lines[:1])
    taken, refused = found_of(LibriSpeech().read(selection(tmp_path)))
    assert sorted(taken) == ["102-7-0000"]
    lost = ["100-7-0000", "100-7-0001", "101-7-0000", "101-7-0001", "102-7-0001"]
    assert refused == dict.fromkeys(lost, "audio_without_transcript")


@pytest.mark.parametrize("below", ["dev-clean-2", "dev-clean-2/101", "dev-clean-2/101/7"])
def test_a_folder_inside_a_split_is_refused_with_the_right_one(tmp_path, below):
    librispeech(tmp_path)
    with pytest.raises(ConfigError, match=rf"is a split.*give the folder above.*{tmp_path} .*--input"):
        list(LibriSpeech().read(selection(tmp_path / below)))


def test_splits_and_limit(tmp_path):
    librispeech(tmp_path)
    taken, _ = found_of(LibriSpeech().read(selection(tmp_path, splits=("dev-clean-2",), limit=2)))
    assert sorted(taken) == ["101-7-0000", "101-7-0001"]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [({"splits": ("dev-other",)}, "dev-other.*dev-clean-2, train-clean-5.*--splits"), ({}, "--input")],
)
def test_what_is_not_there_is_named(tmp_path, wanted, message):
    if wanted:
        librispeech(tmp_path)
    with pytest.raises(ConfigError, match=message):
        list(LibriSpeech().read(selection(tmp_path, **wanted)))


OLD_COLUMNS = ["client_id", "path", "sentence", "up_votes", "down_votes", "age", "gender", "accent"]


def test_common_voice_of_an_old_release(tmp_path):
    """The recipe wants columns that releases before 13 lack; broken clips would stop it."""
    rows = {
        "train": [("c1.mp3", '"Hallo, sagte er.'), ("c2.mp3", "Zwei."), ("c3.mp3", " ")],
        "test": [("c4.mp3", "Vier.")],
        "validated": [("c1.mp3", "Eins.")],
    }
    common_voice(tmp_path / "de", rows, OLD_COLUMNS)
    (tmp_path / "de/clips/c2.mp3").write_bytes(b"")
    taken, refused = found_of(CommonVoice().read(selection(tmp_path, languages=("de",))))
    assert refused == {"c2": "audio_unreadable", "c3": "empty_transcript"}
    assert {id: (row.text, row.subset) for id, row in taken.items()} == {
        "c1": ('"Hallo, sagte er.', "de/train"),
        "c4": ("Vier.", "de/test"),
    }
    assert taken["c1"].fields == {"source_lang": "de", "speaker": "speaker1", "gender": "female"}
    assert taken["c1"].place == f"{tmp_path}/de/train.tsv:2"


@pytest.mark.parametrize(("name", "end"), [("mls_german", "flac"), ("mls_german_opus", "opus")])
def test_mls_with_one_split(tmp_path, name, end):
    """The recipe wants all splits, a table of all speakers, and every recording of its lists."""
    split = tmp_path / name / "dev"
    write_lines(tmp_path / name / "metainfo.txt", [" 10   |   M   | dev | 1 | Reader | Book | 1"])
    write_lines(
        split / "transcripts.txt",
        [
            "10_20_000000\tguten morgen",
            "10_20_000001\tfehlt",
            "11_30_000000\t",
            "12_40_000000\tohne eintrag",
        ],
    )
    how = {} if end == "flac" else {"format": "OGG", "subtype": "OPUS"}
    for id in ("10_20_000000", "11_30_000000", "12_40_000000", "12_50_000000"):
        speaker, book, _ = id.split("_")
        write_audio(split / "audio" / speaker / book / f"{id}.{end}", tone(0.3), **how)
    taken, refused = found_of(Mls().read(selection(tmp_path, languages=("german",))))
    assert refused == {
        "10_20_000001": "audio_missing",
        "11_30_000000": "empty_transcript",
        "12_50_000000": "audio_without_transcript",
    }
    row = taken["10_20_000000"]
    assert (row.text, row.subset) == ("guten morgen", "de/dev")
    assert row.fields == {"source_lang": "de", "speaker": "10", "gender": "M"}
    assert "12_50_000000" not in taken
    assert taken["12_40_000000"].fields == {"source_lang": "de", "speaker": "12"}  # who is not in metainfo.txt


VOX_HEADER = "session_id|id_|original_text|normed_text|speaker_id|split|gender|start_time|end_time"


def test_voxpopuli_segments_of_sessions(tmp_path):
    """Segments keep their own names although the recipe counts them, and what it leaves out is told."""
    lines = [
        "20130101-0900-PLENARY-1|a|Eins|eins|7|train|female|0.5|1.5",
        "20130101-0900-PLENARY-1|b||  |7|train|female|1.5|1.9",
        "20130101-0900-PLENARY-1|c|Drei.|drei|7|test|female|2.0|2.75",
        "20130101-0900-PLENARY-1|d|Vier.|vier|7|train|female|50.0|51.0",
        "20130101-0900-PLENARY-2|e|Fehlt.|fehlt|8|train|male|0.0|1.0",
        "20130101-0900-PLENARY-1|f|Keine Zeit.|keine zeit|7|train|female|x|1.0",
        "20130101-0900-PLENARY-1|g|Nicht dabei.|nicht dabei|7||female|0.0|1.0",
    ]
    gzip_text(tmp_path / "transcribed_data/de/asr_de.tsv.gz", "\n".join([VOX_HEADER, *lines]) + "\n")
    write_audio(tmp_path / "raw_audios/original/2013/20130101-0900-PLENARY-1_original.ogg", tone(0.5, 3.0))
    taken, refused = found_of(VoxPopuli().read(selection(tmp_path)))
    session = "20130101-0900-PLENARY"
    assert refused == {
        f"{session}-1-b": "empty_transcript",
        f"{session}-1-d": "left_out_by_recipe",
        f"{session}-2-e": "audio_missing",
        f"{session}-1-f": "bad_line",
    }
    spans = {id: (row.text, row.split, row.offset_secs, row.duration_secs) for id, row in taken.items()}
    assert spans == {f"{session}-1-a": ("eins", "train", 0.5, 1.0), f"{session}-1-c": ("drei", "test", 2.0, 0.75)}
    assert taken[f"{session}-1-c"].fields == {
        "source_lang": "de",
        "speaker": "7",
        "gender": "female",
        "orig_text": "Drei.",
    }


def fleurs_line(number: int, name: str, text: str, samples: int = 8000) -> str:
    return "\t".join([str(number), name, text.title() + ".", text, "g | u |", str(samples), "FEMALE"])


@pytest.mark.parametrize("layout", ["archives", "lhotse"])
def test_fleurs_in_both_layouts(tmp_path, layout):
    root, name = tmp_path / ("data" if layout == "archives" else ""), "cmn_hans_cn"
    table, audio = (
        (root / name / "train.tsv", root / name / "audio/train")
        if layout == "archives"
        else (root / "metadata" / name / "train.tsv", root / name / "train")
    )
    broken = "\t".join(["3", "c.wav", "nur drei"])
    write_lines(table, [fleurs_line(1, "a.wav", "guten tag"), fleurs_line(2, "b.wav", ""), broken])
    for number, file in enumerate("abcd"):
        write_audio(audio / f"{file}.wav", noise(number, 0.5))
    taken, refused = found_of(Fleurs().read(selection(tmp_path, languages=("cmn",))))
    assert refused == {f"{name}-3": "bad_line", "b": "empty_transcript", "d": "audio_without_transcript"}
    assert (taken["a"].text, taken["a"].subset, taken["a"].audio) == ("guten tag", "zh/train", (str(audio / "a.wav"),))
    assert taken["a"].fields["raw_text"] == "Guten Tag."


def test_recipes_leave_no_views_behind(tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    librispeech(tmp_path / "corpus")
    before = np.sum([path.stat().st_size for path in (tmp_path / "corpus").rglob("*.flac")])
    list(LibriSpeech().read(selection(tmp_path / "corpus")))
    assert list(scratch.iterdir()) == []
    assert np.sum([path.stat().st_size for path in (tmp_path / "corpus").rglob("*.flac")]) == before
