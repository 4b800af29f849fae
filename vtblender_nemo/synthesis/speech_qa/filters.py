"""Which questions and answers are kept; every filter can be switched off, and says why it refuses."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.synthesis.languages import other_language
from vtblender_nemo.synthesis.llm.clients import LLMClient, Messages
from vtblender_nemo.synthesis.speech_qa.replies import ANSWER_SCHEMA, parse_answer
from vtblender_nemo.synthesis.word_overlap import (
    agreement,
    content_words,
    share_within,
    without_asking_words,
    words,
)
from vtblender_nemo.synthesis.work import Refused

if TYPE_CHECKING:
    from vtblender_nemo.synthesis.speech_qa.prompts import QaPrompts

_YES = frozenset("yes yeah ja oui si sí sim tak ano да evet 是".split())
_NO = frozenset("no nope nein non não nie ne нет hayır 不".split())
_COUNTING = re.compile(
    r"\bhow (many|often)\b|\bnumber of\b|\bwie ?viele?\b|\bwie oft\b|\bcombien\b|\bcu[aá]nt[oa]s\b|\bquant[ie]\b|\bquant[oa]s\b"
    r"|\bhoeveel\b|\bсколько\b|几|多少|いくつ",
    re.IGNORECASE,
)
_MOST_COUNTED = 20
"""Things that are counted but whose number is not said; more than these nobody counts by ear."""


@dataclass(frozen=True)
class FilterOptions:
    """Which filters work, and their limits.

    Attributes:
        grounded: answers stand in the transcript. Yes and no, and counts of things that are told one by one, stand in none: there
            the question's words have to, half as many.
        min_grounded: least share of the answer's words that stand in the transcript, weighted by length.
        blind: the LLM is asked without the transcript; a question that it answers alike needs no ears. Costs one more answer of
            the LLM for every question.
        reread: the LLM is asked again with the transcript and has to answer alike. Costs one more answer of the LLM for every
            question that has an answer.
        unanswerable: the LLM is asked again with the transcript and has to find no answer where there should be none. Costs
            one more answer of the LLM for every unanswerable question.
        min_agreement: two answers with this F1 of words are alike.
        language: questions and answers are in the row's language.
        min_language_probability: only what is another language as surely as this is refused, as questions are short.
        length: the limits on words hold.
        min_question_words, max_question_words, max_answer_words: limits; characters where a script has no spaces.
    """

    grounded: bool = True
    min_grounded: float = 0.5
    blind: bool = False
    reread: bool = False
    unanswerable: bool = True
    min_agreement: float = 0.5
    language: bool = True
    min_language_probability: float = 0.8
    length: bool = True
    min_question_words: int = 3
    max_question_words: int = 40
    max_answer_words: int = 60

    def __post_init__(self) -> None:
        for name in ("min_grounded", "min_agreement", "min_language_probability"):
            if not 0 < getattr(self, name) <= 1:
                expected = "more than 0, at most 1"
                raise ConfigError(f"{name} is no share", value=getattr(self, name), expected=expected, knob=_flag(name))
        for name, least in (("min_question_words", 0), ("max_question_words", 1), ("max_answer_words", 1)):
            if getattr(self, name) < least:
                expected = f"at least {least}"
                raise ConfigError(
                    f"{name} is too small", value=getattr(self, name), expected=expected, knob=_flag(name)
                )
        if self.min_question_words > self.max_question_words:
            raise ConfigError(
                "no question is so long and so short",
                value=f"{self.min_question_words} to {self.max_question_words} words",
                expected="min_question_words at most max_question_words",
                knob="--min-question-words, --max-question-words",
            )


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


@dataclass(frozen=True)
class Candidate:
    """A question that the LLM has written, and all that filters need to judge it.

    Attributes:
        transcript: what is said in the recording.
        language: of question and answer, a code such as `en`.
        answerable: False where the transcript should not answer it; `answer` is then the fixed one.
    """

    question: str
    answer: str
    transcript: str
    language: str
    answerable: bool = True


class Filter(ABC):
    """Judges many candidates at once."""

    @abstractmethod
    def judge(self, candidates: Sequence[Candidate]) -> list[Refused | None]:
        """One verdict a candidate, in their order: None keeps it."""


class _EachAlone(Filter):
    def judge(self, candidates: Sequence[Candidate]) -> list[Refused | None]:
        return [self._judge_one(candidate) for candidate in candidates]

    @abstractmethod
    def _judge_one(self, candidate: Candidate) -> Refused | None: ...


@dataclass(frozen=True)
class LengthFilter(_EachAlone):
    """Limits on words."""

    options: FilterOptions

    def _judge_one(self, candidate: Candidate) -> Refused | None:
        asked, told = (len(words(text, "")) for text in (candidate.question, candidate.answer))
        if asked < self.options.min_question_words:
            return Refused("question_too_short", candidate.question)
        if asked > self.options.max_question_words:
            return Refused("question_too_long", candidate.question)
        if candidate.answerable and told > self.options.max_answer_words:
            return Refused("answer_too_long", candidate.answer)
        return None


@dataclass(frozen=True)
class GroundedFilter(_EachAlone):
    """The answer stands in the transcript; see `FilterOptions.grounded`."""

    min_share: float

    def _judge_one(self, candidate: Candidate) -> Refused | None:
        if not candidate.answerable or self._is_grounded(candidate):
            return None
        return Refused("answer_not_grounded", f"{candidate.question} {candidate.answer}")

    def _is_grounded(self, candidate: Candidate) -> bool:
        language = candidate.language
        heard = set(words(candidate.transcript, language))
        told = words(candidate.answer, language)
        if told and told[0] in _YES | _NO:
            # "No" may be all, or open a sentence: "No, at nine".
            rest = content_words(told[1:], language)
            return self._asks_about(candidate, heard) and self._stands(rest, heard)
        told = content_words(told, language)
        unsaid = [word for word in told if word.isdecimal() and word not in heard]
        if not unsaid:
            return bool(told) and share_within(told, heard) >= self.min_share
        counted = _COUNTING.search(candidate.question) and all(int(number) <= _MOST_COUNTED for number in unsaid)
        rest = [word for word in told if word not in unsaid]
        return bool(counted) and self._asks_about(candidate, heard) and self._stands(rest, heard)

    def _stands(self, told: Sequence[str], heard: set[str]) -> bool:
        return not told or share_within(told, heard) >= self.min_share

    def _asks_about(self, candidate: Candidate, heard: set[str]) -> bool:
        asked = content_words(words(candidate.question, candidate.language), candidate.language)
        return share_within(without_asking_words(asked), heard) >= self.min_share / 2


@dataclass(frozen=True)
class LanguageFilter(_EachAlone):
    """Question and answer are in the candidate's language."""

    min_probability: float

    def _judge_one(self, candidate: Candidate) -> Refused | None:
        text = f"{candidate.question} {candidate.answer}" if candidate.answerable else candidate.question
        found = other_language(text, candidate.language, self.min_probability)
        if found is None:
            return None
        return Refused("wrong_language", f"{found[0]} ({found[1]:.2f}) for {candidate.language}: {text}")


