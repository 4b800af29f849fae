from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers.listener import write_tone
from vtblender_nemo.common.conversation import Audio, Text
from vtblender_nemo.common.errors import ConfigError, DataError
from vtblender_nemo.evaluation.kinds import KINDS
from vtblender_nemo.evaluation.measures import check_measures
from vtblender_nemo.evaluation.tasks import BASE, Task, find_task_file, load_tasks
from vtblender_nemo.evaluation.variants import SCORED_VARIANTS

CONF = Path(__file__).parents[2] / "conf/evaluation"


def write_items(path: Path, count: int = 3, *, audio: Path | None = None, **custom: Any) -> Path:
    """A test set whose items hear a tone of their own and read a fact and a question."""
    rows = []
    for number in range(count):
        tone = write_tone(path.parent / "wav" / f"{path.stem}_{number}.wav", 10 + number, secs=1 + number)
        parts = [
            {"type": "text", "text": f"Fact {number}."},
            {"type": "audio", "audio": str(audio or tone.relative_to(path.parent))},
            {"type": "text", "text": "What?"},
        ]
        own = {"transcript": [f"said {number}"], "kind": f"kind{number % 2}", **custom}
        rows.append(
            {
                "id": f"{path.stem}_{number}",
                "task": path.stem,
                "messages": [{"role": "user", "content": parts}],
                "reference": f"answer {number}",
                "custom": own,
            }
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_manifest(path: Path, rows: list[dict[str, Any]]) -> Path:
    for number, row in enumerate(rows):
        row.setdefault("audio_filepath", str(write_tone(path.parent / f"{path.stem}{number}.wav", 10, secs=1)))
        row.setdefault("duration", 1.0)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def load(tmp_path):
    """Loads one task, or a whole file, from settings."""

    def loaded(settings: Any = None, *, file: dict[str, Any] | None = None, **options: Any) -> list[Task]:
        path = tmp_path / "tasks.yaml"
        path.write_text(yaml.safe_dump(file or {"tasks": {"mine": settings}}))
        return load_tasks(path, **options)

    return loaded


def texts(item) -> list[str | None]:
    return [part.text if isinstance(part, Text) else None for part in item.conversation.turns[-1].parts]


def test_a_kind_gives_what_the_file_does_not_say(load, tmp_path):
    items = write_items(tmp_path / "q.jsonl")
    (task,) = load({"kind": "sqa", "items": [str(items)]})
    assert (task.name, task.kind, task.max_new_tokens) == ("mine", "sqa", 128)
    assert task.measures == ("exact_match_percent", "f1_percent", "rouge_l_f1_percent")
    assert task.options == {"rules": "squad"}
    assert task.group_by == ("kind",)  # all items have an answer, so `answerable` would tell nothing
    assert list(task.sets) == ["", "text_twin"]
    assert [texts(item) for item in task.sets["text_twin"]] == [[f"Fact {n}.", f"said {n}", "What?"] for n in range(3)]


def test_the_file_has_the_last_word(load, tmp_path):
    items = write_items(tmp_path / "q.jsonl")
    settings = {
        "kind": "sqa",
        "items": [str(items)],
        "measures": ["wer_percent"],
        "options": {"normalizer": "none"},
        "variants": ["no_text", "base"],
        "group_by": ["task"],
        "max_new_tokens": 7,
    }
    (task,) = load(settings)
    assert (task.measures, task.options, task.max_new_tokens) == (("wer_percent",), {"normalizer": "none"}, 7)
    assert task.group_by == ("task",)
    assert texts(task.sets["no_text"][1]) == [None, "What?"]
    assert texts(task.sets["base"][1]) == ["Fact 1.", "said 1", "What?"]  # the base LLM reads what others hear


@pytest.mark.parametrize("kind", KINDS)
def test_defaults_of_kinds_exist(kind):
    default = KINDS[kind]
    assert set(default.variants) <= {*SCORED_VARIANTS, BASE}
    if default.measures:
        check_measures(default.measures, default.options, kind)


def test_variables(load, tmp_path):
    items = write_items(tmp_path / "world/q.jsonl")
    file = {
        "variables": {"world": "???"},
        "tasks": {
            "a": {"kind": "sqa", "items": ["${variables.world}/q.jsonl"]},
            "b": {"kind": "sqa", "items": [str(items)]},
        },
    }
    first, second = load(file=file, variables={"world": str(tmp_path / "world")})
    assert [item.id for item in first.sets[""]] == [item.id for item in second.sets[""]]
    (only,) = load(file=file, only=["b"])  # what is not asked for need not be set
    assert only.name == "b"
    with pytest.raises(ConfigError, match=r"tasks\.yaml: a value of task a is not set.*expected --set world=VALUE"):
        load(file=file)
    with pytest.raises(ConfigError, match=r"unknown variable; found \['wold'\]; expected among world.*--set"):
        load(file=file, variables={"wold": "x"})


def test_environment_variables(load, tmp_path, monkeypatch):
    write_items(tmp_path / "q.jsonl")
    file = {
        "variables": {"root": "${oc.env:VTB_TEST_ROOT}"},
        "tasks": {"a": {"kind": "sqa", "items": ["${variables.root}/q.jsonl"]}},
    }
    monkeypatch.delenv("VTB_TEST_ROOT", raising=False)
    with pytest.raises(ConfigError, match="VTB_TEST_ROOT.*expected --set root=VALUE"):
        load(file=file)
    monkeypatch.setenv("VTB_TEST_ROOT", str(tmp_path))
    assert len(load(file=file)[0].sets[""]) == 3


def test_included_files(load, tmp_path):
    items = {"kind": "sqa", "items": [str(write_items(tmp_path / "q.jsonl"))]}
    (tmp_path / "more").mkdir()
    (tmp_path / "more/flat.yaml").write_text(yaml.safe_dump({"flat": items}))
    (tmp_path / "more/deep.yaml").write_text(yaml.safe_dump({"tasks": {"deep": items}}))
    file = {"include": ["more/flat.yaml", "more/deep.yaml"], "tasks": {"own": items}}
    assert [task.name for task in load(file=file)] == ["own", "flat", "deep"]
    with pytest.raises(ConfigError, match="two tasks of one name; found \\['flat'\\]"):
        load(file={"include": ["more/flat.yaml"], "tasks": {"flat": items}})
    with pytest.raises(ConfigError, match=r"none\.yaml: included task file is missing"):
        load(file={"include": ["none.yaml"]})


def test_limit_takes_items_of_every_part(load, tmp_path):
    files = [str(write_items(tmp_path / f"{name}.jsonl", 4)) for name in "ab"]
    (task,) = load({"kind": "sqa", "items": files}, limit=4)
    assert [item.id for item in task.sets[""]] == ["a_0", "a_2", "b_0", "b_2"]
    (task,) = load({"kind": "sqa", "items": files, "limit": 2}, limit=4)
    assert [item.id for item in task.sets["text_twin"]] == ["a_0", "b_0"]
    assert len(load({"kind": "sqa", "items": files}, limit=100)[0].sets[""]) == 8


def test_sources_as_training_has_them(load, tmp_path):
    rows = [{"text": "good day", "id": "one"}, {"text": "good night", "lang": "xx"}]
    manifest = write_manifest(tmp_path / "m.jsonl", rows)
    source = {"type": "nemo", "name": "s", "manifest_filepath": str(manifest), "tags": {"target_lang": "de"}}
    source["prompts"] = ["Say {audio} again."]
    (task,) = load({"kind": "asr", "input_cfg": [source], "variants": ["text_twin"]})
    first, second = task.sets[""]
    assert (first.id, first.reference, first.task) == ("one", "good day", "mine")
    assert texts(first) == ["Say ", None, " again."]
    assert first.custom["transcript"] == "good day"
    assert second.custom["lang"] == "xx"
    assert texts(task.sets["text_twin"][1]) == ["Say ", "good night", " again."]
    settings = {"kind": "asr", "input_cfg": [source], "prompt": "In {target_language}: {audio}"}
    assert texts(load(settings)[0].sets[""][0]) == ["In German: ", None]
    group = {"type": "group", "input_cfg": [source, {**source, "name": "again"}]}
    (task,) = load({**settings, "input_cfg": [group]})
    assert [item.id for item in task.sets[""]] == ["s/one", "s/m-1", "again/one", "again/m-1"]
    assert texts(task.sets[""][3]) == ["In German: ", None]


def test_items_in_another_wording(load, tmp_path):
    items = write_items(tmp_path / "q.jsonl", lang="de")
    (task,) = load({"kind": "asr", "items": [str(items)], "prompt": "{lang}? {audio}"})
    assert [texts(item) for item in task.sets[""]] == [["de? ", None]] * 3
    assert all(isinstance(item.conversation.turns[-1].parts[1], Audio) for item in task.sets[""])
    with pytest.raises(DataError, match="asks for a field that the row lacks; found 'speaker'"):
        load({"kind": "asr", "items": [str(items)], "prompt": "{speaker}"})


def test_broken_audio_is_the_items_fault_alone(load, tmp_path):
    items = write_items(tmp_path / "q.jsonl", audio=tmp_path / "none.wav")
    (task,) = load({"kind": "asr", "items": [str(items)]})
    assert all("none.wav: audio file is missing" in item.error for item in task.sets[""])
    manifest = tmp_path / "m.jsonl"
    manifest.write_text(json.dumps({"audio_filepath": "none.wav", "text": "a"}) + "\n")
    source = {"type": "nemo", "manifest_filepath": str(manifest), "prompts": ["{audio}"]}
    (task,) = load({"kind": "asr", "input_cfg": [source]})
    assert "none.wav" in task.sets[""][0].error


def test_noise_needs_no_files(load):
    (task,) = load({"kind": "noise", "noise": {"sounds": ["hum", "white"], "secs": [1, 2], "repeats": 3}})
    assert len(task.sets[""]) == 12
    assert task.group_by == ("noise", "secs")
    assert texts(task.sets[""][0]) == ["Transcribe:", None]
    assert texts(load({"kind": "noise", "prompt": "Say:"})[0].sets[""][0]) == ["Say:", None]


def test_text_tasks_go_to_the_harness(load):
    settings = {"kind": "text", "tasks": ["gsm8k"], "measures": [{"name": "a", "metric": "b"}], "limit": 9}
    (task,) = load(settings)
    assert task.text == {key: value for key, value in settings.items() if key != "kind"}
    assert load(settings, limit=5)[0].text["limit"] == 5
    assert load(settings, limit=50)[0].text["limit"] == 9
    with pytest.raises(ConfigError, match="unknown setting of a text task"):
        load({**settings, "metric": "x"})


WRONG = {
    "unknown kind": (
        {"kind": "speech"},
        "unknown kind of task; found 'speech'; expected one of asr, ast.*tasks.mine.kind",
    ),
    "no kind": ({}, "unknown kind of task"),
    "unknown key": ({"item": []}, "unknown key; found 'item'; expected one of kind, items, input_cfg.*tasks.mine.item"),
    "wrong type": ({"items": "q.jsonl"}, "wrong type; found 'q.jsonl'; expected a list"),
    "no items": ({"items": []}, "task without one clear set of items; expected either items or input_cfg"),
    "both": ({"input_cfg": [{"type": "nemo"}]}, "task without one clear set of items"),
    "measure": ({"measures": ["wer"]}, "unknown measure; found 'wer'; expected one of wer_percent"),
    "option": ({"options": {"language": "en"}}, "options that none of the measures knows"),
    "variant": ({"variants": ["silence"]}, "unknown variant; found 'silence'; expected one of text_twin.*base"),
    "variant twice": ({"variants": ["no_text", "no_text"]}, "a variant named twice"),
    "group": ({"group_by": ["dialect"]}, "no item has a group of this key; found 'dialect'.*tasks.mine.group_by"),
    "noise": ({"noise": {"secs": [1]}}, "only tasks of kind noise have sounds"),
    "noise with items": ({"kind": "noise"}, "noise is made, not read"),
}


@pytest.mark.parametrize("name", WRONG)
def test_mistakes_name_file_and_key(load, tmp_path, name):
    change, message = WRONG[name]
    settings = {"kind": "sqa", "items": [str(write_items(tmp_path / "q.jsonl"))]} if name != "no kind" else {}
    with pytest.raises(ConfigError, match=rf"tasks\.yaml: .*{message}"):
        load({**settings, **change})


def test_mistakes_in_noise(load):
    with pytest.raises(ConfigError, match="unknown key; found 'colours'.*tasks.mine.noise.colours"):
        load({"kind": "noise", "noise": {"colours": ["white"]}})
    with pytest.raises(ConfigError, match="unknown sound"):
        load({"kind": "noise", "noise": {"sounds": ["brown"]}})


def test_mistakes_in_items_name_file_and_line(load, tmp_path):
    items = write_items(tmp_path / "q.jsonl")
    rows = items.read_text().splitlines()
    missing = json.dumps({k: v for k, v in json.loads(rows[1]).items() if k != "reference"})
    for text, message in {
        "": r"q\.jsonl: file without rows",
        "\n".join([rows[0], missing]): r"q\.jsonl:2: missing field in a test item; found \['reference'\]",
        "\n".join([rows[0], rows[0]]): r"q\.jsonl:2: repeated id; found 'q_0'",
        "\n".join([rows[0], "{broken"]): r"q\.jsonl:2: ",
    }.items():
        items.write_text(text)
        with pytest.raises(DataError, match=message):
            load({"kind": "sqa", "items": [str(items)]})


def test_one_id_in_two_files(load, tmp_path):
    first, second = write_items(tmp_path / "a/q.jsonl"), write_items(tmp_path / "b/q.jsonl")
    with pytest.raises(
        DataError, match=r"b/q\.jsonl: repeated id in a task; found 'q_0'; expected another id than in .*a/q"
    ):
        load({"kind": "sqa", "items": [str(first), str(second)]})


def test_mistakes_in_sources_name_file_and_line(load, tmp_path):
    manifest = write_manifest(tmp_path / "m.jsonl", [{"text": "a"}, {"translation": "b"}])
    source = {"type": "nemo", "manifest_filepath": str(manifest), "prompts": ["{audio}"]}
    with pytest.raises(DataError, match=r"m\.jsonl:2: row with an empty text"):
        load({"kind": "asr", "input_cfg": [source]})
    write_manifest(manifest, [{"text": "a", "id": "x"}, {"text": "b", "id": "x"}])
    with pytest.raises(DataError, match=r"m\.jsonl:2: repeated id in a source; found 'x'"):
        load({"kind": "asr", "input_cfg": [source]})
    with pytest.raises(ConfigError, match=r"tasks\.mine\.input_cfg"):
        load({"kind": "asr", "input_cfg": [{**source, "manifest_filepath": "none.jsonl"}]})


def test_a_variant_that_cannot_be_made_is_named(load, tmp_path):
    items = write_items(tmp_path / "q.jsonl", transcript=None)
    with pytest.raises(
        DataError, match=r"variant text_twin cannot be made: wrong transcript of item 'q_0'.*tasks\.mine\.variants"
    ):
        load({"kind": "sqa", "items": [str(items)]})


def test_mistakes_in_the_file_itself(load, tmp_path):
    with pytest.raises(ConfigError, match=r"unknown key; found \['task'\]; expected among variables, include, tasks"):
        load(file={"task": {}})
    with pytest.raises(ConfigError, match="task file without tasks"):
        load(file={"variables": {"a": "b"}})
    with pytest.raises(ConfigError, match=r"unknown task; found \['ast'\]; expected among mine.*--tasks"):
        load({"kind": "asr"}, only=["ast"])
    with pytest.raises(
        ConfigError, match="task file is missing; found 'nothing'; expected a path, or one of .*public.*tiny"
    ):
        load_tasks("nothing")
    (tmp_path / "bad.yaml").write_text("tasks: [")
    with pytest.raises(ConfigError, match=r"bad\.yaml:\d+: file is not YAML"):
        load_tasks(tmp_path / "bad.yaml")


def test_the_tiny_worlds_tasks(tmp_path):
    for name in ("asr", "ast_de", "ast_es", "sqa", "text"):
        write_items(tmp_path / f"content/tests/{name}.jsonl")
    for name in ("multi_turn", "novel_wordings", "novel_formats", "several_turns", "voices"):
        write_items(tmp_path / f"content/tests/{name}.jsonl", turns=2, label="man")
    write_items(tmp_path / "content/tests/generalisation.jsonl", generalisation="task", wording_distance=0.5)
    for name in ("question_spoken", "fact_spoken", "both_spoken", "two_facts", "instruction"):
        write_items(tmp_path / f"content/tests/mixed_{name}.jsonl", fact_in="text")
    tasks = {task.name: task for task in load_tasks("tiny", variables={"world": str(tmp_path)})}
    kinds = {task.kind for task in tasks.values()}
    assert kinds >= {"asr", "ast", "sqa", "mixed", "multi_turn", "instructions", "noise", "text", "generalisation"}
    assert tasks["ast"].group_by == ("language_pair",)
    assert len(tasks["mixed"].sets["no_text"]) == 15
    assert tasks["text"].text["data"] == f"{tmp_path}/content/tests/text.jsonl"
    (voices,) = load_tasks("tiny_voices", variables={"world": str(tmp_path)})
    assert (voices.kind, voices.measures) == ("paralinguistic", ("accuracy_percent",))


def test_the_public_recipe_reads_what_prepare_corpus_writes(tmp_path):
    for folder, split, fields in (
        ("librispeech", "test-clean", {"text": "a", "source_lang": "en"}),
        ("librispeech", "test-other", {"text": "a", "source_lang": "en"}),
        ("fleurs", "test", {"text": "a", "source_lang": "de"}),
        ("covost2", "test", {"text": "a", "translation": "b", "source_lang": "en", "target_lang": "de"}),
        ("squad", "test", {"text": "a", "question": "b?", "answer": "c", "source_lang": "en"}),
    ):
        (tmp_path / folder).mkdir(exist_ok=True)
        write_manifest(tmp_path / folder / f"{split}.jsonl", [dict(fields, id=str(n), n=n) for n in range(2)])
        rows = (tmp_path / folder / f"{split}.jsonl").read_text().splitlines()
        different = [json.dumps({**json.loads(row), "text": f"a {n}"}) for n, row in enumerate(rows)]
        (tmp_path / folder / f"{split}.jsonl").write_text("\n".join(different) + "\n")
        kind = {"covost2": "nemo", "squad": "speech_qa"}.get(folder, "nemo")
        source = {"type": kind, "name": folder, "manifest_filepath": f"{split}.jsonl", "prompts": ["old {audio}"]}
        if folder == "covost2":
            source["text_field"] = "translation"
        (tmp_path / folder / f"input_cfg.{split}.yaml").write_text(yaml.safe_dump([source]))
    tasks = {task.name: task for task in load_tasks("public", variables={"root": str(tmp_path)})}
    assert texts(tasks["covost2"].sets[""][0]) == ["Translate the speech into German.", None]
    assert texts(tasks["librispeech_clean"].sets[""][0]) == ["Transcribe the audio.", None]
    assert tasks["fleurs"].group_by == ("language", "secs")
    assert list(tasks["spoken_squad"].sets) == ["", "text_twin", "no_audio_shuffle"]
    assert {"gsm8k", "ifeval", "bbh", "mmlu"} <= tasks.keys()


def test_every_file_of_the_folder_is_found_by_its_name():
    for path in CONF.glob("*.yaml"):
        assert find_task_file(path.stem) == path


def test_the_recipe_for_voices(tmp_path):
    rows = [{"text": f"words {number}", "gender": "female" if number % 2 else "male"} for number in range(4)]
    write_manifest(tmp_path / "sex.jsonl", rows)
    (task,) = load_tasks("voices", only=["sex"], variables={"root": str(tmp_path)})
    assert [item.reference for item in task.sets[""]] == ["male", "female"] * 2
    assert task.measures == ("accuracy_percent",)
    assert texts(task.sets["no_audio_shuffle"][0])[1].startswith(" Is the speaker male or female?")
    with pytest.raises(ConfigError, match="expected --set root=VALUE"):
        load_tasks("voices", only=["sex"])
