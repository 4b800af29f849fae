"""Test items: a conversation that awaits its answer, and the answer that would be right.

One row of a test set, as JSON on one line; audio paths start from the folder of the file, or are absolute:

    {"id": "sqa-17", "task": "sqa", "messages": [{"role": "user", "content": [{"type": "audio", "audio": "wav/17.wav"},
     {"type": "text", "text": "Where is Anna?"}]}], "reference": "In the park.", "custom": {"kind": "one_fact"}}

`custom` is free but for some names: `kind` (scores are also reported by kind), `transcript` (what the audios say: a text, or
a list with one text per audio), and of tasks of generalisation those in `common/generalisation.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vtblender_nemo.common.conversation import Conversation, check_turns, from_messages
from vtblender_nemo.common.errors import AudioError, DataError
from vtblender_nemo.evaluation.jsonl import read_rows

FIELDS: Mapping[str, type] = {"id": str, "task": str, "messages": list, "reference": str, "custom": dict}
OPTIONAL_FIELDS = frozenset({"custom"})


@dataclass(frozen=True)
class Item:
    """A conversation to be answered.

    Attributes:
        id: unique in its file.
        task: name of the task.
        conversation: ends with a user turn; None if its audio cannot be opened.
        reference: the right answer.
        custom: whatever else the row says of itself.
        error: why there is no conversation.
    """

    id: str
    task: str
    conversation: Conversation | None
    reference: str = ""
    custom: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""


def read_items(path: str | Path) -> list[Item]:
    """Reads a test set.

    A row whose audio is missing or broken becomes an item with an error, so that one file does not stop an evaluation;
    any other fault is the test set's own and raises.

    Raises:
        DataError: a row that is no JSON object, lacks a field, has an unknown one or a value of the wrong kind, repeats
            an id, or holds turns that cannot be answered; or a file without rows. The error names file and line.
    """
    path = Path(path)
    items: list[Item] = []
    lines_by_id: dict[str, int] = {}
    for row in read_rows(path):
        if isinstance(row, DataError):
            raise row
        _check_fields(row.data, path, row.line)
        id = row.data["id"]
        if id in lines_by_id:
            expected = f"another id than in line {lines_by_id[id]}"
            raise DataError("repeated id", path=path, line=row.line, value=id, expected=expected)
        lines_by_id[id] = row.line
        items.append(_item(row.data, path, row.line))
    return items


def conversation_to_answer(messages: Sequence[Mapping[str, Any]], *, id: str, base_dir: Path) -> Conversation:
    """A conversation from the messages of a JSON row.

    Raises:
        DataError: messages in a wrong order or of a wrong form.
        AudioError: an audio that is missing or cannot be opened.
    """
    if not isinstance(messages, list):
        raise DataError("messages are not a list", value=messages, expected="a list of messages")
    conversation = from_messages(messages, id=id, base_dir=base_dir)
    check_turns(conversation.turns, answered=False)
    return conversation


def _item(row: dict[str, Any], path: Path, line: int) -> Item:
    custom = row.get("custom", {})
    try:
        conversation = conversation_to_answer(row["messages"], id=row["id"], base_dir=path.parent)
    except AudioError as error:
        return Item(row["id"], row["task"], None, row["reference"], custom, str(error))
    except DataError as error:
        raise DataError(
            error.problem, path=path, line=line, value=error.value, expected=error.expected, knob=error.knob
        ) from error
    return Item(row["id"], row["task"], conversation, row["reference"], custom)


def _check_fields(row: dict[str, Any], path: Path, line: int) -> None:
    missing = [name for name in FIELDS if name not in row and name not in OPTIONAL_FIELDS]
    unknown = [name for name in row if name not in FIELDS]
    for problem, names in (("missing", missing), ("unknown", unknown)):
        if names:
            expected = f"the fields {', '.join(FIELDS)} ({', '.join(OPTIONAL_FIELDS)} may be left out)"
            raise DataError(f"{problem} field in a test item", path=path, line=line, value=names, expected=expected)
    for name, kind in FIELDS.items():
        if name in row and not isinstance(row[name], kind):
            expected = f"a JSON value of type {kind.__name__}"
            raise DataError(f"field {name} of the wrong type", path=path, line=line, value=row[name], expected=expected)
