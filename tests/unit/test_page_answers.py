"""Which answers the report shows, and how it compares them."""

from __future__ import annotations

import pytest

from tests.unit.page_samples import ASR, SQA, TEXT, row, run_of, write_run
from vtblender_nemo.common.errors import DataError
from vtblender_nemo.evaluation.page.answers import Piece, compare, worst_examples
from vtblender_nemo.evaluation.scores import Measure


def marked(pieces: tuple[Piece, ...]) -> str:
    """Wrong words in brackets."""
    return "".join(f"[{piece.text}]" if piece.wrong else piece.text for piece in pieces)


@pytest.mark.parametrize(
    ("reference", "prediction", "wanted", "given"),
    [
        ("The cat sat.", "the cat sat", "The cat sat.", "the cat sat"),
        ("the cat sat", "the hat sat", "the [cat] sat", "the [hat] sat"),
        ("the cat sat", "the sat", "the [cat] sat", "the sat"),
        ("the cat", "the the the cat", "the cat", "the [the the] cat"),
        ("", "made up", "", "[made up]"),
        ("lost words", "", "[lost words]", ""),
        ("", "", "", ""),
        ("a — b", "a b", "a [—] b", "a b"),
        ("今日は雨", "今日も雨", "今日[は]雨", "今日[も]雨"),
        ("Grüße, Anna!", "grüße anna", "Grüße, Anna!", "grüße anna"),
    ],
)
def test_compares_word_by_word(reference, prediction, wanted, given):
    left, right = compare(reference, prediction)
    assert (marked(left), marked(right)) == (wanted, given)


def test_compared_texts_are_whole_but_for_what_is_too_long():
    left, right = compare("one  two\nthree", "one " * 5000)
    assert "".join(piece.text for piece in left) == "one  two\nthree"[:3] + "  two\nthree"
    text = "".join(piece.text for piece in right)
    assert len(text) < 900
    assert text.endswith("… (20,000 characters)")


def ids(folder, task: str, limit: int = 10) -> list[str]:
    run = run_of([*ASR, *SQA, *TEXT], folder)
    return [example.id for example in worst_examples(run, limit).get(task, [])]


def test_worst_come_first_and_right_ones_not_at_all(tmp_path):
    rows = [
        row("right", "The cat sat!", "the cat sat"),
        row("one of three", "the hat sat", "the cat sat"),
        row("no answer", None, "the cat sat", error="out of memory"),
        row("a loop", "the cat " * 20, "the cat sat"),
        row("all of three", "", "the cat sat"),
        row("made up", "hello", ""),
        row("silent", "", ""),
    ]
    write_run(tmp_path, ASR, {"asr": rows})
    expected = ["no answer", "a loop", "all of three", "made up", "one of three"]
    assert ids(tmp_path, "asr") == expected
    assert ids(tmp_path, "asr", 2) == expected[:2]
    assert ids(tmp_path, "asr", 0) == []


def test_long_answers_are_not_worse_than_other_wrong_ones(tmp_path):
    rows = [row("long", "Twelve red lamps", "Twelve"), row("wrong", "Four", "Twelve")]
    write_run(tmp_path, SQA, {"sqa": rows})
    assert ids(tmp_path, "sqa") == ["wrong", "long"]


def test_every_right_answer_counts(tmp_path):
    rows = [row("other", "Twelve", "12", custom={"references": ["twelve", "a dozen"]}), row("none", "Ten", "12")]
    write_run(tmp_path, SQA, {"sqa": rows})
    assert ids(tmp_path, "sqa") == ["none"]


def test_kinds_take_turns(tmp_path):
    hard = [row(f"hard {number}", "x", "y", custom={"kind": "hard"}) for number in range(5)]
    easy = [row(f"easy {number}", "x y z", "y z", custom={"kind": "easy"}) for number in range(2)]
    write_run(tmp_path, SQA, {"sqa": [*hard, *easy]})
    assert ids(tmp_path, "sqa", 4) == ["hard 0", "easy 0", "hard 1", "easy 1"]


def test_harness_tells_what_is_right(tmp_path):
    def scored(id: str, prediction: str, percent: float):
        return row(id, prediction, "5", custom={"scores": {"accuracy_percent": percent}})

    write_run(tmp_path, TEXT, {"text": [scored("said", "The answer is 5.", 100.0), scored("not said", "5", 0.0)]})
    assert ids(tmp_path, "text") == ["not said"]


def test_examples_tell_what_else_was_answered(tmp_path):
    custom = {"transcript": ["A.", "B."], "kind": "two_facts", "answer": {"not": "shown"}}
    predictions = {
        "sqa": [row("1", "Anna", "Bruno", asked="[audio] Who?", custom=custom)],
        "sqa.text_twin": [row("2", "Eve", "Eve"), row("1", "Bruno", "Bruno")],
        "sqa.base": [row("1", "", "Bruno")],
        "sqa.no_audio_silence": [row("1", None, "Bruno", error="broken")],
    }
    write_run(tmp_path, SQA, predictions)
    (example,) = worst_examples(run_of(SQA, tmp_path), 5)["sqa"]
    assert dict(example.notes) == {"asked": "[audio] Who?", "transcript": "A. · B."}
    assert example.tags == ("two facts",)
    assert {(other.label, other.text) for other in example.others} == {
        ("with the transcript", "Bruno"),
        ("base LLM with transcript", ""),
    }
    assert not example.compared


def test_files_belong_to_the_longest_name(tmp_path):
    measures = [Measure(task, "asr", "wer_percent", 1.0, 1.0, 1.0, 1, better="lower") for task in ("v1", "v1.5")]
    write_run(tmp_path, measures, {name: [row(name, "x", "y")] for name in ("v1", "v1.5", "v1.5.base", "other")})
    files = run_of(measures, tmp_path).prediction_files()
    assert set(files) == {("v1", ""), ("v1.5", ""), ("v1.5", "base")}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"asr\.jsonl:2"),
        ('{"prediction": "x", "reference": "y"}', r"asr\.jsonl:2.*without an id"),
        ('{"id": "1", "prediction": "x", "reference": "y", "audios": ["a.wav"]}', r"asr\.jsonl.*wrong audio"),
    ],
)
def test_wrong_rows_are_told_by_place(tmp_path, line, message):
    write_run(tmp_path, ASR, {"asr": [row("1", "x", "x")]})
    with (tmp_path / "predictions/asr.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match=message):
        worst_examples(run_of(ASR, tmp_path), 5)
