"""What the report claims, draws and compares with."""

from __future__ import annotations

import pytest

from tests.unit.page_samples import ASR, SQA, TEXT, run_of
from vtblender_nemo.common.errors import DataError
from vtblender_nemo.evaluation.page.charts import Axis, Mark, Row, axis_of
from vtblender_nemo.evaluation.page.names import decimals_of, group_title, span_start, task_title, written
from vtblender_nemo.evaluation.page.pictures import draw
from vtblender_nemo.evaluation.page.published import default_file, read_figures, select
from vtblender_nemo.evaluation.page.sections import blind_charts, score_charts, task_sections
from vtblender_nemo.evaluation.page.verdicts import verdicts
from vtblender_nemo.evaluation.scores import Measure

# Verdicts -------------------------------------------------------------------------------------------------------------


def difference(value: float, low: float, high: float, *, kind: str = "text", variant: str = "base", **more) -> Measure:
    task = more.pop("task", kind)
    return Measure(
        task, kind, "accuracy_percent", value, low, high, 100, variant=f"minus_{variant}", better="higher", **more
    )


@pytest.mark.parametrize(
    ("value", "low", "high", "headline", "status"),
    [
        (-0.3, -0.9, 0.4, "Text skills kept", "good"),
        (-0.5, -0.9, -0.1, "Text skills kept", "good"),
        (2.0, 1.0, 3.0, "Text skills kept", "good"),
        (-0.3, -1.4, 0.8, "No loss of text skills measured", "open"),
        (-0.8, -1.4, -0.2, "Text skills slightly lower", "open"),
        (-9.0, -11.0, -7.0, "Text skills lost", "bad"),
    ],
)
def test_an_interval_decides_what_is_claimed(value, low, high, headline, status):
    (verdict,) = verdicts(run_of([difference(value, low, high)]))
    assert (verdict.headline, verdict.status, verdict.mark.value) == (headline, status, value)
    assert ("is not ruled out" in verdict.detail) == (status == "open")


def test_error_rates_are_turned():
    higher = Measure("sqa", "sqa", "wer_percent", 9.0, 8.0, 10.0, 100, variant="minus_text_twin", better="lower")
    (verdict,) = verdicts(run_of([higher]))
    assert verdict.headline == "Spoken questions far behind read ones"
    assert verdict.mark.written == "+9.00"


def test_a_claim_holds_for_every_task():
    sure = difference(-0.9, -0.95, -0.85, task="gsm8k")
    unsure = difference(-0.1, -2.0, 1.8, task="mmlu")
    (verdict,) = verdicts(run_of([sure, unsure]))
    assert verdict.headline == "No loss of text skills measured"
    assert "mmlu, worst of 2" in verdict.detail


def test_text_skills_are_those_of_text_tasks():
    assert verdicts(run_of([difference(-30.0, -40.0, -20.0, kind="sqa")])) == []


def test_gap_is_that_of_questions():
    translation = difference(-20.0, -22.0, -18.0, kind="ast", variant="text_twin")
    (verdict,) = verdicts(run_of([translation, difference(-1.0, -3.0, 1.0, kind="sqa", variant="text_twin")]))
    assert verdict.headline == "Spoken questions answered nearly like read ones"


def score(value: float, low: float, high: float, variant: str = "") -> Measure:
    return Measure("mixed", "mixed", "exact_match_percent", value, low, high, 100, variant=variant, better="higher")


@pytest.mark.parametrize(
    ("blind", "headline"),
    [
        ([score(10, 8, 12, "no_audio_silence")], "The speech is used"),
        ([score(10, 8, 12, "no_text")], "The text is used"),
        ([score(10, 8, 12, "no_text"), score(20, 18, 22, "no_audio_shuffle")], "Speech and text are both used"),
        ([score(78, 70, 82, "no_text"), score(20, 18, 22, "no_audio_shuffle")], "The text may be ignored"),
        (
            [score(78, 70, 82, "no_text"), score(2, 1.0, 3.0, "minus_no_text")],
            "The text is used",
        ),  # paired differences see more
        ([score(70, 69, 71, "no_text"), score(10, -1.0, 21.0, "minus_no_text")], "The text may be ignored"),
    ],
)
def test_blind_answers_tell_what_is_used(blind, headline):
    (verdict,) = verdicts(run_of([score(80, 76, 84), *blind]))
    assert verdict.headline == headline


def test_blind_answers_to_some_items_are_told_as_such():
    blind = Measure("mixed", "mixed", "exact_match_percent", 10, 8, 12, 40, variant="no_text", better="higher")
    (chart,) = blind_charts(run_of([score(80, 76, 84), blind]))
    assert [mark.note for mark in chart.rows[0].known] == ["", "40 items"]


# Charts ---------------------------------------------------------------------------------------------------------------


def test_axis_holds_everything():
    rows = [Row("", "", (Mark("", "model", difference(3.0, -12.0, 18.0)), None))]
    axis = axis_of(rows, signed=True)
    assert axis.low <= -12 < 18 <= axis.high
    assert 0 in axis.ticks
    assert axis_of([Row("", "", (Mark("", "model", score(7, 6, 8)),))], of_100=True) == Axis(
        0, 100, (0, 20, 40, 60, 80, 100)
    )
    zero = axis_of([Row("", "", (Mark("", "model", score(0, 0, 0)),))])
    assert zero.high > zero.low == 0


