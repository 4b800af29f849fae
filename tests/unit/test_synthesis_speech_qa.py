from __future__ import annotations

import json
import pickle
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.scripted_llm import ScriptedLLM
from vtblender_nemo.common.errors import ConfigError, MissingDependencyError
from vtblender_nemo.synthesis.languages import identify_language, language_code
from vtblender_nemo.synthesis.llm.endpoint import EndpointLLM
from vtblender_nemo.synthesis.speech_qa.filters import FilterOptions
from vtblender_nemo.synthesis.speech_qa.prompts import load_prompts, parse_kinds
from vtblender_nemo.synthesis.speech_qa.replies import parse_pairs
from vtblender_nemo.synthesis.speech_qa.work import QaOptions, SpeechQa
from vtblender_nemo.synthesis.work import InputRow, Made, Refused

CONF = Path(__file__).parents[2] / "conf/prompts"
PROMPTS = load_prompts(CONF / "sqa_synthesis.yaml")
SHOP = "the shop opens at nine in the morning"
UNFILTERED = FilterOptions(grounded=False, language=False, unanswerable=False, min_question_words=1)


def work(answer: Callable[[str], str | Refused], filters: FilterOptions = UNFILTERED, **options: Any) -> SpeechQa:
    return SpeechQa(ScriptedLLM("m", answer=answer), PROMPTS, QaOptions(**options), filters)


def row(text: Any, id: str = "r1", **more: Any) -> InputRow:
    return InputRow(id, f"m.jsonl:{id}", {"id": id, "audio_filepath": "a.wav", "duration": 2.5, "text": text, **more})


def pairs(*texts: tuple[str, str]) -> str:
    return json.dumps({"pairs": [{"question": question, "answer": answer} for question, answer in texts]})


def transcript_of(prompt: str) -> str:
    return prompt.split("---\n")[1].strip()


def test_one_question_as_in_the_paper():
    asked = []
    scripted = work(lambda prompt: asked.append(prompt) or pairs(("When does it open?", "At nine.")))
    (outcomes,) = scripted.open()([row(SHOP, speaker="s1")])
    assert outcomes == [
        Made(
            {
                **{"id": "r1-q0", "audio_filepath": "a.wav", "duration": 2.5, "text": SHOP, "speaker": "s1"},
                **{"question": "When does it open?", "answer": "At nine.", "answerable": True},
                "provenance": {
                    **{"source": "r1", "place": "m.jsonl:r1", "engine": "script", "model": "m"},
                    **{"prompt_version": PROMPTS.version, "seed": 0},
                },
            }
        )
    ]
    (prompt,) = asked
    assert transcript_of(prompt) == SHOP
    assert "one question" in prompt
    assert "in English" in prompt
    assert "$" not in prompt


def test_every_row_has_an_outcome_and_none_costs_another():
    replies = {"bad": "{{{", "none": "none", "cut": Refused("reply_cut_off", "{"), "good": pairs(("Who?", "Anna"))}
    rows = [row(f"{name} one two three four", name) for name in replies]
    rows[1:1] = [row(None, "mute"), row("two words", "short"), row("x " * 2000, "long"), row(SHOP, "lang", lang="xx")]
    outcomes = work(lambda prompt: replies[transcript_of(prompt).split()[0]]).open()(rows)
    assert [[getattr(one, "reason", "made") for one in found] for found in outcomes] == [
        ["reply_not_json"],
        ["no_transcript"],
        ["transcript_too_short"],
        ["transcript_too_long"],
        ["unknown_language"],
        ["no_question"],
        ["reply_cut_off"],
        ["made"],
    ]


def test_several_questions_and_surplus():
    found = work(lambda _: pairs(*((f"Q{n}?", f"A{n}") for n in range(4))), questions=3).open()([row(SHOP)])[0]
    made = [one.row for one in found if isinstance(one, Made)]
    assert [(one["id"], one["question"]) for one in made] == [("r1-q0", "Q0?"), ("r1-q1", "Q1?"), ("r1-q2", "Q2?")]
    assert [one.reason for one in found if isinstance(one, Refused)] == ["surplus_pair"]


def test_unanswerable_questions_have_the_fixed_answer():
    options = {"unanswerable": 1.0, "unanswerable_answer": "Not said."}
    asked = []
    scripted = work(lambda prompt: asked.append(prompt) or pairs(("Who owns it?", "the shop")), **options)
    ((made,),) = scripted.open()([row(SHOP)])
    assert (made.row["answer"], made.row["plausible_answer"], made.row["answerable"]) == (
        "Not said.",
        "the shop",
        False,
    )
    assert "NOT answer" in asked[0]


def test_unanswerable_questions_are_answered_in_the_rows_language():
    rows = [row(SHOP, "e"), row(SHOP, "g", source_lang="de-DE"), row(SHOP, "z", lang="zh"), row(SHOP, "f", lang="fo")]
    found = work(lambda _: pairs(("Who?", "the shop")), unanswerable=1.0).open()(rows)
    assert [one.row["answer"] for (one,) in found[:3]] == [PROMPTS.no_answer[code] for code in ("en", "de", "zh")]
    assert found[3] == [Refused("no_wording_of_no_answer", "fo: no_answer in the file of --prompts lacks it")]
    (made,), *_ = work(lambda _: pairs(("Who?", "A")), unanswerable=1.0, unanswerable_answer="?").open()(rows[3:])
    assert made.row["answer"] == "?"


