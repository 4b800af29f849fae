"""What is held out of every training, and the facts that trainings draw.

Three rules keep tests apart from trainings of any kind (language model, encoder, joint stage):

1. A *held-out fact* is never stated in a training, in whatever order of words, letter case or language, by text or
   speech. A held-out digit string does not even stand inside a longer one.
2. A *held-out question* (one wording with its words filled in, such as "Who bought the apples?") is never asked in a
   training. Which ones they are follows from a hash of the text, so nobody has to keep a list. All test questions that
   are spoken are held-out questions; typed test questions may recur, as what they are asked about is new.
3. A *held-out voice* has a speaker variant that no training hears; half of the test speech also has an accent that no
   training hears (`speech.py`).
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from vtblender_nemo.tiny.grammar import CodeFact, DigitsFact, Fact, Question, draw_fact
from vtblender_nemo.tiny.skills import is_sortable, sorted_digits

HELD_OUT_QUESTION_SHARE = 10  # one question in so many

# These name nothing of the fact, so to hold them out would be to hold out the wording.
_FIXED_QUESTIONS = frozenset(
    {"What is the first digit?", "What is the last digit?", "How many digits are there?", "Whose code is it?"}
)


def is_held_out_question(text: str) -> bool:
    """True if no training may ask this; a sum such as "What is two plus three?" counts as a question."""
    return text not in _FIXED_QUESTIONS and zlib.crc32(text.encode()) % HELD_OUT_QUESTION_SHARE == 0


def spoken_digits(fact: Fact) -> str:
    """The digits that a fact names, as they are spoken; empty if there are none."""
    return " ".join(digit.en for digit in fact.digits) if isinstance(fact, (CodeFact, DigitsFact)) else ""


@dataclass(frozen=True)
class HeldOut:
    """The facts of tests and validations.

    Attributes:
        test: facts of the test items, all different.
        validation: facts of the validation items, different from those.
    """

    test: tuple[Fact, ...]
    validation: tuple[Fact, ...]

    @cached_property
    def _keys(self) -> frozenset[Fact]:
        return frozenset(fact.same_fact_key() for fact in self.test + self.validation)

    @cached_property
    def _digits(self) -> tuple[str, ...]:
        return tuple(digits for fact in self.test + self.validation if (digits := spoken_digits(fact)))

    def holds(self, fact: Fact) -> bool:
        """True if a training must not state this fact."""
        if fact.same_fact_key() in self._keys:
            return True
        digits = spoken_digits(fact)
        return bool(digits) and any(held in digits for held in self._digits)

    def draw_training_fact(self, rng: random.Random) -> Fact:
        """A random fact that trainings may state."""
        while self.holds(fact := draw_fact(rng)):
            pass
        return fact


def hold_out(test_facts: int, validation_facts: int, seed: int) -> HeldOut:
    """Draws the held-out facts, every one different from all others."""
    rng = random.Random(f"held-out-{seed}")
    drawn: dict[Fact, Fact] = {}
    while len(drawn) < test_facts + validation_facts:
        fact = draw_fact(rng)
        drawn.setdefault(fact.same_fact_key(), fact)
    facts = tuple(drawn.values())
    return HeldOut(facts[:test_facts], facts[test_facts:])


def training_questions(fact: Fact) -> list[Question]:
    """The questions about a fact that trainings may ask."""
    return [question for question in fact.questions() if not is_held_out_question(question.text)]


def held_out_questions(fact: Fact) -> list[Question]:
    """The questions about a fact that no training asks."""
    return [question for question in fact.questions() if is_held_out_question(question.text)]


def draw_compatible(rng: random.Random, fact: Fact, candidates: Iterable[Fact] | None, held_out: HeldOut) -> Fact:
    """Another fact that shares no topic with `fact`: from `candidates` if given, else a training fact."""
    pool = None if candidates is None else list(candidates)
    while True:
        other = held_out.draw_training_fact(rng) if pool is None else rng.choice(pool)
        if not fact.topics() & other.topics():
            return other


def is_training_sortable(fact: Fact, held_out: HeldOut) -> bool:
    """True if trainings may sort it: its digits in order must not be held out either."""
    return is_sortable(fact) and not held_out.holds(sorted_digits(fact))


def draw_sortable(rng: random.Random, held_out: HeldOut) -> Fact:
    """A digit string that trainings may sort."""
    while not is_training_sortable(fact := held_out.draw_training_fact(rng), held_out):
        pass
    return fact
