"""All speech engines by name, and the blend of several from which every row draws one."""

from __future__ import annotations

import importlib
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.data.typed import mapping, read_config
from vtblender_nemo.synthesis.tts.base import EngineConfig
from vtblender_nemo.synthesis.weights import parse_weight

# Modules are imported when their engine is chosen: some bring torch, or NeMo.
ENGINES = {
    "espeak": ("espeak", "EspeakConfig"),
    "flite": ("flite", "FliteConfig"),
    "nemo": ("fastpitch", "FastPitchConfig"),
    "openai": ("openai_speech", "OpenAISpeechConfig"),
    "recordings": ("recordings", "RecordingsConfig"),
}


@dataclass(frozen=True)
class BlendedEngine:
    """One engine of a blend.

    Attributes:
        name: unique in the blend; the kind of engine where none is given.
        kind: of `ENGINES`.
        weight: its share of the rows, before division by the sum.
        config: its settings.
    """

    name: str
    kind: str
    weight: float
    config: EngineConfig

    def settings(self) -> dict[str, Any]:
        """All that decides what it says, as JSON."""
        own = {key: value for key, value in asdict(self.config).items() if key not in self.config.free}  # type: ignore[call-overload]
        return {"type": self.kind, "weight": self.weight, **own, **self.config.fingerprint()}


class SpeechBlend:
    """Engines with weights.

    Args:
        engines: one or more; `read_blend` makes them from a configuration.

    Raises:
        ConfigError: no engine, one name twice, or weights that are not positive.
    """

    def __init__(self, engines: Sequence[BlendedEngine], place: str = "engines") -> None:
        if not engines:
            raise ConfigError("no speech engine", value=[], expected=f"some of {', '.join(ENGINES)}", knob=place)
        self.engines = {engine.name: engine for engine in engines}
        if len(self.engines) < len(engines):
            names = [engine.name for engine in engines]
            raise ConfigError("two engines of one name", value=names, expected="a `name` for each", knob=place)
        for engine in engines:
            if not 0 < engine.weight < float("inf"):
                raise ConfigError(
                    f"the weight of {engine.name} is no share", value=engine.weight, expected="> 0", knob=place
                )

    def draw(self, rng: random.Random) -> str:
        """The name of an engine, drawn by weight."""
        return rng.choices(list(self.engines), [engine.weight for engine in self.engines.values()])[0]

    def settings(self) -> dict[str, Any]:
        """All that decides who says what, as JSON."""
        return {name: engine.settings() for name, engine in self.engines.items()}


def read_blend(entries: Any, place: str = "engines") -> SpeechBlend:
    """Engines from a configuration.

    Args:
        entries: `[{"type": ..., "weight"?: ..., "name"?: ..., and the engine's own settings}, ...]`.
        place: the key that holds them, for errors.

    Raises:
        ConfigError: an unknown engine or setting, or values out of range.
    """
    if not isinstance(entries, Sequence) or isinstance(entries, str):
        raise ConfigError("engines are no list", value=entries, expected="[{type: espeak, weight: 1}, ...]", knob=place)
    return SpeechBlend([_read_engine(entry, f"{place}[{number}]") for number, entry in enumerate(entries)], place)


def _read_engine(entry: Any, place: str) -> BlendedEngine:
    values = dict(mapping(entry, place))
    kind, weight = values.pop("type", None), values.pop("weight", 1.0)
    name = values.pop("name", kind)
    if not isinstance(kind, str) or kind not in ENGINES:
        raise ConfigError(
            "unknown speech engine", value=kind, expected=f"one of {', '.join(ENGINES)}", knob=f"{place}.type"
        )
    if not isinstance(weight, int | float) or isinstance(weight, bool):
        raise ConfigError("weight is no number", value=weight, expected="> 0", knob=f"{place}.weight")
    if not isinstance(name, str):
        raise ConfigError("name is no text", value=name, expected="a short name", knob=f"{place}.name")
    config = read_config(_config_class(kind), values, place)
    config.check(place)
    return BlendedEngine(name, kind, float(weight), config)


def _config_class(kind: str) -> type[EngineConfig]:
    module, name = ENGINES[kind]
    return getattr(importlib.import_module(f"vtblender_nemo.synthesis.tts.{module}"), name)


def read_shares(shares: Sequence[str]) -> list[dict[str, Any]]:
    """Entries of a blend whose engines keep their defaults.

    Args:
        shares: `espeak`, or `espeak=0.5` with a weight.

    Raises:
        ConfigError: a weight that is no number.
    """
    found = [parse_weight(share, "--tts") for share in shares]
    return [{"type": name, "weight": 1.0 if weight is None else weight} for name, weight in found]
