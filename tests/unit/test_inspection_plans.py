"""Shares, bins and padding of a blend, against values counted by hand and against what training draws."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.blends import write_blend
from tests.helpers.corpus import chat_rows, make_encoder, write_jsonl
from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.data.config import TrainConfig
from vtblender_nemo.data.loader import make_planner
from vtblender_nemo.data.typed import read_config
from vtblender_nemo.inspection.inspection import Options, inspect
from vtblender_nemo.inspection.padding import (
    Planned,
    bins_2d,
    fixed_size_padding,
    padding,
    plan,
    two_dimensional_padding,
)
from vtblender_nemo.inspection.samples import draw_samples
from vtblender_nemo.inspection.statistics import Share, histogram, joined, shares
from vtblender_nemo.inspection.subject import Batching, open_parts, open_subject

ENCODER = make_encoder()


def silent(_: str, __: int):
    return lambda rows: None


def planned(batches, length, *, frames=None, secs=None, sources=None, samplers=None, targets=None) -> Planned:
    rows = len(length)
    secs = np.array(secs or [0.0] * rows, float)
    return Planned(
        sources=sources or ["a"] * rows,
        samplers=samplers or [""] * rows,
        batches=np.array(batches),
        length=np.array(length),
        frames=np.array(frames or [0] * rows),
        targets=np.array(targets or [1] * rows),
        longest_audio=secs,
        audio_secs=secs,
        audios=(secs > 0).astype(int),
    )


def test_padding_by_hand():
    one = planned([0, 0, 1, 1, 1], [10, 6, 3, 3, 3], secs=[2.0, 1.0, 0.0, 0.5, 0.0])
    found = padding(one)
    assert found.positions == pytest.approx(1 - 25 / (2 * 10 + 3 * 3))
    assert found.audio == pytest.approx(1 - 3.5 / (2 * 2.0 + 1 * 0.5))
    assert found.rows == (2.5, 2, 3)
    assert found.largest == 20
    assert padding(planned([0, 1], [5, 9])).positions == padding(planned([0, 1], [5, 9])).audio == 0


def test_fixed_size_batches_hold_the_mean_number_of_rows():
    one = planned([0, 0, 0, 1], [1, 1, 1, 9], samplers=["x", "x", "x", "x"])
    found = fixed_size_padding(one)
    assert found.rows == (2.0, 2, 2)
    assert found.positions == pytest.approx(1 - 12 / (2 * 9 + 2 * 1))
    apart = planned([0, 0, 1, 1], [5, 5, 1, 1], samplers=["x", "x", "y", "y"])
    assert fixed_size_padding(apart).positions == 0, "rows of two samplers are never in one batch"


def test_shares_by_hand():
    one = planned([0] * 4, [1] * 4, sources=["a", "a", "a", "b"], frames=[10, 20, 0, 10], targets=[1, 1, 1, 7])
    found = shares(one, {"a": 0.8, "b": 0.2, "c": 0.0})
    assert found["a"] == Share(0.8, 0.75, 0.75, 0.3)
    assert found["b"] == Share(0.2, 0.25, 0.25, 0.7)
    assert found["c"] == Share(0.0, 0.0, 0.0, 0.0)
    both = joined(found, {"a": "x", "b": "x", "c": "y"})
    assert vars(both["x"]) == pytest.approx({"probability": 1, "rows": 1, "frames": 1, "targets": 1})
    assert both["y"] == found["c"]


def test_padding_of_two_dimensions_by_hand():
    lengths = [10, 12, 30, 11, 14, 8, 30]
    one = planned([0] * 7, lengths, frames=[4, 4, 20, 4, 4, 0, 0], secs=[0.2, 0.4, 2.0, 0.3, 0.4, 0.0, 0.0])
    bins = [(0, 30), (4, 10), (20, 10)]
    found = two_dimensional_padding(one, bins, 36)
    # 8 | 30 without audio, as both in one were 60; 10, 12, 11 | 14 of 4 frames; 30.
    assert found.positions == pytest.approx(1 - sum(lengths) / (8 + 30 + 3 * 12 + 14 + 30))
    assert found.audio == pytest.approx(1 - 3.3 / (3 * 0.4 + 0.4 + 2.0))
    assert found.rows == (pytest.approx(7 / 5), 1, 3)
    assert found.largest == 36
    apart = replace(one, samplers=["x", "y", "x", "x", "y", "x", "x"])
    assert two_dimensional_padding(apart, bins, 36).positions == pytest.approx(
        1 - sum(lengths) / (8 + 30 + 2 * 11 + 2 * 14 + 30)
    )


def test_bins_of_two_dimensions_by_hand():
    frames = np.array([0, 0, 10, 10, 10, 10, 20, 20])
    tokens = np.array([5, 50, 1, 2, 3, 4, 7, 8])
    assert bins_2d(frames, tokens, buckets=2, sub_buckets=1) == [(0, 50), (10, 4), (20, 8)]
    # A bucket ends once it holds more than its part: 1 + 2 + 3 of 10 tokens, but not 5 of 55.
    assert bins_2d(frames, tokens, buckets=2, sub_buckets=2) == [(0, 50), (10, 3), (10, 4), (20, 8)]
    assert bins_2d(frames[:2], tokens[:2], buckets=4, sub_buckets=1) == [(0, 50)]


@given(
    rows=st.lists(st.tuples(st.integers(0, 300), st.integers(1, 400)), min_size=1, max_size=200),
    buckets=st.integers(1, 8),
    sub_buckets=st.integers(1, 4),
)
def test_every_row_fits_a_bucket(rows, buckets, sub_buckets):
    frames, tokens = (np.array(column) for column in zip(*rows, strict=True))
    bins = bins_2d(frames, tokens, buckets, sub_buckets)
    assert bins == sorted(set(bins))
    assert len(bins) <= (buckets + 1) * sub_buckets
    for row_frames, row_tokens in rows:  # as NeMo looks for a bucket with `strict_2d`
        end = min(end for end, _ in bins if end >= row_frames)
        assert any(own == end and row_tokens <= most for own, most in bins)


def test_the_plan_is_what_training_reads(tmp_path):
    subject = open_subject([write_blend(tmp_path)], batching=Batching(batch_tokens=400, num_buckets=3))
    told: list[int] = []
    found = plan(make_planner(subject.train, ENCODER), 200, told.append)
    assert sum(told) == len(found) >= 200
    planner = make_planner(subject.train, ENCODER)
    for number in range(int(found.batches[-1]) + 1):
        batch = planner.next_batch()
        own = found.batches == number
        assert [row.length for row in batch] == found.length[own].tolist()
        assert [row.conversation.source for row in batch] == [
            s for s, mine in zip(found.sources, own, strict=True) if mine
        ]
        assert max(row.length for row in batch) * len(batch) <= 400
    assert (found.frames[np.array(found.sources) == "chats"] == 0).all()
    assert (found.targets > 0).all()


def test_shares_come_to_the_weights(tmp_path):
    subject = open_subject([write_blend(tmp_path)])
    result = inspect(subject, ENCODER, Options(draws=4000), "bytes", silent)
    assert result.plans is not None
    assert {name: share.probability for name, share in result.plans.by_source.items()} == pytest.approx(
        {"asr": 0.4, "speech_qa": 0.2, "talk": 0.2, "chats": 0.2}
    )
    for share in result.plans.by_source.values():
        assert share.rows == pytest.approx(share.probability, abs=0.04)  # 5 standard deviations
    assert sum(share.frames for share in result.plans.by_source.values()) == pytest.approx(1)
    assert result.plans.by_source["chats"].frames == 0
    assert result.plans.by_corpus["asr"].probability == pytest.approx(0.6), "speech_qa is tagged with its corpus"
    assert result.plans.by_type["nemo"].probability == pytest.approx(0.4)
    assert result.plans.own.positions < result.plans.fixed.positions
    assert result.plans.two_dimensional.largest <= result.plans.own.largest


def test_a_round_robin_counts_micro_batches(tmp_path):
    blend = write_blend(tmp_path)
    (tmp_path / "train.yaml").write_text(
        f"""
