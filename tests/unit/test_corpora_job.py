"""A corpus made into shards: what is read again, refusals, the same bytes always, and going on after a kill."""

from __future__ import annotations

import json
import tarfile

import numpy as np
import pytest
import soundfile as sf
import yaml

from tests.helpers.corpora import (
    die,
    files_of,
    librispeech,
    noise,
    read_back,
    rejected,
    tone,
    write_audio,
    write_lines,
)
from vtblender_nemo.common.errors import ConfigError, DataError
from vtblender_nemo.corpora import prepare as job
from vtblender_nemo.corpora.prepare import Options, prepare
from vtblender_nemo.corpora.shards import FILES, Format
from vtblender_nemo.synthesis.engine.crew import WorkersLostError

BOTH = pytest.mark.parametrize("format", list(Format))


@BOTH
def test_text_duration_and_samples_come_back(tmp_path, format):
    samples = librispeech(tmp_path / "corpus")
    report = prepare("librispeech", tmp_path / "corpus", tmp_path / "out", Options(format=format, rows_per_shard=2))
    assert (report.rows, report.refused) == (6, {})
    assert [path.name for path in report.configs] == ["input_cfg.yaml", "input_cfg.dev-clean-2.yaml"]
    rows = read_back(tmp_path / "out/input_cfg.yaml")
    assert set(rows) == {f"librispeech_en_train-clean-5_asr/{id}" for id in samples if id.startswith("100")}
    rows |= read_back(tmp_path / "out/input_cfg.dev-clean-2.yaml")
    assert len(rows) == 6
    for name, row in rows.items():
        id = name.split("/")[1]
        np.testing.assert_array_equal(row["samples"], samples[id])
        assert row["secs"] == len(samples[id]) / 16_000
        assert row["answer"] == f"hello number {id[-1]}"
        assert row["custom"]["source_lang"] == "en"
        assert row["custom"]["task"] == "asr"


@BOTH
def test_lhotse_and_nemo_layouts(tmp_path, format):
    """What is written is what the names promise, also to Lhotse itself."""
    samples = librispeech(tmp_path / "corpus", parts=["train-clean-5"])
    prepare("librispeech", tmp_path / "corpus", tmp_path / "out", Options(format=format))
    folder = tmp_path / "out/en/train-clean-5"
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    if format == Format.tarred:
        assert names == ["audio_000000.tar", "manifest_000000.jsonl"]
        return
    from lhotse import CutSet

    assert names == ["cuts.000000.jsonl.gz", "recording.000000.tar"]
    cuts = list(CutSet.from_shar(in_dir=folder))
    assert {cut.id for cut in cuts} == set(samples)
    for cut in cuts:
        np.testing.assert_array_equal(np.rint(cut.load_audio()[0] * 32768).astype(np.int16), samples[cut.id])
        assert (cut.supervisions[0].language, cut.supervisions[0].speaker) == ("en", "100")


def test_whole_flac_files_are_taken_byte_by_byte(tmp_path):
    librispeech(tmp_path / "corpus", parts=["train-clean-5"], rows=1)
    original = tmp_path / "corpus/train-clean-5/100/7/100-7-0000.flac"
    write_audio(original, tone(0.3), subtype="PCM_16")
    encoded_here = original.read_bytes()
    sf.write(original, tone(0.3), 16_000, subtype="PCM_16", compression_level=0.0)  # as another encoder might
    assert original.read_bytes() != encoded_here
    prepare("librispeech", tmp_path / "corpus", tmp_path / "out", Options())
    with tarfile.open(tmp_path / "out/en/train-clean-5/audio_000000.tar") as tar:
        assert tar.extractfile("100-7-0000.flac").read() == original.read_bytes()


def test_bytes_do_not_depend_on_workers_or_on_where_the_corpus_stands(tmp_path):
    for place in ("here", "there/and/further"):
        librispeech(tmp_path / place / "corpus", rows=5)
    one, many = tmp_path / "one", tmp_path / "many"
    prepare("librispeech", tmp_path / "here/corpus", one, Options(rows_per_shard=2))
    prepare("librispeech", tmp_path / "there/and/further/corpus", many, Options(rows_per_shard=2), workers=2)
    own = ("job.json", "work/")  # they name the folder that was read
    first, second = ({k: v for k, v in files_of(path).items() if not k.startswith(own)} for path in (one, many))
    assert first == second
    assert len([name for name in first if name.endswith(".tar")]) == 6


