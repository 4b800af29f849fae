"""Typed reading of configurations: mappings become dataclasses, and every mistake names its key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf

from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.common.files import is_file, is_folder

Config = TypeVar("Config")


def read_config(kind: type[Config], values: Any, place: str) -> Config:
    """A configuration as its dataclass.

    Args:
        kind: the dataclass.
        values: a mapping or an OmegaConf node.
        place: the key that holds it, for errors.

    Raises:
        ConfigError: not a mapping, an unknown key, a missing one, or a value of another type than its field.
    """
    values = mapping(values, place)
    known = [entry.name for entry in fields(kind)]  # type: ignore[arg-type]
    hints = get_type_hints(kind)
    for key, value in values.items():
        if key not in known:
            raise ConfigError("unknown key", value=key, expected=f"one of {', '.join(known)}", knob=f"{place}.{key}")
        if not _fits(value, hints[key]):
            raise ConfigError("wrong type", value=value, expected=_said(hints[key]), knob=f"{place}.{key}")
    try:
        return kind(**values)
    except TypeError as error:
        raise ConfigError(f"incomplete ({error})", value=dict(values), knob=place) from error


def mapping(values: Any, place: str) -> Mapping[str, Any]:
    """Values that have keys, as Python containers.

    Raises:
        ConfigError: not a mapping.
    """
    values = plain(values)
    if not isinstance(values, Mapping):
        raise ConfigError("not a mapping", value=values, expected="key: value", knob=place)
    return values


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type of these dataclasses: plain ones, unions, and lists and dicts of such."""
    if hint is Any:
        return True
    origin, inner = get_origin(hint), get_args(hint)
    if origin is UnionType:
        return any(_fits(value, one) for one in inner)
    if origin is list:
        return isinstance(value, list | tuple) and all(_fits(item, inner[0]) for item in value)
    if origin is dict:
        return isinstance(value, Mapping) and all(
            _fits(k, inner[0]) and _fits(item, inner[1]) for k, item in value.items()
        )
    if isinstance(value, bool):  # an int to Python
        return hint is bool
    return isinstance(value, int | float if hint is float else hint)


_TYPE_NAMES: Mapping[Any, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    Path: "a path",
    NoneType: "null",
    Any: "anything",
}


def _said(hint: Any) -> str:
    """A type in words."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is UnionType:
        return " or ".join(_said(one) for one in inner)
    if origin is list:
        return f"a list, each of it {_said(inner[0])}"
    if origin is dict:
        return f"a mapping of names, each to {_said(inner[1])}"
    return _TYPE_NAMES[hint]


def check_file(path: Path, place: str, what: str) -> None:
    """Sees that a YAML file is there.

    Args:
        path: the file.
        place: the key or flag that names it, for errors.
        what: the file is said to be.

    Raises:
        ConfigError: it is missing or a folder; files of sources in the same folder are named.
    """
    if is_file(path):
        return
    is_dir = is_folder(path)
    folder = path if is_dir else path.parent
    found = folder.glob("input_cfg*.yaml") if is_folder(folder) else []
    others = ", ".join(sorted(other.name for other in found))
    where = "in it" if is_dir else "beside it"
    raise ConfigError(
        "this is a folder" if is_dir else f"{what} is missing",
        path=path,
        expected=f"a file; {where}: {others}" if others else "a YAML file" if is_dir else "a path that is there",
        knob=place,
    )


def read_yaml(path: Path, knob: str) -> Any:
    """What a YAML file holds.

    Raises:
        ConfigError: the file is not YAML; the error names the line where it can be told.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: no UTF-8, dates that are none
        mark = getattr(error, "problem_mark", None)
        said = (getattr(error, "problem", None) or str(error)).splitlines()[0]
        line = None if mark is None else mark.line + 1
        raise ConfigError(f"file is not YAML ({said})", path=path, line=line, knob=knob) from error


def plain(values: Any) -> Any:
    """OmegaConf nodes as Python containers, interpolations resolved."""
    return OmegaConf.to_container(values, resolve=True) if isinstance(values, DictConfig | ListConfig) else values
