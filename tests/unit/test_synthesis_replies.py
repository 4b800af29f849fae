from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vtblender_nemo.synthesis.speech_qa import replies
from vtblender_nemo.synthesis.speech_qa.replies import Pair, clean, parse_answer, parse_pairs
from vtblender_nemo.synthesis.work import Refused

ONE = [Pair("Where is Anna?", "In Rome.")]

READABLE = {
    "as asked": '{"pairs": [{"question": "Where is Anna?", "answer": "In Rome."}]}',
    "a pair alone": '{"question": "Where is Anna?", "answer": "In Rome."}',
    "a list": '[{"question": "Where is Anna?", "answer": "In Rome."}]',
    "one pair where a list belongs": '{"pairs": {"question": "Where is Anna?", "answer": "In Rome."}}',
    "another name of the list": '{"questions": [{"question": "Where is Anna?", "answer": "In Rome."}]}',
    "a list beside other fields": '{"topic": "Anna", "items": [{"question": "Where is Anna?", "answer": "In Rome."}]}',
    "other case": '{"Question": "Where is Anna?", "ANSWER ": "In Rome."}',
    "a code fence": '```json\n{"question": "Where is Anna?", "answer": "In Rome."}\n```',
    "prose around": 'Sure! Here it is: {"question": "Where is Anna?", "answer": "In Rome."} Hope this helps.',
    "thoughts before": '<think>Maybe {"question": "Who?"}...</think>{"question": "Where is Anna?", "answer": "In Rome."}',
    "thoughts opened by the prompt": 'Maybe {"x": 1}.</think> {"question": "Where is Anna?", "answer": "In Rome."}',
    "single quotes": "{'question': 'Where is Anna?', 'answer': 'In Rome.'}",
    "a comma too many": '{"question": "Where is Anna?", "answer": "In Rome.",}',
    "no bracket at the end": '{"pairs": [{"question": "Where is Anna?", "answer": "In Rome."}',
    "space and controls": '{"question": " Where\\n is\\tAnna?\\u0000", "answer": "In  Rome. "}',
}


@pytest.mark.parametrize("name", READABLE)
def test_pairs_are_read_however_they_are_written(name):
    assert parse_pairs(READABLE[name], 1) == ONE


NOTHING = [
    *(
        "none",
        "None.",
        '"none"',
        "```\nnone\n```",
        "null",
        "{}",
        "{ }",
        "[]",
        "",
        "```json\nnone\n```",
        "<think>hm",
        "hm</think>none",
    ),
    *('{"pairs": []}', '{"pairs": null}', '{"pairs": "none"}', '{"question": "none", "answer": "none"}'),
    '{"pairs": [{"question": null, "answer": null}]}',
]


@pytest.mark.parametrize("reply", NOTHING)
def test_none_is_told_from_faults(reply):
    (found,) = parse_pairs(reply, 1)
    assert isinstance(found, Refused)
    assert found.reason == "no_question"


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("I cannot help with that.", "reply_not_json"),
        ('{"title": "x", "body": "y"}', "reply_without_pairs"),
        ("{{{", "reply_not_json"),
        ("17", "reply_without_pairs"),
        (
            '{"who": [{"question": "Q?", "answer": "A"}], "where": [{"question": "Q?", "answer": "A"}]}',
            "reply_without_pairs",
        ),
        ('[{"question": "Where is Anna?"}]', "pair_incomplete"),
        ('{"question": "Where is Anna?", "answer": ""}', "pair_incomplete"),
        ('{"question": "Where is Anna?", "answer": ["Rome"]}', "pair_incomplete"),
        ('{"question": "Is Anna there?", "answer": true}', "pair_incomplete"),
        ('["Where is Anna?"]', "pair_incomplete"),
        ("{" + "x" * 20_000, "reply_too_long"),
    ],
)
def test_what_cannot_be_used_has_its_reason(reply, reason):
    (found,) = parse_pairs(reply, 1)
    assert isinstance(found, Refused)
    assert found.reason == reason


def test_each_pair_is_judged_alone_and_more_than_asked_are_refused():
    pairs = [{"question": f"Q{n}?", "answer": str(n)} for n in range(4)]
    pairs[1].pop("answer")
    found = parse_pairs(json.dumps({"pairs": pairs}), 3)
    assert found[0] == Pair("Q0?", "0")
    assert found[1].reason == "pair_incomplete"
    assert found[2] == Pair("Q2?", "2")
    assert found[3].reason == "surplus_pair"
    assert len(found) == 4


