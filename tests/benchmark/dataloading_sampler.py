"""Measures the sampler, without decoding: CPU time to the first micro-batch and a row, memory, shares, padding.

    python -m tests.benchmark.dataloading_sampler [--rows 200000] [--tokenizer FOLDER]

One process and one thread; the rows are made on the spot in a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"

from tests.helpers.corpus import FRAME_SECS, LOCATOR, RATE, chat_rows, write_jsonl
from tests.helpers.tokenizer import make_tokenizer
from vtblender_nemo.common.chat import ChatFormat
from vtblender_nemo.data.blend import Blend, Encoder, Limits
from vtblender_nemo.data.buckets import BucketPlanner
from vtblender_nemo.data.weighted import read_sources

WORDINGS = Path(__file__).parents[2] / "conf" / "prompts" / "asr.yaml"


def make_sources(folder: Path, rows: int) -> list[dict[str, object]]:
    """A manifest of `rows` utterances of 1 to 19 s, and a quarter as many chats."""
    speech = (
        {
            "audio_filepath": f"{number % 100}/{number}.wav",
            "duration": 1 + number * 7919 % 1800 / 100,
            "text": f"the quick brown fox jumps over the lazy dog number {number} " * (1 + number % 3),
        }
        for number in range(rows)
    )
    return [
        {
            "type": "nemo",
            "manifest_filepath": write_jsonl(folder / "speech.jsonl", speech),
            "prompts": str(WORDINGS),
            "weight": 3,
        },
        {
            "type": "text_chat",
            "manifest_filepath": write_jsonl(folder / "chats.jsonl", chat_rows(rows // 4, words=20)),
            "weight": 1,
        },
    ]


def padding(blend: Blend, batches: int, **keys: int) -> float:
    """The part of positions that is padding."""
    planner = BucketPlanner(blend.fork(), **keys)
    planned = [[row.length for row in planner.next_batch()] for _ in range(batches)]
    return 1 - sum(map(sum, planned)) / sum(max(lengths) * len(lengths) for lengths in planned)


def main() -> None:
    """Prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--draws", type=int, default=10_000)
    parser.add_argument("--tokenizer", help="folder of a Hugging Face tokenizer (default: one token a byte)")
    args = parser.parse_args()
    tokenizer = make_tokenizer()
    if args.tokenizer:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
    encoder = Encoder(ChatFormat(tokenizer, LOCATOR), FRAME_SECS, RATE)
    with tempfile.TemporaryDirectory() as folder:
        entries = make_sources(Path(folder), args.rows)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.process_time()
        blend = Blend(read_sources(entries, sampling_rate=RATE), encoder, Limits(batch_tokens=8000))
        planner = BucketPlanner(blend, num_buckets=8)
        planner.next_batch()
        first = time.process_time() - start
        start, rows, seen = time.process_time(), 0, {source.name: 0 for source in blend.sources}
        while rows < args.draws:
            for example in planner.next_batch():
                rows += 1
                seen[example.conversation.source] += 1
            planner.state_dict()
        seconds = time.process_time() - start
        figures = {
            "rows": args.rows,
            "first_batch_cpu_secs": round(first, 2),
            "rows_per_cpu_sec": round(rows / seconds),
            "memory_mb": round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024),
            "shares": {name: round(count / rows, 4) for name, count in seen.items()},
            "weights": {s.name: p for s, p in zip(blend.sources, blend.probabilities, strict=True)},
            "padding": {
                "8 buckets, 8000 positions": round(padding(blend, 300, num_buckets=8), 3),
                "1 bucket, 8000 positions": round(padding(blend, 300, num_buckets=1), 3),
                "1 bucket, 16 rows": round(padding(blend, 300, num_buckets=1, batch_size=16), 3),
            },
        }
    sys.stdout.write(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
