"""Chats as synthesis input: messages, ShareGPT or instruction and response, from JSONL, parquet or Hugging Face datasets."""

from __future__ import annotations

import gzip
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vtblender_nemo.common.conversation import ROLES
from vtblender_nemo.common.errors import ConfigError, DataError
from vtblender_nemo.data.rows import JsonlRows
from vtblender_nemo.synthesis.inputs.rows import InputRows, digest_of, existing

_ROLES = {"human": "user", "gpt": "assistant", "model": "assistant"} | {role: role for role in ROLES}
_ID_COLUMNS = ("id", "uuid", "conversation_id")  # the last two are Magpie's
_JSON_ENDS = (".jsonl", ".json", ".jsonl.gz", ".json.gz")
_SHAPES = "messages, conversations (ShareGPT), or instruction and response (Magpie)"


def open_chats(paths: Sequence[str | Path]) -> InputRows:
    """Opens chats of every shape; a row's `data` is `{"id", "messages": [{"role", "content"}, ...], ...rest}`.

    Rows hold `messages`, or `conversations` as ShareGPT writes them, or `instruction` and `response` as Magpie does; the
    first of these that a row has counts, the others are left out.

    Args:
        paths: JSONL files or JSON lists (also .gz), parquet files, folders that `datasets` saved or that hold such
            files, or names on the Hugging Face hub: `owner/name`, `owner/name:split` or `owner/name:config:split`
            (split: train by default).

    Raises:
        ConfigError: no rows, a file that is missing, a dataset that cannot be loaded.
    """
    tables = [table for path in paths for table in _tables(str(path))]
    if not tables:
        raise ConfigError("no file is given", value=list(paths), expected="a path or a dataset's name", knob="--input")
    rows = ChatRows(tables)
    if not len(rows):
        raise ConfigError("no rows", value=[str(path) for path in paths], expected="chats", knob="--input")
    return rows


class _Table(ABC):
    """Rows of one file or dataset as dictionaries."""

    name: str

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Mapping[str, Any]: ...

    @abstractmethod
    def digest(self) -> str: ...


class ChatRows(InputRows):
    """Chats of several tables, one after another."""

    def __init__(self, tables: Sequence[_Table]) -> None:
        super().__init__([table.name for table in tables])
        self._tables = tables
        self._starts = np.concatenate([[0], np.cumsum([len(table) for table in tables])]).astype(np.int64)

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def digest(self) -> str:
        return digest_of([table.digest() for table in self._tables])

    def position(self, index: int) -> tuple[int, str, int]:
        table = int(np.searchsorted(self._starts, index, side="right")) - 1
        return table, self._tables[table].name, index - int(self._starts[table]) + 1

    def _read(self, index: int) -> tuple[Any, Mapping[str, Any]]:
        table, _, line = self.position(index)
        return _chat(self._tables[table][line - 1])


