"""More ranks: tokens a second and bytes sent, measured on this machine with gloo, and a model of a step at 64 GPUs.

    python tests/benchmark/ranks.py [--steps 10]

Every rank trains the same small model (`shapes.py`) on a batch of the same size (weak scaling). Bytes are counted by the kernel:
the ranks run in a network of their own, where that is allowed, and what passes its loopback is what they send. The least that an
all-reduce has to send is 2 (R - 1) times the gradients, over all R ranks. A step is modelled as computing, which ranks share the
cores for, and sending: its two numbers come from 1 and 2 ranks, and 4 ranks check it. The same model with a GPU cluster's numbers
gives the estimate.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import logging
import os
import socket
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import lightning.pytorch as pl
import torch
import typer
from torch.utils.data import DataLoader, IterableDataset

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.benchmark.shapes import small_gemma_proportions  # noqa: E402
from tests.helpers.models import assistant, audio_part, user  # noqa: E402
from tests.helpers.ranks import run_ranks  # noqa: E402
from vtblender_nemo import VTBlenderModel  # noqa: E402
from vtblender_nemo.common.batch import Batch  # noqa: E402
from vtblender_nemo.common.conversation import from_messages  # noqa: E402
from vtblender_nemo.models.generation import collate  # noqa: E402
from vtblender_nemo.training.replicated import ReplicatedStrategy  # noqa: E402

WARM_UP = 2
NEW_NETWORK = 0x40000000  # CLONE_NEWNET
BYTES_A_GRADIENT = 4


class Same(IterableDataset):
    """The same batch again and again: speech, and text about it."""

    def __init__(self, model: VTBlenderModel) -> None:
        rows = [
            [user("Transcribe:", audio_part(4.0, 1)), assistant("some words that were said " * 3)],
            [user(audio_part(3.0, 2), "What is it about?"), assistant("about this and that " * 4)],
            [user("Tell me something"), assistant("something that is long enough " * 8)],
        ]
        chats = [from_messages(row, id=str(number)) for number, row in enumerate(rows)]
        self.batch = collate(chats, model.chat_format, model.sampling_rate)

    def __iter__(self) -> Iterator[Batch]:
        while True:
            yield self.batch


class Steps(pl.Callback):
    """Seconds of every step, and bytes on the loopback from the first counted step to the last."""

    def __init__(self) -> None:
        self._started = 0.0
        self.seconds: list[float] = []
        self.bytes: list[int] = []

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        trainer.strategy.barrier()
        if trainer.global_step == WARM_UP:
            self.bytes.append(sent())
        self._started = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        trainer.strategy.barrier()
        self.seconds.append(time.perf_counter() - self._started)

    def on_train_end(self, *args: Any) -> None:
        self.bytes.append(sent())


def sent() -> int:
    """Bytes that this network's loopback has sent."""
    lines = Path("/proc/net/dev").read_text().splitlines()
    return int(next(line for line in lines if line.strip().startswith("lo:")).split(":")[1].split()[8])


def own_network() -> bool:
    """Gives this process and its children a network of their own; whether that was allowed."""
    if ctypes.CDLL(None, use_errno=True).unshare(NEW_NETWORK):
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        flags_up = struct.pack("16sh14x", b"lo", 0x1)  # IFF_UP
        fcntl.ioctl(any_socket, 0x8914, flags_up)  # SIOCSIFFLAGS
    return True


def rank(model: VTBlenderModel, steps: int, found: Path) -> None:
    """What one rank does."""
    size, measured = int(os.environ.get("WORLD_SIZE", "1")), Steps()
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=size,
        strategy=ReplicatedStrategy(timedelta(minutes=10)) if size > 1 else "auto",
        max_steps=WARM_UP + steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[measured],
    )
    trainer.fit(model.train(), DataLoader(Same(model), batch_size=None))
    if trainer.is_global_zero:
        first, last = measured.bytes
        seconds = statistics.median(measured.seconds[WARM_UP:])
        found.write_text(json.dumps({"step_secs": seconds, "bytes_a_step": (last - first) / steps}))


