"""Rows a second and core of the offline speech engines: `python tests/benchmark/tts_rate.py --rows 300`.

Rows are chats of four sentences; each gives up to two rows with speech, as in the paper. One process, no writing of shards.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import itertools
import json
import random
import time
from typing import Annotated

import typer

from vtblender_nemo.common.errors import MissingDependencyError
from vtblender_nemo.synthesis.mixed_modal.work import MixedModalWork, read_mixed_modal
from vtblender_nemo.synthesis.work import InputRow, Made

SENTENCES = [
    "I am planning a trip to Scotland next summer with my two children.",
    "Could you tell me which places we should not miss?",
    "We like the sea and do not want to drive more than 3 hours a day.",
    "Last year we spent $1,200 on a week in Wales.",
    "What will the weather be like in July?",
    "Please write it as a short list.",
    "My brother says that Edinburgh is the best place to start.",
    "Is there a train along the coast?",
]


def chats(count: int) -> list[InputRow]:
    rng = random.Random(0)
    return [
        InputRow(f"chat{number}", "", {"messages": [
            {"role": "user", "content": " ".join(rng.sample(SENTENCES, 4))}, {"role": "assistant", "content": "Gladly."},
        ]})
        for number in range(count)
    ]  # fmt: skip


def main(
    rows: Annotated[int, typer.Option(help="Chats.")] = 300,
    engine: Annotated[list[str], typer.Option(help="Engines.")] = ["espeak", "flite"],  # noqa: B006
) -> None:
    for name in engine:
        try:
            config = read_mixed_modal({"engines": [{"type": name}], "speech": {"normalizer": "num2words"}})
            worker = MixedModalWork(config, 0).open()
        except MissingDependencyError as error:
            print(f"{name}: {error}")
            continue
        worker(chats(4))  # loads what is loaded late
        started, cpu = time.perf_counter(), sum(os.times()[:4])
        batches = (worker(chats(rows)[start : start + 32]) for start in range(0, rows, 32))
        outcomes = list(itertools.chain.from_iterable(itertools.chain.from_iterable(batches)))
        wall = time.perf_counter() - started
        made = [outcome for outcome in outcomes if isinstance(outcome, Made)]
        speech = sum(len(clip.samples) / clip.rate for one in made for clip in one.clips)
        result = {
            "engine": name,
            "chats": rows,
            "rows_made": len(made),
            "speech_secs": round(speech),
            "wall_secs": round(wall, 2),
            "cpu_secs": round(sum(os.times()[:4]) - cpu, 2),
            "rows_made_per_sec": round(len(made) / wall, 1),
            "speech_secs_per_sec": round(speech / wall, 1),
        }
        print(json.dumps(result))


if __name__ == "__main__":
    typer.run(main)
