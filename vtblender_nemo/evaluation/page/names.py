"""What things are called on the page, and how numbers are written."""

from __future__ import annotations

import re
from typing import Literal

from vtblender_nemo.common.generalisation import DISTANCE, KNOWN, LEVEL, PROMPT, TASK
from vtblender_nemo.evaluation.scores import AGREEMENT, DIFFERENCE, SHARE, Measure

Role = Literal["model", "base", "twin", "blind", "agreement", "other", "published"]

TASKS = {
    "asr": "Speech recognition",
    "ast": "Speech translation",
    "sqa": "Speech questions",
    "mixed": "Speech with text",
    "mixed_modal": "Speech with text",
    "multi_turn": "Several turns",
    "text": "Text skills",
    "instructions": "Unseen instructions",
    "paralinguistic": "Voices",
    "noise": "Silence and noise",
    "generalisation": "Generalisation",
}
MEASURES = {
    "wer_percent": "WER",
    "cer_percent": "CER",
    "bleu": "BLEU",
    "chrf": "chrF",
    "comet": "COMET",
    "rtfx": "RTFx",
    "f1_percent": "F1",
    "rouge_l_f1_percent": "ROUGE-L F1",
    "judge_percent": "judge",
}
"""Written otherwise than their names read."""
OF_100 = frozenset({"bleu", "chrf", "comet"})
"""Scores of 0 to 100 that no unit in their names tells of."""
VARIANTS = {
    "": "this model",
    "base": "base LLM",
    "text_twin": "with the transcript",
    "no_audio_silence": "with silence",
    "no_audio_shuffle": "with other speech",
    "no_text": "without the text",
}
DIFFERENCES = {
    "text_twin": "Speech minus transcript",
    "no_audio_silence": "Speech minus silence",
    "no_audio_shuffle": "Speech minus other speech",
    "no_text": "Text minus no text",
}
"""What is taken from what, by the variant that is taken."""
SHARES = {"text_twin": "Speech in % of transcript", "base": "This model in % of base LLM with transcript"}
AGREEMENTS = {"text_twin": "Agreement of speech and transcript", "base": "Agreement with base LLM"}
"""What a model's own answers are held against, by variant."""
GROUP_KEYS = {
    "secs": "seconds of audio",
    "language": "language",
    "kind": "kind",
    LEVEL: "what is new",
    f"{LEVEL}/{DISTANCE}": "what is new and the distance of the wording",
    DISTANCE: "distance of the wording",
}
LEVEL_TITLES = {KNOWN: "Trained wordings", PROMPT: "Unseen wordings", TASK: "Unseen tasks"}
DURATION_KEY = "secs"
TEXT_KIND, QUESTIONS_KIND = "text", "sqa"
BASE, TEXT_TWIN, BLIND_PREFIX, NO_TEXT = "base", "text_twin", "no_", "no_text"
BLIND_SHAPES = {"no_audio_silence": "blind", "no_audio_shuffle": "blind_square", NO_TEXT: "blind_triangle"}
"""The blind variants share a colour, so that their marks need shapes of their own."""

MINUS = "−"


def words(name: str) -> str:
    """A name of the files as words."""
    return name.replace("_", " ").strip()


def task_title(task: str) -> str:
    """A task's heading; names of one word, as `gsm8k`, keep their spelling."""
    if task in TASKS:
        return TASKS[task]
    return words(task[:1].upper() + task[1:]) if "_" in task else task


def measure_title(measure: str) -> str:
    """`exact match` of `exact_match_percent`."""
    return MEASURES.get(measure, words(measure.removesuffix("_percent")))


def unit_of(measure: str) -> str:
    """What stands behind a value."""
    return "%" if measure.endswith("_percent") else ""


def is_of_100(measure: str) -> bool:
    """Whether 100 is the measure's full scale."""
    return measure.endswith("_percent") or measure in OF_100


def variant_title(variant: str, kind: str = TEXT_KIND) -> str:
    """Who or what gave the answers to a task; to speech the base LLM is deaf and reads the transcript."""
    if variant == BASE and kind != TEXT_KIND:
        return "base LLM with transcript"
    for prefix, titles in ((SHARE, SHARES), (AGREEMENT, AGREEMENTS)):
        if variant.startswith(prefix):
            return titles.get(variant.removeprefix(prefix), words(variant))
    return VARIANTS.get(variant, words(variant))


def difference_title(variant: str, kind: str = TEXT_KIND) -> str:
    """What is taken from what in `minus_...`."""
    other = variant.removeprefix(DIFFERENCE)
    return DIFFERENCES.get(other, f"This model minus {variant_title(other, kind)}")


def role_of(variant: str) -> Role:
    """Decides the colour of a variant, the same all over the page."""
    roles: dict[str, Role] = {"": "model", BASE: "base", TEXT_TWIN: "twin"}
    if variant.startswith((SHARE, AGREEMENT)):
        return "model" if variant.startswith(SHARE) else "agreement"
    return roles.get(variant, "blind" if variant.startswith(BLIND_PREFIX) else "other")


def group_key(group: str) -> str:
    """`language` of `language=de`, and `kind` of `custom.kind=sum`."""
    return group.partition("=")[0].removeprefix("custom.")


def group_title(group: str) -> str:
    """`de` of `language=de`; a span of seconds gets its unit, and what is new its name."""
    value = group.partition("=")[2]
    if group_key(group) == DURATION_KEY:
        return re.sub(r"(?<=\d)-(?=\d)", "–", value) + " s"
    if group_key(group).partition("/")[0] == LEVEL:
        level, *more = value.split("/")
        return ", ".join([LEVEL_TITLES.get(level, words(level)), *map(words, more)])
    return words(value)


def span_start(group: str) -> float:
    """The first number in a span such as `secs=2-5`, to put spans in order."""
    found = re.search(r"\d+(\.\d+)?", group.partition("=")[2])
    return float(found.group()) if found else float("inf")


def decimals_of(measure: Measure) -> int:
    """Error rates are published with two: of a good model a tenth is much."""
    return 2 if measure.better == "lower" and measure.measure.endswith("_percent") else 1


def written(value: float, decimals: int, *, signed: bool = False) -> str:
    """A number for readers: thousands apart, a true minus, on demand a plus; never a minus before zero."""
    text = f"{abs(value):,.{decimals}f}"
    is_zero = not re.search(r"[1-9]", text)
    sign = "" if is_zero else MINUS if value < 0 else "+" if signed else ""
    return sign + text


def count(number: int, noun: str) -> str:
    """`1 item`, `2,000 items`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
