"""Task files: what is asked of a model, in YAML, read into tasks that are ready to be answered.

```
variables:                    # for ${variables.NAME}; the flag --set NAME=VALUE replaces them, ??? has to be set
  world: results/tiny_world
include: [text/gsm8k.yaml]    # files of more tasks by name (at the top, or under `tasks`), from this file's folder
tasks:
  NAME:
    kind: asr                 # gives every default below
    items: [${variables.world}/content/tests/asr.jsonl]
```

Paths in `tasks` start from the working directory, as those of every other configuration. The keys of a task are those of
`TaskConfig`; a task of kind `text` has the keys of `evaluation/text/config.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vtblender_nemo.common.audio import first_line
from vtblender_nemo.common.errors import ConfigError, DataError
from vtblender_nemo.common.files import is_file
from vtblender_nemo.common.shipped import shipped_by_name
from vtblender_nemo.common.wordings import TRANSCRIPTION_PROMPT
from vtblender_nemo.data.typed import mapping, read_config, read_yaml
from vtblender_nemo.evaluation.groups import KEYS, group_positions
from vtblender_nemo.evaluation.item_sets import limit_evenly, read_item_files, read_source_items, reworded
from vtblender_nemo.evaluation.items import Item
from vtblender_nemo.evaluation.kinds import KINDS, NOISE, TEXT, Kind
from vtblender_nemo.evaluation.measures import check_measures
from vtblender_nemo.evaluation.noise import NoiseConfig, noise_items
from vtblender_nemo.evaluation.variants import SCORED_VARIANTS

BASE = "base"
_TOP_KEYS = ("variables", "include", "tasks")


@dataclass(frozen=True)
class TaskConfig:
    """One task of a task file; what is left out comes from its kind (`kinds.py`)."""

    kind: str
    """asr, ast, sqa, mixed, multi_turn, noise, text, instructions, paralinguistic or generalisation."""
    items: list[str] = field(default_factory=list)
    """Files of test items (JSONL), see `items.py`."""
    input_cfg: Any = None
    """In place of `items`: sources as training has them, a list or the YAML file of one, as `prepare_corpus.py` writes it;
    the last answer of a row is the reference."""
    prompt: str | None = None
    """What is asked, in place of the items' or the sources' own wordings: `Translate to {target_language}: {audio}`."""
    measures: list[str] | None = None
    """Names in `measures.py`; the first is the main one."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of the measures, each for those that know it, as `normalizer: basic`; over those of the kind."""
    variants: list[str] | None = None
    """text_twin, no_audio_silence, no_audio_shuffle, no_text, base (the base LLM, shown the transcripts)."""
    group_by: list[str] | None = None
    """Keys of `groups.py`: secs, language, language_pair, answerable, task, generalisation, wording_distance, or fields of the
    items' `custom`; / between two joins them."""
    ceilings: list[str] | None = None
    """Those of the variants whose answers are the most to hope for: what share of their score the answers as asked reach, and
    how far they agree with their answers."""
    max_new_tokens: int | None = None
    """Length limit of an answer, in tokens."""
    limit: int | None = None
    """Only so many items, evenly spread over the set."""
    noise: dict[str, Any] = field(default_factory=dict)
    """Which sounds, of a task of kind noise: the keys of `NoiseConfig`."""


@dataclass(frozen=True)
class Task:
    """A task that is ready to be answered.

    Attributes:
        name: of the task.
        kind: of the task.
        sets: items by variant; "" has them as they are.
        measures: names, the main one first.
        options: of the measures.
        group_by: keys of groups; every one of them has some.
        ceilings: variants that the answers as asked are also held against.
        max_new_tokens: length limit of an answer.
        text: settings of a task of kind text, which has no items here.
    """

    name: str
    kind: str
    sets: Mapping[str, Sequence[Item]] = field(default_factory=dict)
    measures: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    group_by: tuple[str, ...] = ()
    ceilings: tuple[str, ...] = ()
    max_new_tokens: int = 128
    text: Mapping[str, Any] = field(default_factory=dict)


def load_tasks(
    file: str | Path,
    *,
    only: Sequence[str] = (),
    variables: Mapping[str, str] | None = None,
    limit: int | None = None,
) -> list[Task]:
    """Reads a task file, the items of its tasks, and makes their variants: all that can go wrong before a model is loaded.

    Args:
        file: a path, or the name of a file of `conf/evaluation`.
        only: names of tasks; empty means all.
        variables: values for the file's variables.
        limit: at most so many items of every task.

    Raises:
        ConfigError: the file, a task, a key, a variable, a measure or a variant is missing or unknown.
        DataError: items that are missing, empty or wrong; names file and line.
        MissingDependencyError: a measure needs a package that is not installed.
    """
    path = find_task_file(file)
    with _placed(path):
        cfg = _read(path, variables or {})
        names = list(cfg.tasks)
        if unknown := [name for name in only if name not in names]:
            raise ConfigError("unknown task", value=unknown, expected=f"among {', '.join(names)}", knob="--tasks")
        chosen = [name for name in names if not only or name in only]
        return [_task(name, _resolved(cfg, name), limit) for name in chosen]


