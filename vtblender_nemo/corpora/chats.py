"""Text chats of any common shape, made into rows that train: checked, cleaned of what is no chat, in shards of JSONL."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vtblender_nemo.common.conversation import check_turns, from_messages
from vtblender_nemo.common.errors import ConfigError, DataError
from vtblender_nemo.common.files import write_text
from vtblender_nemo.common.job_folder import JOB
from vtblender_nemo.data.config import DEFAULT_LOCATOR_TAG
from vtblender_nemo.synthesis.engine.synthesize import SUMMARY, Summary, SynthesisOptions, synthesize
from vtblender_nemo.synthesis.inputs import InputRows, open_chats
from vtblender_nemo.synthesis.work import InputRow, Made, Outcome, Refused, Work, Worker

_LICENCE = (
    "These chats were made from: {sources}\n\n"
    "Licence: to be checked by you. It is stated where the dataset comes from, for a dataset of the Hugging Face hub in the\n"
    "field `license` of its page; texts that a language model wrote may also fall under the terms of that model.\n"
)


class ChatRowsWork(Work):
    """Takes chats as they are and refuses what cannot be learned from: empty turns, wrong order, a question without an answer.

    A chat that ends with a question is taken without it, which is counted as `last_question_unanswered`. One that holds
    the default locator tag is refused; other LLMs have other tags, which `inspect_blend` finds.
    """

    def settings(self) -> dict[str, Any]:
        return {"kind": "text_chats", "locator_tag": DEFAULT_LOCATOR_TAG}

    def open(self) -> Worker:
        return _take


def _take(rows: Sequence[InputRow]) -> list[list[Outcome]]:
    return [_outcomes(row) for row in rows]


def _outcomes(row: InputRow) -> list[Outcome]:
    """The row, and what was left out of it: questions at its end, which have no answer to learn from."""
    messages = list(row.data["messages"])
    unanswered: list[str] = []
    while messages and messages[-1]["role"] == "user":
        unanswered.insert(0, messages.pop()["content"])
    if not messages:
        return [Refused("no_answer")]
    try:
        check_turns(from_messages(messages, id=row.id).turns, answered=True)
    except DataError as error:
        return [Refused("bad_chat", str(error))]
    tagged = next((message["content"] for message in messages if DEFAULT_LOCATOR_TAG in message["content"]), None)
    if tagged is not None:
        return [Refused("locator_tag_in_text", tagged)]
    left_out = [Refused("last_question_unanswered", "\n".join(unanswered))] if unanswered else []
    return [Made({**row.data, "id": row.id, "messages": messages}), *left_out]


class _First(InputRows):
    """The first rows of an input."""

    def __init__(self, rows: InputRows, count: int) -> None:
        self._rows, self._count = rows, min(count, len(rows))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> InputRow:
        return self._rows[index]

    def position(self, index: int) -> tuple[int, str, int]:
        return self._rows.position(index)

    def made_up_id(self, index: int) -> str:
        return self._rows.made_up_id(index)

    def _read(self, index: int) -> tuple[Any, Mapping[str, Any]]:
        return self._rows._read(index)

    @property
    def digest(self) -> str:
        return self._rows.digest


def prepare_chats(
    inputs: Sequence[str | Path], output_dir: Path, options: SynthesisOptions, *, limit: int | None = None
) -> Summary:
    """Makes shards of text chats, or what an earlier run has left of them.

    Args:
        inputs: JSONL, parquet, folders of them or that `datasets` saved, or `owner/name:split` of the Hugging Face hub; rows
            hold `messages`, ShareGPT's `conversations`, or `instruction` and `response`.
        output_dir: gets `shard_000000/manifest.jsonl`, `input_cfg.yaml`, `LICENCE.txt`, `rejected.jsonl` and
            `summary.json`.
        options: seed, rows of a shard, workers, the source's name.
        limit: most rows that are taken, from the first on.

    Raises:
        ConfigError: no rows, a file that is missing, a dataset that cannot be loaded, or a folder that holds another job.
        DataError: two rows of one id.
    """
    if limit is not None and limit < 1:
        raise ConfigError("number out of range", value=limit, expected=">= 1", knob="--limit")
    _check_no_corpus(output_dir)
    rows = open_chats(inputs)
    summary = synthesize(ChatRowsWork(), rows if limit is None else _First(rows, limit), output_dir, options)
    write_text(_LICENCE.format(sources=", ".join(map(str, inputs))), output_dir / "LICENCE.txt")
    return summary


def _check_no_corpus(folder: Path) -> None:
    """
    Raises:
        ConfigError: the folder holds a corpus of speech, whose shards the engine does not know as such.
    """
    for path in (folder / JOB, folder / SUMMARY):
        before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if "corpus" in before:
            raise ConfigError(
                f"the folder holds another job, of the corpus {before['corpus']}",
                path=path,
                expected="an empty folder, or one of these chats",
                knob="--output-dir",
            )
