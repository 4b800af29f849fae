"""Nothing that is held out occurs in any training: checked over the rows that are really made."""

from __future__ import annotations

import json
import re
from itertools import islice

import pytest

from tests.helpers.tiny_sets import CONTENT
from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.tiny.config import TinyConfig, VoicesConfig
from vtblender_nemo.tiny.grammar import DigitsFact
from vtblender_nemo.tiny.jobs import language_model_chats
from vtblender_nemo.tiny.rows import PROMPTS, SOURCES, write_world
from vtblender_nemo.tiny.sources import SPEECH_TASKS, hold_out_for, plan_world
from vtblender_nemo.tiny.splits import held_out_questions, hold_out, is_held_out_question, training_questions

CONFIG = TinyConfig(content=CONTENT)


@pytest.fixture(scope="module")
def plan():
    return plan_world(CONFIG)


@pytest.fixture(scope="module")
def folder(plan, tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    write_world(plan, {spoken.name: 1.0 for spoken in plan.utterances}, folder)
    return folder


def rows_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def texts_in(value):
    """All strings inside a JSON value."""
    if isinstance(value, str):
        return [value]
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for child in children for text in texts_in(child)]


def plain(text):
    return " ".join(re.findall(r"[\w']+", text.lower()))


@pytest.fixture(scope="module")
def training_texts(folder, plan):
    """Every text of every training: source rows, what is spoken, and chats of the language model."""
    texts = {text for name in SOURCES.values() for row in rows_of(folder / name) for text in texts_in(row)}
    texts |= {spoken.text for spoken in plan.utterances if spoken.name.startswith("train")}
    for chat in islice(language_model_chats(CONFIG), 3000):
        texts |= {message["content"] for message in chat.messages()}
    return "\n".join(f" {plain(text)} " for text in texts)


def test_no_training_states_a_held_out_fact(plan, training_texts):
    facts = plan.held_out.test + plan.held_out.validation
    assert len({fact.same_fact_key() for fact in facts}) == len(facts) == 140
    for fact in facts:
        sentence = fact.sentence()
        for text in (sentence.en, sentence.de, sentence.es):
            assert f" {plain(text)} " not in training_texts


def test_no_training_asks_a_held_out_question(folder, plan, training_texts):
    spoken = {s.text for s in plan.utterances if not s.name.startswith("train") and s.text.endswith("?")}
    assert len(spoken) > 20
    for question in spoken:
        assert is_held_out_question(question)
        assert f" {plain(question)} " not in training_texts
    sums = [row for row in rows_of(folder / "tests" / "text.jsonl") if row["custom"]["skill"] == "sum"]
    assert sums
    for row in sums:
        assert f" {plain(row['messages'][0]['content'])} " not in training_texts


def test_the_check_would_see_a_leak(plan, training_texts):
    """Training facts and questions are found by the same search."""
    assert f" {plain(plan.spoken_facts[0].fact.sentence().de)} " in training_texts
    assert f" {plain(plan.speech_questions[0].question.text)} " in training_texts


def test_test_speech_has_voices_of_its_own(plan):
    heard = {s.voice for s in plan.utterances if s.name.startswith("train")}
    tests = [s.voice for s in plan.utterances if not s.name.startswith("train")]
    variants, accents = {voice.variant for voice in heard}, {voice.accent for voice in heard}
    assert variants == set(CONFIG.voices.variants)
    assert accents == set(CONFIG.voices.accents)
    assert {voice.variant for voice in tests} == set(CONFIG.voices.held_out_variants)
    assert not variants & {voice.variant for voice in tests}
    new_accent = sum(voice.accent not in accents for voice in tests) / len(tests)
    assert 0.4 < new_accent < 0.6


def test_validation_and_test_do_not_share_facts_or_speech(folder, plan):
    assert not {f.same_fact_key() for f in plan.held_out.test} & {f.same_fact_key() for f in plan.held_out.validation}
    for task in SPEECH_TASKS:
        for kind, other in (("tests", "speech/validation"), ("validation", "speech/test")):
            assert other not in (folder / kind / f"{task}.jsonl").read_text()


def test_every_task_has_its_items(folder, plan):
    for task in SPEECH_TASKS:
        rows = rows_of(folder / "tests" / f"{task}.jsonl")
        assert len(rows) == 60 == len({row["id"] for row in rows})
        for row in rows:
            content = row["messages"][-1]["content"]
            audios = [part for part in content if part["type"] == "audio"]
            assert row["task"] == task
            assert row["reference"]
            assert len(audios) == len(row["custom"]["transcript"]) == (2 if task == "mixed_both_spoken" else 1)
        assert len(rows_of(folder / "validation" / f"{task}.jsonl")) == 10
    assert len(rows_of(folder / "tests" / "text.jsonl")) == 6 * 12


def test_a_text_twin_of_a_test_item_answers_itself(folder):
    """With the transcripts in place of the audio, a mixed item is a text exchange about a stated fact."""
    for row in rows_of(folder / "tests" / "mixed_two_facts.jsonl"):
        transcripts = iter(row["custom"]["transcript"])
        parts = [part.get("text") or next(transcripts) for part in row["messages"][0]["content"]]
        assert len(parts) == 3
        assert parts[2].endswith("?")
        stated = plain(" ".join(parts[:2]))
        digits = parts[2] in ("How many digits are there?",)
        assert digits or plain(row["reference"]) in stated


def test_mixed_rows_have_speech_in_a_run(folder):
    rows = rows_of(folder / SOURCES["mixed"])
    segments = set()
    for row in rows:
        user = [turn for turn in row["conversations"] if turn["from"] == "User"]
        spoken = [index for index, turn in enumerate(user) if turn["type"] == "audio"]
        assert spoken == list(range(spoken[0], spoken[0] + len(spoken)))
        assert row["conversations"][-1]["from"] == "Assistant"
        segments.add(len(spoken))
    assert segments == {1, 2, 3}


def test_wordings_are_those_that_the_language_model_knows(folder):
    import yaml

    wordings = yaml.safe_load((folder / PROMPTS).read_text())
    assert set(wordings) == {"asr", "ast_de", "ast_es", "speech_qa"}
    assert {"Transcribe: {audio}", "{audio} Repeat that."} <= set(wordings["asr"])


def test_held_out_digits_do_not_stand_inside_longer_ones():
    held_out = hold_out(400, 50, seed=1)
    digits = next(fact for fact in held_out.test if isinstance(fact, DigitsFact))
    longer = DigitsFact((*digits.digits, digits.digits[0]))
    assert held_out.holds(digits)
    assert held_out.holds(longer)


def test_questions_are_for_training_or_for_tests():
    held_out = hold_out(300, 10, seed=0)
    asked = [(training_questions(fact), held_out_questions(fact), fact.questions()) for fact in held_out.test]
    assert all(sorted(q.text for q in a + b) == sorted(q.text for q in c) for a, b, c in asked)
    share = sum(len(b) for _, b, _ in asked) / sum(len(c) for _, _, c in asked)
    assert 0.04 < share < 0.16


def test_the_same_config_plans_the_same_world():
    one, other = plan_world(CONFIG), plan_world(CONFIG)
    assert one.utterances == other.utterances
    assert one.tests == other.tests
    assert one.mixed == other.mixed
    assert hold_out_for(CONFIG) == one.held_out


def test_a_voice_cannot_be_trained_on_and_held_out():
    with pytest.raises(ConfigError, match="m5.*tiny.voices.held_out_variants"):
        TinyConfig(voices=VoicesConfig(variants=("m1", "m5")))
