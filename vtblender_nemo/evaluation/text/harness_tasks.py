"""Tasks of the harness, made ready: by their names, on local data where there are some."""

from __future__ import annotations

import difflib
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lm_eval.tasks import TaskManager

from vtblender_nemo.common.audio import first_line
from vtblender_nemo.common.errors import ConfigError, DataError, MissingDependencyError
from vtblender_nemo.evaluation.jsonl import read_rows
from vtblender_nemo.evaluation.text.config import TextTask

OWN_TASKS = Path(__file__).parent / "tasks"

_BUILDERS = {".jsonl": "json", ".parquet": "parquet"}
_SPLITS = ("training_split", "validation_split", "test_split")
_SEED = 1234  # the harness's own for worked examples
_OF_A_GROUP = {"group", "group_alias", "task", "aggregate_metric_list", "metadata", "tag"}


def load_tasks(task: TextTask) -> dict[str, Any]:
    """What the harness's `evaluate` takes.

    Raises:
        ConfigError: a name that the harness does not know, or a group that cannot be given local data.
        DataError: data that are missing, empty or lack a column, or that cannot be downloaded.
        MissingDependencyError: a package that the harness needs for this task.
    """
    manager = _manager(task)
    specs: list[Any] = list(task.tasks)
    if task.data is not None:
        leaves = dict.fromkeys(leaf for name in task.tasks for leaf in _leaves(manager.task_index, name))
        local = [{"task": leaf, **_local(task, manager.task_index[leaf].cfg)} for leaf in leaves]
        specs = [{"group": f"{task.name} on local data", "task": local}]
    try:
        loaded = manager.load(specs)
    except ImportError as error:
        raise MissingDependencyError(
            f"text task {task.name} needs another package ({error})", knob='pip install "vtblender_nemo[eval]"'
        ) from error
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"the data of text task {task.name} cannot be loaded ({type(error).__name__}: {first_line(error)})",
            value=str(task.data or ", ".join(task.tasks)),
            expected="local data with the columns that the task names, or a network",
            knob=f"{task.name}.data",
        ) from error
    for one in loaded["tasks"].values():
        _set_up(one, task)
    return dict(loaded)


