"""What can be measured of answered items, by the names that stand in `scores.json`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vtblender_nemo.common.conversation import Text
from vtblender_nemo.common.errors import ConfigError, DataError, VTBlenderError
from vtblender_nemo.evaluation.groups import audio_secs
from vtblender_nemo.evaluation.items import Item
from vtblender_nemo.evaluation.journal import Journal
from vtblender_nemo.evaluation.metrics import Statistics, statistics
from vtblender_nemo.evaluation.metrics.embeddings import embedding_similarity
from vtblender_nemo.evaluation.metrics.formats import json_match, keywords_found, valid_json
from vtblender_nemo.evaluation.metrics.registry import METRICS
from vtblender_nemo.evaluation.metrics.statistics import mean_of, ratio
from vtblender_nemo.evaluation.metrics.translation import check_comet, comet
from vtblender_nemo.evaluation.scores import Better
from vtblender_nemo.evaluation.variants import text_twin

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answered:
    """An item and what was answered to it.

    Attributes:
        item: as the task has it, not the variant of it that was answered: its audio is what was to be heard.
        text: the answer.
        secs: of generation; None where it was not measured.
        device: that it ran on.
    """

    item: Item
    text: str
    secs: float | None = None
    device: str = ""


@dataclass(frozen=True)
class MeasureType:
    """How something is measured.

    Attributes:
        compute: answered items and options -> what is kept of each.
        better: which way is better.
        options: names of the options it takes.
        of_variants: whether it is worth measuring where items were changed.
        of_references: whether it holds answers against references, in whose place other answers can stand.
        keeps: whether `compute` takes `folder` too, where it may keep what it should not do twice.
        check: given the options, raises what can be known to go wrong before hours of work.
    """

    compute: Callable[..., Statistics]
    better: Better
    options: frozenset[str] = frozenset()
    of_variants: bool = True
    of_references: bool = True
    keeps: bool = False
    check: Callable[[Mapping[str, Any]], None] = lambda options: None


def check_measures(names: Sequence[str], options: Mapping[str, Any], place: str) -> None:
    """To be called before hours of work that is to be measured.

    Args:
        names: of measures.
        options: each is for those of the measures that know it.
        place: the key that holds them, for errors.

    Raises:
        ConfigError: no measures, one twice, an unknown one, an option that none of them knows or a wrong value of one.
        MissingDependencyError: a measure needs a package that is not there.
    """
    for name in names:
        if name not in MEASURES:
            raise ConfigError(
                "unknown measure", value=name, expected=f"one of {', '.join(MEASURES)}", knob=f"{place}.measures"
            )
    if not names or len(set(names)) != len(names):
        raise ConfigError("measures that are none or named twice", value=list(names), knob=f"{place}.measures")
    known = sorted(set().union(*(MEASURES[name].options for name in names)))
    if unknown := sorted(options.keys() - set(known)):
        raise ConfigError(
            "options that none of the measures knows",
            value=unknown,
            expected=f"among {', '.join(known) or 'none'}",
            knob=f"{place}.options",
        )
    for name in names:
        try:
            MEASURES[name].check(_known(name, options))
        except VTBlenderError:
            raise
        except Exception as error:  # of the libraries that compute them, which have errors of many kinds
            raise ConfigError(
                f"measure {name} does not work with its options ({type(error).__name__}: {error})",
                value=_known(name, options),
                knob=f"{place}.options",
            ) from error


def measure(
    name: str, answered: Sequence[Answered], options: Mapping[str, Any], *, folder: Path | None = None
) -> Statistics:
    """What a measure keeps of every answered item.

    Args:
        name: in `MEASURES`.
        answered: I items, at least one.
        options: those that the measure does not know are left out.
        folder: where a measure that asks a judge keeps its verdicts; None keeps none.

    Raises:
        DataError: no items, or items that lack what the measure needs.
        VTBlenderError: a judge that does not answer.
    """
    if not answered:
        raise DataError("nothing to measure", value=0, expected=f"at least one answered item for {name}")
    kept = {"folder": folder} if MEASURES[name].keeps else {}
    return MEASURES[name].compute(answered, **_known(name, options), **kept)


def holding(one: Answered, answer: str) -> Answered:
    """The same with another answer in place of all right ones, so that a measure tells how far the two agree."""
    custom = {key: value for key, value in one.item.custom.items() if key != "references"}
    return replace(one, item=replace(one.item, reference=answer, custom=custom))


def _known(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key in MEASURES[name].options}


def _texts(answered: Sequence[Answered]) -> tuple[list[str], list[str]]:
    return [one.text for one in answered], [one.item.reference for one in answered]


def _of_metric(metric: str, better: Better, **fixed: Any) -> MeasureType:
    """A metric that compares every prediction with its reference."""

    def compute(answered: Sequence[Answered], **options: Any) -> Statistics:
        return statistics(metric, *_texts(answered), **{**fixed, **options})

    names = frozenset(METRICS[metric].__kwdefaults__ or {}) - fixed.keys()
    return MeasureType(compute, better, names, check=_tried(compute))


def _of_answers(metric: str) -> MeasureType:
    """A metric for which an item may have several right answers, `custom.references` beside its reference."""

    def compute(answered: Sequence[Answered], **options: Any) -> Statistics:
        references = [[one.item.reference, *_listed(one.item, "references", [])] for one in answered]
        return METRICS[metric]([one.text for one in answered], references, **options)

    names = frozenset(METRICS[metric].__kwdefaults__ or {}) - {"normalize"}
    return MeasureType(compute, "higher", names, check=_tried(compute))


def _tried(compute: Callable[..., Statistics]) -> Callable[[Mapping[str, Any]], None]:
    """Computes a measure of one made-up answer, so that a wrong option shows before hours of work."""
    made_up = Answered(Item("", "", None, "word"), "word")
    return lambda options: (compute([made_up], **options), None)[1]


def _real_time_factor(answered: Sequence[Answered]) -> Statistics:
    """Seconds of audio per second of generation; answers whose time is not known are left out."""
    timed = [one for one in answered if one.secs is not None]
    if not timed:
        raise DataError(
            "no answer has its time of generation", value=0, expected="predictions that this version made", knob="rtfx"
        )
    # an answer without its time counts as no audio in no time
    rows = [(audio_secs(one.item), one.secs) if one.secs is not None else (0.0, 0.0) for one in answered]
    devices = "+".join(sorted({one.device or "unknown" for one in timed}))
    kept = np.array(rows, dtype=np.float64)
    return Statistics(kept, lambda sums: ratio(sums[:, 0], sums[:, 1], 1.0), f"device:{devices}")


def _made_up_characters(answered: Sequence[Answered]) -> Statistics:
    """Characters written per minute of audio in which nobody speaks; space around the text does not count."""
    rows = np.array([(len(one.text.strip()), audio_secs(one.item) / 60) for one in answered])
    return Statistics(rows, lambda sums: ratio(sums[:, 0], sums[:, 1], 1.0), "characters:all_but_outer_space")


def _made_up_items(answered: Sequence[Answered]) -> Statistics:
    return mean_of([float(bool(one.text.strip())) for one in answered], "empty:after_strip")


def _judged(
    answered: Sequence[Answered], *, judge: Mapping[str, Any] | None = None, folder: Path | None = None
) -> Statistics:
    """Grades of an LLM that is shown the question, with the transcript where audio was; see `judge.py`."""
    from vtblender_nemo.evaluation.judge import Case, grade, read_judge

    asked = [Case(_as_text(one.item), one.item.reference, one.text) for one in answered]
    found = read_judge(judge or {})
    verdicts = grade(found, asked, journal=Journal(None if folder is None else folder / ".judge.journal"))
    errors = [verdict.error for verdict in verdicts if verdict.score is None]
    if errors:
        logger.warning(
            "the judge graded %d of %d answers, the others do not count in judge_percent; the first: %s",
            len(verdicts) - len(errors),
            len(verdicts),
            errors[0],
        )
    rows = np.array([(0.0, 0.0) if one.score is None else (one.score, 1.0) for one in verdicts])
    return Statistics(rows, lambda sums: ratio(sums[:, 0], sums[:, 1], 1.0), found.signature)


def _check_judge(options: Mapping[str, Any]) -> None:
    from vtblender_nemo.evaluation.judge import read_judge

    read_judge(options.get("judge") or {})


def _as_text(item: Item) -> str:
    """What a conversation says, a line for every part, transcripts in place of audio."""
    has_audio = item.conversation is not None and bool(item.conversation.audios)
    twin = text_twin([item])[0] if has_audio else item
    assert twin.conversation is not None, "an item that was answered has a conversation"
    turns = twin.conversation.turns
    lines = [(turn.role, part.text) for turn in turns for part in turn.parts if isinstance(part, Text)]
    return "\n".join(text if len(turns) == 1 else f"{role}: {text}" for role, text in lines)


def _comet(answered: Sequence[Answered], **options: Any) -> Statistics:
    return comet(*_texts(answered), [_transcript(one.item) for one in answered], **options)


def _embedded(answered: Sequence[Answered], *, embedder: str) -> Statistics:
    return embedding_similarity(*_texts(answered), embedder=embedder)


def _check_embedder(options: Mapping[str, Any]) -> None:
    embedder = options.get("embedder")
    if not isinstance(embedder, str) or not embedder:
        expected = "a folder in the format of sentence-transformers, or a name of the Hugging Face hub"
        raise ConfigError(
            "embedding_similarity_percent without its embedder",
            value=embedder,
            expected=expected,
            knob="options.embedder",
        )
    _tried(_embedded)(options)  # loads it, and keeps it for later


def _keywords(answered: Sequence[Answered], **options: Any) -> Statistics:
    wanted = [_listed(one.item, "keywords") for one in answered]
    return keywords_found([one.text for one in answered], wanted, **options)


def _check_keywords(options: Mapping[str, Any]) -> None:
    keywords_found(["word"], [["word"]], **options)


def _transcript(item: Item) -> str:
    transcript = item.custom.get("transcript")
    texts = transcript if isinstance(transcript, list) else [transcript]
    said = [text for text in texts if isinstance(text, str)]
    if not texts or len(said) != len(texts):
        raise DataError(f"item {item.id!r} has no transcript", value=transcript, knob="custom.transcript")
    return " ".join(said)


def _listed(item: Item, name: str, default: list[str] | None = None) -> list[str]:
    value = item.custom.get(name, default)
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise DataError(
            f"wrong {name} of item {item.id!r}", value=value, expected="a list of texts", knob=f"custom.{name}"
        )
    return value


def _formatted(function: Callable[[Sequence[str], Sequence[str]], Statistics], *, of_references: bool) -> MeasureType:
    return MeasureType(lambda answered: function(*_texts(answered)), "higher", of_references=of_references)


MEASURES: Mapping[str, MeasureType] = {
    "wer_percent": _of_metric("wer", "lower"),
    "cer_percent": _of_metric("cer", "lower"),
    "insertions_percent": _of_metric("insertions", "lower"),
    "deletions_percent": _of_metric("deletions", "lower"),
    "substitutions_percent": _of_metric("substitutions", "lower"),
    "bleu": _of_metric("bleu", "higher"),
    "chrf": _of_metric("chrf", "higher"),
    "comet": MeasureType(_comet, "higher", frozenset(comet.__kwdefaults__ or {}), check=lambda options: check_comet()),
    "exact_match_percent": _of_answers("exact_match"),
    "f1_percent": _of_answers("f1"),
    "rouge_l_f1_percent": _of_metric("rouge_l", "higher"),
    "accuracy_percent": _of_metric("exact_match", "higher", rules="folded", normalize=False, no_answer=()),
    "embedding_similarity_percent": MeasureType(_embedded, "higher", frozenset({"embedder"}), check=_check_embedder),
    "valid_json_percent": _formatted(valid_json, of_references=False),
    "json_match_percent": _formatted(json_match, of_references=True),
    "keywords_percent": MeasureType(
        _keywords, "higher", frozenset({"normalizer"}), of_references=False, check=_check_keywords
    ),
    "judge_percent": MeasureType(_judged, "higher", frozenset({"judge"}), keeps=True, check=_check_judge),
    "rtfx": MeasureType(_real_time_factor, "higher", of_variants=False, of_references=False),
    "hallucinated_characters_per_minute": MeasureType(_made_up_characters, "lower", of_references=False),
    "hallucinated_items_percent": MeasureType(_made_up_items, "lower", of_references=False),
}
