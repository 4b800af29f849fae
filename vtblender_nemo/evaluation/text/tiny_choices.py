"""What the task files of the tiny world's text skills call."""

from __future__ import annotations

import hashlib
from typing import Any

WRONG_ANSWERS = 3


def strip_answers(resps: list[list[str]], docs: list[dict[str, Any]]) -> list[list[str]]:
    """Answers without surrounding space, which says nothing of a skill."""
    return [[answer.strip() for answer in answers] for answers in resps]


def add_choices(dataset: Any) -> Any:
    """Adds `choices`, the right answer among wrong ones, and `right`, its number, to test items.

    A wrong answer is the right one with a word of another answer of the same kind in place of its own, as near as can be; so a
    model has to have understood the item, and not only what kind of answer it wants.
    """
    kinds = [custom["kind"] for custom in dataset["custom"]]
    by_kind: dict[str, list[str]] = {}
    for kind, reference in zip(kinds, dataset["reference"], strict=True):
        by_kind.setdefault(kind, []).append(reference)
    seen = dict.fromkeys(by_kind, 0)
    rows: dict[str, list[Any]] = {"choices": [], "right": []}
    for id, kind in zip(dataset["id"], kinds, strict=True):
        answers, place = by_kind[kind], seen[kind]
        seen[kind] += 1
        wrong = near_misses(answers[place], answers[place + 1 :] + answers[:place], _number(id))
        right = _number(id) % (len(wrong) + 1)
        rows["choices"].append([*wrong[:right], answers[place], *wrong[right:]])
        rows["right"].append(right)
    for name, values in rows.items():
        dataset = dataset.add_column(name, values)
    return dataset


def near_misses(answer: str, others: list[str], number: int) -> list[str]:
    """At most `WRONG_ANSWERS` texts that differ from `answer` in one word, which `others` have in its place.

    Args:
        answer: the right one.
        others: answers of the same kind, the first of which are used first.
        number: chooses the word.
    """
    found: list[str] = []
    words = answer.split()
    for other in (text.split() for text in others):
        places = [place for place, (a, b) in enumerate(zip(words, other, strict=False)) if a != b]
        if places:
            place = places[number % len(places)]
            missed = " ".join([*words[:place], other[place], *words[place + 1 :]])
            if missed not in found:
                found.append(missed)
        if len(found) == WRONG_ANSWERS:
            break
    return found


def _number(id: str) -> int:
    """The same for an id at every call, and like none for another."""
    return int(hashlib.sha256(id.encode()).hexdigest()[:8], 16)
