"""Whether a blend can be imitated: there have to be twins, and the answers have to be those of the LLM that is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.common.llm_fingerprint import folder_fingerprint
from vtblender_nemo.data.entries import TYPES_WITH_TWINS, train_entries
from vtblender_nemo.data.typed import read_config
from vtblender_nemo.models.target_loss import Imitation

if TYPE_CHECKING:
    from vtblender_nemo.models.vtblender import VTBlenderModel


def read_imitation(model: DictConfig) -> Imitation:
    """The settings `model.imitation`.

    Args:
        model: the section `model`.

    Raises:
        ConfigError: see `Imitation.check`.
    """
    settings = read_config(Imitation, model.get("imitation") or {}, "model.imitation")
    settings.check(train_llm=model.get("train_llm", False))
    return settings


def check_twins(settings: Imitation, train_ds: Any) -> None:
    """Sees that what the settings ask for is in the blend.

    Args:
        settings: `model.imitation`.
        train_ds: `data.train_ds`.

    Raises:
        ConfigError: no source has twins, and settings that differ from plain cross-entropy would change nothing.
    """
    if not settings.needs_twins:
        return
    types = [entry.get("type") for _, entry in train_entries(train_ds)]
    if not TYPES_WITH_TWINS & set(types):
        raise ConfigError(
            "imitation is set, and no source of the blend has anything to be imitated",
            value={"types": sorted({str(kind) for kind in types}), "ce_weight, kl_weight": _weights(settings)},
            expected=f"a source of type {' or '.join(sorted(TYPES_WITH_TWINS))}, or ce_weight 1 and kl_weight 0",
            knob="data.train_ds, or model.imitation",
        )


def check_answering_llm(train_ds: Any, model: VTBlenderModel) -> None:
    """Sees that sources whose answers an LLM wrote were written by the one that is trained.

    The weights are read at most once, and not at all where no source names its LLM.

    Args:
        train_ds: `data.train_ds`.
        model: that is trained.

    Raises:
        ConfigError: another LLM wrote them.
    """
    named = [(place, entry["llm_fingerprint"]) for place, entry in train_entries(train_ds) if _is_named(entry)]
    if not named:
        return
    name = model.cfg.pretrained_llm
    is_quantised = bool(model.cfg.get("quantization"))  # then the weights in memory are others than those that answered
    own = folder_fingerprint(name, knob="model.pretrained_llm") if is_quantised else model.llm.fingerprint()
    for place, found in named:
        if found != own:
            raise ConfigError(
                "the answers that are to be imitated are another LLM's",
                value=found,
                expected=f"{own}, of {name}: rows that examples/synthesize_imitation.py made with it",
                knob=f"{place}.llm_fingerprint, or model.pretrained_llm",
            )


def _is_named(entry: dict[str, Any]) -> bool:
    return entry.get("llm_fingerprint") is not None


def _weights(settings: Imitation) -> tuple[float, float]:
    return settings.ce_weight, settings.kl_weight