train_ds:
  fusion: randomized_round_robin
  sampler_weights: {{audio: 3, text: 1}}
  batch_size: 4
  num_buckets: 2
  buffer_size: 50
  samplers:
    audio: {{input_cfg: [{{type: nemo, manifest_filepath: {tmp_path}/speech.jsonl, prompts: [w]}}]}}
    text: {{input_cfg: [{{type: text_chat, manifest_filepath: {tmp_path}/chats.jsonl}}], batch_size: 1, num_buckets: 1}}
"""
    )
    assert blend.exists()
    result = inspect(open_subject([tmp_path / "train.yaml"]), ENCODER, Options(draws=900), "bytes", silent)
    assert result.plans is not None
    assert result.plans.probabilities == "batches"
    assert result.plans.by_source["nemo"].probability == pytest.approx(0.75)
    assert result.plans.by_source["nemo"].rows == pytest.approx(12 / 13, abs=0.05)
    assert set(result.plans.bins.total_length) == {"audio", "text"}
    assert [count.rows for count in result.counts] == [12, 12]


def test_a_blend_that_cannot_be_drawn_from_is_still_counted(tmp_path):
    path = tmp_path / "blend.yaml"
    write_jsonl(tmp_path / "c.jsonl", ["no json"])
    write_jsonl(tmp_path / "d.jsonl", chat_rows(5))
    path.write_text(
        "- {type: text_chat, name: a, manifest_filepath: c.jsonl}\n- {type: text_chat, name: b, manifest_filepath: d.jsonl}\n"
    )
    result = inspect(open_subject([path]), ENCODER, Options(draws=100, samples=3), "bytes", silent)
    assert result.plans is None
    assert "source a gave nothing but rejected rows" in result.no_plans
    assert "found '1000 rows in vain (rejected by on_bad_row: 1000)'" in result.no_plans
    assert result.errors == 1
    assert [count.rows for count in result.counts] == [1, 5]
    assert [sample.source for sample in result.samples] == ["b"] * 3


def test_samples_are_of_all_sources_and_can_be_heard(tmp_path):
    import base64
    import io

    import soundfile as sf

    subject = open_subject([write_blend(tmp_path)])
    samples = draw_samples(make_planner(subject.train, ENCODER), 6, ENCODER.sampling_rate)
    assert Counter(sample.source for sample in samples) == {"asr": 2, "speech_qa": 2, "talk": 1, "chats": 1}
    (talk,) = [sample for sample in samples if sample.source == "talk"]
    asked, audio = talk.turns[0].parts
    assert asked.text == "Listen & answer: <b>what</b> was said?"
    wave, rate = sf.read(io.BytesIO(base64.b64decode(audio.audio.split(",", 1)[1])))
    assert (rate, len(wave), audio.secs) == (16000, 8000, 0.5)
    np.testing.assert_allclose(wave, 0.2 * np.sin(2 * np.pi * 300 * np.arange(8000) / 16000), atol=1e-4)
    assert draw_samples(make_planner(subject.train, ENCODER), 0, 16000) == []
    assert len(draw_samples(make_planner(subject.train, ENCODER), 999, 16000)) == 4 * 12


def test_samples_are_rows_that_training_uses(tmp_path):
    blend = write_blend(tmp_path)
    (tmp_path / "audio/11.flac").write_bytes(b"broken")
    subject = open_subject([blend], batching=Batching(max_duration=0.85))
    found = Counter(sample.source for sample in draw_samples(make_planner(subject.train, ENCODER), 999, 16000))
    assert found == {"asr": 5, "speech_qa": 5, "talk": 12, "chats": 12}, "0.4 to 0.8 s"
    subject = open_subject([blend])
    found = Counter(sample.source for sample in draw_samples(make_planner(subject.train, ENCODER), 999, 16000))
    assert found["asr"] == found["speech_qa"] == 11, "what cannot be decoded is passed over"


def test_samples_are_heard_as_training_hears_them(tmp_path):
    subject = open_subject([write_blend(tmp_path)])
    train = read_config(TrainConfig, {**vars(subject.train), "augment": {"speed": {"prob": 1, "factors": [0.5]}}}, "t")
    samples = draw_samples(make_planner(train, ENCODER), 4, ENCODER.sampling_rate)
    (talk,) = [sample for sample in samples if sample.source == "talk"]
    assert talk.turns[0].parts[1].secs == 1.0
    assert talk.notes["augment"] == "{'speed': {'factor': 0.5}}"


def test_validation_sets_are_checked_but_not_drawn_from(tmp_path):
    write_blend(tmp_path)
    write_jsonl(tmp_path / "v.jsonl", [*chat_rows(3), "no json"])
    (tmp_path / "run.yaml").write_text(
        f"""
