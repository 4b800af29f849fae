"""Our server against a plain one (FastAPI, stock SALM, one request after the other), with the same weights; and a soak.

    python tests/benchmark/serving.py [--clients 1 4 16] [--secs 60] [--soak-secs 300]

Each server is a process of its own with all cores; clients are coroutines of this process. A request is 5 seconds of audio (16
different ones go round; ours keeps no chats here) and an answer of 32 forced tokens. Closed loop: every client asks again when it
has its answer. The soak sends twice as many requests a second as were answered with the most clients, whether or not earlier ones
are done: what is too much must be refused with 429, everything else answered, and memory must not grow. The last line is one JSON
object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import httpx
import numpy as np
import psutil
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool

SECS, TOKENS, DIFFERENT = 5.0, 32, 16
OURS, PLAIN = "ours", "plain"


# Servers, each in a process of its own -------------------------------------------------------------------------------------


def serve(side: str, folder: Path, port: int) -> None:
    import uvicorn

    from tests.benchmark.generate import words
    from tests.benchmark.shapes import small_gemma_proportions
    from tests.helpers.models import quiet

    quiet()
    model = small_gemma_proportions(folder, tokenizer=words(folder / "words"))
    app = our_app(model) if side == OURS else plain_app(model)
    uvicorn.run(app, port=port, log_level="error")


def our_app(model: Any) -> Any:
    import torch

    from vtblender_nemo.serving.api.app import make_app
    from vtblender_nemo.serving.config import ServerConfig
    from vtblender_nemo.serving.engine.engine import Engine, EngineConfig

    stop_ids, logits = torch.tensor(model.chat_format.stop_ids), model.llm.logits
    model.llm.logits = lambda rows: logits(rows).index_fill(
        -1, stop_ids, float("-inf")
    )  # answers have their full length
    return make_app(Engine(model, EngineConfig(prefix_bytes=0)), ServerConfig(OURS))


def plain_app(model: Any) -> Any:
    """What one writes in an afternoon: the model behind a lock."""
    import threading

    import torch
    from transformers import GenerationConfig

    from tests.helpers.salm import build_salm, salm_batch
    from vtblender_nemo.common.conversation import Conversation
    from vtblender_nemo.models.generation import collate
    from vtblender_nemo.serving.api.schemas import ChatRequest
    from vtblender_nemo.serving.config import ServerConfig

    salm, lock, limits = build_salm(model).eval(), threading.Lock(), ServerConfig(PLAIN)
    pad_id = model.tokenizer.pad_token_id
    app = FastAPI()

    def answer(body: ChatRequest) -> str:
        turns = body.turns(limits, model.sampling_rate)
        batch = salm_batch(collate([Conversation("", turns)], model.chat_format, model.sampling_rate), pad_id)
        config = GenerationConfig(
            max_new_tokens=TOKENS,
            min_new_tokens=TOKENS,
            do_sample=False,
            eos_token_id=list(model.chat_format.stop_ids),
            pad_token_id=pad_id,
        )
        with lock, torch.inference_mode():
            ids = salm.generate(batch["input_ids"], batch["audios"], batch["audio_lens"], generation_config=config)
        return model.chat_format.decode(ids[0].tolist())

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> dict[str, Any]:
        body = ChatRequest.model_validate(await request.json())
        return {"choices": [{"message": {"content": await run_in_threadpool(answer, body)}}]}

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    return app


@contextmanager
def running(side: str, folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    """The address of a server, and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, __file__, "--serve", side, "--folder", folder, "--port", port]
    process = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            if process.poll() is not None:
                raise SystemExit(f"the server {side} ended with {process.returncode}")
            try:
                if httpx.get(f"{address}/health").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.2)
        yield address, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


# Clients -------------------------------------------------------------------------------------------------------------------


@dataclass
class Times:
    """Seconds of requests that were answered, and the status of all."""

    first: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)


def bodies(stream: bool) -> list[dict[str, Any]]:
    from tests.helpers.models import speech
    from tests.helpers.serving import input_audio, wav_bytes

    contents = [
        [{"type": "text", "text": "Transcribe:"}, input_audio(wav_bytes(speech(SECS, number)))]
        for number in range(DIFFERENT)
    ]
    return [
        {"messages": [{"role": "user", "content": content}], "max_tokens": TOKENS, "stream": stream}
        for content in contents
    ]