def test_an_answer_of_no_answer_is_of_its_language():
    """As far as a sentence so short can tell."""
    assert {"en", "de", "es", "fr", "it", "pt", "nl", "zh"} <= set(PROMPTS.no_answer)
    found = {code: identify_language(text) for code, text in PROMPTS.no_answer.items()}
    wrong = {code for code, (told, sure) in found.items() if told != code and sure > 0.5}
    assert not wrong


def test_unanswerable_questions_are_checked_unless_that_is_switched_off():
    asked = []

    def answer(prompt):
        asked.append(prompt)
        return '{"answer": "at nine"}' if "Question:" in prompt else pairs(("When does the shop open?", "at ten"))

    filters = FilterOptions(language=False)
    (found,) = work(answer, filters, unanswerable=1.0).open()([row(SHOP)])
    assert found == [Refused("answerable_after_all", "When does the shop open? at nine")]
    assert len(asked) == 2
    assert SHOP in asked[1]
    ((made,),) = work(answer, replace(filters, unanswerable=False), unanswerable=1.0).open()([row(SHOP)])
    assert made.row["answerable"] is False
    assert len(asked) == 3
    work(lambda prompt: asked.append(prompt) or "none", filters).open()([row(SHOP)])
    assert len(asked) == 4  # nothing unanswerable, nothing to check


def test_share_of_unanswerable_questions_and_of_kinds():
    """Each within 4 standard deviations of what was asked for."""
    count, share = 3000, 0.2
    kinds = {"person": 1.0, "yes_no": 3.0}
    scripted = work(lambda _: pairs(("Who?", "Anna")), unanswerable=share, kinds=kinds)
    rows = [row(SHOP, str(number)) for number in range(count)]
    made = [one.row for found in scripted.open()(rows) for one in found]
    unanswered = sum(not one["answerable"] for one in made)
    assert abs(unanswered - count * share) < 4 * (count * share * (1 - share)) ** 0.5
    drawn = Counter(one["question_kind"] for one in made)
    assert abs(drawn["yes_no"] - count * 0.75) < 4 * (count * 0.75 * 0.25) ** 0.5
    assert set(drawn) == {"person", "yes_no"}


def test_what_is_drawn_follows_from_the_row_alone():
    options = {"questions": 2, "unanswerable": 0.5, "kinds": {"person": 1, "place": 1, "time": 1}}
    asked: dict[str, list[str]] = {}

    def answer(prompt):
        asked.setdefault(transcript_of(prompt), []).append(prompt)
        return pairs(("Who?", "Anna"))

    rows = [row(f"{SHOP} number {number}", str(number)) for number in range(20)]
    forth = work(answer, **options).open()(rows)
    prompts, asked = asked, {}
    worker = work(answer, **options).open()
    back = [worker([one])[0] for one in reversed(rows)]
    assert forth == back[::-1]
    assert prompts == asked
    asked = {}
    replace(work(answer, **options), seed=1).open()(rows)
    assert asked != prompts


def test_kinds_stand_in_the_prompt_in_their_order():
    (message,) = PROMPTS.ask(SHOP, ("place", None, "person"), "en", answerable=True, across=False)
    wish = [line for line in message["content"].splitlines() if line.startswith("  ")]
    assert wish == [f"  1. {PROMPTS.kinds['place']}", f"  3. {PROMPTS.kinds['person']}"]
    assert "3 different questions" in message["content"]


def test_drawn_kinds_are_asked_for_and_kept_with_their_questions():
    asked = []
    reply = pairs(*((f"Q{number}?", "Anna") for number in range(5)))
    options = {"questions": 5, "kinds": parse_kinds("all", PROMPTS)}
    (found,) = work(lambda prompt: asked.append(prompt) or reply, **options).open()([row(SHOP)])
    for number, one in enumerate(found, start=1):
        assert f"{number}. {PROMPTS.kinds[one.row['question_kind']]}" in asked[0]


def test_fewer_questions_than_asked_do_not_tell_their_kind():
    scripted = work(lambda _: pairs(("Who?", "Anna")), questions=2, kinds={"person": 1.0})
    ((made,),) = scripted.open()([row(SHOP)])
    assert "question_kind" not in made.row


def test_joined_utterances_are_asked_about_together():
    asked = []
    joined = row("one two three four five six", utterances=["one two three", "four five six"], sources=["a", "b"])
    scripted = work(lambda prompt: asked.append(prompt) or pairs(("Which came first?", "One")))
    ((made,),) = scripted.open()([joined])
    assert transcript_of(asked[0]) == "one two three\nfour five six"
    assert "at least two of the utterances" in asked[0]
    assert made.row["provenance"]["sources"] == ["a", "b"]
    assert not {"utterances", "sources"} & set(made.row)
    assert made.row["text"] == "one two three four five six"


