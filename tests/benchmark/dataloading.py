"""Loading from tars beside the host's loader: the same rows, token budget and bins of lengths.

    python -m tests.benchmark.dataloading [--rounds 7] [--workers 0 2]

Conversations/s and audio seconds/s, per second of wall time and of CPU time. Each side runs in a process of its own, whose CPU
time is that of its workers too; the sides take turns, ratios are of medians. The last line is one JSON object: `speedup_vs_nemo`
(audio seconds per second of wall time, ours over NeMo's, the lowest of all numbers of workers) and `workers` with all figures.

Ours has all its checks on: limits of duration and length, placeholders against audios, samples against the manifest, finite
samples, and a state after every micro-batch. NeMo's is `SALMDataset` under `FallbackDataset`, bucketed with our bins, with or
without a thread that fills the buckets, whichever is faster; its time to fill the buffers that it draws from is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing import active_children, get_context, set_start_method
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[2]))

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np
import soundfile as sf
import torch
from scipy.signal import lfilter

from tests.benchmark.blend_rate import make_llm, sentence
from tests.helpers.corpus import FRAME_SECS, LOCATOR, RATE, write_jsonl

SHARDS, ROWS_IN_SHARD = 8, 75
BATCH_TOKENS, BUCKETS = 4000, 6
NEMO_BUFFER = (
    300  # rows, half an epoch, to shuffle and to bucket from; by default 10,000 with their files' bytes: 2.6 GB
)
WARM_UP, BATCHES = 10, 40


@dataclass(frozen=True)
class Window:
    """What a side did in one turn: times in seconds."""

    wall: float
    cpu: float
    conversations: int
    audio_secs: float


def write_corpus(folder: Path) -> None:
    """Conversations of one audio with LibriSpeech's spread of lengths, in tars of FLAC beside their manifests."""
    import tarfile

    rng = random.Random(0)
    for shard in range(SHARDS):
        rows = []
        with tarfile.open(folder / f"audio_{shard}.tar", "w") as tar:
            for number in range(shard * ROWS_IN_SHARD, (shard + 1) * ROWS_IN_SHARD):
                secs = round(rng.triangular(2, 19, 15), 2)
                path = folder / f"{number}.flac"
                sf.write(path, _voice(secs, number), RATE)
                tar.add(path, path.name)
                path.unlink()
                rows.append(_row(number, secs, rng))
        write_jsonl(folder / f"rows_{shard}.jsonl", rows)


def _voice(secs: float, seed: int) -> np.ndarray:
    """Noise with the spectrum and the syllables of a voice: FLAC halves it, as it does speech."""
    noise = np.random.default_rng(seed).standard_normal(round(secs * RATE))
    syllables = 1 + np.sin(2 * np.pi * 4 * np.arange(len(noise)) / RATE)
    return (0.01 * syllables * lfilter([1], [1, -0.95], noise)).astype(np.float32)


def _row(number: int, secs: float, rng: random.Random) -> dict[str, Any]:
    turns = [
        {"type": "text", "from": "User", "value": sentence(rng, 8)},
        {"type": "audio", "from": "User", "value": f"{number}.flac", "duration": secs},
        {"type": "text", "from": "Assistant", "value": sentence(rng, int(2.7 * secs))},
    ]
    return {"id": str(number), "conversations": turns}


def entry(folder: Path) -> dict[str, Any]:
    """The source, as both sides read it."""
    last = SHARDS - 1
    return {
        "type": "multimodal_conversation",
        "manifest_filepath": str(folder / f"rows__OP_0..{last}_CL_.jsonl"),
        "tarred_audio_filepaths": str(folder / f"audio__OP_0..{last}_CL_.tar"),
    }


def ours(folder: Path, workers: int, bins: list[float] | None) -> Iterator[Any]:
    """Micro-batches of our loader."""
    return iter(our_data(folder, workers, bins).train_dataloader())


def our_data(folder: Path, workers: int, bins: list[float] | None) -> Any:
    """Our data module; without bins it estimates them."""
    from transformers import AutoTokenizer

    from vtblender_nemo.common.chat import ChatFormat
    from vtblender_nemo.data.loader import BlendDataModule

    settings = {
        "input_cfg": [entry(folder)],
        "batch_tokens": BATCH_TOKENS,
        "num_buckets": BUCKETS,
        "bucket_bins": bins,
        "max_tokens": 2048,
        "num_workers": workers,
    }
    chat_format = ChatFormat(AutoTokenizer.from_pretrained(folder / "llm"), LOCATOR)
    return BlendDataModule(
        {"train_ds": settings}, chat_format, FRAME_SECS, RATE, skipped_path=folder / f"skipped{workers}.jsonl"
    )


def our_bins(folder: Path) -> list[float]:
    """The bins of lengths that our loader estimates."""
    loader = our_data(folder, 0, None).train_dataloader()
    next(iter(loader))
    return list(loader.state_dict_after_last_batch()["planner"]["bins"])


