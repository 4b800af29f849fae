from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from tests.helpers.listener import Listener, write_tone
from vtblender_nemo.common.conversation import from_messages
from vtblender_nemo.common.errors import ConfigError, DataError
from vtblender_nemo.evaluation.items import Item
from vtblender_nemo.evaluation.journal import Journal
from vtblender_nemo.evaluation.runner import Decoding, EvalTask, Prediction, evaluate, predict


def text_item(id: str, text: str, reference: str = "", **custom: str) -> Item:
    return Item(id, "text", from_messages([{"role": "user", "content": text}], id=id), reference, custom)


def audio_item(id: str, path: Path, reference: str = "", **custom: str) -> Item:
    messages = [{"role": "user", "content": [{"type": "audio", "audio": str(path)}]}]
    return Item(id, "asr", from_messages(messages, id=id), reference, custom)


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def tones(tmp_path) -> list[Item]:
    """Three items; the longer an audio, the lower its number."""
    paths = [write_tone(tmp_path / f"{n}.wav", 10 * n, secs=secs) for n, secs in ((1, 3.0), (2, 2.0), (3, 1.0))]
    return [audio_item(f"{n}", path, f"heard {10 * n}", transcript=f"word {n}") for n, path in enumerate(paths, 1)]


def test_answers_come_in_the_order_of_the_items_though_the_longest_are_done_first(tones):
    model = Listener()
    items = [tones[1], text_item("t", "hello"), tones[0], tones[2]]
    answers = predict(model, items, decoding=Decoding(batch_size=2), progress=False)
    assert [answer.text for answer in answers] == ["heard 20", "hello", "heard 10", "heard 30"]
    assert model.batches == [["1", "2"], ["3", "t"]]


def test_batches_keep_to_the_token_budget_padding_and_answer_included(tones):
    # 3, 2 and 1 s are 37.5, 25 and 12.5 tokens; each may be followed by 10
    model = Listener()
    predict(model, tones, decoding=Decoding(max_new_tokens=10, batch_tokens=94), progress=False)
    assert model.batches == [["1"], ["2", "3"]]
    model = Listener()
    predict(model, tones, decoding=Decoding(max_new_tokens=10, batch_tokens=95), progress=False)
    assert model.batches == [["1", "2"], ["3"]]
    model = Listener()
    predict(model, tones, decoding=Decoding(max_new_tokens=10, batch_tokens=1), progress=False)
    assert model.batches == [["1"], ["2"], ["3"]]


def test_decoding_options_reach_the_model():
    model = Listener()
    decoding = Decoding(max_new_tokens=7, options={"temperature": 0.5})
    predict(model, [text_item("1", "a")], decoding=decoding, progress=False)
    assert (model.max_new_tokens, model.options) == ([7], [{"temperature": 0.5}])


@pytest.mark.parametrize("name", ["max_new_tokens", "batch_size", "batch_tokens"])
def test_limits_below_one_are_refused(name):
    with pytest.raises(ConfigError, match=f"{name} is too small; found 0"):
        Decoding(**{name: 0})


def test_an_audio_that_cannot_be_decoded_fails_alone(tones, tmp_path):
    (tmp_path / "2.wav").write_bytes((tmp_path / "2.wav").read_bytes()[:20])  # broken since it was opened
    opened_broken = Item("4", "asr", None, error="4.wav: audio file is missing")
    answers = predict(Listener(), [*tones, opened_broken], progress=False)
    assert [answer.text for answer in answers] == ["heard 10", None, "heard 30", None]
    assert "2.wav" in answers[1].error
    assert answers[3] == Prediction(None, "4.wav: audio file is missing")


def test_a_mistake_that_is_no_items_fault_is_raised(tones):
    class Misconfigured(Listener):
        def generate(self, conversations, max_new_tokens=256, **options):
            raise ConfigError("unknown sampling option", knob="temprature")

    with pytest.raises(ConfigError, match="temprature"):
        predict(Misconfigured(), tones, progress=False)


