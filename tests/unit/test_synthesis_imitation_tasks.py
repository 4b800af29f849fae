"""Task banks: what a file may say, which tasks are drawn, and what is held out."""

from __future__ import annotations

import random
import re
from collections import Counter
from pathlib import Path

import pytest

from tests.unit.test_import_rules import ROOT
from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.synthesis.imitation.tasks import TaskBank, load_bank
from vtblender_nemo.synthesis.weights import parse_weights

SHIPPED = ROOT / "conf/prompts/imitation_synthesis.yaml"
SMALL = """
version: "3"
tasks:
  repeat:
    weight: 3
    wordings: {order: "Repeat: {audio}", short: "{audio} again"}
  title:
    wordings: {order: "Title of {audio}"}
  say_in:
    languages: [de, es-MX]
    weight: 0.5
    wordings: {order: "In {language}: {audio}", short: "{audio} {language}"}
"""


def write(folder: Path, text: str, name: str = "bank.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def bank(tmp_path) -> TaskBank:
    return load_bank([write(tmp_path, SMALL)])


def names(bank: TaskBank) -> dict[str, list[str]]:
    return {task.name: list(task.wordings) for task in bank.tasks}


def test_a_file_of_tasks(bank):
    assert names(bank) == {
        "repeat": ["order", "short"],
        "title": ["order"],
        "say_in_de": ["order", "short"],
        "say_in_es-MX": ["order", "short"],
    }
    assert [task.weight for task in bank.tasks] == [3.0, 1.0, 0.5, 0.5]
    assert [task.language for task in bank.tasks] == [None, None, "de", "es"]
    assert bank.tasks[3].wordings["order"] == "In Spanish: {audio}"
    assert re.fullmatch(r"3-[0-9a-f]{8}", bank.version)


def test_several_files_are_one_bank(tmp_path):
    first = write(tmp_path, SMALL)
    second = write(tmp_path, 'version: "x"\ntasks: {shout: {wordings: {one: "Shout {audio}"}}}', "mine.yaml")
    bank = load_bank([first, second])
    assert names(bank)["shout"] == ["one"]
    assert re.fullmatch(r"3-\w{8}\+x-\w{8}", bank.version)
    with pytest.raises(ConfigError, match=r"mine.yaml: two tasks of one name; found 'shout'.*--prompts"):
        load_bank([second, second])


def test_tasks_are_chosen_and_weighed_by_name(bank):
    assert names(bank.chosen(parse_weights("say_in_*=2, repeat/short", "--tasks"))) == {
        "repeat": ["short"],
        "say_in_de": ["order", "short"],
        "say_in_es-MX": ["order", "short"],
    }
    assert [task.weight for task in bank.chosen({"say_in_*": 2.0, "repeat": None}).tasks] == [3.0, 2.0, 2.0]
    assert bank.chosen({"*": None}) == bank


def test_what_is_held_out_is_what_the_tests_choose(bank):
    out = ["*/short", "title"]
    assert names(bank.without(out)) == {"repeat": ["order"], "say_in_de": ["order"], "say_in_es-MX": ["order"]}
    trained, tested = (
        {(task.name, one) for task in part.tasks for one in task.wordings}
        for part in (bank.without(out), bank.chosen(dict.fromkeys(out)))
    )
    assert not trained & tested
    assert trained | tested == {(task.name, one) for task in bank.tasks for one in task.wordings}


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda bank: bank.chosen({"sing": None}), r"'sing'; expected .*repeat, title.*--tasks"),
        (lambda bank: bank.chosen({"title/short": None}), r"'title/short'.*--tasks"),
        (lambda bank: bank.chosen({}), r"--tasks"),
        (lambda bank: bank.chosen({"title": 0.0}), r"found 0.0; expected more than 0.*--tasks title"),
        (lambda bank: bank.chosen({"title": float("nan")}), r"--tasks title"),
        (lambda bank: bank.without(["sing"]), r"'sing'.*--hold-out"),
        (lambda bank: bank.without(["*"]), r"held out.*--hold-out"),
        (lambda _: parse_weights("title=much", "--tasks"), r"'title=much'; expected name=2.*--tasks"),
    ],
)
def test_names_that_name_nothing(bank, use, message):
    with pytest.raises(ConfigError, match=message):
        use(bank)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Title of {audio}", "Title", r"found 'Title'; expected \{audio\} once.*tasks.title.wordings.order"),
        ("Title of {audio}", "{audio} or {audio}", r"\{audio\} once"),
        ("Title of {audio}", "{audio} as {json}", r"no other brace.*tasks.title.wordings.order"),
        ("Title of {audio}", "{audio} in {language}", r"no other brace"),
        ("In {language}: {audio}", "{audio}", r"\{language\}.*tasks.say_in.wordings.order"),
        ("languages: [de,", "languages: [xx,", r"unknown language code; found 'xx'.*tasks.say_in.languages"),
        ("languages: [de,", "languages: [no,", r"wrong type.*tasks.say_in.languages"),  # YAML takes it for false
        ("weight: 3", "weight: -1", r"found -1; expected more than 0.*tasks.repeat.weight"),
        ("weight: 3", "wait: 3", r"unknown key; found 'wait'.*tasks.repeat.wait"),
        ("weight: 3", "weight: often", r"expected a number.*tasks.repeat.weight"),
        ('order: "Title of {audio}"', "", r"without wordings.*tasks.title.wordings"),
        ("  title:", "  ti/tle:", r"'ti/tle'; expected letters, digits"),
        ('{order: "Title of', '{so=so: "Title of', r"'so=so'"),
        ('version: "3"', "", r"incomplete.*version"),
        ("tasks:", "task:", r"unknown key; found 'task'"),
        ("{order:", "{order", r"(is not YAML|wrong type).*(--prompts|wordings)"),
    ],
)
def test_files_that_cannot_be(tmp_path, old, new, message):
    assert old in SMALL
    with pytest.raises(ConfigError, match=message) as caught:
        load_bank([write(tmp_path, SMALL.replace(old, new))])
    assert "bank.yaml" in str(caught.value)


