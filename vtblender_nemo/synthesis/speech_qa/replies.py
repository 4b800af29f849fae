"""What LLMs reply, read tolerantly: JSON with prose around it, in code fences, with faults; or the word "none".

No text makes these functions raise.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vtblender_nemo.common.errors import MissingDependencyError
from vtblender_nemo.synthesis.work import Refused

# `strict` structured output wants every property required and no other allowed, and no limits on lengths.
PAIRS_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "pairs": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"question": {"type": "string"}, "answer": {"type": "string"}},
                "required": ["question", "answer"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["pairs"],
    "additionalProperties": False,
}
ANSWER_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {"answer": {"type": "string"}},
    "required": ["answer"],
    "additionalProperties": False,
}

_LONGEST_REPLY = 20_000  # characters; repairing takes more than linear time
# Up to the last closing tag, as some chat templates open the first one in the prompt; or what was never closed.
_TAG = "(think|thinking|reasoning)"
_THINKING = re.compile(rf"\A.*</{_TAG}>|<{_TAG}>.*\Z", re.DOTALL | re.IGNORECASE)
_FENCE = re.compile(r"```\w*\n?")
_NOTHING = frozenset({"", "none", "null", "n/a", "na", "nothing", "{}", "[]"})


@dataclass(frozen=True)
class Pair:
    """A question and its answer, neither empty, on one line each."""

    question: str
    answer: str


def parse_pairs(reply: str, most: int) -> list[Pair | Refused]:
    """Questions with answers.

    Args:
        reply: `{"pairs": [{"question": ..., "answer": ...}]}`, a list of such objects or one alone, or "none".
        most: how many were asked for; more are refused.

    Returns:
        One entry a pair; at least one, which says why if there is no pair.
    """
    text = _bare(reply)
    if _is_nothing(text):
        return [Refused("no_question", clean(reply))]
    value = _load(text)
    if isinstance(value, Refused):
        return [value]
    if _is_nothing(value):
        return [Refused("no_question", clean(reply))]
    try:
        items = _items(value)
        pairs = [_pair(item) for item in items or []]
    except RecursionError:  # Pythons differ in how deep a value they parse
        items = None
    if items is None:
        return [Refused("reply_without_pairs", clean(reply))]
    surplus: list[Pair | Refused] = [Refused("surplus_pair", str(pair)) for pair in pairs[most:]]
    return [*pairs[:most], *surplus] or [Refused("no_question", clean(reply))]


def parse_answer(reply: str) -> str | None:
    """An answer alone, of `{"answer": ...}` or as bare text; None where the reply says that there is none."""
    text = _bare(reply)
    value = _load(text) if "{" in text else text
    if isinstance(value, Mapping):
        value = _lowered(value).get("answer")
    if isinstance(value, bool):  # a yes/no question, answered as JSON can
        return "yes" if value else "no"
    if not isinstance(value, str | int | float | None):
        value = text
    answer = _as_text(value)
    return None if answer is None or _is_nothing(answer) else answer


def clean(text: str) -> str:
    """Text on one line that any file can hold: no control characters, no halves of surrogate pairs."""
    kept = "".join(" " if unicodedata.category(char) in ("Cc", "Cs") else char for char in text)
    return " ".join(unicodedata.normalize("NFC", kept).split())


def _bare(reply: str) -> str:
    """Without what reasoning models think aloud, and without code fences."""
    return _FENCE.sub("", _THINKING.sub("", reply)).strip()


def _is_nothing(value: Any) -> bool:
    if isinstance(value, str):
        return value.strip(" \t\n\"'`.*!").lower() in _NOTHING
    return value is None or (isinstance(value, Mapping | Sequence) and not value)


def _load(text: str) -> Any:
    """The JSON value in a text; `Refused` where there is none."""
    if len(text) > _LONGEST_REPLY:
        return Refused("reply_too_long", f"{len(text)} characters")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        import json_repair
    except ImportError as error:
        raise MissingDependencyError(
            "replies of LLMs are read by the package json_repair", knob='pip install "vtblender_nemo[synthesis]"'
        ) from error
    try:
        value = json_repair.loads(text)
    except Exception as error:  # its parser guesses; whatever makes it fail is the reply's fault
        return Refused("reply_not_json", f"{type(error).__name__}: {clean(text)}")
    # Where it finds nothing it gives an empty value, which is no reply of "none".
    return value if value and not isinstance(value, str) else Refused("reply_not_json", clean(text))


def _items(value: Any) -> list[Any] | None:
    """The objects that may be pairs; None if the value is of another shape."""
    if isinstance(value, Mapping):
        fields = _lowered(value)
        if "question" in fields:
            return [value]
        lists = [one for one in fields.values() if isinstance(one, Mapping | list)] or list(fields.values())
        if "pairs" not in fields and len(lists) != 1:
            return None
        inner = fields.get("pairs", lists[0])
        return [] if _is_nothing(inner) else _items(inner)
    return value if isinstance(value, list) else None


def _pair(item: Any) -> Pair | Refused:
    fields = _lowered(item) if isinstance(item, Mapping) else {}
    question, answer = _as_text(fields.get("question")), _as_text(fields.get("answer"))
    if _is_nothing(question) and _is_nothing(answer):
        found = clean(str(item))
        return Refused("no_question" if fields.keys() & {"question", "answer"} else "pair_incomplete", found)
    if question is None or answer is None or _is_nothing(question) or _is_nothing(answer):
        return Refused("pair_incomplete", clean(str(item)))
    return Pair(question, answer)


def _lowered(value: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(name).strip().lower(): one for name, one in value.items()}


def _as_text(value: Any) -> str | None:
    """A text, or a number as one; None for what is neither."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        return clean(str(value))
    except ValueError:  # an integer of more digits than Python writes
        return None
