"""The report of an evaluation, as a reader's browser finds it."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from tests.unit.page_samples import ASR, SQA, TEXT, Page, row, tone, write_run
from vtblender_nemo.common.errors import ConfigError, DataError
from vtblender_nemo.evaluation.page import write_page
from vtblender_nemo.evaluation.page.charts import ROLE_COLORS, RUN_COLORS
from vtblender_nemo.evaluation.page.names import MINUS
from vtblender_nemo.evaluation.scores import Measure

TEMPLATES = Path(__file__).parents[2] / "vtblender_nemo/evaluation/page/templates"


def read(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def full_run(folder: Path) -> Path:
    audio = tone(folder / "audio/a.wav", (440, 0.5))
    predictions = {
        "asr": [
            row("asr_1", "the cat sat", "the cat sat", audios=[audio]),
            row("asr_2", "a cat sat down", "The cat sat.", audios=[audio]),
            row("asr_3", None, "never heard", error="AudioError: broken"),
        ],
        "sqa": [row("sqa_1", "Red", "Blue", asked="What colour?", custom={"transcript": ["A blue hat."]})],
        "sqa.text_twin": [row("sqa_1", "Blue!", "Blue")],
        "text": [row("text_1", "4", "4")],
    }
    return write_run(folder, [*ASR, *SQA, *TEXT], predictions)


@pytest.fixture(scope="module")
def full(tmp_path_factory) -> Path:
    """The page of everything that can be there; nothing is published that it could be compared with."""
    folder = tmp_path_factory.mktemp("full")
    return write_page(full_run(folder), published=no_figures(folder))


# Numbers --------------------------------------------------------------------------------------------------------------


def shown(measure: Measure) -> str:
    """How a reader would round it."""
    places = 2 if measure.better == "lower" and measure.measure.endswith("percent") else 1
    signed = measure.variant.startswith("minus_")
    return format(measure.value, f"{'+' if signed else ''},.{places}f").replace("-", MINUS)


@pytest.mark.parametrize("measure", [*ASR, *SQA[:4], *TEXT], ids=lambda m: m.place)
def test_every_number_is_on_the_page_as_it_was_measured(full, measure):
    page = read(full)
    assert (measure.value, shown(measure)) in page.numbers


def test_no_number_is_made_up(full):
    page = read(full)
    known = {measure.value for measure in [*ASR, *SQA, *TEXT]}
    assert {value for value, _ in page.numbers} <= known


def test_intervals_are_written(full):
    page = read(full)
    for text in ("1.94 to 3.23", "95.8 to 98.6", f"{MINUS}4.0 to {MINUS}1.4", f"{MINUS}0.7 to +2.6", "10.70 to 17.93"):
        assert text in page.text
    assert "1,418.3 to" not in page.text  # was not resampled


def test_bars_stand_where_their_numbers_are(tmp_path):
    html = write_page(write_run(tmp_path, SQA)).read_text()
    widths = {float(width) for width in re.findall(r'class="bar"[^>]*width="([\d.]+)%"', html)}
    assert widths == {94.6, 97.2, 7.0}


def test_spans_of_seconds_are_in_order(full):
    text = read(full).text
    assert text.index("0–2 s") < text.index("2–5 s") < text.index("10–20 s")


def test_head_tells_what_the_scores_tell(tmp_path):
    page = read(
        write_page(write_run(tmp_path, SQA, date="2026-01-02", trained_parameters={"lora": 1000, "encoder": 234}))
    )
    for text in ("vtb_tiny", "world/llm", "world/encoder.nemo", "2026-01-02", "1,234", "abababababab"):
        assert text in page.text


# Other runs -----------------------------------------------------------------------------------------------------------


def test_other_runs_stand_beside(tmp_path):
    other = [Measure("sqa", "sqa", "exact_match_percent", 90.1, 88.0, 92.0, 400, better="higher")]
    write_run(tmp_path / "b", other, name="older")
    page = read(write_page(write_run(tmp_path / "a", SQA), [tmp_path / "b"]))
    assert (90.1, "90.1") in page.numbers
    assert "older" in page.text
    assert "Speech questions of older was scored otherwise" in page.text  # on 400 items, not 500


def test_models_of_one_name_are_told_apart(tmp_path):
    for name in ("a", "b"):
        write_run(tmp_path / name, SQA)
    page = read(write_page(tmp_path / "a", [tmp_path / "b", tmp_path / "b"]))
    assert "vtb_tiny (a)" in page.text
    assert "vtb_tiny (b)" in page.text
    assert "vtb_tiny (b) 3" in page.text


def test_another_run_that_is_none_is_told(tmp_path):
    write_run(tmp_path / "a", SQA)
    with pytest.raises(DataError, match=r"nowhere.*file is missing"):
        write_page(tmp_path / "a", [tmp_path / "nowhere"])


# What is missing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("measures", "absent"),
    [
        (ASR, {"speech", "blind", "kept", "examples"}),
        (SQA[:1], {"speech", "blind", "kept", "tasks", "examples"}),
        ([m for m in SQA if "twin" not in m.variant], {"speech", "kept"}),
        ([m for m in TEXT if "base" not in m.variant], {"kept", "speech", "blind"}),
        (TEXT[3:4], {"kept", "speech", "blind", "tasks"}),
    ],
    ids=["asr", "one number", "no twin", "no base", "the base alone"],
)
def test_what_was_not_measured_leaves_no_trace(tmp_path, measures, absent):
    html = write_page(write_run(tmp_path, measures), published=no_figures(tmp_path)).read_text()
    page = Page(html)
    assert not absent & page.ids()
    assert "published" not in page.ids()
    for place in absent - {"kept"}:
        assert f'href="#{place}"' not in html
    assert_nothing_is_empty(html)


def test_no_measures_at_all(tmp_path):
    html = write_page(write_run(tmp_path, [])).read_text()
    assert_nothing_is_empty(html)


def assert_nothing_is_empty(html: str) -> None:
    for tag in ("ul", "dl", "table", "tbody", "tr", "figure", "nav", "section", "h2", "h3", "p", "article"):
        assert not re.search(rf"<{tag}\b[^>]*>\s*</{tag}>", html), tag
    for section in re.findall(r'<section id="(?!notes)[^"]*">.*?</section>', html, re.S):
        assert "<data" in section or "<article" in section


def test_items_without_an_answer(full):
    page = read(full)
    assert "1 failed" in page.text
    assert "1 item without an answer" in page.text
    assert "AudioError: broken" in page.text


def test_links_lead_somewhere(full):
    page = read(full)
    targets = {link.removeprefix("#") for link in page.values("href") if link.startswith("#")}
    assert targets <= page.ids()


# Safety ---------------------------------------------------------------------------------------------------------------

EVIL = "$\\x$</dd></script><script>alert(1)</script><img src=x onerror=alert(2)>\"'><b>"


def test_no_text_of_a_model_runs(tmp_path):
    measures = [
        Measure(EVIL, "sqa", EVIL, 1.0, 0.5, 1.5, 2, group=g, signature=EVIL) for g in ("", f"{EVIL}=1", f"{EVIL}=2")
    ]
    custom = dict.fromkeys(("transcript", "kind", "voices"), EVIL)
    (tmp_path / "r").mkdir()
    folder = write_run(tmp_path / "r", [*measures, *ASR], name=EVIL, llm=EVIL, asr=EVIL, sha256=EVIL)
    rows = [
        row(EVIL, EVIL, "fine", asked=EVIL, custom=custom, audios=[{"path": f"{EVIL}.wav"}]),
        row("2", None, EVIL, error=EVIL),
    ]
    (folder / "predictions").mkdir()
    (folder / "predictions/asr.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    html = write_page(folder).read_text()
    page = Page(html)
    assert len(page.scripts) == 1
    assert "alert" not in page.scripts[0]
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert "<b>" not in html
    assert "<img" not in html
    assert "alert(1)" in page.text  # it is shown


def test_policy_allows_the_pages_own_script_alone(full):
    page = read(full)
    (policy,) = [
        a["content"] for tag, a in page.tags if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    ]
    digest = base64.b64encode(hashlib.sha256(page.scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_page_needs_no_other_file(full):
    html = full.read_text()
    page = Page(html)
    assert all(source.startswith("data:") for source in page.values("src"))
    assert all(link.startswith(("#", "data:")) for link in page.values("href"))
    assert "url(" not in html
    assert "@import" not in html


# Sound ----------------------------------------------------------------------------------------------------------------


def sounds(page: Page) -> list[bytes]:
    return [base64.b64decode(source.partition(",")[2]) for source in page.values("src")]


def test_sound_is_the_part_that_was_asked_about(tmp_path):
    audio = tone(tmp_path / "a.wav", (440, 1.0), (1000, 1.0), rate=44100) | {"offset": 1.0, "duration": 0.75}
    folder = write_run(tmp_path, ASR, {"asr": [row("1", "wrong", "right", audios=[audio])]})
    (sound,) = sounds(read(write_page(folder)))
    samples, rate = sf.read(io.BytesIO(sound))
    assert len(samples) / rate == pytest.approx(0.75, abs=0.1)  # MP3 pads to whole frames
    spectrum = np.abs(np.fft.rfft(samples))
    assert np.fft.rfftfreq(len(samples), 1 / rate)[spectrum.argmax()] == pytest.approx(1000, abs=5)


def test_paths_start_from_the_predictions(tmp_path):
    tone(tmp_path / "predictions/sound/a.wav", (440, 0.5))
    folder = write_run(tmp_path, ASR, {"asr": [row("1", "wrong", "right", audios=[{"path": "sound/a.wav"}])]})
    assert len(sounds(read(write_page(folder)))) == 1


def test_sound_of_a_page_is_bounded(tmp_path):
    names = [f"{number}.wav" for number in range(6)]
    rows = [row(name, "wrong", "right", audios=[tone(tmp_path / name, (440, 2.0))]) for name in names]
    folder = write_run(tmp_path, [*ASR, *TEXT], {"asr": rows, "text": rows[:1]})
    whole = read(write_page(folder))
    sizes = [len(source) for source in whole.values("src")]
    assert len(sizes) == 7
    page = read(write_page(folder, audio_limit_bytes=3 * max(sizes)))
    assert 2 * max(sizes) < sum(len(source) for source in page.values("src")) <= 3 * max(sizes)
    assert page.text.count("not in this page, to keep it small") == 4
    assert "0.wav: not in" not in page.text  # the first of each task come first
    assert sounds(read(write_page(folder, audio_limit_bytes=0))) == []


def test_long_recordings_and_texts_are_cut(tmp_path):
    rows = [row("1", "la " * 50000, "right", audios=[tone(tmp_path / "long.wav", (440, 45.0), rate=8000)])]
    path = write_page(write_run(tmp_path, ASR, {"asr": rows}))
    assert "the first 30 of 45 s" in read(path).text
    assert "(150,000 characters)" in read(path).text
    assert path.stat().st_size < 500_000


@pytest.mark.parametrize(
    ("content", "remark"), [(None, "recording not found"), (b"no sound", "recording cannot be read")]
)
def test_recordings_that_do_not_play_are_told(tmp_path, content, remark):
    if content:
        (tmp_path / "a.wav").write_bytes(content)
    rows = [row("1", "wrong", "right", audios=[{"path": str(tmp_path / "a.wav"), "offset": 0.0, "duration": 1.0}])]
    page = read(write_page(write_run(tmp_path, ASR, {"asr": rows})))
    assert f"a.wav: {remark}" in page.text
    assert sounds(page) == []


# Files ----------------------------------------------------------------------------------------------------------------


def test_same_scores_give_the_same_files(tmp_path):
    written = []
    for name in ("a", "b"):
        folder = full_run(tmp_path / name)
        rows = (folder / "predictions/asr.jsonl").read_text().replace(str(folder), "..")
        (folder / "predictions/asr.jsonl").write_text(rows)
        write_page(folder)
        files = [folder / "report.html", *sorted((folder / "plots").iterdir())]
        written.append({path.name: path.read_bytes() for path in files})
    assert written[0] == written[1]
    assert len(written[0]) > 5


def test_every_plot_is_a_picture_too(full):
    folder, page = full.parent, read(full)
    drawn = {name.removeprefix("plot-") for name in page.ids() if name.startswith("plot-")}
    assert {path.stem for path in (folder / "plots").glob("*.png")} == drawn
    assert {"scores", "scores_lower", "asr_by_secs", "text_by_kind", "minus_base", "minus_text_twin", "blind"} <= drawn


@pytest.mark.parametrize("name", ["examples_per_task", "audio_limit_bytes"])
def test_negative_limit(tmp_path, name):
    with pytest.raises(ConfigError, match=name):
        write_page(write_run(tmp_path, SQA), **{name: -1})


def test_page_needs_no_torch():
    code = "import sys, vtblender_nemo.evaluation.page; print({'torch', 'nemo', 'transformers', 'lhotse'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def no_figures(folder: Path) -> Path:
    path = folder / "none.csv"
    path.write_text("task,benchmark,system,measure,value,source,date\n")
    return path


# Looks ----------------------------------------------------------------------------------------------------------------


def themes() -> dict[str, dict[str, str]]:
    """Colours by theme and name."""
    light, dark = re.findall(r":root \{(.*?)\}", (TEMPLATES / "style.css").read_text(), re.S)
    return {
        theme: dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", text))
        for theme, text in {"light": light, "dark": dark}.items()
    }


def contrast(one: str, other: str) -> float:
    """Of WCAG 2."""

    def luminance(color: str) -> float:
        parts = (int(color[place : place + 2], 16) / 255 for place in (1, 3, 5))
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    brighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (brighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_everybody_can_read_it(theme):
    colors = themes()[theme]
    for ground in ("paper", "raised"):
        for text in ("ink", "soft", "bad", "good", "open"):
            assert contrast(colors[text], colors[ground]) >= 4.5, (text, ground)
        for mark in (*ROLE_COLORS, *(f"run{number}" for number in range(len(RUN_COLORS)))):
            assert contrast(colors[mark], colors[ground]) >= 3, (mark, ground)
    for mark in ("missed", "added"):
        assert contrast(colors[f"{mark}-ink"], colors[mark]) >= 4.5


def test_pictures_have_the_colors_of_the_page():
    light = themes()["light"]
    assert {name: color.lower() for name, color in ROLE_COLORS.items()} == {name: light[name] for name in ROLE_COLORS}
    assert [color.lower() for color in RUN_COLORS] == [light[f"run{number}"] for number in range(len(RUN_COLORS))]
