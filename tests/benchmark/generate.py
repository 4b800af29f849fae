"""Answers against NeMo's stock SALM with the same weights, token for token: batches, long audio, and a chat of six turns.

    python tests/benchmark/generate.py [--rounds 5] [--all] [--cases b1_5s b16_5s b16_2_to_15s b1_5min]

One process, both sides in turn, medians. Both get decoded audio and token ids and make the same, forced number of tokens, which
are compared: as many as validation allows (64), fewer for long audio and chats. Audio is encoded whole, as SALM does by default.
`--all` adds 16 recordings of 5 minutes (over 13 GiB, several minutes). The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from torch import Tensor
from transformers import GenerationConfig

from tests.benchmark.shapes import GEMMA, small_gemma_proportions
from tests.helpers.models import SAMPLING_RATE, assistant, audio_part, quiet, user
from tests.helpers.salm import build_salm, salm_batch
from tests.helpers.tokenizer import SPECIAL_TOKENS, make_tokenizer
from vtblender_nemo.common.batch import Batch
from vtblender_nemo.models.generation import as_conversations, collate

TURNS, TURN_TOKENS = 6, 24
SPREAD = (2, 15)  # seconds, shortest and longest of a batch as it comes from a manifest


@dataclass(frozen=True)
class Case:
    """Recordings of these lengths, each transcribed with so many tokens."""

    name: str
    secs: Sequence[float]
    tokens: int


CASES = (
    Case("b1_5s", [5.0], 64),
    Case("b16_5s", [5.0] * 16, 64),
    Case("b16_2_to_15s", [SPREAD[0] + number * (SPREAD[1] - SPREAD[0]) / 15 for number in range(16)], 64),
    Case("b1_5min", [300.0], 32),
)
LONG = Case("b16_5min", [300.0] * 16, 16)


def words(folder: Path) -> Path:
    """A tokenizer with a word for every id, so that whatever is answered can stand in a chat."""
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([f"w{number}" for number in range(len(tokenizer), GEMMA["vocab_size"])])
    tokenizer.save_pretrained(folder)
    return folder


class Sides:
    """One model, and the host's with its weights."""

    def __init__(self, folder: Path) -> None:
        whole = {"perception": {"encoder_chunk_secs": None}}
        self.model = small_gemma_proportions(folder, model=whole, tokenizer=words(folder / "words"))
        self.salm = build_salm(self.model).eval()
        self.stop_ids = self.model.chat_format.stop_ids

    def collate(self, chats: Sequence[Any]) -> Batch:
        return collate(as_conversations(chats), self.model.chat_format, SAMPLING_RATE)

    @torch.inference_mode()
    def ours(self, batch: Batch, tokens: int) -> list[list[int]]:
        embeds, mask = self.model.speech_llm.prompt_embeds(batch)
        forced = {"max_new_tokens": tokens, "min_new_tokens": tokens}
        return self.model.llm.generate(embeds, mask, stop_ids=self.stop_ids, **forced).tolist()

    @torch.inference_mode()
    def theirs(self, batch: Batch, tokens: int, unsaid: Sequence[int] | None = None) -> list[list[int]]:
        config = GenerationConfig(
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            eos_token_id=list(self.stop_ids),
            pad_token_id=self.model.tokenizer.pad_token_id,
            suppress_tokens=unsaid,
        )
        prompt = salm_batch(batch, self.model.tokenizer.pad_token_id)
        ids, audios = prompt["input_ids"], (prompt["audios"], prompt["audio_lens"])
        return self.salm.generate(ids, *audios, generation_config=config).tolist()


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = call()
    return time.perf_counter() - started, result


