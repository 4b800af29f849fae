"""Further test sets of the tiny world: of facts and voices that no training has, and without a change to anything else."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from tests.helpers.tiny_sets import (
    CONFIG,
    answers_to,
    held_out_facts,
    rows_of,
    text_of,
    turns_of,
    world_plan,
    written,
)
from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.evaluation.items import read_items
from vtblender_nemo.evaluation.variants import without_text
from vtblender_nemo.tiny.config import SetsConfig
from vtblender_nemo.tiny.rows import SOURCES
from vtblender_nemo.tiny.sets import SETS
from vtblender_nemo.tiny.skills import INSTRUCTIONS
from vtblender_nemo.tiny.sources import plan_world
from vtblender_nemo.tiny.speech import Spoken
from vtblender_nemo.tiny.splits import is_held_out_question
from vtblender_nemo.training.run_config import check_same_run

NO_SETS = SetsConfig(**dict.fromkeys(asdict(CONFIG.sets), 0))

FIRST_BYTES = {
    "prompts.yaml": "7dedc228f06cc7bd",
    "sources/asr.jsonl": "1e4841f7d4a2ef2c",
    "sources/ast_de.jsonl": "c696a283c8aff51b",
    "sources/ast_es.jsonl": "8043d45f3d2c38f9",
    "sources/mixed.jsonl": "71035cb75ffc513c",
    "sources/speech_qa.jsonl": "6839441fa3cc621a",
    "sources/text.jsonl": "688d60c862efa2e9",
    "tests/asr.jsonl": "a409a4d4370e62db",
    "tests/sqa.jsonl": "4305128e930a635b",
    "tests/text.jsonl": "3b3b734362a89393",
    "validation/asr.jsonl": "22e2df9d307c8b33",
    "validation/text.jsonl": "22103cf86924c88b",
}
"""SHA-256 of files of CONFIG, as the code had them with which the README's figures were measured."""


@pytest.fixture(scope="module")
def plan():
    return world_plan()


@pytest.fixture(scope="module")
def folder(plan, tmp_path_factory):
    return written(plan, tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def facts(plan):
    return held_out_facts()


def test_what_was_there_keeps_its_bytes(folder):
    found = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest()[:16] for name in FIRST_BYTES}
    assert found == FIRST_BYTES


def test_the_sets_change_nothing_else(plan, folder, tmp_path):
    without = plan_world(replace(CONFIG, sets=NO_SETS))
    assert plan.utterances[: len(without.utterances)] == without.utterances
    assert {spoken.name[:5] for spoken in plan.utterances[len(without.utterances) :]} == {"more_"}
    written(without, tmp_path)
    others = [path.relative_to(tmp_path) for path in tmp_path.rglob("*.*") if path.stem not in SETS]
    assert len(others) == 8 + 10 + 10
    for path in others:
        assert (folder / path).read_bytes() == (tmp_path / path).read_bytes()


def test_the_same_config_plans_the_same_sets(plan):
    again = plan_world(CONFIG)
    assert {name: again.tests[name] for name in SETS} == {name: plan.tests[name] for name in SETS}
    assert again.voice_rows == plan.voice_rows
    other = plan_world(replace(CONFIG, sets=replace(CONFIG.sets, multi_turn=9)))
    assert other.tests["multi_turn"] == plan.tests["multi_turn"][:9]
    assert [item.parts[0] for item in other.tests["novel_formats"]] == [
        item.parts[0] for item in plan.tests["novel_formats"]
    ]


@pytest.mark.parametrize("name", SETS)
def test_every_set_has_its_items(plan, folder, name):
    rows = rows_of(folder / "tests" / f"{name}.jsonl")
    assert len(rows) == 60 == len({row["id"] for row in rows})
    assert len({json.dumps(row["messages"]) for row in rows}) > 50  # hardly any item is there twice
    for row in rows:
        contents = [m["content"] for m in row["messages"] if m["role"] == "user" and isinstance(m["content"], list)]
        audios = [part["audio"] for content in contents for part in content if part["type"] == "audio"]
        assert len(audios) == len(row["custom"]["transcript"]) > 0
        assert all(audio.startswith(("../speech/test/", "../speech/more/")) for audio in audios)
        assert row["task"] == name
        assert row["reference"]
        assert [m["role"] for m in row["messages"]] == ["user", "assistant"] * (len(row["messages"]) // 2) + ["user"]


def test_only_held_out_facts_are_stated(plan, facts):
    known = set(facts)
    for name in SETS:
        for item in plan.tests[name]:
            said = [text_of(part) for parts, _ in turns_of(item) for part in parts]
            stated = [text for text in said if re.search(r"[.]$", text) and text in known]
            if item.skill != "sum":
                assert stated
            assert set(item.custom.get("fact_text", ())) <= set(stated)


def test_nothing_spoken_for_the_sets_is_spoken_in_training(plan):
    trained = {spoken.text for spoken in plan.utterances if spoken.name.startswith("train")}
    more = [spoken for spoken in plan.utterances if spoken.name.startswith("more")]
    assert more
    assert not trained & {spoken.text for spoken in more}
    assert {spoken.voice.variant for spoken in more} <= set(CONFIG.voices.held_out_variants)
    assert all(is_held_out_question(spoken.text) for spoken in more if spoken.text.endswith("?"))


def test_labels_are_those_of_the_voices(plan):
    trained = {spoken.name for spoken in plan.utterances if spoken.name.startswith("train")}
    assert len(plan.voice_rows) == 300
    for items, of_training in ((plan.voice_rows, True), (plan.tests["voices"], False)):
        for item in items:
            assert all((spoken.name in trained) == of_training for spoken in item.spoken)
            sexes = [{"m": "man", "f": "woman"}[spoken.voice.variant[0]] for spoken in item.spoken]
            label = item.custom["label"]
            if item.skill == "sex":
                assert sexes == [label]
                assert item.answer == f"A {label}"
            elif item.skill == "who_said_what":
                assert set(sexes) == {"man", "woman"}
                assert f"the {label}" in item.parts[-1]
                assert item.answer == item.spoken[sexes.index(label)].text
            else:
                names = {
                    "en-us": "American", "en-gb": "British", "en-gb-scotland": "Scottish",
                    "en-gb-x-gbclan": "Lancastrian", "en-us-nyc": "New York", "en-029": "Caribbean",
                }  # fmt: skip
                assert item.answer == label == names[item.spoken[0].voice.accent]


def test_questions_about_voices_have_every_answer_as_often(plan):
    counts: dict[str, dict[str, int]] = {}
    for item in plan.voice_rows:
        of_skill = counts.setdefault(item.skill, {})
        of_skill[item.custom["label"]] = of_skill.get(item.custom["label"], 0) + 1
    assert counts["sex"] == counts["who_said_what"] == {"man": 50, "woman": 50}
    assert len(counts["accent"]) == 6
    assert set(counts["accent"].values()) <= {16, 17}


def test_mixed_questions_are_the_mixed_rows_that_ask(folder):
    mixed, questions = (
        (folder / SOURCES[name]).read_text().splitlines(keepends=True) for name in ("mixed", "mixed_questions")
    )
    assert questions == [row for row in mixed if json.loads(row)["task"] not in INSTRUCTIONS]
    assert 0 < len(questions) < len(mixed)


@pytest.fixture
def with_speech(plan, folder):
    """The files of the tests, their speech a moment of silence."""
    for spoken in plan.utterances:
        if not spoken.name.startswith("train"):
            path = folder / spoken.file
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, np.zeros(1600), 16_000)
    return folder / "tests"


