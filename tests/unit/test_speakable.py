"""What can be spoken, and how it is written out for speaking."""

from __future__ import annotations

import pytest

from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.synthesis.mixed_modal.speakable import SpeakableConfig, speakable
from vtblender_nemo.synthesis.mixed_modal.text_normalization import open_normalizer, plain_text
from vtblender_nemo.synthesis.work import Refused

ENGLISH = open_normalizer("num2words", "en")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty_text"),
        ("...", "empty_text"),
        ("?!", "empty_text"),
        ("What does `print` do?", "code"),
        ("```\nx\n```", "code"),
        ("Fix this:\ndef add(a, b)\nplease", "code"),
        ("import numpy", "code"),
        ("Use my_variable here.", "code"),
        ("What does foo() return?", "code"),
        ("What is <b>bold</b>?", "code"),
        ("Is a == b?", "code"),
        ("public static void main", "code"),
        ("let total = a", "code"),
        ("foo(1);", "code"),
        ("select name from users where id", "code"),
        ("See https://example.com/a for more.", "url"),
        ("See www.example.org now.", "url"),
        ("Write to a.b@example.org today.", "url"),
        ("I read it on wikipedia.org yesterday.", "url"),
        ("Solve $x^2$ for me.", "maths"),
        ("What is \\frac{1}{2}?", "maths"),
        ("What is 3 * 4?", "maths"),
        ("What is 12 / 4?", "maths"),
        ("What is 9 - 4?", "maths"),
        ("Solve x = 3.", "maths"),
        ("Is a + b small?", "maths"),
        ("Find y^z now.", "maths"),
        ("Take ½ of it.", "maths"),
        ("I love it 😀", "unknown_symbols"),
        ("What is 日本?", "unknown_symbols"),
        ("Ελλάδα is Greece.", "unknown_symbols"),
        ("a | b", "table"),
        ("| name | n |\n|------|---|\n| Anna | 3 |", "table"),
        ("Name | Number\n--- | ---\nAnna | 3", "table"),
        ("What is P(A|B)?", "maths"),
        ("[insert name]", "unknown_symbols"),
        ("word " * 300, "long_text"),
    ],
)
def test_what_cannot_be_spoken_is_refused_by_its_reason(text, reason):
    refused = speakable(text, ENGLISH, SpeakableConfig())
    assert isinstance(refused, Refused), refused
    assert refused.reason == reason


@pytest.mark.parametrize(
    "text",
    [
        "What's the capital of France?",
        "Tell me (briefly) about the 1990s: music, film - and art!",
        "It costs $5 and €10, that's 50% more.",
        "Crème brûlée, naïve, Zürich.",
        "Is it true that he and/or she came at 10:30?",
        "The first person to select a book from the shelf wins.",
        "private schools are good; public transport is too;",
        "let me (please) know.",
        "Are you open 24/7, also on 12/25/2024?",
        "Do I need an A+ grade to learn C++?",
    ],
)
def test_plain_questions_are_spoken(text):
    assert isinstance(speakable(text, ENGLISH, SpeakableConfig()), str)


def test_details_show_what_was_found():
    refused = speakable("See https://example.com for 😀.", ENGLISH, SpeakableConfig())
    assert "https://" in refused.detail
    assert "'😀'" in speakable("I am 😀.", ENGLISH, SpeakableConfig()).detail


def test_other_alphabets_are_spoken_where_they_are_configured():
    config = SpeakableConfig(scripts=["CYRILLIC"], normalizer="none")
    assert speakable("Привет, мир!", open_normalizer("none", "ru"), config) == "Привет, мир!"
    assert speakable("Hello", open_normalizer("none", "ru"), config).reason == "unknown_symbols"


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("3 apples and 42 pears", "three apples and forty two pears"),
        ("1,200 people", "one thousand two hundred people"),
        ("3.14 miles", "three point one four miles"),
        ("In 1984 and 2015", "In nineteen eighty four and twenty fifteen"),
        ("the 1990s", "the nineteen nineties"),
        ("the 21st of May", "the twenty first of May"),
        ("50% of it", "fifty percent of it"),
        ("$5", "five dollars"),
        ("$1.01", "one dollar and one cent"),
        ("£2.50", "two pounds and fifty pence"),
        ("$5 million", "five million dollars"),
        ("at 10:30", "at ten thirty"),
        ("at 9:05 a.m. today", "at nine oh five A M today"),
        ("at 7:00", "at seven o'clock"),
        ("5-10 days", "five to ten days"),
        ("-5 outside", "minus five outside"),
        ("20°C", "twenty degrees Celsius"),
        ("-5°C", "minus five degrees Celsius"),
        ("salt & pepper", "salt and pepper"),
        ("#1 hit", "number one hit"),
        ("5kg", "five kg"),
        ("Dr. Who, e.g., or Mr. X", "Doctor Who, for example, or Mister X"),
        ("apples, pears, etc.", "apples, pears, et cetera."),
        ("No. 5 is alive. No. Never.", "number five is alive. No. Never."),
        ("and/or", "and or"),
        ("1/2 a cup, 3/4 of it, 2/3, 24/7", "one half a cup, three quarters of it, two thirds, twenty four seven"),
        ("on 12/25/2024", "on twelve twenty five twenty twenty four"),
        ("C++ & A+", "C plus plus and A plus"),
    ],
)
def test_english_is_written_out(written, spoken):
    assert ENGLISH(written) == spoken