seed: 3
data:
  train_ds:
    seed: ${{seed}}
    batch_size: 2
    input_cfg: [{{type: text_chat, manifest_filepath: {tmp_path}/chats.jsonl}}]
  validation_ds:
    sets: {{talk: {{input_cfg: [{{type: text_chat, manifest_filepath: {tmp_path}/v.jsonl}}]}}}}
model: {{audio_locator_tag: <x>, perception: {{separator: true}}}}
"""
    )
    subject = open_subject([tmp_path / "run.yaml"], ["data.train_ds.batch_size=5"])
    assert (subject.train.seed, subject.train.batch_size) == (3, 5)
    assert (subject.locator_tag, subject.extra_frames, subject.batches_assumed) == ("<x>", 1, False)
    parts = open_parts(subject, make_planner(subject.train, ENCODER), 16000)
    assert [part.role for part in parts] == ["training", "talk"]
    result = inspect(subject, ENCODER, Options(draws=50), "bytes", silent)
    assert [count.name for count in result.counts] == ["text_chat", "talk/text_chat"]
    assert [count.errors for count in result.counts] == [0, 1]
    assert result.plans is not None
    assert list(result.plans.by_source) == ["text_chat"]


def test_lists_together_make_one_blend(tmp_path):
    first, second = write_blend(tmp_path / "a"), write_blend(tmp_path / "b")
    text = second.read_text().replace("name: ", "name: b_").replace("type: speech_qa", "type: speech_qa\n  name: b_qa")
    second.write_text(text)
    subject = open_subject([first, second])
    assert subject.name == f"{first}, {second}"
    assert len(make_planner(subject.train, ENCODER).weights()) == 8


def test_a_hydra_configuration_is_composed(tmp_path):
    (tmp_path / "other.yaml").write_text("data: {train_ds: {batch_size: 3}}\n")
    (tmp_path / "run.yaml").write_text(
        "defaults: [other, _self_]\ndata: {train_ds: {input_cfg: [{type: text_chat, manifest_filepath: x}]}}\n"
    )
    subject = open_subject([tmp_path / "run.yaml"], ["data.train_ds.batch_size=4", "+data.train_ds.num_buckets=5"])
    assert (subject.train.batch_size, subject.train.num_buckets) == (4, 5)


@pytest.mark.parametrize(
    ("files", "overrides", "message"),
    [
        ({}, [], r"a.yaml: file is missing.*--input"),
        ({"a": "5"}, [], r"no sources; found 5.*--input"),
        ({"a": "a: [1"}, [], r"a.yaml:1: file is not YAML"),
        ({"a": "data: {}"}, [], r"a.yaml: no training data; expected data.train_ds"),
        ({"a": "data: {train_ds: {}}", "b": "[]"}, [], r"a.yaml: a training configuration stands alone.*--input"),
        ({"a": "[{type: text_chat}]"}, ["seed=1"], r"a list of sources has no keys to set.*--set"),
        ({"a": "data: {train_ds: {batch_sise: 3}}"}, [], r"unknown key; found 'batch_sise'.*data.train_ds"),
        ({"a": "data: {train_ds: {seed: '${x}'}}"}, [], r"a.yaml: values cannot be resolved"),
        ({"a": "defaults: [nowhere]"}, [], r"a.yaml: configuration cannot be composed"),
    ],
)
def test_what_cannot_be_inspected_says_why(tmp_path, files, overrides, message):
    for name, content in files.items():
        (tmp_path / f"{name}.yaml").write_text(content)
    with pytest.raises(ConfigError, match=message):
        open_subject([tmp_path / f"{name}.yaml" for name in files or ["a"]], overrides)


def test_histograms_count_everything():
    found = histogram(np.array([0.0, 1.0, 1.0, 4.0]), bins=4)
    assert found == {"edges": [0.0, 1.0, 2.0, 3.0, 4.0], "counts": [1, 2, 0, 1]}
    assert histogram(np.zeros(0)) == {"edges": [], "counts": []}
