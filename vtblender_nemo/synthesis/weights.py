"""Names with weights, as flags give them."""

from __future__ import annotations

from vtblender_nemo.common.errors import ConfigError


def parse_weight(text: str, knob: str) -> tuple[str, float | None]:
    """`person=2` as a name and its weight, which is None where none is given.

    Raises:
        ConfigError: a weight that is no number.
    """
    name, _, weight = text.partition("=")
    try:
        return name.strip(), float(weight) if weight.strip() else None
    except ValueError as error:
        raise ConfigError("weight is no number", value=text, expected="name=2", knob=knob) from error


def parse_weights(text: str, knob: str) -> dict[str, float | None]:
    """`person,yes_no=2` as names with their weights, None where none is given.

    Raises:
        ConfigError: a weight that is no number.
    """
    return dict(parse_weight(item, knob) for item in text.split(",") if item.strip())
