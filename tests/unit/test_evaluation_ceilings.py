"""What share of a ceiling is reached, and how far two answers to one item agree, against values computed by hand."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest

from tests.helpers.chat_server import ChatServer
from vtblender_nemo.common.conversation import from_messages
from vtblender_nemo.common.errors import DataError
from vtblender_nemo.evaluation.items import Item
from vtblender_nemo.evaluation.metrics.statistics import mean_of, share
from vtblender_nemo.evaluation.runner import Prediction
from vtblender_nemo.evaluation.scores import Measure
from vtblender_nemo.evaluation.scoring import score_task
from vtblender_nemo.evaluation.tasks import Task

SHARE, AGREEMENT = "share_of_text_twin", "agreement_with_text_twin"


def item(id: str, reference: str, **custom: Any) -> Item:
    return Item(id, "t", from_messages([{"role": "user", "content": "What?"}], id=id), reference, custom)


def score(
    items: list[Item], heard: list[str | None], read: list[str | None], *measures: str, **others: Any
) -> dict[tuple[str, str, str], Measure]:
    """Measures by name, variant and group, of a task whose ceiling is the text twin."""
    settings: dict[str, Any] = {"ceilings": ("text_twin",), **others}
    task = Task("t", "sqa", {"": items, "text_twin": items}, measures or ("exact_match_percent",), **settings)
    sides = {variant: [Prediction(text) for text in texts] for variant, texts in (("", heard), ("text_twin", read))}
    return {(one.measure, one.variant, one.group): one for one in score_task(task, sides)}


def test_share_and_agreement_of_four_items():
    """Heard, 2 of 4 are right; read, 3 of 4. The last two are the same both times, one of them right, one wrong."""
    items = [item(str(number), "yes") for number in range(4)]
    found = score(items, ["yes", "no", "yes", "well"], ["no", "yes", "yes", "well"], "exact_match_percent")
    assert found["exact_match_percent", "text_twin", ""].value == 50
    assert found["exact_match_percent", SHARE, ""].value == 100
    agreement = found["exact_match_percent", AGREEMENT, ""]
    assert (agreement.value, agreement.items, agreement.failed, agreement.better) == (50, 4, 0, "higher")
    assert agreement.low < 50 < agreement.high
    assert agreement.signature == "norm:strip"


def test_agreement_is_measured_by_every_measure_of_answers():
    """`the old cat` and `the cat` have a common subsequence of 2 words: 2 * 2/3 * 2/2 / (2/3 + 2/2) = 0.8."""
    names = ("exact_match_percent", "rouge_l_f1_percent", "valid_json_percent", "hallucinated_items_percent")
    found = score([item("1", "a dog")], ["the old cat"], ["the cat"], *names)
    agreed = {name: one.value for (name, variant, _), one in found.items() if variant == AGREEMENT}
    assert agreed == {"exact_match_percent": 0, "rouge_l_f1_percent": 80}  # the others hold it against nothing


def test_other_right_answers_make_no_agreement():
    found = score([item("1", "red", references=["scarlet", "crimson"])], ["crimson"], ["scarlet"])
    assert found["exact_match_percent", SHARE, ""].value == 100
    assert found["exact_match_percent", AGREEMENT, ""].value == 0


def test_nothing_said_both_times_is_agreement():
    assert score([item("1", "")], [""], [""])["exact_match_percent", AGREEMENT, ""].value == 100


def test_only_items_answered_both_times_count():
    items = [item(str(number), "yes") for number in range(4)]
    found = score(items, ["yes", "no", None, "yes"], ["yes", "yes", "yes", None])
    for variant, value in ((SHARE, 50), (AGREEMENT, 50)):
        one = found["exact_match_percent", variant, ""]
        assert (one.value, one.items, one.failed) == (value, 2, 2)


def test_groups_have_their_own():
    items = [item("1", "a", kind="x"), item("2", "a", kind="x"), item("3", "a", kind="y"), item("4", "a", kind="z")]
    found = score(items, ["a", "b", "c", "a"], ["a", "a", "b", "b"], group_by=("kind",))
    values = {key[1:]: one.value for key, one in found.items() if key[1] in (SHARE, AGREEMENT)}
    assert values == {
        (SHARE, ""): 100,
        (SHARE, "kind=x"): 50,  # of y and z nothing was reached with the transcript: there is no share of it
        (AGREEMENT, ""): 25,
        (AGREEMENT, "kind=x"): 50,
        (AGREEMENT, "kind=y"): 0,
        (AGREEMENT, "kind=z"): 0,
    }


def test_errors_have_no_share_but_agreement():
    options = {"options": {"normalizer": "none"}}
    found = score([item("1", "a b")], ["a b c"], ["a b d e"], "wer_percent", **options)
    assert ("wer_percent", SHARE, "") not in found
    assert found["wer_percent", AGREEMENT, ""].value == 50  # one substitution and one deletion in four words
    silent = score([item("1", "a b")], ["a b c"], [""], "wer_percent", **options)
    assert ("wer_percent", AGREEMENT, "") not in silent  # no rate of errors without words to be wrong


def test_what_is_no_ceiling_is_held_against_nothing():
    found = score([item("1", "a")], ["a"], ["a"], ceilings=())
    assert {variant for _, variant, _ in found} == {"", "text_twin", "minus_text_twin"}


def test_a_judge_is_shown_the_other_answer_and_not_the_reference(tmp_path):
    """It grades an answer 5 that equals the reference, else 1; verdicts of both questions are kept in one journal."""

    def verdict(request):
        text = request["messages"][-1]["content"]
        said, right = (re.findall(f"<{tag}>\n(.*)\n</{tag}>", text) for tag in ("answer", "reference"))
        return json.dumps({"reason": "so", "grade": 5 if said == right else 1})

    items = [item("1", "red"), item("2", "blue")]
    with ChatServer(verdict) as server:
        options = {"judge": {"base_url": server.url, "model": "m", "retries": 0}}
        task = Task("t", "sqa", {"": items, "text_twin": items}, ("judge_percent",), options, ceilings=("text_twin",))
        sides = {"": [Prediction("green"), Prediction("blue")], "text_twin": [Prediction("green"), Prediction("red")]}
        found = {one.variant: one.value for one in score_task(task, sides, folder=tmp_path)}
        asked = len(server.requests)
        assert score_task(task, sides, folder=tmp_path)[0].value == 50
        assert len(server.requests) == asked
    assert found == {"": 50, "text_twin": 0, "minus_text_twin": 50, AGREEMENT: 50}


# The paired share ----------------------------------------------------------------------------------------------------


def test_share_draws_the_same_items_for_both():
    """Of every item half is reached: unpaired, resamples would differ."""
    ceiling = mean_of([0.2, 1.0, 0.6, 0.4], "s")
    half = mean_of([0.1, 0.5, 0.3, 0.2], "s")
    found = share(half, ceiling)
    assert (found.value, found.low, found.high, found.items) == tuple(pytest.approx(x) for x in (50, 50, 50, 4))
    assert share(ceiling, half).value == pytest.approx(200)


def test_share_is_that_of_the_sums_and_resamples_without_a_ceiling_do_not_count():
    """Two items, both reached, one of them by the ceiling: resamples have 100, 200 or no share."""
    found = share(mean_of([1.0, 1.0], "s"), mean_of([1.0, 0.0], "s"))
    assert (found.value, found.low, found.high) == (200, 100, 200)
    assert np.isfinite(found.interval).all()


def test_share_of_nothing_or_of_other_items_is_an_error():
    with pytest.raises(DataError, match="f1 is undefined for these items.*no ceiling of 0"):
        share(mean_of([1.0], "s"), mean_of([0.0], "s"), "f1")
    with pytest.raises(DataError, match="paired comparison of f1.*found 2; expected 1 items"):
        share(mean_of([1.0], "s"), mean_of([1.0, 1.0], "s"), "f1")
