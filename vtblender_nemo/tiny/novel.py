"""Test sets of what no training asked about speech: unseen wordings, tasks and formats.

Words are those that the language model knows. Which wordings it follows when it reads the transcript was tried on the
language model alone. It joins no two of its skills (the answer to a question in capital letters, JSON of two
statements), so no set asks for that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from vtblender_nemo.tiny.grammar import Fact
from vtblender_nemo.tiny.items import Item
from vtblender_nemo.tiny.set_speech import SetMaker
from vtblender_nemo.tiny.skills import INSTRUCTIONS, WORDINGS, Wording, draw_sum, instruct, is_sortable
from vtblender_nemo.tiny.splits import is_held_out_question

NOVEL_WORDINGS: Mapping[str, Sequence[Wording]] = {
    "repeat": (Wording("Write:"), Wording("Transcribe that.", leads=False), Wording("Say that again.", leads=False)),
    "translate_de": (
        Wording("Write in German:"),
        Wording("Write that in German.", leads=False),
        Wording("Say that in German.", leads=False),
    ),
    "translate_es": (
        Wording("Write in Spanish:"),
        Wording("Write that in Spanish.", leads=False),
        Wording("Say that in Spanish.", leads=False),
    ),
}
"""Ways to ask for transcripts and translations that no training has."""

NOVEL_FORMATS: Mapping[str, Sequence[Wording]] = {
    "json": (
        Wording("Write the facts as JSON:"),
        Wording("Write that as JSON.", leads=False),
        Wording("Say that as JSON.", leads=False),
    ),
    "upper": (
        Wording("Say that in capital letters.", leads=False),
        Wording("Give that in capital letters.", leads=False),
        Wording("Repeat that in capital letters.", leads=False),
    ),
    "first_words": (Wording("Write the first {n} words:"), Wording("Give only the first {n} words:")),
    "last_word": (Wording("Write the last word:"), Wording("Give the last word.", leads=False)),
}
"""The same for answers of a form."""

SPOKEN_INSTRUCTIONS: Mapping[str, Sequence[Wording]] = {
    skill: sentences
    for skill, wordings in WORDINGS.items()
    if (sentences := tuple(wording for wording in wordings if wording.text.endswith(".")))
}
"""Wordings that are whole sentences and no questions. Texts ask so; speech never instructs in training."""


def novel_wordings(maker: SetMaker, count: int) -> list[Item]:
    """Transcripts and translations of a spoken fact, asked for in unseen words."""
    return _instructions(maker, count, NOVEL_WORDINGS)


def novel_formats(maker: SetMaker, count: int) -> list[Item]:
    """JSON, capital letters or some words of a spoken fact, asked for in unseen words."""
    return _instructions(maker, count, NOVEL_FORMATS)


def novel_tasks(maker: SetMaker, count: int) -> list[Item]:
    """What text chats and mixed-modal rows alone ask for; a blend without mixed-modal instructions leaves it to the text."""
    return _instructions(maker, count, {skill: WORDINGS[skill] for skill in INSTRUCTIONS})


def spoken_requests(maker: SetMaker, count: int) -> list[Item]:
    """Spoken sums, and spoken instructions about a typed fact: text chats alone teach them, and no speech has their words."""
    said: set[str] = set()

    def draw(kind: str, _: int) -> Item | None:
        return _spoken_sum(maker, said) if kind == "sum" else _spoken_instruction(maker)

    return maker.items(("sum", "spoken_instruction"), count, draw)


def _instructions(maker: SetMaker, count: int, wordings: Mapping[str, Sequence[Wording]]) -> list[Item]:
    return maker.items(tuple(wordings), count, lambda skill, _: _instruction(maker, skill, wordings))


def _instruction(maker: SetMaker, skill: str, wordings: Mapping[str, Sequence[Wording]]) -> Item:
    fact = maker.spoken_fact(fits=_fits(skill))
    exchange = instruct(maker.rng, skill, fact, wordings)
    said = maker.say(fact)
    parts = tuple(said if part.kind == "fact" else part.text for part in exchange.parts)
    return Item(maker.name, maker.name, parts, exchange.answer, skill, custom=_custom(skill))


def _spoken_sum(maker: SetMaker, said: set[str]) -> Item | None:
    """A held-out sum; those are few, so the same one returns in another voice."""
    exchange = draw_sum(maker.rng)
    if not is_held_out_question(exchange.user):
        return None
    spoken = maker.speech.say(exchange.user, again=exchange.user in said)
    said.add(exchange.user)
    return Item(maker.name, maker.name, (spoken,), exchange.answer, "sum", custom=_custom("sum"))


def _spoken_instruction(maker: SetMaker) -> Item:
    skill = maker.rng.choice(list(SPOKEN_INSTRUCTIONS))
    exchange = instruct(maker.rng, skill, maker.typed_fact(fits=_fits(skill)), SPOKEN_INSTRUCTIONS)
    typed, instruction = (part.text for part in exchange.parts)
    custom = {"kind": "spoken_instruction", "fact_text": [typed], "fact_in": "text"}
    parts = (typed, maker.speech.say(instruction, again=True))
    return Item(maker.name, maker.name, parts, exchange.answer, skill, custom=custom)


def _fits(skill: str) -> Callable[[Fact], bool]:
    return is_sortable if skill == "sort" else lambda fact: True


def _custom(kind: str) -> dict[str, object]:
    return {"kind": kind, "fact_text": [], "fact_in": "speech"}
