"""Tasks of the kind `generalisation`: their groups, what items need, what the shipped recipe makes of rows, and their table."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from tests.helpers.corpus import write_jsonl
from tests.helpers.imitation import TRANSCRIPT, imitation_rows
from tests.unit.test_evaluation_tasks import texts, write_items
from vtblender_nemo.common.conversation import from_messages
from vtblender_nemo.common.errors import ConfigError, DataError
from vtblender_nemo.evaluation.evaluate import item_set
from vtblender_nemo.evaluation.groups import group_positions
from vtblender_nemo.evaluation.items import Item, read_items
from vtblender_nemo.evaluation.score_table import show_scores
from vtblender_nemo.evaluation.scores import Measure, ScoreSheet
from vtblender_nemo.evaluation.tasks import Task, load_tasks


def item(id: str, **custom: Any) -> Item:
    return Item(id, "t", from_messages([{"role": "user", "content": "What?"}], id=id), "", custom)


@pytest.fixture
def load(tmp_path):
    """Loads one task from its settings."""

    def loaded(**settings: Any) -> Task:
        path = tmp_path / "tasks.yaml"
        path.write_text(yaml.safe_dump({"tasks": {"mine": settings}}))
        return load_tasks(path)[0]

    return loaded


# Groups ---------------------------------------------------------------------------------------------------------------


def test_bins_of_distance_hold_their_lower_bounds():
    distances = [0, 0.0, 0.3999, 0.4, 0.6499, 0.65, 1, 1.0]
    items = [item(str(number), wording_distance=one) for number, one in enumerate(distances)] + [item("none")]
    assert group_positions(items, "wording_distance") == {
        "wording_distance=near": [0, 1, 2],
        "wording_distance=middle": [3, 4],
        "wording_distance=far": [5, 6, 7],
    }


def test_joined_keys_are_in_the_order_of_each():
    levels = [("task", 0.9), ("prompt", 0.7), ("prompt", 0.1), ("known", 0.0), ("prompt", 0.9), ("prompt", None)]
    items = [item(str(n), generalisation=one, wording_distance=far) for n, (one, far) in enumerate(levels)]
    assert list(group_positions(items, "generalisation/wording_distance").items()) == [
        ("generalisation/wording_distance=known/near", [3]),
        ("generalisation/wording_distance=prompt/near", [2]),
        ("generalisation/wording_distance=prompt/far", [1, 4]),
        ("generalisation/wording_distance=task/far", [0]),
    ]
    assert list(group_positions(items, "generalisation")) == [
        f"generalisation={level}" for level in ("known", "prompt", "task")
    ]


def test_an_item_with_a_list_is_in_several_joined_groups():
    assert group_positions([item("1", kind=["x", "y"], lang="de")], "kind/lang") == {
        "kind/lang=x/de": [0],
        "kind/lang=y/de": [0],
    }


@pytest.mark.parametrize(
    ("custom", "message"),
    [
        (
            {"generalisation": "unseen"},
            "item '1' says no generalisation; found 'unseen'; expected one of known, prompt, task",
        ),
        ({"wording_distance": 1.2}, r"item '1' says no wording_distance; found 1.2; expected a number from 0 to 1"),
        ({"wording_distance": -0.1}, "no wording_distance"),
        ({"wording_distance": "far"}, "no wording_distance; found 'far'"),
        ({"wording_distance": True}, "no wording_distance"),
        ({"wording_distance": float("nan")}, "no wording_distance"),
    ],
)
def test_items_that_say_it_wrongly(custom, message):
    with pytest.raises(DataError, match=message):
        group_positions([item("1", **custom)], next(iter(custom)))


# Tasks ----------------------------------------------------------------------------------------------------------------


def test_the_kind(load, tmp_path):
    items = write_items(tmp_path / "q.jsonl", 4, generalisation="prompt", wording_distance=0.5)
    task = load(kind="generalisation", items=[str(items)])
    assert task.measures == ("exact_match_percent", "rouge_l_f1_percent")
    assert list(task.sets) == ["", "text_twin", "base"]
    assert task.ceilings == ("text_twin", "base")
    assert task.group_by == ("generalisation", "kind")  # what it is about, though all items are alike
    assert load(kind="generalisation", items=[str(items)], variants=["base"]).ceilings == ("base",)


def test_items_have_to_tell_what_is_new(load, tmp_path):
    items = write_items(tmp_path / "q.jsonl")
    with pytest.raises(DataError, match=r"item 'q_0' lacks what its kind of task is about.*generalisation in custom"):
        load(kind="generalisation", items=[str(items)])
    broken = write_items(tmp_path / "b.jsonl", generalisation="task", audio=tmp_path / "none.wav")
    assert len(load(kind="generalisation", items=[str(broken)], variants=[]).sets[""]) == 3


def test_any_task_may_have_ceilings(load, tmp_path):
    settings = {"kind": "sqa", "items": [str(write_items(tmp_path / "q.jsonl"))]}
    assert load(**settings).ceilings == ()
    assert load(**settings, ceilings=["text_twin"]).ceilings == ("text_twin",)
    with pytest.raises(
        ConfigError, match=r"not measured; found \['base'\]; expected among.*\(text_twin\).*mine.ceilings"
    ):
        load(**settings, ceilings=["text_twin", "base"])


def test_the_recipe_reads_what_synthesis_makes(tmp_path):
    """As `synthesize_imitation.py --trained-on` leaves it: levels and distances in the rows, the entry beside them."""
    marks: list[dict[str, Any]] = [
        {"generalisation": "known", "wording_distance": 0.0},
        {"generalisation": "prompt", "wording_distance": 0.45},
        {"generalisation": "task", "wording_distance": 0.9, "task": "topic"},
    ]
    rows = [{**row, **mark} for row, mark in zip(imitation_rows(tmp_path, [0.3, 0.4, 0.5]), marks, strict=True)]
    manifest = Path(write_jsonl(tmp_path / "rows.jsonl", rows)).name
    entry = {"type": "imitation", "name": "test", "manifest_filepath": manifest, "llm_fingerprint": "f"}
    (tmp_path / "input_cfg.yaml").write_text(yaml.safe_dump([entry]))
    (task,) = load_tasks("generalisation", variables={"items": str(tmp_path)})
    assert [item.reference for item in task.sets[""]] == ["Opening 0", "Opening 1", "Opening 2"]
    assert texts(task.sets[""][0]) == ["Give this a title: ", None, " Be brief."]
    for variant in ("text_twin", "base"):
        assert texts(task.sets[variant][2]) == ["Give this a title: ", TRANSCRIPT, " Be brief."]
    assert task.group_by == ("generalisation", "generalisation/wording_distance", "task")
    assert group_positions(task.sets[""], "generalisation/wording_distance") == {
        "generalisation/wording_distance=known/near": [0],
        "generalisation/wording_distance=prompt/middle": [1],
        "generalisation/wording_distance=task/far": [2],
    }
    assert task.measures[0] == "rouge_l_f1_percent"
    with pytest.raises(ConfigError, match="expected --set items=VALUE"):
        load_tasks("generalisation")


def test_two_models_were_asked_the_same_wherever_the_files_lie(tmp_path):
    def digest(folder: str, **change: Any) -> str:
        path = write_items(tmp_path / folder / "q.jsonl")
        rows = [{**json.loads(line), **change} for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return item_set(read_items(path))

    assert digest("a") == digest("b")
    messages = [{"role": "user", "content": "What?"}]
    assert len({digest("a"), digest("a", reference="other"), digest("a", messages=messages)}) == 3


# The table on the screen ----------------------------------------------------------------------------------------------


def test_the_table_has_a_row_for_every_level():
    whole = Measure("g", "generalisation", "f1_percent", 70.0, 60.0, 80.0, 9, better="higher")
    unseen = replace(whole, value=41.25, items=4, group="generalisation=task")
    sides = {"text_twin": 82.5, "share_of_text_twin": 50.0, "agreement_with_text_twin": 25.0}
    measures = [whole, unseen, *(replace(unseen, value=value, variant=variant) for variant, value in sides.items())]
    console = Console(width=120, record=True, file=StringIO())
    show_scores(ScoreSheet(measures), console)
    (row,) = (line.split() for line in console.export_text().splitlines() if "g, task" in line)
    assert row == ["g,", "task", "41.2", "82.5", "50.0", "25.0", "4"]
