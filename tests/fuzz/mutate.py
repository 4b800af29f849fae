"""Inputs of the targets, changed so that they stay JSON: most changes get past the parser and meet the readers' own checks."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

Case = tuple[str, Any]
"""The kind of an input and its value."""

ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 0.5, -0.0, 1e-9, 1e9, 1e308, 1e999, -1e999, float("nan"), 2**31, 2**63, 10**400),
    *(
        "",
        " ",
        "\n",
        "\x00",
        "\ud800",
        "é",
        "漢字",
        "a" * 300,
        "a/" * 600,
        "{",
        "}",
        "{}",
        "{audio}",
        "{x.y[0]}",
        "${x}",
        "???",
    ),
    *(
        "/",
        "..",
        ".",
        "~",
        "/dev/null",
        "a.wav",
        "no.wav",
        "long.wav",
        "{0..3}",
        "_OP_0..9_CL_",
        "true",
        "1",
        "NaN",
        "en",
        "qq",
    ),
    *([], {}, [[]], [None], [1, 2], ["a", 0.1, 0.2], {"a": 1}, [{}], [[["a"]]], {"type": "text", "text": "hi"}),
    {"type": "audio", "audio": "a.wav"},
)
"""Values that readers like least."""

Node = tuple[Any, Any]
"""A container and the key or index of one of its values."""


def mutated(
    case: Case, seeds: Sequence[Case], rng: random.Random, bend: Callable[[bytes], bytes] | None = None
) -> Case:
    """A case with one to four of its values changed.

    Args:
        case: it stays as it is.
        seeds: cases whose values may be taken over.
        rng: draws the changes.
        bend: changes bytes, as libFuzzer does; None for a simple way.
    """
    kind, value = copy.deepcopy(case)
    holder, others = [value], [other for other_kind, other in seeds if other_kind == kind]
    for _ in range(rng.choice((1, 1, 2, 4))):
        _change(holder, others, rng, bend or _bender(rng))
    return kind, holder[0]


def _change(holder: list[Any], others: list[Any], rng: random.Random, bend: Callable[[bytes], bytes]) -> None:
    container, key = rng.choice(list(_nodes(holder)))
    value, draw = container[key], rng.random()
    if draw < 0.25:
        container[key] = copy.deepcopy(rng.choice(ODD))
    elif draw < 0.35 and others:
        source, other = rng.choice(list(_nodes([rng.choice(others)])))
        container[key] = copy.deepcopy(source[other])
    elif draw < 0.5 and container is not holder:
        del container[key]
    elif draw < 0.6 and isinstance(value, dict):
        keys = [name for other in others if isinstance(other, dict) for name in other] or ["x"]
        value[rng.choice(keys)] = copy.deepcopy(rng.choice(ODD))
    elif draw < 0.7 and isinstance(value, list):
        value.insert(rng.randint(0, len(value)), copy.deepcopy(rng.choice([*value, *ODD])))
    elif draw < 0.71:
        container[key] = _deep(rng.choice((3, 60, 1500)), rng.random() < 0.5)
    elif isinstance(value, str):
        container[key] = bend(value.encode("utf-8", "surrogatepass")).decode("utf-8", "replace")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        other = rng.choice((-value, value + 1, value * 10, str(value)[:4000], round(rng.gauss(0, 10), 3)))
        container[key] = other


def _nodes(container: Any) -> list[Node]:
    found: list[Node] = []
    waiting = [container]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict | list):
            keys = list(one) if isinstance(one, dict) else range(len(one))
            found += [(one, key) for key in keys]
            waiting += [one[key] for key in keys]
    return found


def _deep(levels: int, lists: bool) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = [value] if lists else {"a": value}
    return value


def _bender(rng: random.Random) -> Callable[[bytes], bytes]:
    def bend(data: bytes) -> bytes:
        changed = bytearray(data or b"x")
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(len(changed) + 1)
            changed[place : place + rng.choice((0, 0, 1))] = bytes([rng.choice(b"aZ0 \n\t\"'{}[]:,.-_/\\\x00\xff\xc3")])
        return bytes(changed)

    return bend


def dumped(value: Any) -> str:
    """JSON of a value, however deep it is."""
    try:
        return json.dumps(value)
    except RecursionError:
        inner, depth = value, 0
        while isinstance(inner, list | dict) and inner:
            inner, depth = (inner[0] if isinstance(inner, list) else next(iter(inner.values()))), depth + 1
        return "[" * depth + "0" + "]" * depth


def parsed(data: bytes) -> Case | None:
    """The case that an input stands for; None for bytes that are none."""
    try:
        kind, value = json.loads(data)
    except (ValueError, TypeError, RecursionError):
        return None
    return (kind, value) if isinstance(kind, str) else None
