"""Test sets: items of several files, or rows of data sources as training reads them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtblender_nemo.common.conversation import Conversation, Turn, check_turns
from vtblender_nemo.common.errors import AudioError, DataError
from vtblender_nemo.evaluation.items import Item, read_items

if TYPE_CHECKING:
    from vtblender_nemo.data.prompts import Wordings
    from vtblender_nemo.data.sources import Source

SAMPLING_RATE = 16000
"""Hz at which cuts of sources are declared that nobody has opened yet; the model resamples to its own."""

_PROMPT_SEED = 0


def read_item_files(paths: Sequence[Path]) -> list[Item]:
    """The items of all files, in order.

    Raises:
        DataError: as `read_items`; also an id that stands in two files.
    """
    items: list[Item] = []
    path_of: dict[str, Path] = {}
    for path in paths:
        for item in read_items(path):
            if item.id in path_of:
                expected = f"another id than in {path_of[item.id]}"
                raise DataError("repeated id in a task", path=path, value=item.id, expected=expected)
            path_of[item.id] = path
            items.append(item)
    return items


def read_source_items(input_cfg: Any, *, task: str, prompt: str | None, place: str) -> list[Item]:
    """The rows of data sources as items: the last answer is the reference, every other field is in `custom`.

    A row's transcript (`custom.transcript`) is its `text` unless it says otherwise. A wording is drawn by a fixed seed,
    the same at every call. A row whose audio cannot be opened becomes an item with an error.

    Args:
        input_cfg: a list of sources, or the path of a YAML file of one.
        task: name of the task, for rows that name none.
        prompt: the only wording, in place of the sources' own.
        place: the key that holds `input_cfg`, for errors.

    Raises:
        ConfigError: sources that cannot be opened.
        DataError: a row that cannot be used, with its file and line; no rows; or an id that a source has twice.
    """
    from vtblender_nemo.data.config import read_input_cfg
    from vtblender_nemo.data.weighted import read_sources

    entries = read_input_cfg(input_cfg, place)
    if prompt is not None:
        entries = [_asking(entry, prompt, place) for entry in entries]
    sources = [entry.source for entry in read_sources(entries, sampling_rate=SAMPLING_RATE, place=place)]
    items: list[Item] = []
    for source in sources:
        seen: dict[str, int] = {}
        for index in range(len(source)):
            item = _item(source, index, task)
            if item.id in seen:
                path, line = source.place(index)
                expected = f"another id than row {seen[item.id] + 1}"
                raise DataError("repeated id in a source", path=path, line=line, value=item.id, expected=expected)
            seen[item.id] = index
            items.append(item if len(sources) == 1 else replace(item, id=f"{source.name}/{item.id}"))
    if not items:
        raise DataError("sources without rows", value=[source.name for source in sources], knob=place)
    return items


def reworded(items: Sequence[Item], prompt: str, place: str) -> list[Item]:
    """The items with another wording around the only audio of their last turn.

    Args:
        items: those with an error stay as they are.
        prompt: a wording as sources have it: `{audio}` puts the audio there, other fields come from `custom`.
        place: the key that holds the prompt, for errors.

    Raises:
        ConfigError: the prompt is no wording.
        DataError: an item whose last turn has no audio, or several, or that lacks a field of the prompt.
    """
    from vtblender_nemo.data.prompts import Wordings

    wordings = Wordings([prompt], place=place)
    return [_reworded(item, wordings, place) for item in items]


def limit_evenly(items: Sequence[Item], limit: int) -> list[Item]:
    """At most `limit` items, evenly spread over the set, so that a few of every part of it are taken."""
    count = min(limit, len(items))
    return [items[number * len(items) // count] for number in range(count)]


def _asking(entry: dict[str, Any], prompt: str, place: str) -> dict[str, Any]:
    """A source, or a group of them, with one wording."""
    from vtblender_nemo.data.config import read_input_cfg

    if entry.get("type") == "group":
        inner = read_input_cfg(entry.get("input_cfg"), f"{place}.input_cfg")
        return {**entry, "input_cfg": [_asking(child, prompt, place) for child in inner]}
    return {key: value for key, value in entry.items() if key != "task"} | {"prompts": [prompt]}


def _reworded(item: Item, wordings: Wordings, place: str) -> Item:
    if item.conversation is None:
        return item
    *earlier, last = item.conversation.turns
    if len(last.audios) != 1:
        raise DataError(
            f"item {item.id!r} cannot be asked in another wording",
            value=len(last.audios),
            expected="one audio in its last turn",
            knob=place,
        )
    parts = wordings.user_parts(random.Random(_PROMPT_SEED), item.custom, last.audios[0])
    return replace(item, conversation=replace(item.conversation, turns=(*earlier, Turn("user", parts))))


def _item(source: Source, index: int, task: str) -> Item:
    try:
        conversation = source.conversation(index, source.rng(_PROMPT_SEED, index))
    except AudioError as error:
        return Item(f"{source.name}-{index}", task, None, error=str(error))
    try:
        reference = conversation.reference
        question = Conversation(conversation.id, conversation.turns[:-1], source.name, conversation.custom)
        check_turns(question.turns, answered=False)
    except DataError as error:
        path, line = source.place(index)
        raise DataError(
            error.problem, path=path, line=line, value=error.value, expected=error.expected, knob=error.knob
        ) from error
    custom = dict(conversation.custom)
    if isinstance(custom.get("text"), str) and len(question.audios) == 1:
        custom.setdefault("transcript", custom["text"])
    return Item(conversation.id, str(custom.get("task") or task), question, reference, custom)
