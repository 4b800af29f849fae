"""What going on costs where the blend is large: seconds to the first batch, anew and from a checkpoint's state.

    python tests/benchmark/resume_blend.py [--rows 500000] [--batches 2000] [--buffer-size 10000]

Two speech manifests and two of text chats, each of so many rows; all rows of speech name one file of a second. The first process
reads batches and keeps the loader's state, as a checkpoint does; new processes then begin anew, and go on. Seconds are from
opening the blend to its first batch; the batch after the state has to be the one that the first process came to. The last line
is one JSON object: `anew_secs`, `resumed_secs`, `added_secs` and `state_mib`.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.helpers.corpus import chat_rows, speech_rows, write_jsonl
from tests.helpers.data_modules import module

SPEECH, CHATS = ("asr", "ast"), ("chats", "other_chats")
KINDS = ("anew", "resumed")


def write_blend(folder: Path, rows: int) -> None:
    (row,) = speech_rows(folder, [1.0])
    for name in SPEECH:
        write_jsonl(folder / f"{name}.jsonl", ({**row, "id": f"{name}{number}"} for number in range(rows)))
    for name in CHATS:
        write_jsonl(folder / f"{name}.jsonl", chat_rows(rows, prefix=name, words=20))


def blend(folder: Path, buffer_size: int) -> dict[str, Any]:
    speech = {"type": "nemo", "prompts": ["Write.", "What is said?"], "weight": 1}
    sources = [{**speech, "name": name, "manifest_filepath": f"{folder}/{name}.jsonl"} for name in SPEECH]
    chats = {"type": "text_chat", "weight": 1}
    sources += [{**chats, "name": name, "manifest_filepath": f"{folder}/{name}.jsonl"} for name in CHATS]
    return {"input_cfg": sources, "batch_tokens": 2000, "num_buckets": 8, "buffer_size": buffer_size, "seed": 5}


def train(folder: Path, buffer_size: int, batches: int) -> list[str]:
    """Reads so many batches and keeps the state; the rows of the next one."""
    data = module(blend(folder, buffer_size))
    loader = iter(data.train_dataloader())
    for _ in itertools.islice(loader, batches):
        pass
    torch.save(data.state_dict(), folder / "state.pt")
    return list(next(loader).ids)


def first_batch(folder: Path, buffer_size: int, kind: str) -> tuple[float, list[str]]:
    started = time.monotonic()
    data = module(blend(folder, buffer_size))
    if kind == "resumed":
        data.load_state_dict(torch.load(folder / "state.pt", weights_only=True))
    batch = next(iter(data.train_dataloader()))
    return time.monotonic() - started, list(batch.ids)


def alone(work: Any, *arguments: Any) -> Any:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(work, *arguments).result()


def main(
    rows: Annotated[int, typer.Option(min=1)] = 500_000,
    batches: Annotated[int, typer.Option(min=1)] = 2000,
    buffer_size: Annotated[int, typer.Option(min=1)] = 10_000,
) -> None:
    """What going on costs where the blend is large."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_blend(folder, rows)
        expected = alone(train, folder, buffer_size, batches)
        found = {kind: alone(first_batch, folder, buffer_size, kind) for kind in KINDS}
        state_mib = (folder / "state.pt").stat().st_size / 2**20
    if found["resumed"][1] != expected:
        raise SystemExit("the batch after the state is another one")
    secs = {kind: value[0] for kind, value in found.items()}
    for kind, value in secs.items():
        print(f"{kind}: {value:.2f} s to the first batch")
    figures = {f"{kind}_secs": value for kind, value in secs.items()}
    print(json.dumps(figures | {"added_secs": secs["resumed"] - secs["anew"], "state_mib": state_mib}))


if __name__ == "__main__":
    typer.run(main)