def test_without_their_written_facts_mixed_items_still_ask(with_speech):
    kept = {}
    for path in sorted(with_speech.glob("mixed_*.jsonl")):
        items = read_items(path)
        assert all(item.custom["fact_in"] in ("speech", "text") for item in items)
        if not any(item.custom["fact_text"] for item in items):
            kept[path.stem] = 0
            continue
        kept[path.stem] = len(reduced := without_text(items))
        for item in reduced:
            (turn,) = item.conversation.turns
            left = [part.text for part in turn.parts if hasattr(part, "text")]
            assert all(text.endswith("?") for text in left)
            assert len(turn.audios) == 1
    assert kept == {
        "mixed_both_spoken": 0,
        "mixed_fact_spoken": 60,
        "mixed_instruction": 0,
        "mixed_question_spoken": 60,
        "mixed_two_facts": 60,
    }


def test_the_needed_fact_of_a_mixed_item_is_where_it_says(plan, facts):
    for name in ("mixed_question_spoken", "mixed_fact_spoken", "mixed_both_spoken", "mixed_two_facts"):
        places = set()
        for item in plan.tests[name]:
            question = next(text_of(part) for part in item.parts if text_of(part).endswith("?"))
            needed = [
                part for part in item.parts if text_of(part) in facts and answers_to(question, [facts[text_of(part)]])
            ]
            assert len(needed) == 1
            assert item.custom["fact_in"] == ("speech" if isinstance(needed[0], Spoken) else "text")
            places.add(item.custom["fact_in"])
        assert (
            places
            == {
                "mixed_question_spoken": {"text"},
                "mixed_fact_spoken": {"speech"},
                "mixed_both_spoken": {"speech"},
                "mixed_two_facts": {"speech", "text"},
            }[name]
        )


@pytest.mark.parametrize(
    ("name", "mixed", "more"),
    [("vtb_tiny_voices", "mixed", ["voices"]), ("experiment/novel_prompts", "mixed_questions", [])],
)
def test_other_blends_are_the_default_one_with_these_sources(name, mixed, more):
    with initialize_config_dir(str(Path(__file__).parents[2] / "conf"), version_base=None):
        blends = [compose(config).data.train_ds for config in ("vtb_tiny", name)]
    default, other = (OmegaConf.to_yaml(blend) for blend in blends)
    added = blends[1].input_cfg[len(blends[0].input_cfg) :]
    assert [source.name for source in added] == more
    assert all(str(source.manifest_filepath).endswith(SOURCES[source.name]) for source in added)
    del blends[1].input_cfg[len(blends[0].input_cfg) :]
    assert OmegaConf.to_yaml(blends[1]) == default.replace(SOURCES["mixed"], SOURCES[mixed])
    assert other != default


def test_a_run_of_before_takes_the_new_tests_but_not_other_training_rows(tmp_path):
    def kept(**sets):
        return OmegaConf.create({"tiny": {"seed": 1, **({"sets": sets} if sets else {})}})

    path = tmp_path / "config.yaml"
    OmegaConf.save(kept(), path)
    check_same_run(kept(multi_turn=150, voice_rows=4000), path)
    OmegaConf.save(kept(multi_turn=150, voices=9, voice_rows=4000), path)
    check_same_run(kept(multi_turn=20, voices=8, voice_rows=4000), path)
    with pytest.raises(ConfigError, match=r"another run.*tiny\.sets\.voice_rows|another tiny\.sets\.voice_rows"):
        check_same_run(kept(multi_turn=150, voices=9, voice_rows=10), path)
