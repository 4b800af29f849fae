"""What the report tells of prompts and tasks that training has not: charts, the table of several systems, the statement."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.unit.page_samples import SQA, Page, run_of, write_run
from vtblender_nemo.evaluation.page import write_page
from vtblender_nemo.evaluation.page.charts import Chart
from vtblender_nemo.evaluation.page.generalisation import generalisation_charts
from vtblender_nemo.evaluation.page.names import group_title, variant_title
from vtblender_nemo.evaluation.page.pictures import draw
from vtblender_nemo.evaluation.page.runs import Run
from vtblender_nemo.evaluation.page.sections import gap_charts, twin_charts
from vtblender_nemo.evaluation.page.verdicts import verdicts
from vtblender_nemo.evaluation.scores import Measure, ScoreSheet, write_scores

VARIANTS = ("", "text_twin", "minus_text_twin", "share_of_text_twin", "agreement_with_text_twin")
SCORES = {
    "": (70.0, 80.0, -10.0, 87.5, 66.0),
    "generalisation=known": (92.0, 95.0, -3.0, 96.8, 90.0),
    "generalisation=prompt": (80.0, 85.0, -5.0, 94.1, 71.0),
    "generalisation=task": (40.0, 62.5, -22.5, 64.0, 35.0),
    "generalisation/wording_distance=known/near": (92.0, 95.0, -3.0, 96.8, 90.0),
    "generalisation/wording_distance=prompt/near": (88.0, 86.0, 2.0, 102.3, 80.0),
    "generalisation/wording_distance=prompt/far": (72.0, 84.0, -12.0, 85.7, 62.0),
}


def measures(shift: float = 0.0, name: str = "exact_match_percent") -> list[Measure]:
    """As an evaluation leaves them, with a number of items for every group; intervals reach 2 to both sides."""
    found = []
    for place, variant in enumerate(VARIANTS):
        for number, (group, values) in enumerate(SCORES.items()):
            value = values[place] + shift
            one = Measure("generalisation", "generalisation", name, value, value - 2, value + 2, 100 + number)
            found.append(replace(one, variant=variant, group=group, better="higher"))
    return found


def values(chart: Chart) -> list[tuple[str, list[float]]]:
    return [(row.title, [mark.value for mark in row.known]) for row in chart.rows]


def test_every_level_has_a_row():
    first, far = generalisation_charts(run_of(measures()), [])
    assert [mark.label for mark in first.columns] == ["speech", "transcript", "share, %", "agreement"]
    assert values(first) == [
        ("Trained wordings", [92, 95, 96.8, 90]),
        ("Unseen wordings", [80, 85, 94.1, 71]),
        ("Unseen tasks", [40, 62.5, 64, 35]),
    ]
    assert values(far) == [
        ("Unseen wordings, near", [88, 86, 102.3, 80]),
        ("Unseen wordings, far", [72, 84, 85.7, 62]),
    ]


def test_every_measure_has_a_chart():
    charts = generalisation_charts(run_of([*measures(), *measures(1, "rouge_l_f1_percent")]), [])
    assert [chart.title for chart in charts] == [
        "Generalisation by what is new: exact match",
        "Generalisation by what is new: ROUGE-L F1",
        "Generalisation by distance of the wording: exact match",
    ]
    assert charts[1].rows[0].known[0].value == 93


def test_all_systems_stand_in_one_table():
    others = [Run("voicetextblender", Path(), ScoreSheet(measures(-5))), Run("asr_only", Path(), ScoreSheet(SQA))]
    first, _ = generalisation_charts(run_of(measures()), others)
    assert values(first)[:2] == [
        ("Trained wordings, 101 items: model", [92, 95, 96.8, 90]),
        ("Trained wordings, 101 items: voicetextblender", [87, 90, 91.8, 85]),
    ]  # what was not measured of a system leaves no row
    assert len(first.rows) == 6
    fewer = [replace(one, items=7) for one in measures()]
    chart, _ = generalisation_charts(run_of(measures()), [Run("other", Path(), ScoreSheet(fewer))])
    assert [row.note for row in chart.rows[:2]] == ["", "7 items"]


def test_a_share_is_written_and_not_drawn():
    """It is no score: a low ceiling takes it far beyond 100, where it would press all scores together."""
    high = [replace(one, value=900.0, high=990.0) if "share" in one.variant else one for one in measures()]
    first, _ = generalisation_charts(run_of(high), [])
    assert first.axis.high == 100
    (axes,) = draw(first).axes
    drawn = sorted(float(np.asarray(line.get_xdata())[0]) for line in axes.lines)
    assert drawn == sorted([92, 95, 90, 80, 85, 71, 40, 62.5, 35])


def test_other_kinds_have_no_such_charts():
    assert generalisation_charts(run_of([replace(one, kind="sqa") for one in measures()]), []) == []


def test_comparisons_are_no_ways_to_ask():
    """Nor does the gap list groups of two keys, as each of them has few items."""
    run = run_of(measures())
    assert run.variants("generalisation") == ["", "text_twin"]
    (chart,) = twin_charts(run)
    assert [mark.label for mark in chart.rows[0].known] == ["this model", "with the transcript"]
    (gap,) = gap_charts(run)
    assert [row.label or row.note for row in gap.rows] == [
        *("Generalisation", "Trained wordings", "Unseen wordings", "Unseen tasks")
    ]


def test_the_statement_is_about_where_speech_costs_most():
    (verdict,) = verdicts(run_of(measures()))
    assert (verdict.headline, verdict.status, verdict.mark.written) == ("Unseen tasks", "plain", "64.0")
    assert (
        verdict.detail
        == "exact match of speech in % of that with the transcript, 103 items; exact match of both answers 35.0"
    )
    known = [one for one in measures() if one.group in ("", "generalisation=known")]
    assert verdicts(run_of(known)) == []  # nothing new was asked
    without = [one for one in measures() if not one.variant.startswith(("share", "agreement"))]
    assert verdicts(run_of(without)) == []


@pytest.mark.parametrize(
    ("group", "title"),
    [
        ("generalisation=known", "Trained wordings"),
        ("generalisation/wording_distance=task/middle", "Unseen tasks, middle"),
        ("wording_distance=far", "far"),
        ("generalisation=other_kind", "other kind"),
    ],
)
def test_titles_of_groups(group, title):
    assert group_title(group) == title


def test_titles_of_comparisons():
    assert variant_title("share_of_base", "sqa") == "This model in % of base LLM with transcript"
    assert variant_title("agreement_with_text_twin", "sqa") == "Agreement of speech and transcript"
    assert variant_title("share_of_no_text", "sqa") == "share of no text"


def test_systems_that_were_asked_other_items_are_told(tmp_path):
    for name, digest in (("a", "0a"), ("b", "0b"), ("c", "0a")):
        sheet = ScoreSheet(measures(), {"name": name}, item_sets={"generalisation": digest})
        write_scores(sheet, tmp_path / name / "scores.json")
    page = Page(write_page(tmp_path / "a", [tmp_path / "b", tmp_path / "c"]).read_text(encoding="utf-8"))
    assert "Generalisation of b was asked of other items" in page.text
    assert "Generalisation of c" not in page.text


def test_the_page_shows_every_number(tmp_path):
    write_run(tmp_path / "b", measures(-7), name="older")
    path = write_page(write_run(tmp_path / "a", measures()), [tmp_path / "b"])
    page = Page(path.read_text(encoding="utf-8"))
    assert "generalisation" in page.ids()
    shown = {value for value, _ in page.numbers}
    wanted = [one for one in [*measures(), *measures(-7)] if one.group.startswith("generalisation=")]
    assert {one.value for one in wanted if "minus" not in one.variant} <= shown
    assert "Unseen wordings, 102 items" in page.text
    assert "What was never asked in training" in page.text
    drawn = {name.removeprefix("plot-") for name in page.ids() if name.startswith("plot-")}
    assert {picture.stem for picture in (path.parent / "plots").glob("*.png")} == drawn
    assert {"generalisation_exact_match_percent", "generalisation_wording_distance"} <= drawn
    assert 'id="generalisation"' not in write_page(write_run(tmp_path / "c", SQA)).read_text(encoding="utf-8")