def batches(sides: Sides, case: Case, rounds: int) -> dict[str, Any]:
    """Seconds of both sides, and whether every token agrees."""
    chats = [[user("Transcribe:", audio_part(secs, number))] for number, secs in enumerate(case.secs)]
    batch = sides.collate(chats)
    seconds: dict[str, list[float]] = {"ours": [], "salm": []}
    for number in range(rounds + 1):
        ours, made = timed(lambda: sides.ours(batch, case.tokens))
        salm, wanted = timed(lambda: sides.theirs(batch, case.tokens))
        if number or rounds == 1:  # the first round makes copies of weights and warms caches
            seconds["ours"].append(ours)
            seconds["salm"].append(salm)
    found = {side: statistics.median(values) for side, values in seconds.items()}
    equal = made == wanted
    print(
        f"{case.name:14} {found['ours']:7.2f} s, SALM {found['salm']:7.2f} s: {found['salm'] / found['ours']:.2f}x "
        f"({sum(case.secs) / found['ours']:.0f} audio s/s), tokens {'equal' if equal else 'DIFFER'}",
        flush=True,
    )
    return {"speedup": found["salm"] / found["ours"], "seconds": found, "equal": equal}


@dataclass(frozen=True)
class Unsaying:
    """Logits without some tokens."""

    logits: Callable[[Tensor], Tensor]
    unsaid: list[int]

    def __call__(self, rows: Tensor) -> Tensor:
        return self.logits(rows).index_fill(-1, torch.tensor(self.unsaid), float("-inf"))


def one_chat(sides: Sides, number: int) -> dict[str, list[float]]:
    """Neither side says control tokens and line ends: random weights would say nothing else, which leaves no text."""
    forced = {"max_new_tokens": TURN_TOKENS, "min_new_tokens": TURN_TOKENS}
    unsaid = [*range(len(SPECIAL_TOKENS)), *sides.model.tokenizer.encode(" \n", add_special_tokens=False)]
    sides.model.llm.logits = Unsaying(type(sides.model.llm).logits.__get__(sides.model.llm), unsaid)
    session, turns = sides.model.session(), []
    seconds: dict[str, list[float]] = {"ours": [], "salm": []}
    for turn in range(TURNS):
        turns.append(user(f"Question {turn}:", audio_part(5.0, 100 * number + turn)))
        ours, answer = timed(partial(session.ask, turns[-1]["content"], **forced))
        salm, _ = timed(partial(sides.theirs, sides.collate([turns]), TURN_TOKENS, unsaid))
        seconds["ours"].append(ours)
        seconds["salm"].append(salm)
        turns.append(assistant(answer))
    return seconds


def chat(sides: Sides, rounds: int) -> dict[str, Any]:
    """Seconds of each turn of a chat, in a session and with all of it recomputed."""
    rows = [one_chat(sides, number) for number in range(rounds + 1)][1:]
    seconds = {side: [row[side] for row in rows] for side in ("ours", "salm")}
    found = {
        side: [statistics.median(values) for values in zip(*rounds_of, strict=True)]
        for side, rounds_of in seconds.items()
    }
    for side, values in found.items():
        print(f"chat, {side:5}", " ".join(f"{value:6.2f}" for value in values), "s a turn", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--all", action="store_true")
    parser.add_argument(
        "--cases", nargs="*", default=[case.name for case in CASES], help="some of the batches; may be none"
    )
    options = parser.parse_args()
    cases = [case for case in CASES if case.name in options.cases]
    quiet()
    with tempfile.TemporaryDirectory() as folder:
        sides = Sides(Path(folder))
        found = {case.name: batches(sides, case, 2 if case.secs[0] > 60 else options.rounds) for case in cases}
        if options.all:
            found[LONG.name] = batches(sides, LONG, 1)
        turns = chat(sides, max(2, options.rounds // 2))
    figures = {
        **({"speedup_b16_vs_salm": found["b16_5s"]["speedup"]} if "b16_5s" in found else {}),
        **{f"speedup_{name}": one["speedup"] for name, one in found.items()},
        **{f"rtfx_{case.name}": sum(case.secs) / found[case.name]["seconds"]["ours"] for case in cases},
        "turn6_over_turn2": turns["ours"][5] / turns["ours"][1],
        "salm_turn6_over_turn2": turns["salm"][5] / turns["salm"][1],
        "turn6_vs_salm": turns["salm"][5] / turns["ours"][5],
    }
    equal = all(one["equal"] for one in found.values())
    print(json.dumps({**{name: round(value, 3) for name, value in figures.items()}, "tokens_equal": equal}))


if __name__ == "__main__":
    main()
