"""What all further test sets draw from: held-out facts, their speech, and random numbers of each set's own."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.tiny.config import TinyConfig
from vtblender_nemo.tiny.grammar import Fact
from vtblender_nemo.tiny.items import Item
from vtblender_nemo.tiny.speech import SpeechPlan, Spoken
from vtblender_nemo.tiny.splits import HeldOut

SPLIT = "more"
"""First word in the names of speech that only these sets need. Like all but training's, it has held-out voices."""

_ATTEMPTS = 500

T = TypeVar("T")


class _NothingFits(Exception):
    """No held-out fact goes with those that were drawn before."""


class SetSpeech:
    """Speech of the tests where a text was spoken for them already, and new speech where not.

    Args:
        config: whose voices speak.
        tests: speech of the tests.
    """

    def __init__(self, config: TinyConfig, tests: Sequence[Spoken]) -> None:
        self._known = {spoken.text: spoken for spoken in tests}
        self._new = SpeechPlan(SPLIT, config.voices, config.seed)

    def says(self, text: str) -> bool:
        """True if a text was spoken for the tests."""
        return text in self._known

    def say(self, text: str, *, again: bool = False) -> Spoken:
        """Speech of a text; `again` wants another than before."""
        if again or text not in self._known:
            return self._new.say(text, again=again)
        return self._known[text]

    @property
    def utterances(self) -> list[Spoken]:
        """All new speech."""
        return self._new.utterances


@dataclass(frozen=True)
class SetMaker:
    """Draws for one test set.

    Attributes:
        name: of the set.
        held_out: its facts, and what tells questions that may be spoken.
        speech: of the facts.
        rng: draws for this set alone, so that no set changes another.
    """

    name: str
    held_out: HeldOut
    speech: SetSpeech
    rng: random.Random

    def spoken_fact(self, *others: Fact, fits: Callable[[Fact], bool] = lambda fact: True) -> Fact:
        """A held-out fact of other topics than `others`: one that was spoken for the tests, where there is one."""
        with suppress(_NothingFits):
            return self._fact(others, lambda fact: self.speech.says(fact.sentence().en) and fits(fact))
        return self._fact(others, fits)

    def typed_fact(self, *others: Fact, fits: Callable[[Fact], bool] = lambda fact: True) -> Fact:
        """A held-out fact of other topics than `others`."""
        return self._fact(others, fits)

    def say(self, fact: Fact) -> Spoken:
        """Speech of a fact."""
        return self.speech.say(fact.sentence().en)

    def items(self, kinds: Sequence[str], count: int, draw: Callable[[str, int], Item | None]) -> list[Item]:
        """So many items, the kinds by turns.

        Args:
            kinds: names of kinds.
            count: of items.
            draw: makes an item of a kind from the number of items of this kind so far; None if what was drawn does
                not make one.
        """
        by_turns = ((kinds[index % len(kinds)], index // len(kinds)) for index in range(count))
        return [self._until(partial(draw, kind, number)) for kind, number in by_turns]

    def _until(self, draw: Callable[[], T | None]) -> T:
        """What `draw` gives first that is not None.

        Raises:
            ConfigError: it never does.
        """
        for _ in range(_ATTEMPTS):
            with suppress(_NothingFits):
                if (drawn := draw()) is not None:
                    return drawn
        raise ConfigError(
            f"too few held-out facts for the test set {self.name}",
            value=len(self.held_out.test),
            expected="some hundreds, twice as many as test items, or tiny.sets." + self.name + "=0",
            knob="tiny.content.test_items",
        )

    def _fact(self, others: Sequence[Fact], fits: Callable[[Fact], bool]) -> Fact:
        taken = frozenset().union(*(other.topics() for other in others))
        for _ in range(_ATTEMPTS):
            fact = self.rng.choice(self.held_out.test)
            if not fact.topics() & taken and fits(fact):
                return fact
        raise _NothingFits