def test_the_seed_orders_rows_and_nothing_else(tmp_path):
    librispeech(tmp_path / "corpus", parts=["train-clean-5"], rows=8)

    def order(seed: int) -> list[str]:
        prepare("librispeech", tmp_path / "corpus", tmp_path / f"out{seed}", Options(seed=seed))
        lines = (tmp_path / f"out{seed}/en/train-clean-5/manifest_000000.jsonl").read_text().splitlines()
        return [json.loads(line)["id"] for line in lines]

    assert order(0) != order(1)
    assert sorted(order(2)) == sorted(order(3)) == [f"100-7-{row:04}" for row in range(8)]


@BOTH
def test_a_killed_job_goes_on(tmp_path, monkeypatch, format):
    librispeech(tmp_path / "corpus", rows=6)
    options = Options(format=format, rows_per_shard=2)
    prepare("librispeech", tmp_path / "corpus", tmp_path / "whole", options)

    made: list[int] = []
    real = job.make_shard

    def killed(shard, *what):
        if len(made) == 2:
            (shard.folder / ".audio_000000.tar.99").write_bytes(b"half")
            raise KeyboardInterrupt
        made.append(shard.number)
        return real(shard, *what)

    monkeypatch.setattr(job, "make_shard", killed)
    with pytest.raises(KeyboardInterrupt):
        prepare("librispeech", tmp_path / "corpus", tmp_path / "out", options)
    monkeypatch.setattr(job, "make_shard", lambda *what: made.append(what[0].number) or real(*what))
    monkeypatch.setattr(job, "write_listing", None)  # the corpus is not read again
    prepare("librispeech", tmp_path / "corpus", tmp_path / "out", options)
    assert len(made) == 6
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")


@BOTH
@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_file_of_a_finished_shard_is_made_again(tmp_path, caplog, format, lost):
    librispeech(tmp_path / "corpus", rows=4)
    options = Options(format=format, rows_per_shard=2)
    prepare("librispeech", tmp_path / "corpus", tmp_path / "out", options)
    whole = files_of(tmp_path / "out")
    name = FILES[format][lost].format(number=1)
    (tmp_path / "out/en/train-clean-5" / name).unlink()
    prepare("librispeech", tmp_path / "corpus", tmp_path / "out", options)
    assert files_of(tmp_path / "out") == whole
    assert f"is made again: {name} is gone" in caplog.text


def test_a_file_that_was_cut_off_is_made_again(tmp_path, caplog):
    librispeech(tmp_path / "corpus")
    prepare("librispeech", tmp_path / "corpus", tmp_path / "out", Options())
    whole = files_of(tmp_path / "out")
    (tmp_path / "out/en/train-clean-5/audio_000000.tar").write_bytes(b"no tar")
    prepare("librispeech", tmp_path / "corpus", tmp_path / "out", Options())
    assert files_of(tmp_path / "out") == whole
    assert "is made again: audio_000000.tar has 6 bytes, and had " in caplog.text


@pytest.mark.parametrize("change", ["edited", "removed"])
def test_lists_that_have_changed_since_are_told(tmp_path, caplog, change):
    librispeech(tmp_path / "corpus", parts=["train-clean-5"])
    prepare("librispeech", tmp_path / "corpus", tmp_path / "out", Options())
    listing = tmp_path / "corpus/train-clean-5/100/7/100-7.trans.txt"
    prepare("librispeech", tmp_path / "corpus", tmp_path / "out", Options())
    assert not caplog.text
    listing.write_text("100-7-0000 OTHER") if change == "edited" else listing.unlink()
    assert prepare("librispeech", tmp_path / "corpus", tmp_path / "out", Options()).rows == 3
    assert f"{listing} has changed since this job read it" in caplog.text


def test_a_worker_that_is_killed_from_outside_is_told(tmp_path, monkeypatch):
    librispeech(tmp_path / "corpus")
    monkeypatch.setattr(job, "make_shard", die)
    with pytest.raises(WorkersLostError, match=r"workers die again and again at shard [01].*--workers"):
        prepare("librispeech", tmp_path / "corpus", tmp_path / "out", Options(), workers=2)


