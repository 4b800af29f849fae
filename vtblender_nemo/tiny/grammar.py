"""Facts, and the sentences, translations and questions that follow from them.

A fact is a small frozen record. What the tiny world says about it, in any language, is derived from its fields, so a
translation is true and an answer is right by construction.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from dataclasses import dataclass

from vtblender_nemo.tiny import lexicon
from vtblender_nemo.tiny.lexicon import Colour, Deed, Noun, Person, Word


@dataclass(frozen=True)
class Question:
    """A question about a fact, and its answer."""

    text: str
    answer: str


@dataclass(frozen=True)
class Sentence:
    """One statement in three languages."""

    en: str
    de: str
    es: str


class Fact(ABC):
    """Something that is so in the tiny world."""

    @abstractmethod
    def sentence(self) -> Sentence:
        """The fact as a statement."""

    @abstractmethod
    def questions(self) -> list[Question]:
        """All that can be asked about it."""

    @abstractmethod
    def summary(self) -> dict[str, str]:
        """Its main parts by name, for JSON."""

    @abstractmethod
    def topics(self) -> frozenset[str]:
        """What its questions name: two facts without a common topic stand side by side without confusion."""

    def same_fact_key(self) -> Fact:
        """The fact that stands for all ways to say this one."""
        return self


def capitalised(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def _statement(en: str, de: str, es: str) -> Sentence:
    return Sentence(capitalised(en) + ".", capitalised(de) + ".", capitalised(es) + ".")


def _question(text: str, answer: str) -> Question:
    return Question(capitalised(text) + "?", capitalised(answer))


@dataclass(frozen=True)
class DeedFact(Fact):
    """On Monday the king bought two red apples in the market."""

    who: Person
    deed: Deed
    number: Word
    colour: Colour
    thing: Noun
    place: Word
    time: Word
    time_first: bool

    def sentence(self) -> Sentence:
        who, deed, place, time = self.who, self.deed, self.place, self.time
        what = f"{self.number.en} {self.colour.en} {self.thing.en}"
        was = f"{self.number.de} {self.colour.de}e {self.thing.de}"
        feminine = self.thing.es_gender == "f"
        colour_es = self.colour.es_feminine_plural if feminine else self.colour.es_masculine_plural
        que = f"{self.number.es} {self.thing.es} {colour_es}"
        if self.time_first:
            return _statement(
                f"{time.en} {who.en} {deed.past} {what} {place.en}",
                f"{time.de} {deed.de} {who.de} {was} {place.de}",
                f"{time.es} {who.es} {deed.es} {que} {place.es}",
            )
        return _statement(
            f"{who.en} {deed.past} {what} {place.en} {time.en}",
            f"{who.de} {deed.de} {time.de} {was} {place.de}",
            f"{who.es} {deed.es} {que} {place.es} {time.es}",
        )

    def questions(self) -> list[Question]:
        who, deed, things = self.who.en, self.deed, self.thing.en
        return [
            _question(f"who {deed.past} the {things}", who),
            _question(f"what did {who} {deed.base}", f"{self.number.en} {self.colour.en} {things}"),
            _question(f"what colour are the {things}", self.colour.en),
            _question(f"how many {things} are there", self.number.en),
            _question(f"how many {things} did {who} {deed.base}", self.number.en),
            _question(f"where did {who} {deed.base} the {things}", self.place.en),
            _question(f"when did {who} {deed.base} the {things}", self.time.en),
        ]

    def summary(self) -> dict[str, str]:
        return {"who": self.who.en, "what": self.thing.en, "where": self.place.en}

    def topics(self) -> frozenset[str]:
        return frozenset({self.who.en, self.thing.en})

    def same_fact_key(self) -> Fact:
        fields = {**self.__dict__, "time_first": False}
        return DeedFact(**fields)


@dataclass(frozen=True)
class PetFact(Fact):
    """Anna lives in Berlin and has a red dog."""

    who: Person
    city: Word
    colour: Colour
    animal: Noun

    def sentence(self) -> Sentence:
        animal, colour = self.animal, self.colour
        article, ending = {"m": ("einen", "en"), "f": ("eine", "e"), "n": ("ein", "es")}[animal.de_gender]
        un, colour_es = ("una", colour.es_feminine) if animal.es_gender == "f" else ("un", colour.es_masculine)
        return _statement(
            f"{self.who.en} lives in {self.city.en} and has a {colour.en} {animal.en}",
            f"{self.who.de} wohnt in {self.city.de} und hat {article} {colour.de}{ending} {animal.de}",
            f"{self.who.es} vive en {self.city.es} y tiene {un} {animal.es} {colour_es}",
        )

    def questions(self) -> list[Question]:
        who, pet = self.who.en, f"a {self.colour.en} {self.animal.en}"
        return [
            _question(f"who lives in {self.city.en}", who),
            _question(f"where does {who} live", f"in {self.city.en}"),
            _question(f"which animal does {who} have", pet),
            _question(f"what colour is the {self.animal.en}", self.colour.en),
            _question(f"who has {pet}", who),
        ]

    def summary(self) -> dict[str, str]:
        return {"who": self.who.en, "what": self.animal.en, "where": self.city.en}

    def topics(self) -> frozenset[str]:
        return frozenset({self.who.en, self.city.en, self.animal.en})


@dataclass(frozen=True)
class MeetingFact(Fact):
    """Anna meets the king in the park at three o'clock."""

    who: Person
    whom: Person
    place: Word
    hour: Word

    def sentence(self) -> Sentence:
        return _statement(
            f"{self.who.en} meets {self.whom.en} {self.place.en} at {self.hour.en} o'clock",
            f"{self.who.de} trifft {self.whom.de_object} um {self.hour.de} Uhr {self.place.de}",
            f"{self.who.es} se encuentra con {self.whom.es} {self.place.es} a las {self.hour.es}",
        )

    def questions(self) -> list[Question]:
        who, whom = self.who.en, self.whom.en
        return [
            _question(f"who meets {whom}", who),
            _question(f"who does {who} meet", whom),
            _question(f"where does {who} meet {whom}", self.place.en),
            _question(f"when does {who} meet {whom}", f"at {self.hour.en} o'clock"),
        ]

    def summary(self) -> dict[str, str]:
        return {"who": self.who.en, "whom": self.whom.en, "where": self.place.en}

    def topics(self) -> frozenset[str]:
        return frozenset({self.who.en, self.whom.en})


