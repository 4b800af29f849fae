"""Sources and their shares of a blend, as an `input_cfg` gives them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.data.config import SourceConfig, read_input_cfg
from vtblender_nemo.data.sources import Source, make_source
from vtblender_nemo.data.typed import mapping, read_config


@dataclass(frozen=True)
class Weighted:
    """A source and its probability in the blend."""

    source: Source
    probability: float


def read_sources(
    input_cfg: Any, *, sampling_rate: int, temperature: float = 1.0, place: str = "input_cfg"
) -> list[Weighted]:
    """Opens the sources of an `input_cfg` and works out their probabilities; those of groups multiply.

    Args:
        input_cfg: a list of sources and groups, or the path of a YAML file that holds one.
        sampling_rate: Hz of the model's audio.
        temperature: the exponent w ** temperature / sum for the weights of siblings.
        place: the key that holds it, for errors.

    Raises:
        ConfigError: an unknown type or key, missing files, weights for some siblings only, or a name used twice.
    """
    weighted = _read_level(input_cfg, 1.0, {}, {}, sampling_rate, temperature, place)
    twice = [name for name, count in Counter(entry.source.name for entry in weighted).items() if count > 1]
    if twice:
        raise ConfigError(
            "sources share a name", value=twice, expected="a name of its own for each", knob=f"{place}[].name"
        )
    return weighted


def _read_level(
    input_cfg: Any,
    share: float,
    tags: dict[str, Any],
    given: dict[str, Any],
    sampling_rate: int,
    temperature: float,
    place: str,
) -> list[Weighted]:
    """The sources of one list; `tags` and other keys that were `given` to the group that holds it are theirs, too."""
    entries = read_input_cfg(input_cfg, place)
    groups: list[list[Weighted]] = []
    for number, entry in enumerate(entries):
        where, own = f"{place}[{number}]", mapping(entry.get("tags", {}), f"{place}[{number}].tags")
        entry = {**given, **entry, "tags": {**tags, **own}}
        if entry.get("type") == "group":
            config = read_config(SourceConfig, entry, where)
            inner = temperature if config.temperature is None else config.temperature
            passed = {} if config.interleave is None else {"interleave": config.interleave}
            groups.append(
                _read_level(config.input_cfg, 1.0, config.tags, passed, sampling_rate, inner, f"{where}.input_cfg")
            )
        else:
            groups.append([Weighted(make_source(entry, sampling_rate, where), 1.0)])
    weights = _weights(entries, groups, place)
    powers = [weight**temperature for weight in weights]
    return [
        Weighted(leaf.source, share * power / sum(powers) * leaf.probability)
        for power, leaves in zip(powers, groups, strict=True)
        for leaf in leaves
    ]


def _weights(entries: Sequence[dict[str, Any]], groups: Sequence[Sequence[Weighted]], place: str) -> list[float]:
    """The siblings' weights; without any, their numbers of rows."""
    weights = [entry.get("weight") for entry in entries]
    if all(weight is None for weight in weights):
        return [float(sum(len(leaf.source) for leaf in leaves)) for leaves in groups]
    for number, weight in enumerate(weights):
        if not isinstance(weight, int | float) or isinstance(weight, bool) or not 0 < weight <= 1e12:
            raise ConfigError(
                "source without a weight beside siblings that have one" if weight is None else "weight out of range",
                value=weights if weight is None else weight,
                expected="a positive number for all siblings, or for none",
                knob=f"{place}[{number}].weight",
            )
    return [float(weight) for weight in weights if weight is not None]
