"""Corpora in lossy or foreign formats, prepared and read again: each row has its own text, translation, length and sound."""

from __future__ import annotations

import numpy as np
import pytest

from tests.helpers.corpora import (
    common_voice,
    gzip_text,
    noise,
    read_back,
    tone,
    write_audio,
    write_lines,
)
from vtblender_nemo.corpora.prepare import Options, prepare
from vtblender_nemo.corpora.shards import Format

LEVEL = 1 / np.sqrt(2)  # of a tone's root mean square against its peak


def rows_of(corpus: str, folder, format: Format) -> dict[str, dict]:
    """Rows of the training split by id, with the peak of the tone that they sound like."""
    prepare(corpus, folder / "corpus", folder / "out", Options(format=format, rows_per_shard=2))
    rows = read_back(folder / "out/input_cfg.yaml")
    for row in rows.values():
        middle = row["samples"][1500:-1500] / 32768
        row["peak"] = round(float(np.sqrt(np.mean(middle**2))) / LEVEL, 1)
    return rows


@pytest.fixture(params=list(Format))
def format(request) -> Format:
    return request.param


def test_common_voice(tmp_path, format):
    clips = [("a.mp3", "Eins."), ("b.mp3", "Zwei."), ("c.mp3", "Drei.")]
    common_voice(tmp_path / "corpus/de", {"train": clips}, ["client_id", "path", "sentence"])
    rows = rows_of("common_voice", tmp_path, format)
    assert {name: (row["answer"], row["peak"]) for name, row in rows.items()} == {
        "common_voice_de_train_asr/a": ("Eins.", 0.1),
        "common_voice_de_train_asr/b": ("Zwei.", 0.2),
        "common_voice_de_train_asr/c": ("Drei.", 0.3),
    }
    assert all(row["secs"] == pytest.approx(0.5, abs=0.1) for row in rows.values())


def test_covost2(tmp_path, format):
    common_voice(
        tmp_path / "corpus/en",
        {"validated": [("a.mp3", "One."), ("b.mp3", "Two.")]},
        ["client_id", "path", "sentence"],
    )
    table = ["path\ttranslation\tsplit", "a.mp3\t一。\ttrain", "b.mp3\t二。\ttrain"]
    write_lines(tmp_path / "corpus/covost_v2.en_zh-CN.tsv", table)
    rows = rows_of("covost2", tmp_path, format)
    assert {name: (row["answer"], row["peak"]) for name, row in rows.items()} == {
        "covost2_en-zh-CN_train_ast/a": ("一。", 0.1),
        "covost2_en-zh-CN_train_ast/b": ("二。", 0.2),
        "covost2_en-zh-CN_train_asr/a": ("One.", 0.1),
        "covost2_en-zh-CN_train_asr/b": ("Two.", 0.2),
    }
    asked = {name: row["asked"] for name, row in rows.items()}
    assert all(("Chinese" in text) == ("_ast/" in name) for name, text in asked.items())
    assert rows["covost2_en-zh-CN_train_ast/a"]["custom"]["target_lang"] == "zh-CN"


def test_voxpopuli(tmp_path, format):
    header = "session_id|id_|original_text|normed_text|speaker_id|split|gender|start_time|end_time"
    lines = [f"20130101-1|{n}|T{n}|t{n}|7|train|male|{n}.0|{n}.75" for n in range(3)]
    gzip_text(tmp_path / "corpus/asr_de.tsv.gz", "\n".join([header, *lines]) + "\n")
    session = np.concatenate([tone(level, 1.0) for level in (0.2, 0.4, 0.6)])
    write_audio(tmp_path / "corpus/raw_audios/original/2013/20130101-1_original.ogg", session)
    rows = rows_of("voxpopuli", tmp_path, format)
    assert {name: (row["answer"], row["secs"], row["peak"]) for name, row in rows.items()} == {
        f"voxpopuli_de_train_asr/20130101-1-{n}": (f"t{n}", 0.75, level) for n, level in enumerate((0.2, 0.4, 0.6))
    }


def test_fleurs(tmp_path, format):
    line = "\t".join(["1", "a.wav", "Guten Tag.", "guten tag", "g |", "8000", "MALE"])
    write_lines(tmp_path / "corpus/de_de/train.tsv", [line])
    samples = write_audio(tmp_path / "corpus/de_de/audio/train/a.wav", noise(1, 0.5))
    (row,) = rows_of("fleurs", tmp_path, format).values()
    np.testing.assert_array_equal(row["samples"], samples)
    assert (row["answer"], row["custom"]["raw_text"]) == ("guten tag", "Guten Tag.")


def test_mls_opus(tmp_path, format):
    folder = tmp_path / "corpus/mls_polish_opus"
    write_lines(folder / "metainfo.txt", ["5 | F | train"])
    write_lines(folder / "train/transcripts.txt", ["5_6_000000\tdzień dobry", "5_6_000001\ttak"])
    for number in range(2):
        path = folder / f"train/audio/5/6/5_6_00000{number}.opus"
        write_audio(path, tone(0.3 + 0.3 * number), format="OGG", subtype="OPUS")
    rows = rows_of("mls", tmp_path, format)
    assert {name: (row["answer"], row["peak"]) for name, row in rows.items()} == {
        "mls_pl_train_asr/5_6_000000": ("dzień dobry", 0.3),
        "mls_pl_train_asr/5_6_000001": ("tak", 0.6),
    }