def test_other_languages_get_their_own_numbers():
    assert (
        open_normalizer("num2words", "de")("21 Äpfel und 3,5 Birnen")
        == "einundzwanzig Äpfel und drei Komma fünf Birnen"
    )
    assert open_normalizer("num2words", "es")("1.200 casas") == "mil doscientos casas"


def test_marks_of_layout_are_taken_out():
    assert plain_text("# Title\n* **bold** and _soft_\n1. “one”…").split("\n") == ["Title", "bold and soft", '"one"...']
    assert plain_text("two * three and snake_case_name") == "two * three and snake_case_name"
    assert plain_text("_x_y stays") == "_x_y stays"


def test_a_language_that_num2words_lacks_is_named():
    with pytest.raises(ConfigError, match="'xx'"):
        open_normalizer("num2words", "xx")


def test_who_writes_numbers_out_does_not_depend_on_what_is_installed():
    assert SpeakableConfig().normalizer == "num2words"
    with pytest.raises(ConfigError, match=r"num2words, nemo, none.*speech\.normalizer"):
        SpeakableConfig(normalizer="auto").check("speech")


def test_a_table_is_refused_before_anyone_could_read_its_bars():
    refused = speakable("| name | n |", lambda text: "vertical bar name vertical bar n", SpeakableConfig())
    assert refused.reason == "table"


@pytest.mark.parametrize("name", ["num2words", "nemo"])
def test_an_unknown_language_is_told_with_those_that_are_known(name):
    if name == "nemo":
        pytest.importorskip("nemo_text_processing")
    with pytest.raises(
        ConfigError, match=r"'xx'; expected one of .*\bde, .*\ben, .*\(change it with: language"
    ) as error:
        open_normalizer(name, "xx")
    assert "ru" not in error.value.expected.split(", ") or name == "num2words"


def test_nemos_grammar_is_built_once_at_its_first_text_and_its_talk_is_kept_down(monkeypatch, caplog):
    normalize = pytest.importorskip("nemo_text_processing.text_normalization.normalize")
    built = []

    class Grammar:
        def __init__(self, **options):
            built.append(options["lang"])

        def normalize(self, text, **options):
            normalize.logger.setLevel("INFO")  # as NeMo's does
            normalize.logger.info("Skipping post-processing")
            return text.replace("3", "three")

    monkeypatch.setattr(normalize, "Normalizer", Grammar)
    monkeypatch.setattr(normalize.logger, "filters", [])
    expand = open_normalizer("nemo", "en")
    assert built == []
    assert caplog.text == ""
    assert [expand("3 pears"), expand("3 figs")] == ["three pears", "three figs"]
    assert built == ["en"]
    assert caplog.text.count("building the grammar") == 1
    assert "Skipping" not in caplog.text


GERMAN = "Kannst du mir erklären, wie ein Motor funktioniert?"


@pytest.mark.parametrize(
    ("text", "context", "reason"),
    [
        (GERMAN, "", "other_language"),
        ("Wie backt man Brot?", "", None),  # too short to be sure
        ("Wie backt man Brot?", f"Wie backt man Brot? {GERMAN}", "other_language"),
        ("What does this mean?", f"What does this mean? {GERMAN} {GERMAN}", None),
        ("`foo`", GERMAN, "code"),
        ("Tell me about Bach.", "Tell me about Bach. And who was Angela Merkel?", None),
    ],
)
def test_another_language_than_the_voices_is_refused(text, context, reason):
    found = speakable(text, ENGLISH, SpeakableConfig(), "en", context)
    assert getattr(found, "reason", None) == reason
    if reason == "other_language":
        assert "de (0." in found.detail


def test_other_languages_may_be_spoken_where_the_check_is_off_or_knows_nothing():
    assert speakable(GERMAN, ENGLISH, SpeakableConfig(check_language=False), "en") == GERMAN
    assert speakable(GERMAN, ENGLISH, SpeakableConfig(min_language_probability=1.0), "en") == GERMAN
    assert speakable(GERMAN, ENGLISH, SpeakableConfig(), "de") == GERMAN
    assert speakable(GERMAN, ENGLISH, SpeakableConfig(), "tlh") == GERMAN


@pytest.mark.parametrize(
    ("values", "knob"),
    [
        ({"scripts": []}, "speech.scripts"),
        ({"max_characters": 0}, "speech.max_characters"),
        ({"min_language_probability": 0}, "speech.min_language_probability"),
    ],
)
def test_wrong_values_name_their_knob(values, knob):
    with pytest.raises(ConfigError, match=knob):
        SpeakableConfig(**values).check("speech")