def find_task_file(file: str | Path) -> Path:
    """The path of a task file.

    Raises:
        ConfigError: neither a file nor a name in `conf/evaluation`; names those there are.
    """
    path = Path(file)
    if is_file(path):
        return path
    known = shipped_by_name("evaluation")
    if str(file) in known:
        return known[str(file)]
    raise ConfigError("task file is missing", value=str(file), expected=f"a path, or one of {', '.join(known)}")


def _read(path: Path, variables: Mapping[str, str]) -> DictConfig:
    values = dict(mapping(read_yaml(path, "--config"), str(path)))
    if unknown := [key for key in values if key not in _TOP_KEYS]:
        raise ConfigError("unknown key", value=unknown, expected=f"among {', '.join(_TOP_KEYS)}")
    known = dict(mapping(values.get("variables") or {}, "variables"))
    if unknown := sorted(variables.keys() - known.keys()):
        raise ConfigError(
            "unknown variable", value=unknown, expected=f"among {', '.join(known) or 'none'}", knob="--set"
        )
    tasks = dict(mapping(values.get("tasks") or {}, "tasks"))
    include = values.get("include") or []
    if not isinstance(include, list):
        raise ConfigError("included files are no list", value=include, expected="[FILE, ...]", knob="include")
    for included in include:
        added = _included(path.parent / str(included))
        if twice := sorted(tasks.keys() & added.keys()):
            raise ConfigError("two tasks of one name", value=twice, expected="another name", knob="include")
        tasks |= added
    if not tasks:
        raise ConfigError("task file without tasks", expected="tasks: {NAME: {kind: ..., ...}}", knob="tasks")
    try:
        return OmegaConf.create({"variables": {**known, **variables}, "tasks": tasks})
    except (OmegaConfBaseException, ValueError, RecursionError) as error:
        raise ConfigError(
            f"a value of the tasks cannot be read ({first_line(error)})",
            expected="${variables.NAME}, or plain values",
            knob="tasks",
        ) from error


def _included(path: Path) -> dict[str, Any]:
    if not is_file(path):
        raise ConfigError("included task file is missing", path=path, knob="include")
    values = mapping(read_yaml(path, "include"), str(path))
    return dict(mapping(values.get("tasks", values), f"{path}: tasks"))


def _resolved(cfg: DictConfig, name: str) -> Mapping[str, Any]:
    """The settings of a task, its variables put in; those of other tasks need not be set."""
    try:
        values = OmegaConf.to_container(cfg.tasks, resolve=False)[name]
        if isinstance(values, Mapping):
            values = OmegaConf.to_container(cfg.tasks[name], resolve=True, throw_on_missing=True)
    except (OmegaConfBaseException, ValueError, RecursionError) as error:
        unset = [key for key in cfg.variables if not _is_set(cfg, key)]
        expected = f"--set {unset[0]}=VALUE" if unset else "a value, or a variable of this file"
        said = str(error).splitlines()[0]
        raise ConfigError(
            f"a value of task {name} is not set ({said})", expected=expected, knob=f"tasks.{name}"
        ) from error
    return mapping(values, f"tasks.{name}")


def _is_set(cfg: DictConfig, variable: str) -> bool:
    try:
        return not OmegaConf.is_missing(cfg.variables, variable) and cfg.variables[variable] is not None
    except OmegaConfBaseException:
        return False


def _task(name: str, values: Mapping[str, Any], limit: int | None) -> Task:
    place = f"tasks.{name}"
    kind = str(values.get("kind"))
    if kind not in KINDS:
        raise ConfigError(
            "unknown kind of task", value=kind, expected=f"one of {', '.join(KINDS)}", knob=f"{place}.kind"
        )
    if kind == TEXT:
        return _text_task(name, values, limit)
    config = read_config(TaskConfig, values, place)
    default = KINDS[kind]
    measures = tuple(default.measures if config.measures is None else config.measures)
    options = {**_known_to(measures, default.options), **config.options}
    check_measures(measures, options, place)
    variants = default.variants if config.variants is None else tuple(config.variants)
    _check_variants(variants, place)
    limits = [number for number in (limit, config.limit) if number is not None]
    items = limit_evenly(_items(name, config, place), min(limits)) if limits else _items(name, config, place)
    _check_needs(items, default.needs, place)
    return Task(
        name,
        kind,
        {"": items} | {variant: _variant(variant, items, place) for variant in variants},
        measures,
        options,
        _group_keys(config.group_by, default, items, place),
        _ceilings(config.ceilings, default.ceilings, variants, place),
        config.max_new_tokens or default.max_new_tokens,
    )


