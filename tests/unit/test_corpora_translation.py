"""CoVoST 2, Europarl-ST and Spoken-SQuAD in their own layouts."""

from __future__ import annotations

import json

import pytest

from tests.helpers.corpora import common_voice, found_of, noise, selection, write_audio, write_lines
from vtblender_nemo.common.errors import ConfigError, DataError
from vtblender_nemo.corpora.spoken_squad import read_spoken_squad
from vtblender_nemo.corpora.translation import read_covost2, read_europarl_st

VALIDATED = [("a.mp3", "Good morning."), ("b.mp3", 'She said "no.'), ("c.mp3", "Three.")]


@pytest.fixture
def covost(tmp_path):
    common_voice(tmp_path / "en", {"validated": VALIDATED}, ["client_id", "path", "sentence"])
    lines = [
        "a.mp3\tGuten Morgen.\ttrain",
        'b.mp3\tSie sagte \\"nein.\ttrain_covost',
        "c.mp3\tDrei.\tdev",
        "gone.mp3\tWeg.\ttest",
    ]
    write_lines(tmp_path / "covost_v2.en_de.tsv", ["path\ttranslation\tsplit", *lines])
    return tmp_path


def test_covost2_joins_its_table_with_common_voice(covost):
    taken, refused = found_of(read_covost2(selection(covost)))
    assert refused == {"gone": "transcript_missing"}
    rows = {id: (row.subset, row.text, row.fields["translation"]) for id, row in taken.items()}
    assert rows == {
        "a": ("en-de/train", "Good morning.", "Guten Morgen."),
        "b": ("en-de/train", 'She said "no.', 'Sie sagte "nein.'),
        "c": ("en-de/dev", "Three.", "Drei."),
    }
    assert taken["a"].fields["source_lang"] == "en"
    assert taken["a"].fields["target_lang"] == "de"
    assert taken["a"].audio == (str(covost / "en/clips/a.mp3"),)
    assert taken["b"].place == f"{covost}/covost_v2.en_de.tsv:3"


def test_covost2_takes_the_tables_of_its_own_script(covost):
    header = "path\tsentence\ttranslation\tclient_id"
    write_lines(covost / "en/covost_v2.en_zh-CN.train.tsv", [header, "a.mp3\tGood morning.\t早上好。\tspeaker1"])
    wanted = selection(covost, languages=("en_zh-CN",), splits=("train",))
    taken, _ = found_of(read_covost2(wanted))
    assert [(row.subset, row.fields["translation"]) for row in taken.values()] == [("en-zh-CN/train", "早上好。")]
    with pytest.raises(ConfigError, match=r"no table of the split.*dev.*--splits"):
        list(read_covost2(selection(covost, languages=("en-zh-CN",), splits=("dev",))))
    with pytest.raises(ConfigError, match=r"en-fr.*one of en-de, en-zh-CN.*--languages"):
        list(read_covost2(selection(covost, languages=("en-fr",))))


@pytest.fixture
def europarl(tmp_path):
    folder = tmp_path / "v1.1/en/de/train"
    write_lines(folder / "segments.lst", ["en.2010.1 0.50 1.25", "en.2010.1 1.25 2.0", "en.2010.2 0 0.5", "so nicht"])
    write_lines(folder / "segments.en", ["First.", "Second.", "Third.", "Fourth."])
    write_lines(folder / "segments.de", ["Erstens.", "", "Drittens.", "Viertens."])
    write_lines(folder / "speeches.lst", ["en.2010.1", "en.2010.2"])
    write_lines(folder / "speakers.lst", ["Jo", "Ann"])
    write_audio(tmp_path / "v1.1/en/audios/en.2010.1.wav", noise(1, 2.0))
    write_audio(tmp_path / "v1.1/en/audios/en.2010.2.flac", noise(2, 0.5))
    return tmp_path


def test_europarl_st(europarl):
    taken, refused = found_of(read_europarl_st(selection(europarl)))
    assert refused == {"train-4": "bad_line"}
    assert list(taken) == ["en.2010.1_0.50_1.25", "en.2010.1_1.25_2.0", "en.2010.2_0_0.5"]
    row = taken["en.2010.1_0.50_1.25"]
    assert (row.subset, row.text, row.offset_secs, row.duration_secs) == ("en-de/train", "First.", 0.5, 0.75)
    fields = {"translation": "Erstens.", "source_lang": "en", "target_lang": "de", "speaker": "Jo"}
    assert row.fields == fields
    assert taken["en.2010.2_0_0.5"].audio == (str(europarl / "v1.1/en/audios/en.2010.2.flac"),)
    assert taken["en.2010.1_1.25_2.0"].fields["translation"] == ""


def test_europarl_st_lists_that_do_not_match_are_an_error(europarl):
    write_lines(europarl / "v1.1/en/de/train/segments.de", ["Erstens.", "Zweitens.", "Drittens."])
    with pytest.raises(DataError, match=r"not equally long.*'de': 3"):
        list(read_europarl_st(selection(europarl)))


def test_europarl_st_speakers_that_do_not_match_are_an_error(europarl):
    write_lines(europarl / "v1.1/en/de/train/speakers.lst", ["Jo"])
    with pytest.raises(DataError, match=r"'speeches.lst': 2, 'speakers.lst': 1.*a speaker for every speech"):
        list(read_europarl_st(selection(europarl)))


def squad(context: str, *questions: tuple[str, str]) -> dict:
    asked = [
        {"id": f"q{number}", "question": question, "answers": [{"text": answer, "answer_start": 0}]}
        for number, (question, answer) in enumerate(questions)
    ]
    return {"context": context, "qas": asked}


def test_spoken_squad(tmp_path):
    topics = [
        {"title": "A", "paragraphs": [squad("no question."), squad("one two. three.", ("How?", "two"), ("Why?", " "))]},
        {"title": "B", "paragraphs": [squad("four.", ("What?", "four"))]},
    ]
    (tmp_path / "spoken_test-v1.1.json").write_text(json.dumps({"data": topics}))
    folder = tmp_path / "Spoken-SQuAD_audio/dev_wav"
    for name in ("0_1_10", "0_1_2", "0_0_0"):
        write_audio(folder / f"{name}.wav", noise(1))
    taken, refused = found_of(read_spoken_squad(selection(tmp_path)))
    assert refused == {"0_1-q1": "empty_answer", "1_0-q0": "audio_missing"}
    (row,) = taken.values()
    assert row.audio == (str(folder / "0_1_2.wav"), str(folder / "0_1_10.wav"))
    assert (row.id, row.clip, row.subset, row.text) == ("0_1-q0", "0_1", "en/test", "one two. three.")
    assert row.fields == {"question": "How?", "answer": "two", "source_lang": "en"}


def test_spoken_squad_of_another_shape_is_an_error(tmp_path):
    (tmp_path / "spoken_train-v1.1.json").write_text('{"data": [{"paragraphs": [{"qas": [{}]}]}]}')
    (tmp_path / "train_wav").mkdir()
    with pytest.raises(DataError, match=r"SQuAD's shape \(KeyError"):
        list(read_spoken_squad(selection(tmp_path)))