def test_files_that_are_not_there_or_empty(tmp_path):
    with pytest.raises(ConfigError, match=r"none.yaml.*missing.*--prompts"):
        load_bank([tmp_path / "none.yaml"])
    with pytest.raises(ConfigError, match=r"no task.*--prompts"):
        load_bank([write(tmp_path, 'version: "1"\ntasks: {}')])


def test_draws_are_different_tasks_by_weight_and_wordings_alike(bank):
    """Shares of 6000 first draws lie within 4 standard deviations of the weights."""
    rng, count = random.Random(0), 6000
    drawn = [list(bank.draw(rng, 2, "en")) for _ in range(count)]
    assert all(len({one.task for one in row}) == 2 for row in drawn)
    shares = {"repeat": 0.6, "title": 0.2, "say_in_de": 0.1, "say_in_es-MX": 0.1}
    first = Counter(row[0].task for row in drawn)
    for task, share in shares.items():
        assert abs(first[task] - count * share) < 4 * (count * share * (1 - share)) ** 0.5, task
    worded = Counter(row[0].wording for row in drawn if row[0].task == "repeat")
    assert abs(worded["short"] - worded["order"]) < 4 * worded.total() ** 0.5
    assert {one.prompt for row in drawn for one in row if one.task == "say_in_de"} == {
        "In German: {audio}",
        "{audio} German",
    }


def test_nothing_is_asked_for_in_the_language_that_is_spoken(bank):
    assert {one.task for one in bank.draw(random.Random(0), 4, "es")} == {"repeat", "title", "say_in_de"}


def test_the_tasks_that_come_with_the_package():
    bank = load_bank([SHIPPED])
    assert len(bank.tasks) >= 20
    manners = {tuple(name for name in task.wordings if name != "bare") for task in bank.tasks}
    assert len(manners) == 1, "one name for one manner of asking, so that */name holds it out everywhere"
    assert len(manners.pop()) >= 10
    wordings = [text for task in bank.tasks for text in task.wordings.values()]
    assert len(set(wordings)) == len(wordings)


@pytest.mark.parametrize("task", load_bank([SHIPPED]).tasks, ids=lambda task: task.name)
def test_wordings_that_come_with_the_package_fit_speech_and_transcripts(task):
    tells = re.compile(
        r"\b(?:texts?|transcri\w+|passages?|paragraphs?|articles?|documents?|sentences? (?:above|below)|written|read(?:ing)?"
        r"|hears?|heard|hearing|listen\w*|audio|recordings?|record|sound clip|speech|speaks?|speaker|spoken|voice)\b",
        re.IGNORECASE,
    )
    for text in task.wordings.values():
        told = text.replace("{audio}", "")
        assert not tells.search(told), text
        assert not re.search(r"\{audio\}\S|[^\s]\{audio\}", text), text  # parts of a turn are joined by spaces
