from __future__ import annotations

import pytest

from tests.helpers.listener import write_tone
from vtblender_nemo.common.conversation import from_messages
from vtblender_nemo.common.errors import ConfigError, DataError
from vtblender_nemo.evaluation.groups import group_positions
from vtblender_nemo.evaluation.items import Item
from vtblender_nemo.evaluation.measures import MEASURES, Answered, check_measures, measure
from vtblender_nemo.evaluation.runner import Prediction
from vtblender_nemo.evaluation.scoring import score_task
from vtblender_nemo.evaluation.tasks import Task


@pytest.fixture
def make(tmp_path):
    def item(id: str, reference: str, *, secs: float = 1.0, **custom) -> Item:
        path = write_tone(tmp_path / f"{id}.wav", 10, secs=secs)
        content = [{"type": "audio", "audio": str(path)}, {"type": "text", "text": "What?"}]
        return Item(id, "t", from_messages([{"role": "user", "content": content}], id=id), reference, custom)

    return item


def task(items, *measures, variants=None, **others) -> Task:
    return Task("t", "sqa", {"": items, **(variants or {})}, measures, **others)


def answers(*texts: str | None) -> list[Prediction]:
    return [Prediction(text, "" if text is not None else "broken", secs=0.5, device="cpu") for text in texts]


def values(measures) -> dict[tuple[str, str, str], float]:
    return {(one.measure, one.variant, one.group): one.value for one in measures}


def test_measures_of_all_items_and_of_groups(make):
    items = [make("1", "Anna", kind="who"), make("2", "red", kind="what"), make("3", "dog", kind="what")]
    found = score_task(
        task(items, "exact_match_percent", "f1_percent", options={"rules": "squad"}, group_by=("kind",)),
        {"": answers("anna!", "the red", "red dog")},
    )
    assert values(found) == pytest.approx(
        {
            ("exact_match_percent", "", ""): 66.6667,
            ("exact_match_percent", "", "kind=what"): 50,
            ("exact_match_percent", "", "kind=who"): 100,
            ("f1_percent", "", ""): 100 * (1 + 1 + 2 / 3) / 3,
            ("f1_percent", "", "kind=what"): 100 * (1 + 2 / 3) / 2,
            ("f1_percent", "", "kind=who"): 100,
        },
        abs=1e-4,
    )
    assert (found[0].task, found[0].kind, found[0].items, found[0].better) == ("t", "sqa", 3, "higher")
    assert found[0].signature == "norm:squad"


def test_failed_items_are_counted_where_they_belong(make):
    items = [make("1", "a", kind="x"), make("2", "b", kind="x"), make("3", "c", kind="y")]
    found = score_task(task(items, "exact_match_percent", group_by=("kind",)), {"": answers("a", None, "no")})
    counts = {one.group: (one.value, one.items, one.failed) for one in found}
    assert counts == {"": (50, 2, 1), "kind=x": (100, 1, 1), "kind=y": (0, 1, 0)}


def test_differences_are_over_the_items_answered_both_times(make):
    items = [make(str(number), "yes") for number in range(4)]
    twins = {"text_twin": items}
    found = score_task(
        task(items, "exact_match_percent", variants=twins),
        {"": answers("yes", "no", "yes", None), "text_twin": answers("yes", "yes", None, "yes")},
    )
    whole = {one.variant: (one.value, one.items, one.failed) for one in found}
    assert whole[""] == (pytest.approx(66.6667), 3, 1)
    assert whole["text_twin"] == (100, 3, 1)
    assert whole["minus_text_twin"] == (-50, 2, 2)  # items 0 and 1: one of two against two of two


def test_a_variant_of_some_items_is_compared_on_these_alone(make):
    items = [make(str(number), "yes") for number in range(3)]
    found = score_task(
        task(items, "exact_match_percent", variants={"no_text": items[1:]}),
        {"": answers("yes", "yes", "no"), "no_text": answers("no", "no")},
    )
    assert {one.variant: (one.value, one.items) for one in found} == {
        "": (pytest.approx(66.6667), 3),
        "no_text": (0, 2),
        "minus_no_text": (50, 2),
    }


