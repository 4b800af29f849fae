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
from vtblender_nemo.synthesis.llm.thoughts import without_thoughts
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
_FENCE = re.compile(r"(?:```+|~~~+)\w*\n?")
# Of JSON or nearly so; not of "{this}" and "[Note: that]" in prose.
_OPENING = re.compile(r"""\{(?=\s*(?:["'“”‘’{}]|\w+\s*:))|\[(?=\s*["'“”‘’{\[\]])""")
_CUT_OFF = re.compile(r""":\s*(?:"(?:\\.|[^"\\])*|'(?:\\.|[^'\\])*|“[^”]*)\Z""", re.DOTALL)  # in mid-text
_BETWEEN_OBJECTS = re.compile(r"\}[ \t]*\n\s*\{")
_ANSWER_LABEL = re.compile(r"\A[*_\s]*(?:the )?(?:final )?answer(?: is)?[*_\s]*:[*_\s]*", re.IGNORECASE)

_NOTHING = frozenset({"", "none", "null", "n/a", "na", "nothing", "{}", "[]"})
_NONE_AND_WHY = re.compile(r"[\W_]*none[*_`\"']*\s*(?:[.:;,(\n\u2013\u2014-][^{}\[\]]*)?\Z", re.IGNORECASE)
_NOT_SAID = re.compile(
    r"(?:(?:it|that|this)(?: is|'s) |the answer is )?(?:unknown|unanswerable|unspecified|unclear|no answer|not answerable"
    r"|(?:not|never) (?:mentioned|stated|specified|said|given|provided|known|clear|told|answered|available))"
    r"(?: (?:in|by|from) the (?:recording|transcript|text|passage|audio|speaker))?",
    re.IGNORECASE,
)
_QUESTION_FIELDS, _ANSWER_FIELDS = ("question", "q", "question_text"), ("answer", "a", "answer_text")


@dataclass(frozen=True)
class Pair:
    """A question and its answer, neither empty, on one line each."""

    question: str
    answer: str


def parse_pairs(reply: str, most: int) -> list[Pair | Refused]:
    """Questions with answers.

    Args:
        reply: `{"pairs": [{"question": ..., "answer": ...}]}`, a list of such objects, one alone or several in a row, or "none".
        most: how many were asked for; more are refused.

    Returns:
        One entry a pair; at least one, which says why if there is no pair.
    """
    text = _bare(reply)
    if _is_nothing(text) or _NONE_AND_WHY.fullmatch(text):
        return [Refused("no_question", clean(reply))]
    values = _values(text)
    if isinstance(values, Refused):
        return [values]
    if all(_is_nothing(value) for value in values):
        return [Refused("no_question", clean(reply))]
    try:
        lists = [items for value in values if (items := _items(value)) is not None]
        told = [
            items for items in lists if any(_is_pair(item) for item in items)
        ]  # not drafts of another kind around it
        pairs = [_pair(item) for items in told or lists for item in items]
    except RecursionError:  # Pythons differ in how deep a value they parse
        lists = []
    if not lists:
        return [Refused("reply_without_pairs", clean(reply))]
    surplus: list[Pair | Refused] = [Refused("surplus_pair", str(pair)) for pair in pairs[most:]]
    return [*pairs[:most], *surplus] or [Refused("no_question", clean(reply))]


def parse_answer(reply: str) -> str | Refused | None:
    """An answer alone, of `{"answer": ...}` or as bare text; None where the reply says that there is none.

    `Refused` where it does not get as far as to say anything.
    """
    text = _bare(reply)
    if not text:
        return Refused("reply_empty", clean(reply))
    value = _answer_of(text)
    if isinstance(value, Refused):
        return value
    if isinstance(value, bool):  # a yes/no question, answered as JSON can
        return "yes" if value else "no"
    if not isinstance(value, str | int | float | None):
        value = text
    answer = _as_text(value)
    if answer is None and _CUT_OFF.search(text):
        return Refused("reply_cut_off", clean(reply))
    return None if answer is None or _says_nothing(answer) else answer


def _answer_of(text: str) -> Any:
    """The value of the answer's field; the text itself where it is no JSON."""
    values = _values(text) if "{" in text else Refused("reply_not_json")
    if isinstance(values, Refused):
        return values if values.reason == "reply_too_long" else _ANSWER_LABEL.sub("", text)
    objects = [one for value in values for one in (value if isinstance(value, list) else [value])]
    fields = [_lowered(one) for one in objects if isinstance(one, Mapping)]
    told = next((one for one in fields if not one.keys().isdisjoint(_ANSWER_FIELDS)), None)
    if told is not None:
        return _field(told, _ANSWER_FIELDS)
    return next(iter(fields[0].values())) if len(fields) == 1 and len(fields[0]) == 1 else text


