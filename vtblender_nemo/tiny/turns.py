"""Test sets of several turns, which no training on speech has: its rows are one question and one answer."""

from __future__ import annotations

from collections.abc import Sequence

from vtblender_nemo.tiny.grammar import Fact, Question
from vtblender_nemo.tiny.items import Answered, Item, plain
from vtblender_nemo.tiny.set_speech import SetMaker
from vtblender_nemo.tiny.skills import FACT_SKILLS, instruct
from vtblender_nemo.tiny.speech import Spoken
from vtblender_nemo.tiny.splits import held_out_questions

USER_TURNS = (2, 3, 4)
MULTI_TURN_KINDS = ("earlier_speech", "earlier_text", "one_of_several_audios")
SEVERAL_TURNS_KINDS = ("new_task", "question_about_earlier")
_SKILLS_THAT_TELL_LITTLE = ("count", "last_word", "first_words")
"""Their answers leave most of the statement to be heard; the others say it again."""


def multi_turn(maker: SetMaker, count: int) -> list[Item]:
    """The last turn asks about a fact of an earlier one, and no answer in between gives it away.

    Kinds say where the fact is: in the speech of the first turn; in its text, with a spoken question at the end; or in
    one of two audios by different voices.
    """
    drawn = {"earlier_speech": _earlier_speech, "earlier_text": _earlier_text, "one_of_several_audios": _two_audios}
    return maker.items(
        MULTI_TURN_KINDS, count, lambda kind, index: drawn[kind](maker, USER_TURNS[index % len(USER_TURNS)])
    )


def several_turns(maker: SetMaker, count: int) -> list[Item]:
    """Tasks about one audio after the other, and at the end another task, or a question about the first audio."""
    return maker.items(
        SEVERAL_TURNS_KINDS, count, lambda kind, index: _tasks_in_turn(maker, kind, USER_TURNS[index % len(USER_TURNS)])
    )


class _Chat:
    """A chat that grows turn by turn and never asks twice, or for what was already answered."""

    def __init__(self, maker: SetMaker) -> None:
        self._maker = maker
        self._asked: set[str] = set()
        self.turns: list[Answered] = []

    def question(self, fact: Fact, *, spoken: bool = False) -> Question | None:
        """A question about a stated fact, whose answer stands in no earlier answer; a spoken one is held out."""
        answers = " ".join(plain(turn.answer) for turn in self.turns)
        questions = held_out_questions(fact) if spoken else fact.questions()
        left = [one for one in questions if one.text not in self._asked and plain(one.answer) not in answers]
        return self._maker.rng.choice(left) if left else None

    def ask(self, about: Fact, *stated: str | Spoken) -> bool:
        """Adds a turn that states something and asks, by text, about a fact; False if nothing is left to ask."""
        question = self.question(about)
        if question is None:
            return False
        self._asked.add(question.text)
        self.turns.append(Answered((*stated, question.text), question.answer))
        return True

    def ends(self, kind: str, about: Fact, *, fact_text: Sequence[str] = (), spoken: bool = False) -> Item | None:
        """The item, with a last question; None if there is none, or if its answer can be read."""
        question = self.question(about, spoken=spoken)
        typed = " ".join(part for turn in self.turns for part in turn.parts if isinstance(part, str))
        fact_in = "text" if about.sentence().en in fact_text else "speech"
        if question is None or (fact_in == "speech" and plain(question.answer) in plain(typed)):
            return None
        part = self._maker.speech.say(question.text) if spoken else question.text
        name = self._maker.name
        custom = {"kind": kind, "fact_text": list(fact_text), "fact_in": fact_in, "turns": len(self.turns) + 1}
        return Item(name, name, (part,), question.answer, "qa", tuple(self.turns), custom)


def _earlier_speech(maker: SetMaker, turns: int) -> Item | None:
    fact = maker.spoken_fact()
    chat, typed = _Chat(maker), []
    asked = chat.ask(fact, maker.say(fact))
    if turns > 2:
        other = maker.typed_fact(fact)
        typed.append(other.sentence().en)
        asked = asked and chat.ask(other, *typed)
    if turns > 3:
        asked = asked and chat.ask(fact)
    return chat.ends("earlier_speech", fact, fact_text=typed) if asked else None


def _earlier_text(maker: SetMaker, turns: int) -> Item | None:
    fact = maker.typed_fact(fits=lambda fact: bool(held_out_questions(fact)))
    chat, typed = _Chat(maker), [fact.sentence().en]
    asked = chat.ask(fact, *typed)
    if turns > 2:
        other = maker.spoken_fact(fact)
        asked = asked and chat.ask(other, maker.say(other))
    if turns > 3:
        asked = asked and chat.ask(fact)
    return chat.ends("earlier_text", fact, fact_text=typed, spoken=True) if asked else None


def _two_audios(maker: SetMaker, turns: int) -> Item | None:
    fact = maker.spoken_fact()
    other = maker.spoken_fact(fact)
    if maker.say(fact).voice.variant == maker.say(other).voice.variant:
        return None
    first, second = maker.rng.sample((fact, other), 2)
    chat = _Chat(maker)
    if turns == 2:
        asked = chat.ask(other, maker.say(first), maker.say(second))
    else:
        asked = chat.ask(first, maker.say(first)) and chat.ask(second, maker.say(second))
    if turns > 3:
        asked = asked and chat.ask(other)
    return chat.ends("one_of_several_audios", fact) if asked else None


def _tasks_in_turn(maker: SetMaker, kind: str, turns: int) -> Item | None:
    tasks = turns if kind == "new_task" else turns - 1
    first = FACT_SKILLS if kind == "new_task" else _SKILLS_THAT_TELL_LITTLE
    skills = [maker.rng.choice(first)]
    skills += maker.rng.sample([skill for skill in FACT_SKILLS if skill not in skills], tasks - 1)
    facts: list[Fact] = []
    chat = _Chat(maker)
    for skill in skills:
        facts.append(maker.spoken_fact(*facts))
        exchange = instruct(maker.rng, skill, facts[-1])
        said = maker.say(facts[-1])
        parts = tuple(said if part.kind == "fact" else part.text for part in exchange.parts)
        chat.turns.append(Answered(parts, exchange.answer))
    if kind == "question_about_earlier":
        return chat.ends(kind, facts[0])
    last = chat.turns.pop()
    custom = {"kind": kind, "fact_text": [], "fact_in": "speech", "turns": turns}
    return Item(maker.name, maker.name, last.parts, last.answer, skills[-1], tuple(chat.turns), custom)
