"""A training step with a teacher beside one of plain cross-entropy on the same rows.

    python tests/benchmark/imitation.py [--batch-tokens 2000] [--batches 6] [--rounds 3]

Prints the time of a step and its peak memory, both over those of plain cross-entropy, for distillation alone, for both losses,
and with the teacher's likeliest tokens alone; once with all that VoiceTextBlender trains, once with the adapter alone. The last
line is one JSON object: `time` and `memory` by what is trained and by loss, `kl_time` and `kl_memory` (the largest of these with
the whole vocabulary; reach 1.35 and 1.3). float32, forward, backward and AdamW; no dropout. Seconds are those of the processor,
which other work on the machine changes less than the clock's; losses take turns and ratios are of medians. Memory is that of a
round over the micro-batches beyond the loaded model, each loss in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import soundfile as sf
import torch
from omegaconf import OmegaConf

from tests.benchmark.blend_rate import sentence
from tests.benchmark.training_sides import make_model, peak_above
from tests.helpers.corpus import RATE, write_jsonl
from tests.helpers.models import quiet, speech
from vtblender_nemo import VTBlenderModel
from vtblender_nemo.common.batch import Batch
from vtblender_nemo.data.loader import BlendDataModule
from vtblender_nemo.models.target_loss import Imitation

PLAIN = "answers"
LOSSES = {
    PLAIN: Imitation(),
    "distillation": Imitation(ce_weight=0.0, kl_weight=1.0),
    "both": Imitation(kl_weight=1.0),
    "both, top 16": Imitation(kl_weight=1.0, top_k=16),
    "both, top 256": Imitation(kl_weight=1.0, top_k=256),
}
WHOLE = ("distillation", "both")
TRAINED: dict[str, dict[str, Any]] = {
    "joint": {},
    "adapter": {"lora": None, "perception": {"freeze_encoder": True}},
}
ROWS, BUCKETS = 80, 5
WORDS_A_SECOND = 2.7


def write_rows(folder: Path) -> str:
    """Imitation rows with LibriSpeech's spread of lengths, and answers of 5 to 60 words."""
    rng = random.Random(0)
    rows = []
    for number in range(ROWS):
        secs = round(rng.triangular(2, 19, 15), 2)
        sf.write(folder / f"{number}.flac", speech(secs, number), RATE)
        rows.append(
            {
                "id": str(number),
                "audio_filepath": f"{number}.flac",
                "duration": secs,
                "text": sentence(rng, int(WORDS_A_SECOND * secs)),
                "prompt": f"{sentence(rng, 8)}: {{audio}}",
                "answer": sentence(rng, rng.randint(5, 60)),
            }
        )
    return write_jsonl(folder / "imitation.jsonl", rows)


class Steps:
    """Steps of one model on the same micro-batches, with one loss or another.

    Args:
        trained: a key of `TRAINED`.
        batch_tokens: of a micro-batch.
        batches: how many.
    """

    def __init__(self, trained: str, batch_tokens: int, batches: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            self.model: VTBlenderModel = make_model(Path(folder), **TRAINED[trained])
            settings = {"type": "imitation", "manifest_filepath": write_rows(Path(folder))}
            train = {"input_cfg": [settings], "batch_tokens": batch_tokens, "num_buckets": BUCKETS, "buffer_size": 200}
            data = BlendDataModule(
                OmegaConf.create({"train_ds": train}),
                chat_format=self.model.chat_format,
                token_equivalent_duration=self.model.token_equivalent_duration,
                sampling_rate=self.model.sampling_rate,
                twins=True,
            )
            self.batches: list[Batch] = list(islice(data.train_dataloader(), batches))
        self.optimizer = torch.optim.AdamW([p for p in self.model.parameters() if p.requires_grad], lr=1e-5, fused=True)

    def one_round(self, loss: str) -> float:
        """Processor seconds of a step on each micro-batch."""
        self.model.speech_llm.imitation = LOSSES[loss]
        started = time.process_time()
        for batch in self.batches:
            batch = batch if LOSSES[loss].needs_twins else replace(batch, twin=None, twin_rows=None)
            found = self.model.speech_llm(batch)
            (found.sum / found.targets).backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        return time.process_time() - started

    def positions(self) -> dict[str, int]:
        """What the student and the teacher read, and how much of it is learned."""
        with torch.no_grad():
            students = [self.model.speech_llm.splice(batch)[1].lens.sum() for batch in self.batches]
        teachers = [batch.twin.input_lens.sum() for batch in self.batches if batch.twin is not None]
        targets = [batch.loss_mask.sum() for batch in self.batches]
        return {
            name: int(torch.stack(found).sum())
            for name, found in (("student", students), ("teacher", teachers), ("targets", targets))
        }


def seconds(steps: Steps, rounds: int) -> dict[str, float]:
    """Of a round with each loss: the median of some, in which the losses take turns."""
    for loss in LOSSES:
        steps.one_round(loss)
    found: dict[str, list[float]] = {loss: [] for loss in LOSSES}
    for _ in range(rounds):
        for loss in LOSSES:
            found[loss].append(steps.one_round(loss))
    return {loss: statistics.median(values) for loss, values in found.items()}


def memory(trained: str, loss: str, batch_tokens: int, batches: int) -> float:
    """MiB of a round beyond the loaded model."""
    quiet()
    steps = Steps(trained, batch_tokens, batches)
    return peak_above(lambda: steps.one_round(loss))


def alone(work: Callable[..., float], *arguments: Any) -> float:
    """What comes of work in a process of its own, where what is freed goes back at once."""
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(work, *arguments).result()


def over_plain(found: dict[str, float]) -> dict[str, float]:
    return {loss: round(value / found[PLAIN], 3) for loss, value in found.items() if loss != PLAIN}


def measure(batch_tokens: int, batches: int, rounds: int) -> dict[str, Any]:
    """Ratios by what is trained and by loss."""
    result: dict[str, Any] = {"time": {}, "memory": {}}
    for trained in TRAINED:
        steps = Steps(trained, batch_tokens, batches)
        print(f"{trained}: positions {steps.positions()}", flush=True)
        secs = seconds(steps, rounds)
        del steps
        mib = {loss: alone(memory, trained, loss, batch_tokens, batches) for loss in LOSSES}
        for loss in LOSSES:
            each = f"{secs[loss] / batches:6.2f} s, {mib[loss]:6.0f} MiB"
            print(
                f"{trained:8} {loss:14} {each}  x{secs[loss] / secs[PLAIN]:.2f}  x{mib[loss] / mib[PLAIN]:.2f}",
                flush=True,
            )
        result["time"][trained], result["memory"][trained] = over_plain(secs), over_plain(mib)
    for key in ("time", "memory"):
        result[f"kl_{key}"] = max(ratios[loss] for ratios in result[key].values() for loss in WHOLE)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-tokens", type=int, default=2000)
    parser.add_argument("--batches", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    quiet()
    print(json.dumps(measure(arguments.batch_tokens, arguments.batches, arguments.rounds)))


if __name__ == "__main__":
    main()