def nemo(folder: Path, workers: int, bins: list[float], *, concurrent: bool) -> Iterator[Any]:
    """Micro-batches of NeMo's loader; `concurrent` fills the buckets in a thread, NeMo's default."""
    from nemo.collections.common.tokenizers import AutoTokenizer

    from tests.helpers.models import quiet
    from tests.helpers.salm import salm_loader

    quiet()
    tokenizer = AutoTokenizer(str(folder / "llm"), use_fast=True)
    tokenizer.add_special_tokens({"additional_special_tokens": [LOCATOR]})
    model = SimpleNamespace(
        cfg=SimpleNamespace(prompt_format="gemma"),
        tokenizer=tokenizer,
        audio_locator_tag=LOCATOR,
        token_equivalent_duration=FRAME_SECS,
        sampling_rate=RATE,
    )
    loader = salm_loader(
        model,
        [entry(folder)],
        batch_tokens=BATCH_TOKENS,
        use_bucketing=True,
        num_buckets=len(bins) + 1,
        bucket_duration_bins=bins,
        bucket_buffer_size=NEMO_BUFFER,
        shuffle_buffer_size=NEMO_BUFFER,
        concurrent_bucketing=concurrent,
        max_duration=40.0,
        min_duration=0.1,
        max_tokens=2048,
        num_workers=workers,
    )
    return iter(loader)


def serve(make: Callable[..., Iterator[Any]], arguments: tuple[Any, ...], pipe: Connection) -> None:
    """Runs in a side's own process: takes a number of micro-batches to load, and sends back what it took."""
    torch.set_num_threads(1)
    set_start_method("fork", force=True)  # of workers, as in training; here it would be this process's own, `spawn`
    batches = make(*arguments)
    _load(batches, WARM_UP)
    before = _cpu_secs()
    pipe.send("ready")
    while count := pipe.recv():
        started = time.perf_counter()
        conversations, audio_secs = _load(batches, count)
        wall, now = time.perf_counter() - started, _cpu_secs()
        # What a side did ahead of its turn belongs to it.
        pipe.send(Window(wall, now - before, conversations, audio_secs))
        before = now
    for child in active_children():
        child.terminate()
    os._exit(0)  # NeMo's sampler may hold a thread that waits for room in its buffer


def _load(batches: Iterator[Any], count: int) -> tuple[int, float]:
    conversations, samples = 0, 0
    for _ in range(count):
        batch = next(batches)
        fields = batch if isinstance(batch, dict) else vars(batch)
        conversations += len(fields["input_ids"])
        samples += int(fields["audio_lens"].sum())
    return conversations, samples / RATE


def _cpu_secs() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime + sum(_cpu_secs_of(child.pid) for child in active_children())


def _cpu_secs_of(pid: int | None) -> float:
    ticks = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def compare(folder: Path, workers: int, bins: list[float], rounds: int) -> dict[str, dict[str, float]]:
    """Both sides' figures, and the ratios of them; NeMo's are those of the faster of its two ways to fill buckets."""
    context, pipes, processes = get_context("spawn"), {}, []
    sides = {"ours": ours, "nemo": partial(nemo, concurrent=True), "nemo alone": partial(nemo, concurrent=False)}
    for name, make in sides.items():
        pipes[name], other = context.Pipe()
        processes.append(context.Process(target=serve, args=(make, (folder, workers, bins), other)))
        processes[-1].start()
        other.close()  # or the end of a side that failed would be waited for in vain
    try:
        windows = _take_turns(pipes, rounds)
        for process in processes:
            process.join()
    finally:
        for process in processes:
            process.terminate()
    rates = {name: _rates(found) for name, found in windows.items()}
    own = rates.pop("ours")
    peer = max(rates.values(), key=lambda found: found["audio_secs_per_wall_sec"])
    return {"ours": own, "nemo": peer, "ratio": {key: own[key] / peer[key] for key in own}}


def _take_turns(pipes: dict[str, Connection], rounds: int) -> dict[str, list[Window]]:
    for pipe in pipes.values():
        pipe.recv()
    windows: dict[str, list[Window]] = {name: [] for name in pipes}
    for _ in range(rounds):
        for name, pipe in pipes.items():
            pipe.send(BATCHES)
            windows[name].append(pipe.recv())
    for pipe in pipes.values():
        pipe.send(0)
        pipe.close()
    return windows


def _rates(windows: list[Window]) -> dict[str, float]:
    return {
        f"{what}_per_{time}_sec": statistics.median(getattr(w, what) / getattr(w, time) for w in windows)
        for what in ("conversations", "audio_secs")
        for time in ("wall", "cpu")
    }


def main() -> None:
    """Prints a table, and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    args = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_llm(folder / "llm")
        write_corpus(folder)
        bins = our_bins(folder)
        for workers in args.workers:
            figures = compare(folder, workers, bins, args.rounds)
            found[str(workers)] = figures
            sys.stdout.write(f"\n{workers} workers\n")
            for key in figures["ours"]:
                columns = (f"{side} {figures[side][key]:10.2f}" for side in figures)
                sys.stdout.write(f"  {key:28} {'   '.join(columns)}\n")
            sys.stdout.flush()
    speedup = min(figures["ratio"]["audio_secs_per_wall_sec"] for figures in found.values())
    rounded = {
        workers: {side: {key: round(value, 2) for key, value in of_side.items()} for side, of_side in sides.items()}
        for workers, sides in found.items()
    }
    sys.stdout.write(json.dumps({"speedup_vs_nemo": round(speedup, 3), "workers": rounded}) + "\n")


if __name__ == "__main__":
    main()
