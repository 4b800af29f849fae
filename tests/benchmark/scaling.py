"""How time and memory of a training step grow, with a plot.

    python tests/benchmark/scaling.py [--plot tests/benchmark/scaling.png]

One thing grows at a time: packed positions (conversations of 256), the length of one conversation, seconds of audio (segments
of 10 s), and the rank of LoRA at 1,024 positions. Prints seconds and MiB of each step and, as the last line, the slopes of
their logarithms from the third point on: 1 is linear.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import torch

from tests.benchmark.flops import median_seconds
from tests.benchmark.training_sides import make_model, peak_above
from tests.helpers.models import quiet, speech
from vtblender_nemo import VTBlenderModel
from vtblender_nemo.common.batch import Batch

POSITIONS = (256, 512, 1024, 2048, 4096, 8192)
SEGMENT_SECS, SEGMENTS = 10.0, (1, 2, 4, 8, 16)
RANKS = (4, 8, 16, 32, 64)
TARGETS = 0.2
Point = tuple[float, float, float]


def text(lens: list[int]) -> Batch:
    """Conversations of text whose last fifth is the answer."""
    longest = max(lens)
    ids = torch.randint(10, 4000, (len(lens), longest), generator=torch.Generator().manual_seed(0))
    columns, ends = torch.arange(longest), torch.tensor(lens)
    is_answer = (columns >= (1 - TARGETS) * ends[:, None]) & (columns < ends[:, None])
    names = [str(number) for number in range(len(lens))]
    return Batch(
        ids, ends, is_answer, torch.zeros(0, 0), torch.zeros(0, dtype=torch.int64), ["text"] * len(lens), names
    )


def heard(segments: int, locator: int) -> Batch:
    """One conversation for each segment: the audio, then 8 tokens of which 4 are the answer."""
    ids = torch.randint(10, 4000, (segments, 9), generator=torch.Generator().manual_seed(0))
    ids[:, 0] = locator
    is_answer = torch.zeros_like(ids, dtype=torch.bool)
    is_answer[:, 5:] = True
    wave = torch.from_numpy(speech(SEGMENT_SECS))
    names = [str(number) for number in range(segments)]
    return Batch(
        input_ids=ids,
        input_lens=torch.full((segments,), 9),
        loss_mask=is_answer,
        audios=wave.expand(segments, -1).contiguous(),
        audio_lens=torch.full((segments,), len(wave)),
        sources=["asr"] * segments,
        ids=names,
    )


def cases(model: VTBlenderModel) -> Iterator[tuple[str, float, Batch]]:
    """What grows, how far, and the batch."""
    for positions in POSITIONS:
        yield "packed positions", positions, text([256] * (positions // 256))
    for positions in POSITIONS:
        yield "positions of one conversation", positions, text([positions])
    for segments in SEGMENTS:
        yield "seconds of audio", segments * SEGMENT_SECS, heard(segments, model.chat_format.audio_locator_id)


def cost(model: VTBlenderModel, batch: Batch) -> tuple[float, float]:
    """Seconds and MiB of forward and backward."""

    def step() -> None:
        loss = model.speech_llm(batch)
        (loss.sum / loss.targets).backward()
        model.zero_grad(set_to_none=True)

    return median_seconds(step, rounds=3), peak_above(step)


def measure() -> dict[str, list[Point]]:
    """Size, seconds and MiB by what grows."""
    found: dict[str, list[Point]] = {}

    def note(name: str, size: float, model: VTBlenderModel, batch: Batch) -> None:
        seconds, mib = cost(model, batch)
        found.setdefault(name, []).append((size, seconds, mib))
        print(f"{name:30} {size:6.0f}  {seconds:7.3f} s  {mib:6.0f} MiB", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        model = make_model(Path(folder))
        for name, size, batch in cases(model):
            note(name, size, model, batch)
    for rank in RANKS:
        with tempfile.TemporaryDirectory() as folder:
            model = make_model(Path(folder), lora={"r": rank})
            note("rank of LoRA", rank, model, text([256] * 4))
    return found


def slope(points: list[Point], column: int) -> float:
    """Of the logarithm of seconds (1) or MiB (2) against that of the size; the first points are mostly fixed cost."""
    sizes, values = zip(*((point[0], point[column]) for point in points[2:]), strict=True)
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def draw(found: dict[str, list[Point]], path: Path) -> None:
    """One column for each thing that grows: seconds above, MiB below."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, len(found), figsize=(3.2 * len(found), 5.4), sharex="col", sharey="row")
    for column, (name, points) in enumerate(found.items()):
        for row, unit in ((0, "seconds"), (1, "MiB")):
            axis = axes[row, column]
            sizes, values = zip(*((point[0], point[row + 1]) for point in points), strict=True)
            axis.loglog(sizes, values, marker="o", color="#2a6f97")
            linear = [values[-1] * size / sizes[-1] for size in sizes]
            axis.loglog(sizes, linear, linestyle=":", color="#8d99ae")
            axis.set_title(f"slope {slope(points, row + 1):.2f}", fontsize=9)
            axis.grid(alpha=0.3)
            axis.set_xticks(sizes, [f"{size:g}" for size in sizes])
            axis.minorticks_off()
            if column == 0:
                axis.set_ylabel(f"{unit} of a step")
        axes[1, column].set_xlabel(name)
    figure.suptitle("Cost of a training step; dotted: linear through the last point", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plot", type=Path, default=Path(__file__).with_suffix(".png"))
    arguments = parser.parse_args()
    quiet()
    found = measure()
    draw(found, arguments.plot)
    slopes: dict[str, Any] = {
        name: {"seconds": round(slope(points, 1), 2), "memory": round(slope(points, 2), 2)}
        for name, points in found.items()
    }
    print(json.dumps({"slopes": slopes}))


if __name__ == "__main__":
    main()
