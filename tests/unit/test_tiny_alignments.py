"""The tiny world's own word times: noted where asked for, changing nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from vtblender_nemo.synthesis.espeak import Voice
from vtblender_nemo.tiny.config import TinyConfig, config_from, decisive
from vtblender_nemo.tiny.digits import write_digits
from vtblender_nemo.tiny.speakers import Speakers
from vtblender_nemo.tiny.speech import Piece, Spoken, read_alignments, read_durations, synthesize_share, write_plan
from vtblender_nemo.tiny.world import _stages

VOICE = Voice("en-us", "m3")


def spoken(*, noisy: bool = False) -> list[Spoken]:
    noise = {"snr_db": 30.0, "colour": 0.5} if noisy else {}
    pieces = tuple(Piece(word, VOICE, -1.0, 0.2, **noise) for word in ("four", "two"))
    return [
        Spoken("train_0", "The king buys two red apples.", VOICE),
        Spoken("train_digits_1", "four two", VOICE, pieces),
    ]


def said(folder: Path, utterances: list[Spoken], **options: bool) -> dict[str, bytes]:
    folder.mkdir()
    write_plan(utterances, folder)
    for worker in range(2):
        synthesize_share(folder, worker, 2, **options)
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_times_are_noted_only_if_asked_and_speech_stays_the_same(tmp_path):
    plain, timed = said(tmp_path / "plain", spoken()), said(tmp_path / "timed", spoken(), alignments=True)
    assert set(timed) - set(plain) == {"alignments_0.json", "alignments_1.json"}
    assert all(timed[name] == content for name, content in plain.items())
    alignments = read_alignments(tmp_path / "timed", 2)
    assert [word for word, *_ in alignments["train_0"]] == ["The", "king", "buys", "two", "red", "apples"]
    durations = read_durations(tmp_path / "timed", 2)
    assert 0 < alignments["train_0"][-1][2] <= durations["train_0"]


@pytest.mark.parametrize("noisy", [False, True])
def test_words_said_one_by_one_have_the_times_of_their_recordings(tmp_path, noisy):
    said(tmp_path / "w", spoken(noisy=noisy), alignments=True)
    (four, two) = read_alignments(tmp_path / "w", 2)["train_digits_1"]
    samples, rate = soundfile.read(tmp_path / "w" / spoken()[1].file, dtype="float32")
    alone = Speakers().say({"text": "two", "voice": vars(VOICE)})
    start, end = (round(secs * rate) for secs in two[1:])
    assert end - start == len(alone)
    likeness = np.corrcoef(samples[start:end], alone)[0, 1]
    assert likeness > 0.98
    assert (four[0], two[0]) == ("four", "two")
    assert two[1] - four[2] >= 0.2


def test_digit_rows_carry_their_alignment(tmp_path):
    (_, digits) = spoken()
    durations, alignment = {digits.name: 1.5}, [["four", 0.1, 0.5], ["two", 0.7, 1.2]]
    write_digits([digits], durations, tmp_path / "plain.jsonl")
    write_digits([digits], durations, tmp_path / "timed.jsonl", {digits.name: alignment})
    plain, timed = (json.loads((tmp_path / f"{name}.jsonl").read_text()) for name in ("plain", "timed"))
    assert timed == {**plain, "alignment": alignment}


def test_a_world_with_times_serves_where_none_are_asked_for_but_not_the_other_way(tmp_path):
    plain, timed = (_stages(config, tmp_path) for config in (TinyConfig(), config_from({"alignments": True})))
    for name in ("tokenizer", "llm", "encoder"):
        assert plain[name].settings == timed[name].settings
    assert timed["content"].settings == {**plain["content"].settings, "alignments": True}
    assert "alignments" not in decisive({"alignments": None})
    timed["content"].path.mkdir()
    timed["content"]._note.write_text(json.dumps({"settings": timed["content"].settings, "report": {}}))
    assert plain["content"].made() == {}
    plain["content"]._note.write_text(json.dumps({"settings": plain["content"].settings, "report": {}}))
    assert timed["content"].made() is None
