"""Measures a blend of 200,000 rows made on the spot: reading it, drawing from it, padding, and inspecting it.

    python -m tests.benchmark.blend_rate [--rows 200000] [--tokenizer FOLDER]

One process and one thread, no audio decoding. Times are CPU times of this process, which other work on the machine
changes least; `wall` is said where it is wall time. Audio lengths follow the shape of LibriSpeech's (2 to 19 s, most of
12 to 16 s), a fifth of the rows are chats. The default tokenizer is one of 4,096 tokens that is trained on the texts.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"

from tests.helpers.corpus import FRAME_SECS, LOCATOR, RATE, write_jsonl
from tests.helpers.tokenizer import SPECIAL_TOKENS, make_tokenizer
from vtblender_nemo.common.chat import ChatFormat
from vtblender_nemo.data.blend import Blend, Encoder
from vtblender_nemo.data.config import TrainConfig
from vtblender_nemo.data.loader import make_planner
from vtblender_nemo.inspection.checks import Checker
from vtblender_nemo.inspection.padding import fixed_size_padding, padding, plan
from vtblender_nemo.inspection.scan import Part, scan
from vtblender_nemo.inspection.subject import Batching, bucket_planners
from vtblender_nemo.inspection.tokens import open_format

WORDINGS = Path(__file__).parents[2] / "conf" / "prompts" / "asr.yaml"
WORDS = """
the of and a to in was he that it his her with as had for she not at but be my on have him is said me which by so this
all from they no were if would or when what there been one could very an who them mr we now more out do are up their your will
little than then some into any well much about time know should man did like upon such never only good how before other see must
am over great made more himself again old down after think first house come day might under away long make two own still way
""".split()
SHARES = {"asr": 0.5, "speech_qa": 0.2, "talk": 0.1, "chats": 0.2}


def sentence(rng: random.Random, words: int) -> str:
    return " ".join(rng.choices(WORDS, k=words))


def make_rows(kind: str, count: int, rng: random.Random) -> Iterator[dict[str, Any]]:
    """Rows of one source; speech has about 2.7 words a second."""
    for number in range(count):
        secs = round(rng.triangular(2, 19, 15), 2)
        spoken = {
            "audio_filepath": f"{number % 100}/{number}.flac",
            "duration": secs,
            "text": sentence(rng, int(2.7 * secs)),
        }
        if kind == "asr":
            yield spoken
        elif kind == "speech_qa":
            yield {**spoken, "question": sentence(rng, 9) + "?", "answer": sentence(rng, rng.randint(2, 25))}
        elif kind == "talk":
            parts = [
                {"type": "text", "from": "User", "value": sentence(rng, rng.randint(5, 60))},
                {"type": "audio", "from": "User", "value": f"{number}.flac", "duration": secs},
                {"type": "text", "from": "Assistant", "value": sentence(rng, rng.randint(20, 200))},
            ]
            yield {"id": f"t{number}", "conversations": parts}
        else:
            turns = [
                {"role": role, "content": sentence(rng, rng.randint(5, 120))}
                for _ in range(rng.randint(1, 3))
                for role in ("user", "assistant")
            ]
            yield {"id": f"c{number}", "messages": turns}


def make_blend(folder: Path, rows: int) -> list[dict[str, Any]]:
    """The four kinds of sources with their weights."""
    rng = random.Random(0)
    entries: list[dict[str, Any]] = []
    for name, share in SHARES.items():
        path = write_jsonl(folder / f"{name}.jsonl", make_rows(name, round(rows * share), rng))
        entries.append({"name": name, "manifest_filepath": path, "weight": share})
    for entry, kind in zip(entries, ("nemo", "speech_qa", "multimodal_conversation", "text_chat"), strict=True):
        entry["type"] = kind
    entries[0]["prompts"] = str(WORDINGS)
    return entries


def make_llm(folder: Path) -> str:
    """A tokenizer of byte pairs, trained on words like the rows', in a Hugging Face folder."""
    tokenizer = make_tokenizer()
    rng = random.Random(1)
    texts = (sentence(rng, 100) for _ in range(300))
    trained = tokenizer.train_new_from_iterator(texts, 4096, new_special_tokens=list(SPECIAL_TOKENS))
    trained.chat_template = tokenizer.chat_template
    trained.save_pretrained(folder)
    return str(folder)


def cpu_secs(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """CPU and wall seconds, and the result."""
    cpu, wall = time.process_time(), time.perf_counter()
    result = work()
    return time.process_time() - cpu, time.perf_counter() - wall, result


def memory_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(folder: Path, rows: int, draws: int, llm: str | None) -> Iterator[tuple[str, str]]:
    """Names and values of the table, one after another."""
    from transformers import AutoTokenizer

    with ProcessPoolExecutor(1) as other:  # what it takes to make the rows is not this process's memory
        entries = other.submit(make_blend, folder, rows).result()
        llm = llm or other.submit(make_llm, folder / "llm").result()
    encoder = Encoder(ChatFormat(AutoTokenizer.from_pretrained(llm), LOCATOR), FRAME_SECS, RATE)
    batching = Batching()
    train = TrainConfig(
        input_cfg=entries, batch_tokens=batching.batch_tokens, num_buckets=batching.num_buckets, max_tokens=4096
    )
    before = memory_mb()

    def first_batch() -> Any:
        planner = make_planner(train, encoder)
        planner.next_batch()
        return planner

    cpu, wall, planner = cpu_secs(first_batch)
    yield "rows on disk", f"{rows:,}"
    yield "time to first micro-batch, bins estimated", f"{cpu:.2f} s CPU, {wall:.2f} s wall"
    cpu, _, planned = cpu_secs(lambda: plan(planner, draws))
    yield f"planning, {len(planned):,} rows", f"{len(planned) / cpu:,.0f} rows/s"
    yield "memory for index and plan", f"{memory_mb() - before:.0f} MB"
    blend: Blend = bucket_planners(planner)[""].blend.fork()
    drawn = [blend.draw().conversation.source for _ in range(draws)]
    for source, weight in zip(blend.sources, blend.probabilities, strict=True):
        yield (
            f"share of {source.name}, {draws:,} draws",
            f"{100 * drawn.count(source.name) / draws:.2f}% of {100 * weight:.2f}%",
        )
    own, fixed = padding(planned), fixed_size_padding(planned)
    yield f"padding, {train.num_buckets} buckets of {train.batch_tokens:,} positions", _padding(own)
    yield "padding, fixed size", _padding(fixed)
    parts = [Part(source, blend.limits) for source in blend.sources]
    for name, counted_by in (("token counts estimated", None), ("a tokenizer counts", llm)):
        checker = Checker(Encoder(open_format(counted_by, LOCATOR)[0], FRAME_SECS, RATE), "none")
        cpu, _, scans = cpu_secs(lambda checker=checker: scan(parts, checker))
        checked = sum(one.count for one in scans)
        yield f"inspection, {name}", f"{checked / cpu:,.0f} rows/s per core"


def _padding(found: Any) -> str:
    return f"{100 * found.positions:.1f}% of positions, {100 * found.audio:.1f}% of audio, {found.rows[0]:.1f} rows"


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--draws", type=int, default=10_000)
    parser.add_argument("--tokenizer", help="folder of a Hugging Face tokenizer with a chat template")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name, value in measure(Path(folder), args.rows, args.draws, args.tokenizer):
            sys.stdout.write(f"{name:<52}{value}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