def test_two_commands_do_not_share_a_folder(tmp_path):
    librispeech(tmp_path / "corpus")
    seen = []

    def second(*_):
        with pytest.raises(ConfigError, match=r"another process is at work.*--output-dir") as error:
            prepare("librispeech", tmp_path / "corpus", tmp_path / "out", Options())
        seen.append(error)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "make_shard", second)
        with pytest.raises(KeyboardInterrupt):
            prepare("librispeech", tmp_path / "corpus", tmp_path / "out", Options())
    assert len(seen) == 1
    assert prepare("librispeech", tmp_path / "corpus", tmp_path / "out", Options()).rows == 6


def test_other_settings_in_the_same_folder_are_refused(tmp_path):
    librispeech(tmp_path / "corpus")
    prepare("librispeech", tmp_path / "corpus", tmp_path / "out", Options())
    with pytest.raises(ConfigError, match=r"seed was 0 and is 1.*seed, or --output-dir"):
        prepare("librispeech", tmp_path / "corpus", tmp_path / "out", Options(seed=1))


@pytest.fixture
def europarl(tmp_path):
    folder = tmp_path / "corpus/en/de/train"
    segments = ["s1 0.25 0.75", "s1 0.75 1.0", "s1 1.5 2.5", "s2 0 0.5", "s3 0 0.5", "s1 0.0 0.1", "s1 0.25 0.75"]
    write_lines(folder / "segments.lst", segments)
    write_lines(folder / "segments.en", ["One.", "Two.", "Three.", "Four.", "Five.", " ", "Again."])
    write_lines(folder / "segments.de", ["Eins.", "", "Drei.", "Vier.", "Fünf.", "Sechs.", "Wieder."])
    write_audio(tmp_path / "corpus/en/audios/s1.wav", noise(1, 2.0))
    (tmp_path / "corpus/en/audios/s2.wav").write_bytes(b"RIFF no wave")
    return tmp_path


@BOTH
def test_translation_and_every_refusal(europarl, format):
    report = prepare("europarl_st", europarl / "corpus", europarl / "out", Options(format=format))
    assert rejected(europarl / "out") == {
        "s1_0.75_1.0": "empty_translation",
        "s1_1.5_2.5": "bad_times",
        "s2_0_0.5": "audio_unreadable",
        "s3_0_0.5": "audio_missing",
        "s1_0.0_0.1": "empty_transcript",
        "s1_0.25_0.75": "duplicate_id",
    }
    assert report.refused == dict.fromkeys(sorted(rejected(europarl / "out").values()), 1)
    rows = read_back(europarl / "out/input_cfg.yaml")
    assert set(rows) == {f"europarl_st_en-de_train_{task}/s1_0.25_0.75" for task in ("ast", "asr")}
    ast, asr = rows["europarl_st_en-de_train_ast/s1_0.25_0.75"], rows["europarl_st_en-de_train_asr/s1_0.25_0.75"]
    assert (ast["answer"], asr["answer"]) == ("Eins.", "One.")
    assert "German" in ast["asked"]
    np.testing.assert_array_equal(ast["samples"], noise(1, 2.0)[4000:12000])
    summary = json.loads((europarl / "out/summary.json").read_text())
    assert summary["rows"] == 1
    assert summary["subsets"]["en-de/train"] == {
        "rows": 1,
        "hours": round(0.5 / 3600, 4),
        "longer_rows": 0,
        "longer_hours": 0.0,
        "longest_secs": 0.5,
        "clips": 1,
        "refused_audio": 3,
        "shards": 1,
    }


@BOTH
def test_rows_that_training_would_leave_out_are_counted(tmp_path, format):
    write_lines(tmp_path / "c/train-clean-5/1/2/1-2.trans.txt", ["1-2-0 LONG", "1-2-1 SHORT"])
    write_audio(tmp_path / "c/train-clean-5/1/2/1-2-0.flac", noise(0, 40.1))
    write_audio(tmp_path / "c/train-clean-5/1/2/1-2-1.flac", noise(1, 40.0))
    report = prepare("librispeech", tmp_path / "c", tmp_path / "out", Options(format=format, rows_per_shard=1))
    assert (report.rows, report.long_rows, report.longest_secs) == (2, 1, 40.1)
    assert report.long_hours == pytest.approx(40.1 / 3600)
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    counts = {"longer_rows": 1, "longer_hours": round(40.1 / 3600, 4), "longest_secs": 40.1}
    assert summary.items() >= {"max_duration": 40.0, **counts}.items()
    assert summary["subsets"]["en/train-clean-5"].items() >= counts.items()


