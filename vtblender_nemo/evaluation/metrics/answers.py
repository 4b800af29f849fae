"""Scores of answers: the same text, the same answer by SQuAD 2.0's rules, common words, common subsequence."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.evaluation.metrics.statistics import Statistics, mean_of, package_version

References = Sequence[str] | Sequence[Sequence[str]]
"""One right answer per item, or several of which the nearest counts."""


def exact_match(
    predictions: Sequence[str],
    references: References,
    *,
    normalize: bool = False,
    rules: str | None = None,
    no_answer: Sequence[str] = (),
) -> Statistics:
    """Share of predictions that equal their reference, or one of them.

    Args:
        predictions: I texts; by the rules of SQuAD 2.0 an empty one says that there is no answer.
        references: I texts, or I lists of them; empty where there is no answer.
        normalize: by default only surrounding space is taken away, as upper case, punctuation and inner spaces may be
            what was asked for; with True, case, punctuation and the amount of space do not count.
        rules: names what does not count, in place of `normalize`: `strip`, `folded`, or `squad` (see `squad_text`).
        no_answer: what counts as an empty prediction too, by the same rules, as `["unanswerable"]`.

    Raises:
        ConfigError: unknown rules.
    """
    name = rules or ("folded" if normalize else "strip")
    if name not in RULES:
        raise ConfigError("unknown rules", value=name, expected=f"one of {', '.join(RULES)}", knob="rules")
    return _best(predictions, references, no_answer, name, lambda said, right: float(said == right))


def squad_f1(predictions: Sequence[str], references: References, *, no_answer: Sequence[str] = ()) -> Statistics:
    """Mean F1 of the words that prediction and answer share, by SQuAD 2.0's rules.

    Where prediction or answer has no words, F1 is 1 if neither has any and else 0.

    Args:
        predictions: see `exact_match`.
        references: see `exact_match`.
        no_answer: see `exact_match`.
    """
    return _best(predictions, references, no_answer, "squad", _shared_words)


def squad_text(text: str) -> str:
    """SQuAD's normalisation: lower case; ASCII punctuation, then the words a, an, the taken away; single spaces."""
    bare = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def rouge_l(predictions: Sequence[str], references: Sequence[str]) -> Statistics:
    """Mean F1 of the longest common subsequence of words (rouge_score, no stemming).

    Words are runs of letters and digits of any script; on ASCII text without underscores that is rouge_score's own
    tokeniser, which drops every other letter.
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], tokenizer=_Words())
    f1 = [scorer.score(r, p)["rougeL"].fmeasure for p, r in zip(predictions, references, strict=True)]
    return mean_of(f1, f"rouge_score:{package_version('rouge_score')}|stem:no")


def _best(
    predictions: Sequence[str],
    references: References,
    no_answer: Sequence[str],
    rules: str,
    compare: Callable[[str, str], float],
) -> Statistics:
    """The mean over items of how well the prediction compares with the nearest of its references."""
    clean = RULES[rules]
    silent = {clean(text) for text in no_answer}
    values = []
    for prediction, reference in zip(predictions, references, strict=True):
        said = clean(prediction)
        answers = [reference] if isinstance(reference, str) else reference
        right = [text for answer in answers if (text := clean(answer))] or [""]
        values.append(max(compare("" if said in silent else said, answer) for answer in right))
    signature = f"norm:{rules}" + (f"|no_answer:{','.join(sorted(silent))}" if silent else "")
    return mean_of(values, signature)


def _shared_words(said: str, right: str) -> float:
    said_words, right_words = said.split(), right.split()
    if not said_words or not right_words:
        return float(said_words == right_words)
    shared = sum((Counter(said_words) & Counter(right_words)).values())
    return 2 * shared / (len(said_words) + len(right_words))


def _fold(text: str) -> str:
    """Case, punctuation and amount of space taken away; letters of every script stay."""
    kept = (" " if unicodedata.category(character).startswith("P") else character for character in text.casefold())
    return " ".join("".join(kept).split())


RULES: Mapping[str, Callable[[str], str]] = {"strip": str.strip, "folded": _fold, "squad": squad_text}


class _Words:
    """A tokeniser for rouge_score."""

    def tokenize(self, text: str) -> list[str]:
        return re.findall(r"[^\W_]+", text.lower())