def spread(loaded: Mapping[str, Any], limit: int | None) -> dict[str, list[int]] | None:
    """Numbers of at most `limit` items of each task, evenly spread, as the harness would take the first; None for all."""
    if limit is None:
        return None
    sizes = {name: len(one.eval_docs) for name, one in loaded["tasks"].items()}
    counts = {name: min(limit, size) for name, size in sizes.items()}
    return {name: [n * sizes[name] // count for n in range(count)] for name, count in counts.items()}


@contextmanager
def seeded(loaded: Mapping[str, Any]) -> Iterator[None]:
    """The same worked examples, and the same luck in scoring, for every run of loaded tasks inside it.

    IFEval tells languages by langdetect, which draws random numbers: unseeded, one answer may be right in one run and wrong in
    the next.
    """
    for one in loaded["tasks"].values():
        one.set_fewshot_seed(seed=_SEED)
    with suppress(ImportError):
        from langdetect import DetectorFactory

        DetectorFactory.seed = _SEED
    kept, kept_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 (tasks draw from it)
    try:
        random.seed(_SEED)
        np.random.seed(_SEED)  # noqa: NPY002
        with torch.random.fork_rng():
            torch.manual_seed(_SEED)
            yield
    finally:
        random.setstate(kept)
        np.random.set_state(kept_numpy)  # noqa: NPY002


def _set_up(one: Any, task: TextTask) -> None:
    shots = one.get_config("num_fewshot")
    if task.num_fewshot is not None and shots != 0:  # 0 in a task file means: never
        shots = task.num_fewshot
    one.set_config(key="num_fewshot", value=shots or 0)
    if task.max_gen_toks is not None and one.get_config("output_type") == "generate_until":
        one.set_config(key="generation_kwargs", value={"max_gen_toks": task.max_gen_toks}, update=True)


def _manager(task: TextTask) -> TaskManager:
    """With the harness's own 15,000 tasks only where one of them is asked for: listing them takes 6 s."""
    folders = [OWN_TASKS] + ([task.include_path] if task.include_path is not None else [])
    manager = _list_tasks(tuple(folders), False)
    if all(name in manager.task_index for name in task.tasks):
        return manager
    manager = _list_tasks(tuple(folders), True)
    for name in task.tasks:
        if name not in manager.task_index:
            alike = ", ".join(difflib.get_close_matches(name, manager.all_tasks, n=5)) or "none is like it"
            raise ConfigError(
                "the harness has no such task", value=name, expected=f"a task, as {alike}", knob=f"{task.name}.tasks"
            )
    return manager


@lru_cache
def _list_tasks(folders: tuple[Path, ...], with_the_harness_own: bool) -> TaskManager:
    return TaskManager(include_path=list(folders), include_defaults=with_the_harness_own)


def _leaves(index: Mapping[str, Any], name: str) -> Iterator[str]:
    """The tasks of a group or tag; a task is its own."""
    entry = index[name]
    if entry.kind.name == "TAG":
        yield from sorted(entry.tags)
    elif entry.kind.name == "GROUP":
        members = entry.cfg["task"]
        if not all(isinstance(member, str) for member in members) or set(entry.cfg) - _OF_A_GROUP:
            expected = "names of its tasks, one by one"
            raise ConfigError("a group that changes its tasks takes no local data", value=name, expected=expected)
        for member in members:
            yield from _leaves(index, member)
    else:
        yield name


def _local(task: TextTask, cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of one of the harness's tasks that turn it to local data."""
    assert task.data is not None
    evaluated = cfg.get("test_split") or cfg.get("validation_split")
    examples = (cfg.get("fewshot_config") or {}).get("split") or cfg.get("fewshot_split")
    splits = {split for split in (*(cfg.get(key) for key in _SPLITS), examples) if split}
    files = _files(task.data, cfg.get("dataset_name"), splits, str(evaluated))
    for needed in filter(None, (evaluated, examples)):
        if needed not in files:
            raise DataError(
                f"local data without the split {needed} of {cfg['task']}",
                path=task.data,
                value=sorted(files),
                expected=f"{needed}.jsonl or {needed}.parquet, in a folder {cfg.get('dataset_name')} or without one",
                knob=f"{task.name}.data",
            )
    for path in (path for paths in files.values() for path in paths):
        _check_rows(path, task)
    kinds = {path.suffix for paths in files.values() for path in paths}
    if len(kinds) != 1:
        raise DataError(
            "local data of two formats", path=task.data, value=sorted(kinds), expected="one of them", knob="data"
        )
    absent = {key: None for key in (*_SPLITS, "fewshot_split") if cfg.get(key) and cfg[key] not in files}
    data_files = {split: [str(path) for path in paths] for split, paths in files.items()}
    return {
        "dataset_path": _BUILDERS[kinds.pop()],
        "dataset_name": None,
        "dataset_kwargs": {"data_files": data_files},
        **absent,
    }


def _files(data: Path, subset: str | None, splits: set[str], evaluated: str) -> dict[str, list[Path]]:
    if data.is_file():
        return {evaluated: [data]} if data.suffix in _BUILDERS else {}
    folder = data / subset if subset and (data / subset).is_dir() else data
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        split = path.stem.partition("-")[0]
        if path.suffix in _BUILDERS and split in splits:
            found.setdefault(split, []).append(path)
    return found


def _check_rows(path: Path, task: TextTask) -> None:
    expected = f"the columns {', '.join(task.columns)}"
    if path.suffix == ".parquet":
        import pyarrow.parquet

        file = pyarrow.parquet.ParquetFile(path)
        if file.metadata.num_rows == 0:
            raise DataError("file without rows", path=path, expected="at least one row")
        if missing := sorted(set(task.columns) - set(file.schema_arrow.names)):
            raise DataError("missing column", path=path, value=missing, expected=expected)
        return
    for row in read_rows(path):
        if isinstance(row, DataError):
            raise row
        if missing := [name for name in task.columns if name not in row.data]:
            raise DataError("missing field in a row", path=path, line=row.line, value=missing, expected=expected)