def test_tasks_choose_entries_and_what_a_row_needs(europarl):
    prepare("europarl_st", europarl / "corpus", europarl / "out", Options(tasks=("asr",)))
    entries = yaml.safe_load((europarl / "out/input_cfg.yaml").read_text())
    assert [(entry["task"], entry["tags"]) for entry in entries] == [("asr", {"source_lang": "en"})]
    assert len(read_back(europarl / "out/input_cfg.yaml")) == 2  # the one without a translation too
    with pytest.raises(ConfigError, match=r"LibriSpeech cannot teach this.*ast.*asr.*--tasks"):
        prepare("librispeech", europarl, europarl / "other", Options(tasks=("ast",)))


@BOTH
def test_questions_about_one_paragraph_share_its_clip(tmp_path, format):
    asked = [{"id": f"q{n}", "question": f"Number {n}?", "answers": [{"text": f"answer {n}"}]} for n in range(3)]
    topics = [{"paragraphs": [{"context": "some text", "qas": asked}]}]
    (tmp_path / "spoken_train-v1.1.json").write_text(json.dumps({"data": topics}))
    parts = [write_audio(tmp_path / f"train_wav/0_0_{n}.wav", noise(n, 0.2)) for n in range(2)]
    prepare("spoken_squad", tmp_path, tmp_path / "out", Options(format=format))
    rows = read_back(tmp_path / "out/input_cfg.yaml")
    assert {(row["answer"], row["custom"]["question"]) for row in rows.values()} == {
        (f"answer {n}", f"Number {n}?") for n in range(3)
    }
    for row in rows.values():
        assert row["custom"]["question"] in row["asked"]
        np.testing.assert_array_equal(row["samples"], np.concatenate(parts))
    (subset,) = json.loads((tmp_path / "out/summary.json").read_text())["subsets"].values()
    assert subset["clips"] == (1 if format == Format.tarred else 3)


def test_other_languages_get_wordings_that_name_them(tmp_path):
    write_lines(tmp_path / "c/mls_polish/metainfo.txt", ["5 | F | train"])
    write_lines(tmp_path / "c/mls_polish/train/transcripts.txt", ["5_6_000000\tdzień dobry"])
    write_audio(tmp_path / "c/mls_polish/train/audio/5/6/5_6_000000.flac", tone(0.2))
    prepare("mls", tmp_path / "c", tmp_path / "out", Options())
    (entry,) = yaml.safe_load((tmp_path / "out/input_cfg.yaml").read_text())
    assert (entry["prompts"], entry["tags"]) == ("prompts/asr_by_language.yaml", {"source_lang": "pl"})
    (row,) = read_back(tmp_path / "out/input_cfg.yaml").values()
    assert row["answer"] == "dzień dobry"
    assert (
        "Polish" in (tmp_path / "out" / entry["prompts"]).read_text()
        or "{source_language}" in (tmp_path / "out" / entry["prompts"]).read_text()
    )


def test_the_licence_is_named(tmp_path):
    librispeech(tmp_path / "corpus")
    prepare("librispeech", tmp_path / "corpus", tmp_path / "out", Options())
    note = (tmp_path / "out/LICENCE.txt").read_text()
    assert "CC BY 4.0" in note
    assert "openslr.org/12" in note
    assert "lower case" in note


def test_nothing_to_take_is_an_error_that_names_the_reasons(tmp_path):
    librispeech(tmp_path / "corpus", parts=["train-clean-5"])
    for path in (tmp_path / "corpus").rglob("*.flac"):
        path.unlink()
    with pytest.raises(DataError, match=r"refused\.jsonl: no utterance could be taken.*'audio_missing': 3"):
        prepare("librispeech", tmp_path / "corpus", tmp_path / "out", Options())
    assert len((tmp_path / "out/work/refused.jsonl").read_text().splitlines()) == 3


def test_an_unknown_corpus_is_told_with_the_known_ones(tmp_path):
    with pytest.raises(ConfigError, match=r"unknown corpus.*ted.*librispeech.*--corpus"):
        prepare("ted", tmp_path, tmp_path / "out", Options())