async def ask(client: httpx.AsyncClient, body: dict[str, Any], times: Times) -> None:
    started = time.perf_counter()
    first = None
    try:
        async with client.stream("POST", "/v1/chat/completions", json=body) as response:
            async for line in response.aiter_lines():
                if first is None and '"content": "' in line and '"content": ""' not in line:
                    first = time.perf_counter() - started
            times.statuses[str(response.status_code)] += 1
            if response.status_code == 200:
                times.whole.append(time.perf_counter() - started)
                times.first.append(times.whole[-1] if first is None else first)
    except httpx.TransportError as error:
        times.statuses[type(error).__name__] += 1


async def closed_loop(address: str, clients: int, secs: float, stream: bool) -> tuple[Times, float]:
    """Times, and answers a second."""
    times, asked, end = Times(), bodies(stream), time.perf_counter() + secs
    started = time.perf_counter()

    async def one(number: int, client: httpx.AsyncClient) -> None:
        while time.perf_counter() < end:
            await ask(client, asked[number % DIFFERENT], times)
            number += clients

    async with httpx.AsyncClient(base_url=address, timeout=600) as client:
        await ask(client, asked[0], Times())  # makes copies of weights, and warms caches
        await asyncio.gather(*(one(number, client) for number in range(clients)))
    return times, len(times.whole) / (time.perf_counter() - started)


async def soak(address: str, rate: float, secs: float, server: psutil.Process) -> tuple[Times, list[int]]:
    """Requests at random times, so many a second; and the server's memory in bytes as it goes on."""
    times, asked, rng, memory = Times(), bodies(True), random.Random(0), []
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
    async with httpx.AsyncClient(base_url=address, timeout=600, limits=limits) as client:
        tasks, end = [], time.perf_counter() + secs
        while time.perf_counter() < end:
            tasks.append(asyncio.create_task(ask(client, asked[len(tasks) % DIFFERENT], times)))
            memory.append(server.memory_info().rss)
            await asyncio.sleep(rng.expovariate(rate))
        await asyncio.gather(*tasks)
    return times, memory


def milliseconds(values: list[float]) -> str:
    return f"p50 {1000 * np.percentile(values, 50):6.0f} ms, p99 {1000 * np.percentile(values, 99):6.0f} ms"


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    rates: dict[tuple[str, int], float] = {}
    for clients in options.clients:
        for side in (PLAIN, OURS):
            with running(side, folder) as (address, _):
                times, rate = asyncio.run(closed_loop(address, clients, options.secs, stream=side == OURS))
            rates[side, clients] = rate
            print(
                f"{clients:2} clients, {side:5} {rate:6.2f} answers/s, {rate * TOKENS:6.0f} tokens/s, first token "
                f"{milliseconds(times.first)}, answer {milliseconds(times.whole)}, {dict(times.statuses)}",
                flush=True,
            )
            figures |= {
                f"{side}_{clients}_answers_per_s": rate,
                f"{side}_{clients}_first_p50_ms": 1000 * float(np.percentile(times.first, 50)),
                f"{side}_{clients}_first_p99_ms": 1000 * float(np.percentile(times.first, 99)),
                f"{side}_{clients}_failed": sum(times.statuses.values()) - times.statuses["200"],
            }
        figures[f"speedup_{clients}"] = rates[OURS, clients] / rates[PLAIN, clients]
        figures[f"first_p99_over_p50_{clients}"] = (
            figures[f"{OURS}_{clients}_first_p99_ms"] / figures[f"{OURS}_{clients}_first_p50_ms"]
        )
    if options.soak_secs:
        rate = 2 * rates[OURS, max(options.clients)]
        with running(OURS, folder) as (address, server):
            times, memory = asyncio.run(soak(address, rate, options.soak_secs, server))
        third = max(1, len(memory) // 3)  # the first one warms caches
        growth = float(np.median(memory[-third:]) / np.median(memory[third : 2 * third]))
        print(
            f"soak at {rate:.1f} requests/s: {dict(times.statuses)}, memory of the last third over the second {growth:.3f}"
        )
        tenths = [f"{np.median(part) / 2**20:.0f}" for part in np.array_split(memory, 10)]
        print(f"MiB by tenths of the soak: {' '.join(tenths)}")
        failed = sum(times.statuses.values()) - times.statuses["200"] - times.statuses["429"]
        figures |= {
            "soak_answered": times.statuses["200"],
            "soak_refused": times.statuses["429"],
            "soak_failed": failed,
        }
        figures["soak_memory_growth"] = growth
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="*", default=[1, 4, 16])
    parser.add_argument("--secs", type=float, default=60)
    parser.add_argument("--soak-secs", type=float, default=300, help="0 leaves the soak out")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        with tempfile.TemporaryDirectory(dir=options.folder) as own:
            serve(options.serve, Path(own), options.port)
        return
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(options, Path(folder))
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