def test_place_on_an_axis():
    axis = Axis(-10, 30, ())
    assert [axis.at(value) for value in (-10, 0, 30, 99, -99)] == [0, 25, 100, 100, 0]


def test_error_rates_have_a_chart_of_their_own():
    charts = {chart.name: chart for chart in score_charts(run_of([*ASR, *SQA, *TEXT]), [])}
    assert [row.label for row in charts["scores"].rows] == ["Speech questions", "Text skills"]
    assert [row.label for row in charts["scores_lower"].rows] == ["Speech recognition"]
    assert charts["scores_lower"].axis.high < 10
    assert charts["scores"].axis.high == 100
    assert [mark.label for mark in charts["scores"].rows[1].marks] == ["this model", "base LLM"]


def test_base_reads_what_others_hear():
    base = Measure("sqa", "sqa", "exact_match_percent", 90, 88, 92, 100, variant="base", better="higher")
    (chart,) = score_charts(run_of([SQA[0], base]), [])
    assert chart.rows[0].marks[1].label == "base LLM with transcript"


def test_picture_shows_the_numbers_of_its_chart():
    (chart,) = blind_charts(run_of(SQA))
    (axes,) = draw(chart).axes
    assert [bar.get_width() for bar in axes.patches] == [94.6, 7.0]
    (spans,) = task_sections(run_of(ASR), [])[0].charts
    assert list(draw(spans).axes[0].lines[0].get_ydata()) == [14.0041, 2.1111, 1.3333]


@pytest.mark.parametrize("form", ["bars", "dots", "spans"])
def test_labels_are_no_formulas(form):
    from dataclasses import replace

    (chart,) = blind_charts(run_of(SQA))
    odd = tuple(replace(row, label=r"costs $\frac{$ " * 9, note=r"$\x$") for row in chart.rows)
    draw(replace(chart, title=r"$\x$", scale=r"$\x$", rows=odd, form=form), r"$\x$").canvas.draw()


# Words ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "decimals", "signed", "text"),
    [
        (2.537, 2, False, "2.54"),
        (-0.31, 1, True, "−0.3"),
        (1.0, 1, True, "+1.0"),
        (-0.04, 1, True, "0.0"),
        (1418.3, 1, False, "1,418.3"),
    ],
)
def test_numbers_are_written(value, decimals, signed, text):
    assert written(value, decimals, signed=signed) == text


def test_words():
    assert task_title("asr") == "Speech recognition"
    assert task_title("librispeech_clean") == "Librispeech clean"
    assert task_title("gsm8k") == "gsm8k"
    assert group_title("secs=2-5") == "2–5 s"
    assert group_title("custom.kind=two_facts") == "two facts"
    assert sorted(["secs=30+", "secs=5-10", "secs=0-2"], key=span_start) == ["secs=0-2", "secs=5-10", "secs=30+"]
    assert decimals_of(ASR[0]) == 2
    assert decimals_of(SQA[0]) == 1


# Published figures ----------------------------------------------------------------------------------------------------

HEADER = "task,benchmark,system,measure,value,source,date\n"


def test_figures_that_come_with_the_package():
    figures = read_figures(default_file())
    values = {(figure.system, figure.measure): figure.value for figure in figures if figure.task == "asr"}
    assert values["canary-qwen-2.5b", "wer_percent"] == 5.63
    assert values["canary-qwen-2.5b", "rtfx"] == 418
    assert all(figure.source for figure in figures)
    assert {figure.better for figure in figures if figure.measure == "wer_percent"} == {"lower"}


def test_only_the_same_benchmark_is_compared(tmp_path):
    path = tmp_path / "published.csv"
    path.write_text(
        HEADER
        + "asr,LibriSpeech clean,A,wer_percent,1.5,paper,2024\n"
        + "asr,LibriSpeech clean,B,wer_percent,3.5,paper,2024\n"
        + "asr,Open ASR,A,wer_percent,5.5,board,\n"
        + "ast,CoVoST 2,A,bleu,40,paper,2023\n"
    )
    own = Measure("librispeech_clean", "asr", "wer_percent", 2.5, 2.0, 3.0, 100, better="lower")
    found = select(read_figures(path), run_of([own]))
    (same,) = found.same
    assert [(row.label, row.marks[0].value, row.marks[0].role) for row in same.rows] == [
        ("A", 1.5, "published"),
        ("model", 2.5, "model"),
        ("B", 3.5, "published"),
    ]
    assert [chart.title for chart in found.apart] == ["Open ASR, WER"]
    assert found.sources == ("paper, 2024", "board")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task,system\n", r"published\.csv:1.*wrong columns"),
        (HEADER + "asr,b,s,wer_percent,1,src,\nasr,b,s,wer_percent,few,src,\n", r"published\.csv:3.*no number"),
        (HEADER + "asr,b,s,wer_percent,nan,src,\n", r"published\.csv:2.*no number"),
        (HEADER + "asr,b,s,wer_percent,1,,\n", r"published\.csv:2.*source"),
    ],
)
def test_wrong_figures_are_told_by_place(tmp_path, text, message):
    path = tmp_path / "published.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_figures(path)


def test_missing_figures_are_told(tmp_path):
    with pytest.raises(DataError, match="missing"):
        read_figures(tmp_path / "none.csv")
