"""What is asked of the engine is held to its ranges before it waits for anything."""

from __future__ import annotations

from typing import Any

import pytest

from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.serving.engine.requests import Sampling


@pytest.mark.parametrize(
    ("values", "knob"),
    [
        ({"seed": 2**63}, "seed"),
        ({"stop": ("a", "b", "c", "d", "e")}, "stop"),
        ({"stop": ("a" * 257,)}, "stop"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"temperature": -0.1}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"stop": ("",)}, "stop"),
    ],
)
def test_sampling_out_of_range_is_refused(values: dict[str, Any], knob: str) -> None:
    with pytest.raises(ConfigError, match=knob):
        Sampling(**values)
