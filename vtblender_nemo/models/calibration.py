"""What NeMo's OOMptimizer needs to find the largest micro-batch of every bucket: how one is made of random values.

Shapes: B conversations, L tokens, S samples.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from nemo.core.neural_types import AudioSignal, LabelsType, LengthsType, NeuralType
from torch import Tensor

from vtblender_nemo.common.batch import Batch
from vtblender_nemo.common.chat import ChatFormat


def profiling_schema(chat_format: ChatFormat) -> dict[str, Any]:
    """The schema of NeMo's `ProfilingBatchGenerator`: audio is its input, text its output.

    It has no mask, since NeMo's script takes `MaskType` for the `LabelsType` that it is a kind of, and wants a vocabulary for it.
    """
    ids = {"type": NeuralType(("B", "T"), LabelsType()), "vocab_size": len(chat_format.tokenizer)}
    return {
        "cls": partial(profiling_batch, chat_format.audio_locator_id),
        "inputs": [
            {"name": "audios", "type": NeuralType(("B", "T"), AudioSignal()), "seq_length": "input"},
            {"name": "audio_lens", "type": NeuralType(("B",), LengthsType()), "seq_length": "input"},
            {"name": "input_ids", **ids, "seq_length": "output"},
            {"name": "input_lens", "type": NeuralType(("B",), LengthsType()), "seq_length": "output"},
        ],
    }


def profiling_batch(
    locator_id: int, audios: Tensor, audio_lens: Tensor, input_ids: Tensor, input_lens: Tensor
) -> Batch:
    """A micro-batch of conversations of an audio and then text, all of which are targets: the most that a length can cost.

    Args:
        locator_id: takes the first token's place, and is taken off all others, where it stands by chance.
        audios: (B, S).
        audio_lens: (B,).
        input_ids: (B, L) random ids.
        input_lens: (B,), each L.
    """
    ids = input_ids.masked_fill(input_ids == locator_id, abs(locator_id - 1))
    ids[:, 0] = locator_id
    mask = ids != locator_id
    names = [str(number) for number in range(len(ids))]
    return Batch(ids, input_lens, mask, audios, audio_lens, sources=["oomptimizer"] * len(ids), ids=names)