@dataclass(frozen=True)
class BlindFilter(Filter):
    """Nobody answers the question who has not heard the recording."""

    client: LLMClient
    prompts: QaPrompts
    min_agreement: float

    def judge(self, candidates: Sequence[Candidate]) -> list[Refused | None]:
        asked = [candidate for candidate in candidates if candidate.answerable]
        prompts = [self.prompts.blind(candidate.question, candidate.language) for candidate in asked]
        guesses = iter(_answers(self.client, prompts))
        return [self._verdict(one, next(guesses)) if one.answerable else None for one in candidates]

    def _verdict(self, candidate: Candidate, guess: str | Refused | None) -> Refused | None:
        if isinstance(guess, Refused):
            return replace(guess, reason=f"blind_{guess.reason}")
        if guess is None or not alike(guess, candidate.answer, candidate.language, self.min_agreement):
            return None
        return Refused("answerable_without_recording", f"{candidate.question} {guess}")


@dataclass(frozen=True)
class RereadFilter(Filter):
    """A second reading of the transcript finds the same answer (`answerable`), or that there is none (`unanswerable`)."""

    client: LLMClient
    prompts: QaPrompts
    min_agreement: float
    answerable: bool = True
    unanswerable: bool = True

    def judge(self, candidates: Sequence[Candidate]) -> list[Refused | None]:
        asked = [one for one in candidates if self._is_asked(one)]
        prompts = [self.prompts.reread(one.transcript, one.question, one.language) for one in asked]
        found = iter(_answers(self.client, prompts))
        return [self._verdict(one, next(found)) if self._is_asked(one) else None for one in candidates]

    def _is_asked(self, candidate: Candidate) -> bool:
        return self.answerable if candidate.answerable else self.unanswerable

    def _verdict(self, candidate: Candidate, found: str | Refused | None) -> Refused | None:
        if isinstance(found, Refused):
            return replace(found, reason=f"reread_{found.reason}")
        told = f"{candidate.question} {found}"
        agrees = found is not None and alike(found, candidate.answer, candidate.language, self.min_agreement)
        if not candidate.answerable:  # the fixed answer says in words that there is none
            return None if found is None or agrees else Refused("answerable_after_all", told)
        if agrees:
            return None
        return Refused("reread_differs", f"{told}, not {candidate.answer}")


def make_filters(options: FilterOptions, client: LLMClient, prompts: QaPrompts) -> list[Filter]:
    """The filters that are switched on, the cheap ones first."""
    filters: list[Filter] = [LengthFilter(options)] if options.length else []
    if options.language:
        filters.append(LanguageFilter(options.min_language_probability))
    if options.grounded:
        filters.append(GroundedFilter(options.min_grounded))
    if options.blind:
        filters.append(BlindFilter(client, prompts, options.min_agreement))
    if options.reread or options.unanswerable:
        filters.append(RereadFilter(client, prompts, options.min_agreement, options.reread, options.unanswerable))
    return filters


def _answers(client: LLMClient, prompts: Sequence[Messages]) -> list[str | Refused | None]:
    """What the LLM answers; None where it says that there is no answer."""
    replies = client.complete(prompts, json_schema=ANSWER_SCHEMA) if prompts else []
    return [reply if isinstance(reply, Refused) else parse_answer(reply) for reply in replies]


def alike(first: str, second: str, language: str, min_agreement: float) -> bool:
    """Whether two answers say the same; a yes is like any yes, whatever follows it."""
    openings = [_opening(text, language) for text in (first, second)]
    if all(openings):
        return openings[0] == openings[1]
    return agreement(first, second, language) >= min_agreement


def _opening(answer: str, language: str) -> str | None:
    """Whether an answer begins with a yes or a no."""
    word = next(iter(words(answer, language)), "")
    return "yes" if word in _YES else "no" if word in _NO else None