def test_differences_in_groups_and_of_errors(make):
    items = [make("1", "a b", kind="x"), make("2", "a b", kind="y")]
    found = score_task(
        task(items, "wer_percent", variants={"text_twin": items}, options={"normalizer": "none"}, group_by=("kind",)),
        {"": answers("a c", "a b"), "text_twin": answers("a b", "x y")},
    )
    assert {k: v for k, v in values(found).items() if k[1] == "minus_text_twin"} == {
        ("wer_percent", "minus_text_twin", ""): 25 - 50,
        ("wer_percent", "minus_text_twin", "kind=x"): 50,
        ("wer_percent", "minus_text_twin", "kind=y"): -100,
    }
    assert {one.better for one in found} == {"lower"}


def test_a_group_without_a_score_is_left_out(make):
    items = [make("1", "word", kind="speech"), make("2", "", kind="silence")]
    found = score_task(task(items, "wer_percent", group_by=("kind",)), {"": answers("word", "two words")})
    assert values(found) == {("wer_percent", "", ""): 200, ("wer_percent", "", "kind=speech"): 0}


def test_what_cannot_be_scored_names_the_task(make):
    items = [make("1", ""), make("2", "")]
    with pytest.raises(DataError, match="task t cannot be scored: wer_percent is undefined"):
        score_task(task(items, "wer_percent"), {"": answers("a", "b")})
    with pytest.raises(DataError, match="task t.*every item failed, the first with: broken"):
        score_task(task(items, "f1_percent"), {"": answers(None, None)})
    with pytest.raises(DataError, match="task t.*not as many predictions as references; found 1; expected 2"):
        score_task(task(items, "f1_percent"), {"": answers("a")})
    with pytest.raises(DataError, match="no item was answered both as it is and of variant text_twin"):
        score_task(
            task(items, "f1_percent", variants={"text_twin": items}),
            {"": answers("a", None), "text_twin": answers(None, "b")},
        )


def test_rtfx_is_audio_over_generation_and_names_the_device(make):
    items = [make("1", "a", secs=3.0), make("2", "b", secs=1.0), make("3", "c", secs=2.0)]
    given = [Prediction("a", secs=0.5, device="GPU"), Prediction("b", secs=0.3, device="GPU"), Prediction("c")]
    found = score_task(task(items, "rtfx", variants={"text_twin": items}), {"": given, "text_twin": given})
    assert [(one.measure, one.variant) for one in found] == [("rtfx", "")]
    assert found[0].value == pytest.approx(5.0)  # 4 s in 0.8 s; the answer whose time is not known does not count
    assert found[0].signature == "device:GPU"
    with pytest.raises(DataError, match="no answer has its time of generation"):
        score_task(task(items, "rtfx"), {"": [Prediction("a")] * 3})


def test_characters_made_up_per_minute(make):
    items = [make("1", "", secs=2.0), make("2", "", secs=4.0)]
    names = ("hallucinated_characters_per_minute", "hallucinated_items_percent")
    found = score_task(task(items, *names), {"": answers(" six six ", " ")})
    assert [one.value for one in found] == pytest.approx([70, 50])  # 7 characters in 6 s


def test_several_right_answers_come_from_custom(make):
    items = [make("1", "1976", references=["in 1976", "seventy-six"])]
    assert measure("f1_percent", [Answered(items[0], "seventy-six")], {}).value == 100
    with pytest.raises(DataError, match="wrong references of item '2'.*list of texts.*custom.references"):
        measure("f1_percent", [Answered(make("2", "a", references="b"), "a")], {})


