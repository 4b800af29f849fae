"""The answers that went wrong most, with what was said instead, and word by word for transcripts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vtblender_nemo.common.errors import DataError
from vtblender_nemo.evaluation.page.names import Role, role_of, task_title, variant_title, words
from vtblender_nemo.evaluation.page.runs import Run, read_predictions

LONGEST_TEXT = 800
"""Characters shown of a text; a model that repeats itself would fill the page."""
COMPARED_WORDS = 400
"""Words that are compared of a text: the alignment takes the product of both lengths."""
NOTES = ("transcript", "context")
"""Fields of an item's `custom` that help to understand it."""
TAGS = ("kind", "skill", "language", "accent", "voices")
"""Fields of an item's `custom` that tell what sort of item it is."""

COMPARED = frozenset({"wer_percent", "cer_percent"})
"""Main measures of tasks whose answers are compared word by word."""
ERRORS = COMPARED | {"hallucinated_characters_per_minute"}
SMALLEST_DISTANCE = 1e-6

# Letters of scripts that put no spaces between words are words by themselves.
_TOKEN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]\s*|[^\s\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+\s*")


@dataclass(frozen=True)
class Piece:
    """A run of words that are all right, or all wrong."""

    text: str
    wrong: bool


@dataclass(frozen=True)
class Other:
    """What was answered to the same item otherwise, as by the base LLM."""

    label: str
    role: Role
    text: str


@dataclass(frozen=True)
class AudioSpan:
    """A part of a file.

    Attributes:
        path: of the file.
        offset: where the part begins, in seconds.
        duration: of the part, in seconds; None to the end.
    """

    path: Path
    offset: float
    duration: float | None


@dataclass(frozen=True)
class Example:
    """An item that went wrong.

    Attributes:
        id: of the item.
        task: of the item.
        task_title: for readers.
        reference: the words wanted, in pieces; those marked wrong are missing from the prediction.
        prediction: the words given, in pieces; those marked wrong are not in the reference. None without an answer.
        error: why there is no answer.
        notes: title and text of what else is known of the item.
        tags: what sort of item it is.
        others: what was answered otherwise.
        audios: what was heard, in order.
        compared: the pieces come from a comparison word by word.
    """

    id: str
    task: str
    task_title: str
    reference: tuple[Piece, ...]
    prediction: tuple[Piece, ...] | None
    error: str
    notes: tuple[tuple[str, str], ...]
    tags: tuple[str, ...]
    others: tuple[Other, ...]
    audios: tuple[AudioSpan, ...]
    compared: bool


def worst_examples(run: Run, limit: int) -> dict[str, list[Example]]:
    """Task -> its worst items, those without an answer first, then by distance from the reference.

    Kinds of items take turns, so that the kind which is hardest does not fill the page.

    Args:
        run: whose predictions are read.
        limit: most examples of a task.

    Raises:
        DataError: a row of predictions that cannot be read.
    """
    files = run.prediction_files()
    found = {}
    for task in run.main:
        if (task, "") in files:
            rows = read_predictions(files[task, ""])
            chosen = _worst(rows, run.main[task], limit)
            if chosen:
                beside = {v: path for (owner, v), path in files.items() if owner == task and v}
                found[task] = list(_examples(chosen, run, task, files[task, ""], _others(beside, chosen)))
    return found


def _worst(rows: Sequence[Mapping[str, Any]], measure: str, limit: int) -> list[Mapping[str, Any]]:
    by_kind: dict[str, list[tuple[float, str, Mapping[str, Any]]]] = {}
    for row in rows:
        distance = _distance(row, measure)
        if distance > 0:
            group = str(_mapping(row, "custom").get("kind", ""))
            by_kind.setdefault(group, []).append((distance, str(row["id"]), row))
    ranked = [
        (place, -distance, id, row)
        for found in by_kind.values()
        for place, (distance, id, row) in enumerate(sorted(found, key=lambda one: (-one[0], one[1])))
    ]
    return [row for *_, row in sorted(ranked, key=lambda one: one[:3])[:limit]]


def _distance(row: Mapping[str, Any], measure: str) -> float:
    """0 for what is right, infinite without an answer; else word edits over the words of the reference, for what is measured
    by its errors, or over those of the longer text, as a long answer is not worse than another wrong one.
    """
    prediction = row.get("prediction")
    if prediction is None or row.get("error"):
        return float("inf")
    by_errors = measure in ERRORS
    edits = min((_edits(reference, str(prediction), by_errors) for reference in _references(row)), default=0.0)
    scores = _mapping(row, "custom").get("scores")
    if not isinstance(scores, Mapping) or not isinstance(scores.get(measure), int | float):
        return edits
    # The harness has said what is right; how far a wrong answer is from the reference still puts it in order.
    return 0.0 if scores[measure] >= 100 else max(edits, SMALLEST_DISTANCE)


def _edits(reference: str, prediction: str, by_errors: bool) -> float:
    import jiwer

    wanted, given = (_keys(_tokens(text)[:COMPARED_WORDS]) for text in (reference, prediction))
    if wanted == given:
        return 0.0
    found = jiwer.process_words(" ".join(wanted), " ".join(given))
    edits = found.substitutions + found.deletions + found.insertions
    return edits / max(len(wanted) if by_errors else max(len(wanted), len(given)), 1)


def _references(row: Mapping[str, Any]) -> list[str]:
    """All right answers; none where there is no reference."""
    more = _mapping(row, "custom").get("references")
    found = [row.get("reference"), *(more if isinstance(more, list) else [])]
    return list(dict.fromkeys(str(one) for one in found if one is not None))


def _mapping(row: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = row.get(name)
    return value if isinstance(value, Mapping) else {}


def _tokens(text: str) -> list[str]:
    """Words, each with the space behind it."""
    return _TOKEN.findall(text)


def _keys(tokens: Sequence[str]) -> list[str]:
    """Words without case and punctuation, except where nothing else is there."""
    stripped = ((token.strip(), re.sub(r"^\W+|\W+$", "", token.strip()).casefold()) for token in tokens)
    return [key or token for token, key in stripped]


def compare(reference: str, prediction: str) -> tuple[tuple[Piece, ...], tuple[Piece, ...]]:
    """The beginnings of both texts in pieces; case and punctuation do not count."""
    import jiwer

    wanted, given = (_tokens(text[:LONGEST_TEXT]) for text in (reference, prediction))
    (chunks,) = jiwer.process_words(" ".join(_keys(wanted)), " ".join(_keys(given))).alignments
    left = [(chunk.ref_start_idx, chunk.ref_end_idx, chunk.type != "equal") for chunk in chunks]
    right = [(chunk.hyp_start_idx, chunk.hyp_end_idx, chunk.type != "equal") for chunk in chunks]
    return tuple(_pieces(wanted, left, reference)), tuple(_pieces(given, right, prediction))


def _pieces(tokens: Sequence[str], spans: Sequence[tuple[int, int, bool]], whole: str) -> Iterator[Piece]:
    """Neighbours of one kind are joined; the space behind a wrong word is not part of it."""
    words_of = [(token, wrong) for start, end, wrong in spans for token in tokens[start:end]]
    number = 0
    while number < len(words_of):
        wrong = words_of[number][1]
        end = number
        while end < len(words_of) and words_of[end][1] == wrong:
            end += 1
        text = "".join(token for token, _ in words_of[number:end])
        if wrong:
            yield Piece(text.rstrip(), True)
            if text != text.rstrip():
                yield Piece(" ", False)
        else:
            yield Piece(text, False)
        number = end
    if len(whole) > LONGEST_TEXT:
        yield Piece(_left_out(whole), False)


def _examples(
    rows: Sequence[Mapping[str, Any]],
    run: Run,
    task: str,
    path: Path,
    others: Mapping[str, Mapping[str, str]],
) -> Iterator[Example]:
    for row in rows:
        references, prediction = _references(row), row.get("prediction")
        is_compared = run.main[task] in COMPARED and len(references) == 1 and prediction is not None
        wanted: tuple[Piece, ...] = (Piece(_short(" / ".join(references)), False),)
        given: tuple[Piece, ...] | None = None if prediction is None else (Piece(_short(str(prediction)), False),)
        if is_compared:
            wanted, given = compare(references[0], str(prediction))
        yield Example(
            id=str(row["id"]),
            task=task,
            task_title=task_title(task),
            reference=wanted,
            prediction=given,
            error=_short(str(row.get("error") or "")),
            notes=tuple((name, text) for name, text in _notes(row).items() if text not in references),
            tags=tuple(dict.fromkeys(words(text) for text in _custom(row, TAGS).values() if text != task)),
            others=tuple(
                Other(variant_title(variant, run.kinds[task]), role_of(variant), _short(texts[str(row["id"])]))
                for variant, texts in others.items()
                if str(row["id"]) in texts
            ),
            audios=tuple(_audios(row, path)),
            compared=is_compared,
        )


def _others(files: Mapping[str, Path], rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Variant -> id -> prediction, of the chosen items only."""
    wanted = {str(row["id"]) for row in rows}
    return {
        variant: {
            str(row["id"]): str(row["prediction"])
            for row in read_predictions(path)
            if str(row["id"]) in wanted and row.get("prediction") is not None
        }
        for variant, path in files.items()
    }


def _notes(row: Mapping[str, Any]) -> dict[str, str]:
    asked = _short(str(row.get("asked") or ""))
    return ({"asked": asked} if asked else {}) | _custom(row, NOTES)


def _custom(row: Mapping[str, Any], names: Iterable[str]) -> dict[str, str]:
    """Fields of an item's `custom` as texts; those that hold no text are left out."""
    texts = {}
    for name in names:
        value = _mapping(row, "custom").get(name)
        parts = value if isinstance(value, list) else [value]
        if all(isinstance(part, str | int | float) for part in parts):
            texts[name] = _short(" · ".join(str(part) for part in parts))
    return {name: text for name, text in texts.items() if text}


def _audios(row: Mapping[str, Any], path: Path) -> Iterator[AudioSpan]:
    for audio in row.get("audios") or []:
        if not isinstance(audio, Mapping) or not isinstance(audio.get("path"), str):
            expected = '{"path": str, "offset": s, "duration": s}'
            raise DataError(f"wrong audio of prediction {row['id']}", path=path, value=audio, expected=expected)
        duration = audio.get("duration")
        secs = None if duration is None else float(duration)
        yield AudioSpan(path.parent / audio["path"], float(audio.get("offset") or 0.0), secs)


def _short(text: str) -> str:
    if len(text) <= LONGEST_TEXT:
        return text
    return text[:LONGEST_TEXT] + _left_out(text)


def _left_out(text: str) -> str:
    return f"… ({len(text):,} characters)"