@pytest.mark.parametrize(
    ("stated", "name"), [({"source_lang": "de-DE"}, "German"), ({"lang": "French"}, "French"), ({}, "Dutch")]
)
def test_questions_are_in_the_rows_language(stated, name):
    asked = []
    scripted = work(lambda prompt: asked.append(prompt) or "none", language="nl")
    scripted.open()([row(SHOP, **stated)])
    assert f"in {name}" in asked[0]


def test_codes_of_languages():
    assert [language_code(one) for one in ("de", "de-DE", "German", "pt_BR")] == ["de", "de", "de", "pt"]


def test_filters_work_in_turn_on_what_is_left():
    """The blind check is asked only about what the cheap filters kept."""
    asked = []

    def answer(prompt):
        asked.append(prompt)
        if "you have not heard" in prompt:
            return '{"answer": "nine"}' if "clocks" in prompt else "none"
        return pairs(
            ("When does the shop open?", "At nine."),
            ("When does the shop close?", "At midnight on Fridays."),
            ("Which number of clocks is like nine?", "Nine."),
            ("Why?", "nine"),
        )

    found = work(answer, FilterOptions(blind=True), questions=4).open()([row(SHOP)])[0]
    assert [one.row["question"] for one in found if isinstance(one, Made)] == ["When does the shop open?"]
    reasons = [one.reason for one in found if isinstance(one, Refused)]
    assert reasons == ["question_too_short", "answer_not_grounded", "answerable_without_recording"]
    assert len(asked) == 1 + 2


def test_settings_tell_jobs_apart_and_are_json():
    base = work(str)
    assert json.loads(json.dumps(base.settings())) == base.settings()
    others = [
        replace(base, seed=1),
        replace(base, llm=ScriptedLLM("n")),
        replace(base, options=QaOptions(questions=2)),
        replace(base, filters=FilterOptions()),
        replace(base, prompts=replace(PROMPTS, version="2-0")),
    ]
    assert all(other.settings() != base.settings() for other in others)
    assert pickle.loads(pickle.dumps(base)).settings() == base.settings()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"questions": 0}, "--questions"),
        ({"unanswerable": 1.1}, "--unanswerable"),
        ({"unanswerable_answer": " "}, "--unanswerable-answer"),
        ({"kinds": {"person": 0.0}}, "--kinds"),
        ({"kinds": {"person": float("nan")}}, "--kinds"),
        ({"kinds": {"riddle": 1.0}}, r"riddle.*person.*--kinds"),
        ({"language": "xx"}, "--language"),
        ({"language": "fo", "unanswerable": 0.1}, r"Faroese|fo.*one of ar.*no_answer in the file of --prompts"),
        ({"min_transcript_words": 20, "max_transcript_words": 10}, "20 to 10 words.*--min-transcript-words"),
        ({"max_transcript_words": 0}, "--max-transcript-words"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(ConfigError, match=message):
        work(str, **options)


def test_kinds_by_name_and_weight():
    assert parse_kinds("", PROMPTS) == {}
    assert parse_kinds("person, yes_no=2.5", PROMPTS) == {"person": 1.0, "yes_no": 2.5}
    assert parse_kinds("all", PROMPTS) == dict.fromkeys(PROMPTS.kinds, 1.0)
    with pytest.raises(ConfigError, match="--kinds"):
        parse_kinds("person=much", PROMPTS)


def edited(tmp_path: Path, old: str, new: str) -> Path:
    text = (CONF / "sqa_synthesis.yaml").read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "prompts.yaml"
    path.write_text(text.replace(old, new), encoding="utf-8")
    return path


def test_version_follows_the_content(tmp_path):
    other = load_prompts(edited(tmp_path, "listening exercises", "listening tests"))
    assert other.version != PROMPTS.version
    assert other.version.startswith("2-")
    assert load_prompts(edited(tmp_path, 'version: "2"', 'version: "7b"')).version.startswith("7b-")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("blind: |", "other: |", "not a file of prompts"),
        ("no_answer:\n", "no_answer:\n  x: ''\n", "no_answer in the file"),
        ("  $question\n\n  If general", "  What?\n\n  If general", r"other fields.*\$question"),
        ("$transcript", "$transkript", "other fields"),
        ("You write", "For $5 you write", r"\$\$ for a dollar"),
        ("kinds:\n  person: asks who", "kinds: {a: 1}\nx: {a: asks who", "cannot be read|not a file"),
    ],
)
def test_faulty_prompts(tmp_path, old, new, message):
    with pytest.raises(ConfigError, match=message):
        load_prompts(edited(tmp_path, old, new))


def test_prompts_that_are_not_there(tmp_path):
    with pytest.raises(ConfigError, match="--prompts"):
        load_prompts(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("package", "use"),
    [
        ("openai", lambda: EndpointLLM("m", base_url="http://h/v1").open()),
        ("json_repair", lambda: parse_pairs('{"broken', 1)),
        ("py3langid", lambda: identify_language("hello")),
    ],
)
def test_a_package_that_is_missing_is_named_with_its_extra(monkeypatch, package, use):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=rf"{package}.*vtblender_nemo\[synthesis\]"):
        use()