def stopped_run(items: list[Item], path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        predict(Listener(fail_after=2), items, decoding=Decoding(batch_size=1), journal=Journal(path), progress=False)


def test_stopped_work_goes_on_where_it_stopped(tones, tmp_path):
    journal = tmp_path / "journal"
    stopped_run(tones, journal)
    model = Listener()
    answers = predict(model, tones, journal=Journal(journal), progress=False)
    assert model.batches == [["3"]]
    assert [answer.text for answer in answers] == ["heard 10", "heard 20", "heard 30"]
    again = Listener()
    assert predict(again, tones, journal=Journal(journal), progress=False) == answers
    assert again.batches == []


def test_a_line_cut_off_by_the_stop_is_done_again(tones, tmp_path):
    journal = tmp_path / "journal"
    stopped_run(tones, journal)
    journal.write_bytes(journal.read_bytes()[:-9])
    model = Listener()
    predict(model, tones, journal=Journal(journal), progress=False)
    assert model.answered == 2
    assert len(read(journal)) == 3


def test_a_file_that_is_no_journal_is_refused(tmp_path):
    path = tmp_path / "journal"
    path.write_text('{"key": "a", "prediction": "b"}\n{"key": 1}\n')
    with pytest.raises(DataError, match=r"journal:2: unreadable line.*delete the file"):
        Journal(path)


@pytest.mark.parametrize("change", ["model", "limit", "option", "audio", "text"])
def test_a_prediction_is_not_taken_for_that_of_something_else(tones, tmp_path, change):
    journal = tmp_path / "journal"
    items = [tones[0], text_item("t", "hello")]
    predict(Listener(), items, journal=Journal(journal), model_id="one", progress=False)
    decoding, model_id, expected = Decoding(), "one", ["1", "t"]
    if change == "model":
        model_id = "other"
    elif change == "limit":
        decoding = Decoding(max_new_tokens=5)
    elif change == "option":
        decoding = Decoding(options={"temperature": 1.0})
    elif change == "audio":
        write_tone(tmp_path / "1.wav", 50, secs=3.0)  # as long as before
        items, expected = [audio_item("1", tmp_path / "1.wav"), items[1]], ["1"]
    else:
        items, expected = [items[0], text_item("t", "goodbye")], ["t"]
    model = Listener()
    predict(model, items, decoding=decoding, journal=Journal(journal), model_id=model_id, progress=False)
    assert [id for batch in model.batches for id in batch] == expected


def test_failures_are_tried_again(tones, tmp_path):
    path = tmp_path / "2.wav"
    whole = path.read_bytes()
    path.write_bytes(whole[:20])
    journal = tmp_path / "journal"
    assert predict(Listener(), tones, journal=Journal(journal), progress=False)[1].text is None
    assert sorted(row["prediction"] for row in read(journal)) == ["heard 10", "heard 30"]
    path.write_bytes(whole)
    model = Listener()
    assert predict(model, tones, journal=Journal(journal), progress=False)[1].text == "heard 20"
    assert model.batches == [["2"]]


def test_evaluate_scores_tasks_groups_and_variants(tones, tmp_path):
    texts = [
        text_item("1", "Red", "Red", kind="repeat"),
        text_item("2", "4", "four", kind="count"),
        text_item("3", "5", "5", kind="count"),
    ]
    tasks = [
        EvalTask("sqa", tones, "exact_match", variants=("silence", "shuffle", "text")),
        EvalTask("text", texts, "exact_match", max_new_tokens=9),
    ]
    model = Listener()
    results = evaluate(model, tasks, output_dir=tmp_path / "out", progress=False)
    assert results["sqa"].score.value == 100
    assert {name: scores.score.value for name, scores in results["sqa"].variants.items()} == {
        "silence": 0,
        "shuffle": 0,
        "text": 0,
    }
    assert results["text"].score.value == pytest.approx(200 / 3)
    by_group = {name: (score.value, score.items) for name, score in results["text"].scores.by_group.items()}
    assert by_group == {"count": (50, 2), "repeat": (100, 1)}
    assert model.max_new_tokens[-1] == 9
    rows = read(tmp_path / "out/sqa.jsonl")
    assert rows[0] == {
        "id": "1",
        "task": "asr",
        "prediction": "heard 10",
        "reference": "heard 10",
        "custom": {"transcript": "word 1"},
    }
    assert [row["prediction"] for row in read(tmp_path / "out/sqa.silence.jsonl")] == ["heard 0"] * 3
    assert sorted(row["prediction"] for row in read(tmp_path / "out/sqa.text.jsonl")) == ["word 1", "word 2", "word 3"]


def test_evaluate_twice_answers_once(tones, tmp_path):
    task = EvalTask("asr", tones, "wer", variants=("silence",))
    first = evaluate(Listener(), [task], output_dir=tmp_path, progress=False)
    model = Listener()
    assert evaluate(model, [task], output_dir=tmp_path, progress=False) == first
    assert model.batches == []
    evaluate(model, [task], output_dir=tmp_path, model_id="retrained", progress=False)
    assert model.answered == 6


def test_groups_may_be_the_items_own_tasks(tones, tmp_path):
    items = [*tones, text_item("t", "no", "yes")]
    (result,) = evaluate(
        Listener(), [EvalTask("all", items, "exact_match", group_by="task")], output_dir=tmp_path, progress=False
    ).values()
    assert {name: score.value for name, score in result.scores.by_group.items()} == {"asr": 100, "text": 0}


def test_failed_items_are_counted_reported_and_not_scored(tones, tmp_path, caplog):
    items = [*tones, Item("4", "asr", None, "heard 40", error="4.wav: audio file is missing")]
    with caplog.at_level(logging.WARNING):
        result = evaluate(Listener(), [EvalTask("asr", items, "exact_match")], output_dir=tmp_path, progress=False)[
            "asr"
        ]
    assert (result.score.value, result.score.items, result.scores.failed) == (100, 3, 1)
    assert "1 of 4 items failed" in caplog.text
    assert "4.wav: audio file is missing" in caplog.text
    assert read(tmp_path / "asr.jsonl")[3]["error"] == "4.wav: audio file is missing"


def test_evaluate_refuses_what_has_no_score(tones, tmp_path):
    failed = Item("4", "asr", None, "x", error="missing")
    with pytest.raises(DataError, match=r"asr\.jsonl: every item failed"):
        evaluate(Listener(), [EvalTask("asr", [failed], "wer")], output_dir=tmp_path, progress=False)
    with pytest.raises(DataError, match="task without items; found 'asr'"):
        evaluate(Listener(), [EvalTask("asr", [], "wer")], output_dir=tmp_path, progress=False)
    with pytest.raises(ConfigError, match="two tasks of one name"):
        evaluate(Listener(), [EvalTask("asr", tones, "wer")] * 2, output_dir=tmp_path, progress=False)


def test_unknown_metric_and_variant_are_refused_before_any_work(tones, tmp_path):
    model = Listener()
    good = EvalTask("good", tones, "wer")
    for bad in (EvalTask("bad", tones, "meteor"), EvalTask("bad", tones, "wer", variants=("deaf",))):
        with pytest.raises(ConfigError, match="unknown (metric|variant)"):
            evaluate(model, [good, bad], output_dir=tmp_path, progress=False)
    assert model.batches == []
