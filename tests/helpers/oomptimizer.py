# Copyright (c) 2024, NVIDIA CORPORATION.  All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""The part of NeMo's `scripts/speech_recognition/oomptimizer.py` that runs without a GPU; NeMo's package leaves its scripts out.

`ProfilingBatchGenerator` is NeMo's code but for docstrings and lint; `search` is the script's loop, in a function that needs
CUDA.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from nemo.core.neural_types import AudioSignal, LabelsType, LengthsType, MaskType, NeuralType


class ProfilingBatchGenerator:
    """Makes micro-batches by a model's schema, and searches for the largest that fits."""

    def __init__(
        self,
        schema: dict,
        start_batch_size: int = 32,
        rel_gap_thresh: float = 0.05,
        device: str = "cuda",
    ):
        self.schema = schema
        self.start_batch_size = start_batch_size
        self.rel_gap_thresh = rel_gap_thresh
        self.device = device
        self.reset()

    def __call__(self, input_seq_length: int, output_seq_length: int):
        B = self._current
        select_seq_length = {"input": input_seq_length, "output": output_seq_length}
        batch = []
        names = []
        for item in self.schema["inputs"]:
            nt = item["type"]
            if isinstance(nt, str) and nt == "constant":
                if isinstance(val := item["value"], str) and val == "batch":
                    tnsr = torch.tensor([B], dtype=torch.long, device=self.device)
                else:
                    tnsr = torch.tensor([val], dtype=torch.long, device=self.device)
            elif not isinstance(nt, NeuralType):  # placeholder
                tnsr = torch.tensor([])
            elif isinstance(nt.elements_type, AudioSignal):
                seq_length = select_seq_length[item["seq_length"]]
                tnsr = torch.randn(B, seq_length, dtype=torch.float32, device=self.device)
            elif isinstance(nt.elements_type, LengthsType):
                seq_length = select_seq_length[item["seq_length"]]
                tnsr = torch.ones(B, dtype=torch.long, device=self.device) * seq_length
            elif isinstance(nt.elements_type, LabelsType):
                seq_length = select_seq_length[item["seq_length"]]
                tnsr = torch.randint(0, item["vocab_size"], size=(B, seq_length), device=self.device)
            elif isinstance(nt.elements_type, MaskType):
                seq_length = select_seq_length[item["seq_length"]]
                tnsr = torch.ones(B, seq_length, device=self.device)
            else:
                raise RuntimeError("Unexpected item in oomptimizer schema: {item}")
            batch.append(tnsr)
            names.append(item.get("name"))
        args = [elem for name, elem in zip(names, batch, strict=True) if name is None]
        kwargs = {name: elem for name, elem in zip(names, batch, strict=True) if name is not None}
        if not kwargs and self.schema["cls"] is tuple:
            return tuple(args)
        return self.schema["cls"](*args, **kwargs)

    @property
    def max_batch_size(self) -> int | None:
        """
        Return the solution of the batch size search problem.
        It will keep returning None until the search is done.
        """
        if (
            self._max_ok is not None
            and self._min_err is not None
            and (self.current_rel_gap <= self.rel_gap_thresh or self._min_err - self._max_ok <= 1)
        ):
            return self._max_ok
        return None

    @property
    def current_rel_gap(self) -> float | None:
        """
        Return the current gap between the largest batch that works and the smallest batch that triggers OOM.
        The gap is defined as the batch size difference divided by the larger element.
        E.g., if the best found batch size is 95 and the smallest that triggers OOM is 100, the gap is 0.05.
        """
        if self._min_err is None or self._max_ok is None:
            return None
        return (self._min_err - self._max_ok) / self._min_err

    def reset(self):
        """Reset the generator to prepare it for a new search."""
        self._current = self.start_batch_size
        self._max_ok = None  # max batch size that works
        self._min_err = None  # min batch size that doesn't work

    def advance(self, oom: bool) -> bool:
        """
        Adjusts the current batch size based on the outcome.
        Returns a bool indicating whether the calibration is complete.
        """
        if self.max_batch_size is not None:
            return True

        if oom:
            # Training step failed with OOM.
            # Update the minimum known batch size that causes an error.
            self._min_err = min(float("inf") if self._min_err is None else self._min_err, self._current)
            # Training step failed on OOM
            if self._max_ok is None:
                # We haven't found a batch size that works yet, keep going 2x down.
                self._current = round(self._current / 2)
            else:
                # Try the middle-point between the known extremes.
                self._current = round((self._max_ok + self._min_err) / 2)
        else:
            # Training step successful.
            # Update the maximum known batch size that works.
            self._max_ok = max(-1 if self._max_ok is None else self._max_ok, self._current)
            if self._min_err is None:
                # We haven't found a batch size that causes an error yet, keep going 2x higher
                self._current *= 2
            else:
                # Try the middle-point between the known extremes.
                self._current = round((self._max_ok + self._min_err) / 2)

        return False


def search(
    model: Any,
    lengths: list[tuple[int, int]],
    runs_out: Callable[[Any], bool],
    *,
    start_batch_size: int = 4,
    threshold: float = 0.05,
) -> list[int]:
    """The most conversations of a micro-batch for every length, found as the script does.

    Args:
        model: has `oomptimizer_schema`, `setup_optimization` and `training_step`.
        lengths: samples of audio and tokens of text, ascending.
        runs_out: whether a micro-batch does not fit; stands for the GPU's memory.
        start_batch_size: where the search starts.
        threshold: the gap at which it ends.
    """
    optimizer, _ = model.setup_optimization({"name": "adamw", "lr": 1e-7, "weight_decay": 0.0})
    gen = ProfilingBatchGenerator(model.oomptimizer_schema, start_batch_size, threshold, device="cpu")
    found = []
    for audio_len, text_len in reversed(lengths):
        gen.reset()
        finished = False
        while not finished:
            batch = gen(audio_len, text_len)
            try:
                if runs_out(batch):
                    raise torch.cuda.OutOfMemoryError
                optimizer.zero_grad()
                out = model.training_step(batch, 0)
                out["loss"].sum().backward()
                optimizer.step()
                oom = False
            except torch.cuda.OutOfMemoryError:
                oom = True
            finished = gen.advance(oom)
        found.append(gen.max_batch_size)
        gen.start_batch_size = gen.max_batch_size * 2
    return found[::-1]
