"""Kinds of tasks: what is measured where a task file does not say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vtblender_nemo.common.generalisation import DISTANCE, LEVEL

NOISE, TEXT, GENERALISATION = "noise", "text", "generalisation"


@dataclass(frozen=True)
class Kind:
    """What a kind of task stands for.

    Attributes:
        measures: in order; the first is the main one.
        options: of the measures.
        variants: of the items, beside the items as they are.
        group_by: keys of groups; one that puts all items into one group, or none, is left out.
        max_new_tokens: length limit of an answer.
        ceilings: variants that the answers as asked are held against, of those that a task has.
        needs: fields of `custom` without which an item is none of this kind; they are groups however few there are.
    """

    measures: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    variants: tuple[str, ...] = ()
    group_by: tuple[str, ...] = ()
    max_new_tokens: int = 128
    ceilings: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()


_ERRORS = ("wer_percent", "cer_percent", "insertions_percent", "deletions_percent", "substitutions_percent")

KINDS: Mapping[str, Kind] = {
    "asr": Kind((*_ERRORS, "rtfx"), group_by=("language", "secs"), max_new_tokens=256),
    "ast": Kind(("bleu", "chrf", "rtfx"), group_by=("language_pair",), max_new_tokens=256),
    "sqa": Kind(
        ("exact_match_percent", "f1_percent", "rouge_l_f1_percent"),
        {"rules": "squad"},
        variants=("text_twin",),
        group_by=("kind", "answerable"),
    ),
    "mixed": Kind(("exact_match_percent",), variants=("no_audio_shuffle", "no_text"), group_by=("kind",)),
    "multi_turn": Kind(("exact_match_percent",), variants=("no_audio_shuffle",), group_by=("kind",)),
    "instructions": Kind(("exact_match_percent",), variants=("text_twin",), group_by=("kind",)),
    "paralinguistic": Kind(
        ("accuracy_percent",), variants=("no_audio_shuffle",), group_by=("kind",), max_new_tokens=32
    ),
    GENERALISATION: Kind(
        ("exact_match_percent", "rouge_l_f1_percent"),
        variants=("text_twin", "base"),
        group_by=(LEVEL, f"{LEVEL}/{DISTANCE}", "kind", "task"),
        ceilings=("text_twin", "base"),
        needs=(LEVEL,),
    ),
    NOISE: Kind(
        ("hallucinated_characters_per_minute", "hallucinated_items_percent"),
        group_by=("noise", "secs"),
    ),
    TEXT: Kind(),
}
