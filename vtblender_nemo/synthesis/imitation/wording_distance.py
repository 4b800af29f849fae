"""How far what is asked lies from what was asked in training: known or not, and by how many words."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from vtblender_nemo.common.generalisation import DISTANCE, KNOWN, LEVEL, PROMPT, TASK
from vtblender_nemo.synthesis.imitation.tasks import AUDIO
from vtblender_nemo.synthesis.word_overlap import plain_words

_DIGITS = 4
"""Decimals of a distance: finer ones tell no two wordings apart."""


@dataclass(frozen=True)
class Trained:
    """What was asked in training.

    Attributes:
        wordings: by task, the prompts of its rows, each once.
    """

    wordings: Mapping[str, frozenset[str]]

    @classmethod
    def of(cls, asked: Iterable[tuple[str, str]]) -> Trained:
        """From the task and the prompt of every row."""
        found: dict[str, set[str]] = {}
        for task, prompt in asked:
            found.setdefault(task, set()).add(prompt)
        return cls({task: frozenset(prompts) for task, prompts in found.items()})

    @cached_property
    def digest(self) -> str:
        """Changes with any task or wording; how often one was asked, and in which order, changes nothing."""
        content = {task: sorted(prompts) for task, prompts in self.wordings.items()}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def fields(self, task: str, prompt: str) -> dict[str, Any]:
        """What a row tells of its prompt: `generalisation` (see `common/generalisation.py`) and `wording_distance`.

        The distance, 0 to 1, is that to the nearest trained wording of the task; of a task that no training has, to the
        nearest of all.
        """
        own = self.wordings.get(task, frozenset())
        if prompt in own:
            return {LEVEL: KNOWN, DISTANCE: 0.0}
        others = own or frozenset().union(*self.wordings.values())
        nearest = min((distance(prompt, other) for other in others), default=1.0)
        return {LEVEL: PROMPT if own else TASK, DISTANCE: round(nearest, _DIGITS)}


def distance(wording: str, other: str) -> float:
    """1 minus the ROUGE-L F1 of two wordings by their words, without case, punctuation and the place of the audio.

    It is symmetric; a wording without words, as a bare `{audio}`, is at 1 from all.
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], tokenizer=_Words())
    return 1.0 - float(scorer.score(other, wording)["rougeL"].fmeasure)


class _Words:
    """A tokeniser for rouge_score."""

    def tokenize(self, text: str) -> list[str]:
        return plain_words(text.replace(AUDIO, " "))
