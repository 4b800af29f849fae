"""How far prompts lie from those of training, computed by hand, and what tells two trainings apart."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers.corpus import write_jsonl
from tests.unit.test_import_rules import ROOT
from vtblender_nemo.common.errors import ConfigError, DataError
from vtblender_nemo.evaluation.groups import DISTANCE_BINS, DISTANCE_BOUNDS
from vtblender_nemo.synthesis.imitation.tasks import load_bank
from vtblender_nemo.synthesis.imitation.trained_rows import read_trained
from vtblender_nemo.synthesis.imitation.wording_distance import Trained, distance

TRAINED = Trained.of(
    [
        ("repeat", "Repeat this word for word: {audio}"),
        ("repeat", "{audio} Once more, please."),
        ("title", "Give this a short title: {audio}"),
        ("title", "Give this a short title: {audio}"),
    ]
)


@pytest.mark.parametrize(
    ("wording", "other", "expected"),
    [
        ("Repeat this: {audio}", "Repeat this: {audio}", 0.0),
        ("{audio} repeat THIS", "Repeat this: {audio}", 0.0),  # case, punctuation and place of the audio
        ("Repeat this word for word: {audio}", "Repeat: {audio}", 1 - 2 * (1 / 5) * 1 / (1 / 5 + 1)),
        ("Give it a title: {audio}", "Give this a short title: {audio}", 1 - 2 * (3 / 4) * (3 / 5) / (3 / 4 + 3 / 5)),
        ("title short a: {audio}", "a short title: {audio}", 1 - 1 / 3),  # common words in another order
        ("Sing! {audio}", "Repeat: {audio}", 1.0),
        ("{audio}", "{audio}", 1.0),  # no words to have in common
        ("重复这句话：{audio}", "重复那句：{audio}", 1 - 2 * (3 / 5) * (3 / 4) / (3 / 5 + 3 / 4)),
    ],
)
def test_distance_of_two_wordings(wording, other, expected):
    assert distance(wording, other) == pytest.approx(expected)
    assert distance(other, wording) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("task", "prompt", "level", "expected"),
    [
        ("title", "Give this a short title: {audio}", "known", 0.0),
        ("title", "{audio} Give this a short title", "prompt", 0.0),  # the same words in another place are no training
        ("title", "Give it a title: {audio}", "prompt", 0.3333),
        ("title", "{audio} Once more, please.", "prompt", 1.0),  # known of another task
        ("topic", "{audio} Once more, please.", "task", 0.0),
        ("topic", "What is this about? {audio}", "task", 0.7778),  # "this" of 4 words, and of 5 of "Repeat this ..."
    ],
)
def test_level_and_distance_of_a_row(task, prompt, level, expected):
    assert TRAINED.fields(task, prompt) == {"generalisation": level, "wording_distance": expected}


def test_a_bare_wording_is_known_where_it_was_trained():
    bare = Trained.of([("reply", "{audio}")])
    assert bare.fields("reply", "{audio}") == {"generalisation": "known", "wording_distance": 0.0}
    assert TRAINED.fields("title", "{audio}") == {"generalisation": "prompt", "wording_distance": 1.0}


def test_a_digest_tells_trainings_apart():
    asked = [(task, prompt) for task, prompts in TRAINED.wordings.items() for prompt in prompts]
    assert Trained.of(asked[::-1] * 2).digest == TRAINED.digest
    others = [asked[1:], [*asked, ("title", "Name it: {audio}")], [("topic", prompt) for _, prompt in asked]]
    assert len({TRAINED.digest, *(Trained.of(other).digest for other in others)}) == 4


def test_bins_part_the_shipped_wordings_into_thirds():
    """Every wording against the others of its task, as if it alone were held out."""
    bank = load_bank([ROOT / "conf/prompts/imitation_synthesis.yaml"])
    bins: Counter[str] = Counter()
    for task in bank.tasks:
        for prompt in task.wordings.values():
            others = [(task.name, other) for other in task.wordings.values() if other != prompt]
            found = Trained.of(others).fields(task.name, prompt)["wording_distance"]
            bins[DISTANCE_BINS[bisect_right(DISTANCE_BOUNDS, found)]] += 1
    assert all(0.25 < bins[one] / bins.total() < 0.42 for one in DISTANCE_BINS), bins


# Rows -----------------------------------------------------------------------------------------------------------------


def job(folder: Path, *rows: dict[str, Any], **entry: Any) -> Path:
    folder.mkdir()
    write_jsonl(folder / "rows.jsonl", rows)
    entries = [{"type": "imitation", "manifest_filepath": "rows.jsonl", **entry}]
    (folder / "input_cfg.yaml").write_text(yaml.safe_dump(entries))
    return folder


ROW = {"task": "title", "prompt": "Title: {audio}", "text": "a", "answer": "b"}


def test_rows_of_folders_and_of_their_files(tmp_path):
    one = job(tmp_path / "one", ROW, {**ROW, "prompt": "Name: {audio}"}, ROW)
    other = job(tmp_path / "other", {**ROW, "task": "topic"})
    assert read_trained([one]).wordings == {"title": {"Title: {audio}", "Name: {audio}"}}
    both = read_trained([one, other / "input_cfg.yaml"])
    assert set(both.wordings) == {"title", "topic"}


def test_what_does_not_tell_what_was_asked(tmp_path):
    with pytest.raises(DataError, match=r"rows\.jsonl:2: row does not tell what was asked.*--trained-on"):
        read_trained([job(tmp_path / "a", ROW, {**ROW, "task": None})])
    with pytest.raises(
        ConfigError, match=r"does not tell what was asked.*'nemo'.*expected type imitation.*--trained-on"
    ):
        read_trained([job(tmp_path / "b", ROW, type="nemo")])
    with pytest.raises(ConfigError, match=r"input_cfg\.yaml.*--trained-on"):
        read_trained([tmp_path])
    with pytest.raises(ConfigError, match=r"none\.jsonl.*file is missing.*--trained-on"):
        read_trained([job(tmp_path / "c", ROW, manifest_filepath="none.jsonl")])
