"""What the tiny language model can do with text, and later with speech.

An `Exchange` is one user text and its answer. The user text is a row of parts, each a sentence, joined by one space; a
part may later stand as speech instead.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from vtblender_nemo.tiny import lexicon
from vtblender_nemo.tiny.grammar import DigitsFact, Fact, Question, capitalised


@dataclass(frozen=True)
class Part:
    """A sentence of the user's text, and what it is; facts and questions may be spoken, instructions are typed."""

    text: str
    kind: Literal["fact", "question", "instruction"]


@dataclass(frozen=True)
class Exchange:
    """A user text in parts, the answer to it, and the skill that it asks for."""

    skill: str
    parts: tuple[Part, ...]
    answer: str

    @property
    def user(self) -> str:
        return " ".join(part.text for part in self.parts)


@dataclass(frozen=True)
class Wording:
    """One way to ask for a skill; the text that it speaks about stands after it, or before it."""

    text: str
    leads: bool = True


def _lead(*texts: str) -> tuple[Wording, ...]:
    return tuple(Wording(text) for text in texts)


def _trail(*texts: str) -> tuple[Wording, ...]:
    return tuple(Wording(text, leads=False) for text in texts)


WORDINGS: dict[str, tuple[Wording, ...]] = {
    "repeat": _lead("Repeat:", "Transcribe:", "Write down:", "Say again:") + _trail("Repeat that.", "Write that down."),
    "translate_de": _lead("Translate to German:", "In German:", "Say it in German:")
    + _trail("Translate that to German."),
    "translate_es": _lead("Translate to Spanish:", "In Spanish:", "Say it in Spanish:")
    + _trail("Translate that to Spanish."),
    "upper": _lead("Write in capital letters:", "In capital letters:") + _trail("Write that in capital letters."),
    "json": _lead("Give the facts as JSON:", "As JSON:") + _trail("Give that as JSON."),
    "count": _lead("Count the words:", "How many words are there?") + _trail("Count the words."),
    "last_word": _lead("What is the last word?", "Give the last word:") + _trail("What is the last word?"),
    "first_words": _lead("Give the first {n} words:", "Write only the first {n} words:"),
    "sort": _lead("Sort the digits:", "Put the digits in order:") + _trail("Sort the digits."),
}

FACT_SKILLS: tuple[str, ...] = (
    "repeat",
    "translate_de",
    "translate_es",
    "upper",
    "json",
    "count",
    "last_word",
    "first_words",
)
"""Skills that work on any stated fact; `sort` wants a digit string."""

INSTRUCTIONS = ("upper", "json", "count", "last_word", "first_words", "sort")
"""Skills that mixed-modal rows ask for beside questions; `repeat` and translations have sources of their own."""

SUM_WORDINGS = {
    "+": ("What is {a} plus {b}?", "Add {a} and {b}."),
    "-": ("What is {a} minus {b}?", "Take {b} from {a}."),
}
LARGEST_SUMMAND = 10


_ANSWERS: dict[str, Callable[[Fact], str]] = {
    "repeat": lambda fact: fact.sentence().en,
    "translate_de": lambda fact: fact.sentence().de,
    "translate_es": lambda fact: fact.sentence().es,
    "upper": lambda fact: fact.sentence().en.upper(),
    "json": lambda fact: json.dumps(fact.summary()),
    "count": lambda fact: capitalised(lexicon.COUNTING[len(_words(fact))]),
    "last_word": lambda fact: capitalised(_words(fact)[-1]),
    "first_two_words": lambda fact: " ".join(_words(fact)[:2]),
    "first_three_words": lambda fact: " ".join(_words(fact)[:3]),
    "sort": lambda fact: sorted_digits(fact).sentence().en,
}


def _words(fact: Fact) -> list[str]:
    return fact.sentence().en.rstrip(".").split()


def answer_to(task: str, fact: Fact) -> str:
    """What is right to answer about a stated fact.

    Args:
        task: a skill; `first_two_words` or `first_three_words` in place of `first_words`.
        fact: what is stated; a sortable one for `sort`.
    """
    return _ANSWERS[task](fact)


def instruct(
    rng: random.Random, skill: str, fact: Fact, wordings: Mapping[str, Sequence[Wording]] = WORDINGS
) -> Exchange:
    """An instruction about a stated fact, in a random wording.

    Args:
        rng: what draws the wording.
        skill: a key of `wordings`; `sort` only with a fact that `is_sortable`.
        fact: what is stated.
        wordings: by skill.
    """
    wording = rng.choice(wordings[skill])
    text = wording.text
    if skill == "first_words":
        n = rng.choice((2, 3))
        text, answer = text.format(n=lexicon.COUNTING[n]), answer_to(f"first_{lexicon.COUNTING[n]}_words", fact)
    else:
        answer = answer_to(skill, fact)
    instruction, statement = Part(text, "instruction"), Part(fact.sentence().en, "fact")
    return Exchange(skill, (instruction, statement) if wording.leads else (statement, instruction), answer)


def is_sortable(fact: Fact) -> bool:
    """True for a digit string without repetitions; with them, a model of this size loses count."""
    return isinstance(fact, DigitsFact) and len(set(fact.digits)) == len(fact.digits)


def sorted_digits(fact: Fact) -> DigitsFact:
    """The digits of a string in ascending order."""
    assert isinstance(fact, DigitsFact)
    return DigitsFact(tuple(sorted(fact.digits, key=lexicon.DIGITS.index)))


def ask(rng: random.Random, facts: Sequence[Fact], question: Question) -> Exchange:
    """A question about one or two stated facts; with one fact it sometimes comes first."""
    statements = tuple(Part(fact.sentence().en, "fact") for fact in facts)
    asked = Part(question.text, "question")
    first = len(facts) == 1 and rng.random() < 0.3
    return Exchange(
        "qa" if len(facts) == 1 else "qa_two", (asked, *statements) if first else (*statements, asked), question.answer
    )


def draw_sum(rng: random.Random) -> Exchange:
    """A small sum or difference in words, never below zero."""
    a, b = rng.randint(0, LARGEST_SUMMAND), rng.randint(0, LARGEST_SUMMAND)
    sign = rng.choice("+-")
    if sign == "-":
        a, b = max(a, b), min(a, b)
    text = rng.choice(SUM_WORDINGS[sign]).format(a=lexicon.COUNTING[a], b=lexicon.COUNTING[b])
    return Exchange("sum", (Part(text, "instruction"),), capitalised(lexicon.COUNTING[a + b if sign == "+" else a - b]))