def _says_nothing(answer: str) -> bool:
    if _is_nothing(answer) or _NONE_AND_WHY.fullmatch(answer):
        return True
    return _NOT_SAID.fullmatch(answer.strip(" .!*\"'")) is not None


def clean(text: str) -> str:
    """Text on one line that any file can hold: no control characters, no halves of surrogate pairs."""
    kept = "".join(" " if unicodedata.category(char) in ("Cc", "Cs") else char for char in text)
    return " ".join(unicodedata.normalize("NFC", kept).split())


def _bare(reply: str) -> str:
    """Without what reasoning models think aloud, and without code fences."""
    return _FENCE.sub("", without_thoughts(reply)).strip("\ufeff \t\r\n")


def _is_nothing(value: Any) -> bool:
    if isinstance(value, str):
        return value.strip(" \t\n\"'`.*!").lower() in _NOTHING
    return value is None or (isinstance(value, Mapping | Sequence) and not value)


def _values(text: str) -> list[Any] | Refused:
    """The JSON values in a text, one after another; `Refused` where there is none."""
    if len(text) > _LONGEST_REPLY:
        return Refused("reply_too_long", f"{len(text)} characters")
    try:
        value = json.loads(text)
        return [value] if not isinstance(value, str) else _embedded(value)  # some write JSON as a text of JSON
    except (ValueError, RecursionError):
        return _embedded(text)


def _embedded(text: str) -> list[Any] | Refused:
    """The values with prose around them; from the first fault on, all is left to the repair."""
    values: list[Any] = []
    at = 0
    while opening := _OPENING.search(text, at):
        try:
            value, at = json.JSONDecoder().raw_decode(text, opening.start())
            values.append(value)
        except (ValueError, RecursionError):
            repaired = _repaired(text[opening.start() :])
            several = isinstance(repaired, list) and opening[0] == "{"
            # Where it finds nothing it gives an empty value, which is no reply of "none".
            values += repaired if several else [repaired] if repaired and not isinstance(repaired, str) else []
            break
    return values or Refused("reply_not_json", clean(text))


def _repaired(text: str) -> Any:
    """The value of JSON with faults, empty where nothing can be made of it; a text that is cut off in the middle is left out."""
    try:
        import json_repair
    except ImportError as error:
        raise MissingDependencyError(
            "replies of LLMs are read by the package json_repair", knob='pip install "vtblender_nemo[synthesis]"'
        ) from error
    try:
        # Of objects without a comma between them it would keep the last.
        return json_repair.loads(_BETWEEN_OBJECTS.sub("},\n{", _CUT_OFF.sub(": null", text)))
    except Exception:  # its parser guesses; whatever makes it fail is the reply's fault
        return None


def _items(value: Any) -> list[Any] | None:
    """The objects that may be pairs; None if the value is of another shape."""
    if isinstance(value, Mapping):
        fields = _lowered(value)
        if _is_pair(value):
            return [value]
        lists = [one for one in fields.values() if isinstance(one, Mapping | list)] or list(fields.values())
        if "pairs" not in fields and len(lists) != 1:
            return None
        inner = fields.get("pairs", lists[0])
        return [] if _is_nothing(inner) else _items(inner)
    return value if isinstance(value, list) else None


def _is_pair(item: Any) -> bool:
    return isinstance(item, Mapping) and not _lowered(item).keys().isdisjoint(_QUESTION_FIELDS)


def _pair(item: Any) -> Pair | Refused:
    fields = _lowered(item) if isinstance(item, Mapping) else {}
    question, answer = (_as_text(_field(fields, names)) for names in (_QUESTION_FIELDS, _ANSWER_FIELDS))
    if _is_nothing(question) and _is_nothing(answer):
        both = all(not fields.keys().isdisjoint(names) for names in (_QUESTION_FIELDS, _ANSWER_FIELDS))
        return Refused("no_question" if both else "pair_incomplete", clean(str(item)))
    if question is None or answer is None or _is_nothing(question) or _is_nothing(answer):
        return Refused("pair_incomplete", clean(str(item)))
    return Pair(question, answer)


def _lowered(value: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(name).strip(" *_:").lower(): one for name, one in value.items()}


def _field(fields: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((fields[name] for name in names if name in fields), None)


def _as_text(value: Any) -> str | None:
    """A text without marks of bold, or a number as one; None for what is neither."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        return clean(str(value).replace("**", ""))
    except ValueError:  # an integer of more digits than Python writes
        return None
