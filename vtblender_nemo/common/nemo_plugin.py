"""Makes this package's classes restorable by NeMo, whichever of the two is imported first.

NeMo restores a `.nemo` only into classes of allowed packages (`nemo.core.classes.common.ALLOWED_TARGET_PREFIXES`). Importing NeMo
takes over ten seconds, so the entry is made at once if NeMo is loaded, and otherwise at the moment it is.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

_NEMO_MODULE = "nemo.core.classes.common"
_PREFIX = "vtblender_nemo."


def allow_in_nemo() -> None:
    """Adds this package to NeMo's allow-list, now or when NeMo gets imported."""
    loaded = sys.modules.get(_NEMO_MODULE)
    if loaded is not None:
        _add_prefix(loaded)
    elif not any(isinstance(finder, _AfterNemo) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterNemo())


def _add_prefix(nemo_common: ModuleType) -> None:
    if _PREFIX not in nemo_common.ALLOWED_TARGET_PREFIXES:
        nemo_common.ALLOWED_TARGET_PREFIXES.append(_PREFIX)


class _AfterNemo(importlib.abc.MetaPathFinder):
    """Waits for one module, wraps its loader, and leaves."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != _NEMO_MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _ThenAllow(spec.loader)
        return spec


class _ThenAllow(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:  # `inspect` and `pkgutil` ask the loader for sources
        return getattr(self._loader, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _add_prefix(module)
