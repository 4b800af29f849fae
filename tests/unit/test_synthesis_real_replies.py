"""Replies in the manners of instruct models: what they write around, in and instead of the JSON that they were asked for."""

from __future__ import annotations

import pytest

from vtblender_nemo.synthesis.speech_qa.replies import Pair, parse_answer, parse_pairs
from vtblender_nemo.synthesis.work import Refused

PAIR = '"question": "Where is Anna?", "answer": "In Rome."'
OTHER = '"question": "Who is in Rome?", "answer": "Anna."'
BODY = f'{{"pairs": [{{{PAIR}}}]}}'
ROME, ANNA = Pair("Where is Anna?", "In Rome."), Pair("Who is in Rome?", "Anna.")

# Two questions were asked for. A reason stands for a refusal.
PAIRS = {
    "preamble, fence and closing words": (f"Here is a question:\n\n```json\n{BODY}\n```\n\nAnything else?", [ROME]),
    "fence of four": (f"````json\n{BODY}\n````", [ROME]),
    "fence of tildes": (f"~~~json\n{BODY}\n~~~", [ROME]),
    "fence that was not closed": (f"```json\n{BODY}", [ROME]),
    "only the fence's word": (f"json\n{BODY}", [ROME]),
    "thoughts with a draft (Qwen3)": (
        f'<think>\nMaybe {{"question": "Who?", "answer": "A"}}.\n</think>\n\n{BODY}',
        [ROME],
    ),
    "thoughts (Magistral)": (f"[THINK]{{{OTHER}}}?[/THINK]{BODY}", [ROME]),
    "channels (gpt-oss)": (
        f"<|channel|>analysis<|message|>We need {{{OTHER}}}.<|end|><|start|>assistant<|channel|>final<|message|>{BODY}",
        [ROME],
    ),
    "marks of a solution": (
        f"<|begin_of_thought|>{{{OTHER}}}<|end_of_thought|><|begin_of_solution|>{BODY}<|end_of_solution|>",
        [ROME],
    ),
    "only thoughts, to the end of the tokens": ("<think>\nThe user wants one question about", ["no_question"]),
    "end of turn (Gemma)": (f"{BODY}<end_of_turn>", [ROME]),
    "end of message (Qwen)": (f"{BODY}<|im_end|>", [ROME]),
    "byte order mark": (f"\ufeff{BODY}", [ROME]),
    "brackets in the preamble": (f"Here is [1] question {{as asked}}: {BODY}", [ROME]),
    "commas too many": (f'{{"pairs": [{{{PAIR},}},],}}', [ROME]),
    "a comma too few": (f'{{"pairs": [{{{PAIR}}} {{{OTHER}}}]}}', [ROME, ANNA]),
    "Python's quotes": (
        "{'pairs': [{'question': \"Where's Anna?\", 'answer': 'In Rome.'}]}",
        [Pair("Where's Anna?", "In Rome.")],
    ),
    "typographic quotes": ("{“pairs”: [{“question”: “Where is Anna?”, “answer”: “In Rome.”}]}", [ROME]),
    "quotes in a text": (
        '{"pairs": [{"question": "Who said "hello" to Anna?", "answer": "Bert."}]}',
        [Pair('Who said "hello" to Anna?', "Bert.")],
    ),
    "a line break in a text": ('{"pairs": [{"question": "Where is\nAnna?", "answer": "In Rome."}]}', [ROME]),
    "keys without quotes": ('{pairs: [{question: "Where is Anna?", answer: "In Rome."}]}', [ROME]),
    "a comment": (f'{{"pairs": [{{{PAIR}}}] // one pair\n}}', [ROME]),
    "JSON in a text of JSON": (
        '"{\\"pairs\\": [{\\"question\\": \\"Where is Anna?\\", \\"answer\\": \\"In Rome.\\"}]}"',
        [ROME],
    ),
    "escapes of Unicode": (
        '{"pairs": [{"question": "Wo l\\u00e4uft Anna?", "answer": "In K\\u00f6ln."}]}',
        [Pair("Wo läuft Anna?", "In Köln.")],
    ),
    "several objects, a line each": (f"{{{PAIR}}}\n{{{OTHER}}}", [ROME, ANNA]),
    "several whole answers": (f'{BODY}\n\n{{"pairs": [{{{OTHER}}}]}}', [ROME, ANNA]),
    "several fences": (f"```json\n{{{PAIR}}}\n```\nand\n```json\n{{{OTHER}}}\n```", [ROME, ANNA]),
    "several objects in Python's quotes": (
        "{'question': 'Where is Anna?', 'answer': 'In Rome.'}\n\n{'question': 'Who is in Rome?', 'answer': 'Anna.'}",
        [ROME, ANNA],
    ),
    "several broken fences": (f"```json\n{{{PAIR},}}\n```\n```json\n{{{OTHER},}}\n```", [ROME, ANNA]),
    "several broken answers": (f'{{"pairs": [{{{PAIR},}}]}}\n{{"pairs": [{{{OTHER},}}]}}', [ROME, ANNA]),
    "numbered objects": (f"1. {{{PAIR}}}\n2. {{{OTHER}}}", [ROME, ANNA]),
    "braces of a template": (f'{{{{"pairs": [{{{{{PAIR}}}}}]}}}}', [ROME]),
    "a call of a tool": (f'<tool_call>\n{{"name": "answer", "arguments": {BODY}}}\n</tool_call>', [ROME]),
    "a note in brackets before": (f"[Note: JSON alone]\n{BODY}", [ROME]),
    "a note in brackets after": (f"{BODY}\n\n(Note: {{curly}} and [square] brackets.)", [ROME]),
    "a list": (f"[{{{PAIR}}}, {{{OTHER}}}]", [ROME, ANNA]),
    "a longer list than asked for": (f"[{{{PAIR}}}, {{{OTHER}}}, {{{PAIR}}}]", [ROME, ANNA, "surplus_pair"]),
    "short names": ('{"pairs": [{"q": "Where is Anna?", "a": "In Rome."}]}', [ROME]),
    "long names": ('{"pairs": [{"question_text": "Where is Anna?", "answer_text": "In Rome."}]}', [ROME]),
    "capitals": ('{"QA_Pairs": [{"Question": "Where is Anna?", "ANSWER": "In Rome."}]}', [ROME]),
    "more fields": (f'{{"pairs": [{{"id": 1, "type": "place", {PAIR}, "reason": "It says so."}}]}}', [ROME]),
    "bold in the texts": ('{"pairs": [{"question": "**Where is Anna?**", "answer": "In **Rome**."}]}', [ROME]),
    "bold field names": ('{"pairs": [{"**question**": "Where is Anna?", "**answer**": "In Rome."}]}', [ROME]),
    "cut off in an answer": (
        f'{{"pairs": [{{{PAIR}}}, {{"question": "Who is in Rome?", "answer": "An',
        [ROME, "pair_incomplete"],
    ),
    "cut off in a question": (f'{{"pairs": [{{{PAIR}}}, {{"question": "Who is', [ROME, "pair_incomplete"]),
    "cut off in a name": ('{"pairs": [{"question": "Where is Anna?", "answ', ["pair_incomplete"]),
    "cut off before its end": (BODY.removesuffix("]}"), [ROME]),
    "None": ("None", ["no_question"]),
    "none, and why": ("none\n\nThe sentences make no sense.", ["no_question"]),
    "bold none, and why": ("**None** - the transcript is too short.", ["no_question"]),
    "no pairs, and why": ('The transcript makes no sense: {"pairs": []}', ["no_question"]),
    "not applicable": ('{"pairs": [{"question": "N/A", "answer": "N/A"}]}', ["no_question"]),
    "a question whose answer is none": (
        '{"pairs": [{"question": "Where is Anna?", "answer": "None"}]}',
        ["pair_incomplete"],
    ),
    "the form, not filled in": ('{"pairs": [{"question": "...", "answer": "..."}]}', ["no_question"]),
    "an answer as a list": ('{"question": "What does she buy?", "answer": ["apples", "pears"]}', ["pair_incomplete"]),
    "names in another language": (
        '{"pairs": [{"frage": "Wo ist Anna?", "antwort": "In Rom."}]}',
        ["pair_incomplete"],
    ),
    "no names": ('{"pairs": [["Where is Anna?", "In Rome."]]}', ["pair_incomplete"]),
    "numbers in the names": (
        '{"question1": "Where is Anna?", "answer1": "In Rome.", "question2": "Who is there?", "answer2": "Anna."}',
        ["reply_without_pairs"],
    ),
    "a refusal in words": ("I'm sorry, but I can't help with that.", ["reply_not_json"]),
    "Markdown": ("**Question:** Where is Anna?\n**Answer:** In Rome.", ["reply_not_json"]),
    "YAML": ("pairs:\n  - question: Where is Anna?\n    answer: In Rome.", ["reply_not_json"]),
    "XML": ("<pair><question>Where is Anna?</question><answer>In Rome.</answer></pair>", ["reply_not_json"]),
}