def test_keywords_and_transcripts_are_wanted(make):
    with pytest.raises(DataError, match="wrong keywords of item '1'"):
        measure("keywords_percent", [Answered(make("1", "a"), "a")], {})
    assert measure("keywords_percent", [Answered(make("2", "a", keywords=["Kim", "Lee"]), "kim")], {}).value == 50
    with pytest.raises(DataError, match="item '3' has no transcript"):
        measure("comet", [Answered(make("3", "a"), "a")], {})


def test_accuracy_forgives_case_and_punctuation(make):
    assert measure("accuracy_percent", [Answered(make("1", "Female"), "female.")], {}).value == 100


@pytest.mark.parametrize("name", sorted(set(MEASURES) - {"comet", "judge_percent", "embedding_similarity_percent"}))
def test_every_measure_passes_its_own_check(name):
    check_measures([name], {}, "tasks.t")


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["word_error"], {}, r"unknown measure; found 'word_error'; expected one of wer_percent.*tasks\.t\.measures"),
        ([], {}, "measures that are none or named twice"),
        (["bleu", "bleu"], {}, "measures that are none or named twice"),
        (["bleu"], {"normaliser": "x"}, r"none of the measures knows; found \['normaliser'\].*among tokenize"),
        (["wer_percent"], {"normalizer": "french"}, "unknown text normaliser; found 'french'"),
        (["bleu"], {"tokenize": "14b"}, r"measure bleu does not work with its options.*tasks\.t\.options"),
        (["exact_match_percent"], {"rules": "quad"}, "unknown rules"),
        (["judge_percent"], {"judge": {"model": "m"}}, "missing setting of the judge"),
    ],
)
def test_wrong_measures_show_before_any_work(names, options, message):
    with pytest.raises(ConfigError, match=message):
        check_measures(names, options, "tasks.t")


def test_judge_reads_transcripts_and_keeps_verdicts(make, monkeypatch, tmp_path):
    from vtblender_nemo.evaluation import judge

    asked = []

    def grade(found, cases, journal):
        asked.append((cases, journal.path))
        return [judge.Verdict(75.0), judge.Verdict(None, error="no JSON")]

    monkeypatch.setattr(judge, "grade", grade)
    items = [make("1", "Anna", transcript="Anna barks."), make("2", "Ben", transcript=["Ben barks."])]
    options = {"judge": {"base_url": "http://localhost:1/v1", "model": "m"}, "rules": "squad"}
    given = [Answered(items[0], "Anna"), Answered(items[1], "Bob")]
    kept = measure("judge_percent", given, options, folder=tmp_path)
    assert kept.value == 75
    ((cases, path),) = asked
    assert cases[0] == judge.Case("Anna barks.\nWhat?", "Anna", "Anna")
    assert path == tmp_path / ".judge.journal"


def test_groups(make):
    items = [
        make("1", "a", secs=1.0, language="de", voices=["x", "y"]),
        make("2", "", secs=2.0, source_lang="en", target_lang="de", voices=["y"]),
        make("3", "a", secs=40.0),
        Item("4", "own", from_messages([{"role": "user", "content": "hi"}]), "", {"references": ["b"]}),
    ]
    assert group_positions(items, "secs") == {"secs=0-2": [0], "secs=2-5": [1], "secs=30+": [2]}
    assert group_positions(items, "language") == {"language=de": [0], "language=en": [1]}
    assert group_positions(items, "language_pair") == {"language_pair=en-de": [1]}
    assert group_positions(items, "answerable") == {"answerable=no": [1], "answerable=yes": [0, 2, 3]}
    assert group_positions(items, "voices") == {"voices=x": [0], "voices=y": [0, 1]}
    assert group_positions(items, "task") == {"task=own": [3], "task=t": [0, 1, 2]}
    assert group_positions(items, "nothing") == {}


def test_bins_of_seconds_are_in_order_of_length(make):
    items = [make(str(number), "a", secs=secs) for number, secs in enumerate((12, 3, 31, 7, 1, 25))]
    assert list(group_positions(items, "secs")) == [
        f"secs={b}" for b in ("0-2", "2-5", "5-10", "10-20", "20-30", "30+")
    ]
