"""Text chats: what the tiny language model learns from, and the text-only source of the joint stage."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from vtblender_nemo.tiny.skills import FACT_SKILLS, Exchange, Part, ask, draw_sum, instruct
from vtblender_nemo.tiny.splits import (
    HeldOut,
    draw_compatible,
    draw_sortable,
    is_held_out_question,
    training_questions,
)

SKILLS: tuple[str, ...] = (*FACT_SKILLS, "sort", "sum", "qa", "qa_two")

# How often a chat of single tasks asks for each skill. Translation has the most words to learn.
_TASK_SHARES = {
    "repeat": 2,
    "translate_de": 5,
    "translate_es": 5,
    "upper": 3,
    "json": 2,
    "count": 3,
    "last_word": 1.5,
    "first_words": 1.5,
    "sort": 2.5,
    "sum": 1,
    "qa": 1,
}

# Reading chats ask several questions about the same statements: answers teach, and here one text pays for many.
_CHAT_SHARES = {"reading": 10, "tasks": 8, "sums": 2}
_TWO_FACTS_SHARE = 0.85


@dataclass(frozen=True)
class Chat:
    """Exchanges in order; a later one may ask about what an earlier one stated."""

    exchanges: tuple[Exchange, ...]

    def messages(self) -> list[dict[str, str]]:
        """The chat in the message format of Hugging Face."""
        messages = []
        for exchange in self.exchanges:
            messages.append({"role": "user", "content": exchange.user})
            messages.append({"role": "assistant", "content": exchange.answer})
        return messages


class ChatMaker:
    """Draws training chats, of training facts and questions only.

    Args:
        held_out: what must not occur.
        seed: chats of different seeds differ.
    """

    def __init__(self, held_out: HeldOut, seed: int | str) -> None:
        self._held_out = held_out
        self._rng = random.Random(f"chats-{seed}")

    def chats(self) -> Iterator[Chat]:
        """Chats without end."""
        makers = {"reading": self.reading_chat, "tasks": self.task_chat, "sums": self.sum_chat}
        while True:
            yield makers[self._rng.choices(list(_CHAT_SHARES), list(_CHAT_SHARES.values()))[0]]()

    def task_chat(self) -> Chat:
        """One to four unrelated tasks."""
        skills = self._rng.choices(list(_TASK_SHARES), list(_TASK_SHARES.values()), k=self._rng.choice((2, 3, 4)))
        return Chat(tuple(self._task(skill) for skill in skills))

    def sum_chat(self) -> Chat:
        """Several sums in turn."""
        return Chat(tuple(self._task("sum") for _ in range(self._rng.choice((3, 4, 5, 6)))))

    def reading_chat(self) -> Chat:
        """Questions in turn about one or two statements."""
        rng = self._rng
        facts = [self._held_out.draw_training_fact(rng)]
        if rng.random() < _TWO_FACTS_SHARE:
            facts.append(draw_compatible(rng, facts[0], None, self._held_out))
        questions = [question for fact in facts for question in training_questions(fact)]
        if not questions:
            return self.reading_chat()
        asked = rng.sample(questions, min(len(questions), rng.choice((2, 3, 4, 5, 6))))
        follow_ups = [Exchange("qa_two", (Part(question.text, "question"),), question.answer) for question in asked[1:]]
        return Chat((ask(rng, facts, asked[0]), *follow_ups))

    def _task(self, skill: str) -> Exchange:
        rng = self._rng
        if skill == "sum":
            while is_held_out_question((exchange := draw_sum(rng)).user):
                pass
            return exchange
        if skill == "sort":
            return instruct(rng, skill, draw_sortable(rng, self._held_out))
        fact = self._held_out.draw_training_fact(rng)
        if skill != "qa":
            return instruct(rng, skill, fact)
        while not (questions := training_questions(fact)):
            fact = self._held_out.draw_training_fact(rng)
        return ask(rng, [fact], rng.choice(questions))