def test_numbers_are_answers():
    assert parse_pairs('{"question": "How many?", "answer": 3}', 1) == [Pair("How many?", "3")]


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ('{"answer": "In Rome."}', "In Rome."),
        ('```json\n{"Answer": "In Rome."}```', "In Rome."),
        ("In Rome.", "In Rome."),
        ('{"answer": "In Rome."', "In Rome."),
        ('{"answer": 4}', "4"),
        ('{"answer": true}', "yes"),
        ('{"answer": false}', "no"),
        ('{"answer": ["Rome"]}', '{"answer": ["Rome"]}'),
        ('{"reply": "Rome"}', "Rome"),
        ('{"answer": "none"}', None),
        ('{"answer": "None."}', None),
        ('{"answer": null}', None),
        ('{"answer": ""}', None),
        ("none", None),
    ],
)
def test_answers_alone(reply, answer):
    assert parse_answer(reply) == answer


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("", "reply_empty"),
        ("<think>Where could she be", "reply_empty"),
        ('{"answer": "In R', "reply_cut_off"),
        ("{" + "x" * 20_000, "reply_too_long"),
    ],
)
def test_no_answer_is_not_an_answer_of_none(reply, reason):
    """What breaks off vouches for nothing, least of all for there being no answer."""
    found = parse_answer(reply)
    assert isinstance(found, Refused)
    assert found.reason == reason


def test_halves_of_surrogate_pairs_do_not_reach_files():
    (pair,) = parse_pairs('{"question": "A \\ud83d B?", "answer": "\\ude00 C"}', 1)
    assert pair == Pair("A B?", "C")
    assert clean("a\x00\u2028b\ud800") == "a b"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["pairs", "question", "answer", "x"]), inner),
    max_leaves=8,
)
NEARLY_JSON = JSON.map(json.dumps).flatmap(
    lambda text: st.tuples(st.integers(0, len(text)), st.text('{}[]":,\\`<>think', max_size=4)).map(
        lambda cut: text[: cut[0]] + cut[1] + text[cut[0] :]
    )
)


@settings(max_examples=300, deadline=None)
@given(st.text() | NEARLY_JSON | st.text('{}[]":,\\none ', max_size=60))
def test_no_text_raises_and_all_that_comes_out_can_be_written(reply):
    found = parse_pairs(reply, 2)
    assert found
    for one in found:
        texts = (one.question, one.answer) if isinstance(one, Pair) else (one.reason, one.detail)
        assert all("\n" not in text and text.encode() is not None for text in texts)
        if isinstance(one, Pair):
            assert one.question.strip()
            assert one.answer.strip()
    answer = parse_answer(reply)
    assert answer is None or isinstance(answer, Refused) or answer.encode()


@pytest.mark.parametrize("depth", [900, 3000])
@pytest.mark.parametrize(
    ("opening", "closing"), [("[", ""), ("[", "]"), ('{"a":', ""), ('{"a":', "1" + "}"), ("[{", ""), ("(", "")]
)
def test_deep_nesting_does_not_raise(opening, closing, depth):
    reply = opening * depth + closing[:-1] + closing[-1:] * depth
    assert all(isinstance(one, Refused) for one in parse_pairs(reply, 1))
    parse_answer(reply)


def test_values_deeper_than_python_can_follow_are_refused(monkeypatch):
    """How deep a value a parser lets through differs between Pythons."""
    deep: dict = {}
    for _ in range(5000):
        deep = {"a": deep}
    monkeypatch.setattr(replies, "_values", lambda _: [deep])
    assert [one.reason for one in parse_pairs("deep", 1)] == ["reply_without_pairs"]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.text(), st.text()), min_size=1, max_size=3))
def test_what_is_written_as_asked_comes_back(texts):
    pairs = [{"question": f"q {question}", "answer": f"a {answer}"} for question, answer in texts]
    found = parse_pairs(json.dumps({"pairs": pairs}), 3)
    # Marks of bold are left out.
    bare = [{name: text.replace("**", "") for name, text in pair.items()} for pair in pairs]
    assert found == [Pair(clean(pair["question"]), clean(pair["answer"])) for pair in bare]