def _check_needs(items: Sequence[Item], needs: Sequence[str], place: str) -> None:
    for item in items:
        if not item.error and (missing := [name for name in needs if name not in item.custom]):
            raise DataError(
                f"item {item.id!r} lacks what its kind of task is about",
                value=sorted(item.custom),
                expected=f"{', '.join(missing)} in custom",
                knob=place,
            )


def _ceilings(
    asked: Sequence[str] | None, default: Sequence[str], variants: Sequence[str], place: str
) -> tuple[str, ...]:
    """The variants that are asked for; of those of the kind the ones that the task has."""
    if asked is None:
        return tuple(variant for variant in default if variant in variants)
    if unknown := [variant for variant in asked if variant not in variants]:
        expected = f"among the task's variants ({', '.join(variants) or 'none'})"
        raise ConfigError("a ceiling that is not measured", value=unknown, expected=expected, knob=f"{place}.ceilings")
    return tuple(dict.fromkeys(asked))


def _group_keys(asked: Sequence[str] | None, default: Kind, items: Sequence[Item], place: str) -> tuple[str, ...]:
    """The keys that are asked for; of those of the kind the ones that tell items apart, or that it is about."""
    if asked is None:
        return tuple(key for key in default.group_by if key in default.needs or len(group_positions(items, key)) > 1)
    for key in asked:
        if not group_positions(items, key):
            expected = f"{', '.join(KEYS)}, a field of the items' custom, or several joined by /"
            raise ConfigError("no item has a group of this key", value=key, expected=expected, knob=f"{place}.group_by")
    return tuple(dict.fromkeys(asked))


def _text_task(name: str, values: Mapping[str, Any], limit: int | None) -> Task:
    from vtblender_nemo.evaluation.text.config import read_text_tasks

    settings = {key: value for key, value in values.items() if key != "kind"}
    if limit is not None:
        settings["limit"] = min(limit, settings.get("limit") or limit)
    read_text_tasks({name: settings})  # a mistake shows now
    return Task(name, TEXT, text=settings)


def _items(name: str, config: TaskConfig, place: str) -> list[Item]:
    if config.kind == NOISE:
        if config.items or config.input_cfg is not None:
            raise ConfigError("noise is made, not read", expected="no items and no input_cfg", knob=place)
        noise = read_config(NoiseConfig, config.noise, f"{place}.noise")
        noise.check(f"{place}.noise")
        return noise_items(noise, prompt=TRANSCRIPTION_PROMPT if config.prompt is None else config.prompt, task=name)
    if config.noise:
        raise ConfigError("only tasks of kind noise have sounds", value=config.noise, knob=f"{place}.noise")
    if bool(config.items) == (config.input_cfg is not None):
        raise ConfigError("task without one clear set of items", expected="either items or input_cfg", knob=place)
    if config.items:
        items = read_item_files([Path(path) for path in config.items])
        return items if config.prompt is None else reworded(items, config.prompt, f"{place}.prompt")
    return read_source_items(config.input_cfg, task=name, prompt=config.prompt, place=f"{place}.input_cfg")


def _variant(name: str, items: Sequence[Item], place: str) -> Sequence[Item]:
    if name == BASE:  # the base LLM cannot hear: it reads what was said
        heard = [item for item in items if item.conversation is not None and item.conversation.audios]
        twins = {item.id: item for item in (SCORED_VARIANTS["text_twin"](heard) if heard else [])}
        return [twins.get(item.id, item) for item in items]
    try:
        return SCORED_VARIANTS[name](items)
    except DataError as error:
        knob = f"{place}.variants" if error.knob in (None, "variants", "mode") else f"{error.knob}, {place}.variants"
        raise DataError(
            f"variant {name} cannot be made: {error.problem}", value=error.value, expected=error.expected, knob=knob
        ) from error


def _check_variants(variants: Sequence[str], place: str) -> None:
    for variant in variants:
        if variant not in SCORED_VARIANTS and variant != BASE:
            known = ", ".join([*SCORED_VARIANTS, BASE])
            raise ConfigError("unknown variant", value=variant, expected=f"one of {known}", knob=f"{place}.variants")
    if len(set(variants)) != len(variants):
        raise ConfigError("a variant named twice", value=list(variants), knob=f"{place}.variants")


def _known_to(measures: Sequence[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults of a kind that the measures, which may be others than its own, know."""
    from vtblender_nemo.evaluation.measures import MEASURES

    known = set().union(*(MEASURES[name].options for name in measures if name in MEASURES))
    return {key: value for key, value in options.items() if key in known}


@contextmanager
def _placed(path: Path) -> Iterator[None]:
    """Mistakes in the file are said to be in it."""
    try:
        yield
    except ConfigError as error:
        if error.path is not None:
            raise
        raise ConfigError(
            error.problem, path=path, value=error.value, expected=error.expected, knob=error.knob
        ) from error