@dataclass(frozen=True)
class CodeFact(Fact):
    """The code of Anna is nine one four one."""

    who: Person
    digits: tuple[Word, ...]

    def sentence(self) -> Sentence:
        en, de, es = _spelled(self.digits)
        return _statement(
            f"the code of {self.who.en} is {en}",
            f"der Code von {self.who.de} ist {de}",
            f"el código de {self.who.es} es {es}",
        )

    def questions(self) -> list[Question]:
        code = _spelled(self.digits)[0]
        return [
            _question(f"what is the code of {self.who.en}", code),
            _question(f"which code does {self.who.en} have", code),
            _question("whose code is it", self.who.en),
        ]

    def summary(self) -> dict[str, str]:
        return {"who": self.who.en, "code": _spelled(self.digits)[0]}

    def topics(self) -> frozenset[str]:
        return frozenset({self.who.en, "digits"})


@dataclass(frozen=True)
class DigitsFact(Fact):
    """Nine one four one."""

    digits: tuple[Word, ...]

    def sentence(self) -> Sentence:
        return _statement(*_spelled(self.digits))

    def questions(self) -> list[Question]:
        return [
            _question("what is the first digit", self.digits[0].en),
            _question("what is the last digit", self.digits[-1].en),
            _question("how many digits are there", lexicon.COUNTING[len(self.digits)]),
        ]

    def summary(self) -> dict[str, str]:
        return {"digits": _spelled(self.digits)[0]}

    def topics(self) -> frozenset[str]:
        return frozenset({"digits"})


def _spelled(digits: tuple[Word, ...]) -> tuple[str, str, str]:
    en, de, es = (" ".join(getattr(digit, language) for digit in digits) for language in ("en", "de", "es"))
    return en, de, es


FACT_SHARES = {DeedFact: 6, PetFact: 3, MeetingFact: 3, CodeFact: 2, DigitsFact: 2}
"""How often each kind of fact is drawn, relative to the others."""

CODE_LENGTH = 4
DIGIT_STRING_LENGTHS = (3, 4, 5)


def draw_fact(rng: random.Random) -> Fact:
    """A random fact."""
    kind = rng.choices(list(FACT_SHARES), list(FACT_SHARES.values()))[0]
    if kind is DeedFact:
        return DeedFact(
            who=rng.choice(lexicon.PEOPLE),
            deed=rng.choice(lexicon.DEEDS),
            number=rng.choice(lexicon.NUMBERS),
            colour=rng.choice(lexicon.COLOURS),
            thing=rng.choice(lexicon.THINGS),
            place=rng.choice(lexicon.PLACES),
            time=rng.choice(lexicon.TIMES),
            time_first=rng.random() < 0.4,
        )
    if kind is PetFact:
        return PetFact(
            rng.choice(lexicon.PEOPLE),
            rng.choice(lexicon.CITIES),
            rng.choice(lexicon.COLOURS),
            rng.choice(lexicon.ANIMALS),
        )
    if kind is MeetingFact:
        who, whom = rng.sample(lexicon.PEOPLE, 2)
        return MeetingFact(who, whom, rng.choice(lexicon.PLACES), rng.choice(lexicon.NUMBERS))
    if kind is CodeFact:
        return CodeFact(rng.choice(lexicon.NAMES), tuple(rng.choices(lexicon.DIGITS, k=CODE_LENGTH)))
    return DigitsFact(tuple(rng.choices(lexicon.DIGITS, k=rng.choice(DIGIT_STRING_LENGTHS))))