def _chat(row: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A row's id, and its messages with the columns that were not used."""
    id_column = next((name for name in _ID_COLUMNS if row.get(name) not in (None, "")), "id")
    used = {id_column, "id", "messages", "conversations", "instruction", "response"}
    rest = {name: value for name, value in row.items() if name not in used}
    return row.get(id_column), {"messages": _messages(row), **rest}


def _messages(row: Mapping[str, Any]) -> list[dict[str, str]]:
    """
    Raises:
        DataError: no chat, an unknown speaker, a turn without text.
    """
    if row.get("messages") is not None:
        return [_message(turn, "role", "content") for turn in _list("messages", row["messages"])]
    if row.get("conversations") is not None:
        return [_message(turn, "from", "value") for turn in _list("conversations", row["conversations"])]
    if row.get("instruction") is not None and row.get("response") is not None:
        pair = (("user", row["instruction"]), ("assistant", row["response"]))
        return [_message({"role": role, "content": text}, "role", "content") for role, text in pair]
    raise DataError("row without a chat", value=sorted(row), expected=_SHAPES)


def _list(name: str, value: Any) -> Sequence[Any]:
    if not isinstance(value, list) or not value:
        raise DataError(f"{name} is no list of turns", value=value, expected=_SHAPES)
    return value


def _message(turn: Any, role_key: str, text_key: str) -> dict[str, str]:
    if not isinstance(turn, Mapping):
        raise DataError("turn is no object", value=turn, expected=f'{{"{role_key}": ..., "{text_key}": text}}')
    speaker, text = turn.get(role_key), turn.get(text_key)
    role = _ROLES.get(speaker.lower()) if isinstance(speaker, str) else None
    if role is None:
        raise DataError("unknown speaker", value=speaker, expected=f"one of {', '.join(_ROLES)}")
    if not isinstance(text, str):
        raise DataError("turn without text", value=text, expected=f"text under {text_key}")
    return {"role": role, "content": text}


class _JsonlTable(_Table):
    def __init__(self, path: Path) -> None:
        self._path, self.name = path, str(path)
        self._rows = JsonlRows([path], knob="--input")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return self._rows[index].data

    def digest(self) -> str:
        return digest_of([self._path])


class _ListTable(_Table):
    """A file that is one JSON list, as ShareGPT's is; it is read into memory."""

    def __init__(self, path: Path) -> None:
        self._path, self.name = path, str(path)
        try:
            self._rows = json.loads(_first_bytes(path, -1))
        except (ValueError, RecursionError) as error:
            raise ConfigError(
                f"file is no JSON list ({error})", path=path, expected="[{...}, ...]", knob="--input"
            ) from error

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        row = self._rows[index]
        if not isinstance(row, dict):
            raise DataError("row is no JSON object", value=row, expected="{...}")
        return row

    def digest(self) -> str:
        return digest_of([self._path])


class _ParquetTable(_Table):
    """A parquet file, read by row groups; the last one stays in memory."""

    def __init__(self, path: Path) -> None:
        self._path, self.name = path, str(path)
        metadata = self._open().metadata
        sizes = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._group: tuple[int, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_group": None}

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        group = int(np.searchsorted(self._starts, index, side="right")) - 1
        if self._group is None or self._group[0] != group:
            self._group = (group, self._open().read_row_group(group))
        return _as_json(self._group[1].slice(index - int(self._starts[group]), 1).to_pylist()[0])

    def digest(self) -> str:
        return digest_of([self._path])

    def _open(self) -> Any:
        import pyarrow
        from pyarrow.parquet import ParquetFile

        try:
            return ParquetFile(self._path)
        except (pyarrow.ArrowException, OSError) as error:
            raise ConfigError(
                f"file is no parquet ({error})", path=self._path, expected="a whole parquet file", knob="--input"
            ) from error


class _DatasetTable(_Table):
    """A split of a Hugging Face dataset, memory-mapped."""

    def __init__(self, name: str, dataset: Any) -> None:
        self.name, self._dataset = name, dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return _as_json(self._dataset[index])

    def digest(self) -> str:
        return digest_of([f"{self._dataset._fingerprint} {len(self)}"])


def _as_json(row: Mapping[str, Any]) -> dict[str, Any]:
    """Columns as JSON has them: dates and the like as text."""
    return json.loads(json.dumps(row, default=str))


def _tables(source: str) -> list[_Table]:
    path = Path(source)
    if path.is_dir():
        return _folder(path)
    if source.endswith((*_JSON_ENDS, ".parquet")):
        return [_file(file) for file in existing([source])]
    if path.exists():
        ends = ", ".join((*_JSON_ENDS, ".parquet"))
        raise ConfigError("file of an unknown kind", path=path, expected=f"a name that ends in {ends}", knob="--input")
    return [_hub(source)]


def _file(path: Path) -> _Table:
    if path.suffix == ".parquet":
        return _ParquetTable(path)
    return _ListTable(path) if _first_bytes(path, 1 << 12).lstrip().startswith(b"[") else _JsonlTable(path)


def _first_bytes(path: Path, count: int) -> bytes:
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        return file.read(count)


def _folder(folder: Path) -> list[_Table]:
    """A folder that `datasets` saved, one or all splits of it, or one of JSONL or parquet files."""
    if (folder / "dataset_dict.json").is_file():
        raise ConfigError(
            "folder holds several splits",
            path=folder,
            expected=f"one of them: {', '.join(sorted(path.name for path in folder.iterdir() if path.is_dir()))}",
            knob="--input",
        )
    if (folder / "state.json").is_file():
        from datasets import load_from_disk

        return [_DatasetTable(str(folder), load_from_disk(str(folder)))]
    files = sorted(path for path in folder.rglob("*") if path.name.endswith((*_JSON_ENDS, ".parquet")))
    if not files:
        raise ConfigError("folder without chats", path=folder, expected="JSONL or parquet files in it", knob="--input")
    return [table for file in files for table in _tables(str(file))]


def _hub(source: str) -> _Table:
    """A split of a dataset on the Hugging Face hub, or of one in its local cache."""
    from datasets import load_dataset

    name, *rest = source.split(":")
    if len(rest) > 2 or not name:
        raise ConfigError("dataset's name is unclear", value=source, expected="owner/name:config:split", knob="--input")
    config, split = (rest[0] if len(rest) == 2 else None), (rest[-1] if rest else "train")
    try:
        return _DatasetTable(source, load_dataset(name, config, split=split))
    except Exception as error:  # the hub, the cache and the builders raise errors of many kinds
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise ConfigError(
            f"neither a file nor a dataset that can be loaded ({said[0]})",
            value=source,
            expected="a path, or owner/name:split of the Hugging Face hub",
            knob="--input",
        ) from error
