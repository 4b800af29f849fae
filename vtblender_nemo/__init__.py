"""VoiceTextBlender for NVIDIA NeMo: a text LLM learns to hear and keeps its text skills."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vtblender_nemo.common.nemo_plugin import allow_in_nemo

if TYPE_CHECKING:
    from vtblender_nemo.models.vtblender import VTBlenderModel

__all__ = ["VTBlenderModel"]
__version__ = "0.1.0"

allow_in_nemo()


def __getattr__(name: str) -> Any:
    if name == "VTBlenderModel":
        from vtblender_nemo.models.vtblender import VTBlenderModel

        return VTBlenderModel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