def measure(model: VTBlenderModel, ranks: int, steps: int, folder: Path) -> dict[str, float]:
    found = folder / f"{ranks}.json"
    run_ranks(rank, ranks, model, steps, found)
    values = json.loads(found.read_text())
    gradients = BYTES_A_GRADIENT * sum(model.trained_parameters().values())
    least = 2 * (ranks - 1) * gradients
    positions = int(Same(model).batch.input_lens.sum()) + int(7.0 / model.token_equivalent_duration)
    values["positions_a_sec"] = ranks * positions / values["step_secs"]
    values["bytes_over_least"] = values["bytes_a_step"] / least if least else 0.0
    return values


def modelled(computing: float, sending: float, ranks: int, cores: int) -> float:
    """Seconds of a step.

    Args:
        computing: seconds of a step of one rank.
        sending: seconds for all gradients to pass once.
        ranks: R; each sends 2 (R - 1) / R times the gradients.
        cores: which ranks share.
    """
    return computing * max(1.0, ranks / cores) + sending * 2 * (ranks - 1) / ranks


def cluster(trained: float, flops: float, gpus: int) -> dict[str, float]:
    """A step on 8-GPU nodes, computing at `MFU` of the peak, then adding up gradients; nothing overlaps.

    Args:
        trained: parameters.
        flops: of one GPU's step.
        gpus: how many.
    """
    computing = flops / (PEAK_FLOPS * MFU)
    bandwidth = NODE_BANDWIDTH if gpus <= 8 else NETWORK_BANDWIDTH
    sending = 2 * (gpus - 1) / gpus * trained * BYTES_A_GRADIENT / bandwidth
    return {
        "computing_ms": 1e3 * computing,
        "sending_ms": 1e3 * sending,
        "share_sending": sending / (computing + sending),
    }


PEAK_FLOPS = 989e12
"""Dense bfloat16 of an H100 SXM (NVIDIA's data sheet)."""
MFU = 0.35
"""Assumed: what a training of few, short conversations a GPU may reach; measured nowhere."""
NODE_BANDWIDTH = 350e9
"""Bytes/s of an all-reduce inside a node with NVLink, assumed of 900 GB/s in both directions together."""
NETWORK_BANDWIDTH = 42e9
"""Bytes/s of an all-reduce over 400 Gbit/s a GPU, assumed."""
PAPER_TRAINED = 702e6
"""Encoder, adapter, projection and LoRA of the paper's model; see `memory.py`."""
PAPER_FLOPS = 4 * 2.0e9 * 1100 + 6 * 0.70e9 * 1000
"""Of 4 audio conversations of 20 s: 1,000 frames and 100 tokens through 2.0 B frozen weights of layers, forward and back to the
input, and the frames through what is trained."""


def main(steps: Annotated[int, typer.Option(help="that are counted, of each number of ranks")] = 10) -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    apart, cores = own_network(), os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        model = small_gemma_proportions(folder)
        found = {ranks: measure(model, ranks, steps, folder) for ranks in (1, 2, 4)}
    computing = found[1]["step_secs"]
    sending = max(0.0, found[2]["step_secs"] - computing)  # 2 (R - 1) / R is 1
    print(
        f"network of its own: {apart}; {cores} cores; {sum(model.trained_parameters().values()):,} trained parameters"
    )
    print("ranks  step s  modelled s  positions/s  bytes/step  over the least")
    for ranks, row in found.items():
        row["modelled_secs"] = modelled(computing, sending, ranks, cores)
        print(
            f"{ranks:5}  {row['step_secs']:6.2f}  {row['modelled_secs']:10.2f}  {row['positions_a_sec']:11.0f}  "
            f"{row['bytes_a_step']:10.3g}  {row['bytes_over_least']:14.3f}"
        )
    estimates = {gpus: cluster(PAPER_TRAINED, PAPER_FLOPS, gpus) for gpus in (1, 8, 64)}
    for gpus, row in estimates.items():
        print(f"{gpus} GPUs, estimated: " + ", ".join(f"{name} {value:.3g}" for name, value in row.items()))
    print(json.dumps({"own_network": apart, "measured": found, "estimated": estimates}))


if __name__ == "__main__":
    typer.run(main)