@pytest.mark.parametrize("name", PAIRS)
def test_pairs(name):
    reply, expected = PAIRS[name]
    assert [one.reason if isinstance(one, Refused) else one for one in parse_pairs(reply, 2)] == expected


ANSWERS = {
    "fence": ('```json\n{"answer": "In Rome."}\n```', "In Rome."),
    "preamble": ('The answer is: {"answer": "In Rome."}', "In Rome."),
    "thoughts": ('<think>none?</think>{"answer": "In Rome."}', "In Rome."),
    "why": ('{"answer": "In Rome."}\n\nExplanation: {it says so}', "In Rome."),
    "a label": ("Answer: In Rome.", "In Rome."),
    "a list of one": ('[{"answer": "In Rome."}]', "In Rome."),
    "another name": ('{"response": "In Rome."}', "In Rome."),
    "cut off": ('{"answer": "In R', "reply_cut_off"),
    "none": ('{"answer": "none"}', None),
    "bold none": ("**none**", None),
    "a label and none": ("**Answer:** None.", None),
    "another name and none": ('{"result": "None"}', None),
    "none twice encoded": ('"{\\"answer\\": \\"none\\"}"', None),
    "Python's None": ('{"answer": None}', None),
    "not applicable": ('{"answer": "N/A"}', None),
    "none, and why": ("None (the recording does not say).", None),
    "not mentioned": ('{"answer": "Not mentioned."}', None),
    "not stated in the transcript": ("It is not stated in the transcript.", None),
    "unknown": ('{"answer": "Unknown"}', None),
    "unanswerable": ('{"answer": "The answer is not given."}', None),
    "none of something": ('{"answer": "None of the three men"}', "None of the three men"),
    "not said of somebody": ('{"answer": "Not stated prices but gifts"}', "Not stated prices but gifts"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_answers(name):
    reply, expected = ANSWERS[name]
    found = parse_answer(reply)
    assert (found.reason if isinstance(found, Refused) else found) == expected
