"""Mistakes in configurations and in the files that they name: every error names the key, the value and what is right."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest

from tests.helpers.corpus import FRAME_SECS, RATE, chat_rows, make_encoder, write_jsonl
from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.data.config import BatchConfig, SourceConfig, TrainConfig, ValidationConfig
from vtblender_nemo.data.loader import BlendDataModule
from vtblender_nemo.data.prompts import load_wordings
from vtblender_nemo.data.typed import read_config
from vtblender_nemo.data.weighted import read_sources


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        (TrainConfig, {"batch_size": "4"}, "a whole number or null"),
        (TrainConfig, {"batch_size": True}, "a whole number or null"),
        (TrainConfig, {"batch_tokens": 2.5}, "a whole number or null"),
        (TrainConfig, {"max_duration": "x"}, "a number"),
        (TrainConfig, {"max_duration": None}, "a number"),
        (TrainConfig, {"shuffle": "no"}, "true or false"),
        (TrainConfig, {"shuffle": 1}, "true or false"),
        (TrainConfig, {"fusion": 3}, "text"),
        (TrainConfig, {"bucket_bins": 5}, "a list, each of it a number or null"),
        (TrainConfig, {"bucket_bins": [5, "9"]}, "a list, each of it a number or null"),
        (TrainConfig, {"samplers": ["a"]}, "a mapping of names, each to anything"),
        (TrainConfig, {"sampler_weights": {"a": "1"}}, "a mapping of names, each to a number"),
        (ValidationConfig, {"max_rows": "all"}, "a whole number or null"),
        (ValidationConfig, {"sets": None}, "a mapping of names, each to anything"),
        (SourceConfig, {"type": "nemo", "weight": "2"}, "a number or null"),
        (SourceConfig, {"type": "nemo", "audio_dir": 2}, "text or a path or null"),
        (BatchConfig, {"quadratic_length": [3]}, "a number or null"),
    ],
)
def test_values_of_a_wrong_type_name_key_value_and_type(kind, values, expected):
    key, value = list(values.items())[-1]
    with pytest.raises(ConfigError) as caught:
        read_config(kind, values, "data")
    assert (caught.value.knob, caught.value.value, caught.value.expected) == (f"data.{key}", value, expected)


@pytest.mark.parametrize(
    "values",
    [
        {"max_duration": 40, "bucket_bins": [1, 2.5], "batch_size": None, "input_cfg": 5},
        {"bucket_bins": None, "sampler_weights": {"a": 1, "b": 0.5}, "shuffle": False},
    ],
)
def test_values_of_a_right_type_are_taken_as_they_are(values):
    config = read_config(TrainConfig, values, "data")
    assert {key: getattr(config, key) for key in values} == values


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"bucket_batch_size": [4, 2]}, r"without the bins.*\[4, 2\].*data.train_ds.bucket_bins"),
        (
            {"bucket_batch_size": [4, 2], "bucket_bins": [50, 90]},
            "do not match; found '2 bins, 2 sizes'.*one size more.*max_tokens",
        ),
        (
            {"bucket_batch_size": [4, 0], "bucket_bins": [50]},
            r"out of range; found \[4, 0\].*data.train_ds.bucket_batch_size",
        ),
    ],
)
def test_sizes_of_buckets_that_cannot_be_kept(values, message):
    with pytest.raises(ConfigError, match=message):
        module(train_ds={"input_cfg": [{"type": "text_chat"}], **values})


def test_sizes_of_buckets_bound_micro_batches(tmp_path):
    chats = {"type": "text_chat", "manifest_filepath": write_jsonl(tmp_path / "c.jsonl", chat_rows(60, words=10))}
    data = module(train_ds={"input_cfg": [chats], "bucket_bins": [60], "bucket_batch_size": [5, 2]})
    batches = list(islice(data.train_dataloader(), 20))
    assert {(int(batch.input_lens.max()) >= 60, len(batch)) for batch in batches} == {(False, 5), (True, 2)}


def module(**sections: Any) -> BlendDataModule:
    return BlendDataModule(sections, make_encoder().chat_format, FRAME_SECS, RATE)


def test_wrong_types_are_told_before_anything_is_read():
    with pytest.raises(ConfigError, match="found '4'; expected a whole number or null.*data.train_ds.batch_size"):
        module(train_ds={"batch_size": "4"})
    with pytest.raises(ConfigError, match="found 'x'; expected a number .*data.validation_ds.max_duration"):
        module(validation_ds={"max_duration": "x"})


def test_a_sampler_that_is_no_mapping():
    cfg = {"fusion": "randomized_round_robin", "samplers": {"a": None}, "sampler_weights": {"a": 1}}
    with pytest.raises(ConfigError, match=r"not a mapping.*data.train_ds.samplers.a\)"):
        module(train_ds=cfg).train_dataloader()


@pytest.mark.parametrize("tags", ["task", ["a"], 5])
def test_tags_that_are_no_mapping(tmp_path, tags):
    path = write_jsonl(tmp_path / "c.jsonl", chat_rows(1))
    entry = {"type": "text_chat", "manifest_filepath": path, "tags": tags}
    with pytest.raises(ConfigError, match=r"not a mapping.*input_cfg\[0\].tags"):
        read_sources([entry], sampling_rate=RATE)


BROKEN_YAML = {
    "a bracket that is not closed": (b"a: 1\nb: [1, 2\nc: 3\n", r"broken.yaml:3: file is not YAML"),
    "a tab": (b"a: 1\n\tb: 2\n", r"broken.yaml:2: file is not YAML"),
    "a tag that is unknown": (b"a: 1\nb: !run ls\n", r"broken.yaml:2: file is not YAML"),
    "bytes that are not UTF-8": (b"a: \xff\n", r"broken.yaml: file is not YAML"),
    "a control character": (b"a: \x01\n", r"broken.yaml: file is not YAML"),
}


@pytest.mark.parametrize("name", BROKEN_YAML)
def test_a_broken_file_names_its_path_and_line(tmp_path, name):
    content, message = BROKEN_YAML[name]
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"{message}.*data.train_ds.input_cfg") as caught:
        read_sources(str(path), sampling_rate=RATE, place="data.train_ds.input_cfg")
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match=rf"{message}.*prompts"):
        load_wordings(path, "asr")


@pytest.mark.parametrize("content", ["asr: Write.\n", "asr: 5\n", "asr: {a: b}\n", "asr: []\n"])
def test_wordings_that_are_no_list(tmp_path, content):
    path = tmp_path / "p.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"p.yaml: wordings are no list of texts"):
        load_wordings(path, "asr")


def test_wordings_of_another_type():
    with pytest.raises(ConfigError, match="wordings are no list of texts; found 5"):
        load_wordings(5, None)  # type: ignore[arg-type]


def test_tasks_whose_names_are_numbers(tmp_path):
    (tmp_path / "p.yaml").write_text("1: [a]\n2: [b]\n")
    with pytest.raises(ConfigError, match="no wordings for the task.*expected one of 1, 2"):
        load_wordings(tmp_path / "p.yaml", "asr")


def test_what_is_missing_names_its_entry(tmp_path):
    good = {"type": "text_chat", "manifest_filepath": write_jsonl(tmp_path / "c.jsonl", chat_rows(1))}
    missing = {"type": "text_chat", "name": "b", "manifest_filepath": str(tmp_path / "nowhere.jsonl")}
    group = {"type": "group", "input_cfg": [{**good, "name": "c"}, missing]}
    with pytest.raises(ConfigError, match=r"nowhere.jsonl: file is missing.*input_cfg\[1\].input_cfg\[1\].manifest_f"):
        read_sources([good, group], sampling_rate=RATE)
    speech = {"type": "nemo", "manifest_filepath": good["manifest_filepath"], "prompts": "nowhere.yaml"}
    with pytest.raises(ConfigError, match=r"file of wordings is missing.*input_cfg\[1\].prompts"):
        read_sources([good, speech], sampling_rate=RATE)


@pytest.mark.parametrize(
    ("key", "value"), [("batch_size", 0), ("max_rows", 0), ("on_bad_row", "no"), ("max_duration", -1.0)]
)
def test_mistakes_of_validation_name_their_key(key, value):
    with pytest.raises(ConfigError, match=f"found.*data.validation_ds.{key}"):
        ValidationConfig(**{key: value}).check("data.validation_ds")
