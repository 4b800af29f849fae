"""NeMo's vLLM plugin without vLLM: its own code on configuration, weights and frames, which needs no GPU.

vLLM's names that it imports become empty classes; none of them is used by what is returned here.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from types import ModuleType
from typing import Any

import pytest

_MODULES = (
    "",
    ".config",
    ".config.multimodal",
    ".logger",
    ".inputs",
    ".multimodal",
    ".multimodal.inputs",
    ".multimodal.parse",
    ".multimodal.processing",
    ".multimodal.processing.dummy_inputs",
    ".utils",
    ".utils.tensor_schema",
)


class _Anything:
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __class_getitem__(cls, item: Any) -> type[_Anything]:
        return cls


class _Empty(ModuleType):
    __path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name == "init_logger":
            return logging.getLogger
        return type(name, (_Anything,), {})


def load(monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, ModuleType]:
    """The plugin's modules `backends` and `audio`, for the length of a test."""
    plugin = "nemo.collections.speechlm2.vllm.salm"
    if importlib.util.find_spec("vllm") is None:
        for name in _MODULES:
            monkeypatch.setitem(sys.modules, f"vllm{name}", _Empty(f"vllm{name}"))
    loaded = [importlib.import_module(f"{plugin}.{name}") for name in ("backends", "audio")]
    for module in loaded:
        monkeypatch.delitem(sys.modules, module.__name__)
    return loaded[0], loaded[1]
