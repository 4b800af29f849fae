"""Which LLM it is, told by its weights alone: the same for a model in memory and for the files that it was loaded from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from vtblender_nemo.common.errors import ModelFileError

_WHOLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_COMPUTED = ".rotary_emb.inv_freq"
"""Early Llamas store what follows from their config; models in memory leave it out of their weights."""


def fingerprint(weights: Iterable[Tensor]) -> str:
    """SHA-256 over what the weights hold, rounded to bfloat16.

    Names and order do not count, since LoRA wraps layers and renames their weights; nor does a weight that is there twice, since
    files leave out the second of tied embeddings; nor the type of floating-point numbers, since training may load what is stored
    in float32 as bfloat16.

    Args:
        weights: all weights of a causal LM, LoRA left out, not quantised.
    """
    total = hashlib.sha256()
    for digest in sorted({_digest(weight) for weight in weights}):
        total.update(digest)
    return total.hexdigest()


def folder_fingerprint(name_or_path: str | Path, *, knob: str) -> str:
    """The fingerprint of a Hugging Face folder or hub name; its safetensors are read one by one, and no model is built.

    Args:
        name_or_path: of an LLM with weights that are not quantised.
        knob: what names it, for errors.

    Raises:
        ModelFileError: no safetensors there that can be read.
    """
    from safetensors import SafetensorError

    try:
        return fingerprint(_stored_weights(str(name_or_path)))
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ModelFileError(
            f"the LLM's weights cannot be read ({error})",
            value=str(name_or_path),
            expected=f"a Hugging Face folder or hub name with {_WHOLE} or {_INDEX}",
            knob=knob,
        ) from error


def _digest(weight: Tensor) -> bytes:
    weight = weight.detach()
    kind = "float" if weight.is_floating_point() else str(weight.dtype)
    values = weight.to(torch.bfloat16) if weight.is_floating_point() else weight
    digest = hashlib.sha256(f"{kind} {tuple(weight.shape)}".encode())
    digest.update(values.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.digest()


def _stored_weights(name_or_path: str) -> Iterator[Tensor]:
    from safetensors import safe_open

    for path in weight_files(name_or_path):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (no mapping)
                if not name.endswith(_COMPUTED):
                    yield file.get_tensor(name)


def weight_files(name_or_path: str) -> list[str]:
    """Paths of all safetensors of a folder, or of the cache that they are downloaded to.

    Raises:
        OSError: there are none.
    """
    from transformers.utils.hub import cached_file

    try:
        return [str(cached_file(name_or_path, _WHOLE))]
    except OSError:
        index = Path(str(cached_file(name_or_path, _INDEX)))
    names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    return [str(cached_file(name_or_path, name)) for name in names]
