"""How soon a training hears: ours and the host's stock SALM on the tiny world's speech, for the same wall time.

    python tests/benchmark/peer_quality.py [--minutes 8] [--world results/tiny_world] [--plot FILE.png]

Both start from the tiny world's encoder and LLM and read the same rows of speech recognition and speech QA through
their own loaders, with the same budget of positions, LoRA, adapter, precision, gradient clipping, and learning rates
that rise and fall with the time that is left; each at three learning rates. Every run has one thread; two run at a time.
"ours" is the recipe of `conf/vtb_tiny.yaml`: a warm start (whose time counts), Muon on the matrices of encoder and
adapter, a projection scaled to the LLM's embeddings. "ours, plain" starts and is optimised as SALM is, so that it shows
what speed alone gives. WER and speech QA are scored on held-out voices and sentences, outside of the time that counts,
SALM's weights by the same code.

The last line is a JSON object with `time_to_salm_wer`: when ours comes to the WER at which the best SALM ends, as a share
of the time.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import chain, pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("TQDM_DISABLE", "1")  # two runs at a time would write over each other's bars
sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch import Tensor

from tests.benchmark.training_sides import our_batches, salm_batches
from tests.helpers.corpus import write_jsonl
from tests.helpers.models import quiet
from tests.helpers.salm import build_salm, copy_from_salm
from vtblender_nemo import VTBlenderModel
from vtblender_nemo.common.precision import bf16_is_fast
from vtblender_nemo.data.loader import BlendDataModule
from vtblender_nemo.evaluation.items import read_items
from vtblender_nemo.evaluation.metrics import compute
from vtblender_nemo.evaluation.runner import Decoding, predict
from vtblender_nemo.training.optim import build_optimizer
from vtblender_nemo.training.warm_start import warm_start

OURS, PLAIN, SALM = "ours", "ours, plain", "salm"
_NAMES = {OURS: "ours", PLAIN: "plain", SALM: "salm"}
FACTORS = (0.25, 0.5, 1.0)
ADAMW_LR = 1e-3
BATCH_TOKENS, BUCKETS = 2600, 4
WARMUP, LEAST = 0.1, 0.02  # share of the time in which learning rates rise, and what they fall to
POINTS = 12
ITEMS = 120
PLAIN_RECIPE = ["model.perception.scale_projection=false", "warm_start.steps=0"]


@dataclass(frozen=True)
class Point:
    """Where a run stood after some seconds of training: WER and speech QA (exact match), 0 to 100."""

    seconds: float
    wer: float
    sqa: float


@dataclass
class Trainee:
    """What the loop trains.

    Attributes:
        batches: without end.
        loss: one micro-batch -> mean loss of its targets.
        optimizer: with the highest learning rates.
        score: -> WER and speech QA.
        used: seconds that went before.
    """

    batches: Iterator[Any]
    loss: Callable[[Any], Tensor]
    optimizer: torch.optim.Optimizer
    score: Callable[[], tuple[float, float]]
    used: float = 0.0


def train(trainee: Trainee, seconds: float) -> list[Point]:
    """Trains until the time is up; scores at even distances."""
    peaks = [group["lr"] for group in trainee.optimizer.param_groups]
    used, points, precision = trainee.used, [], torch.bfloat16 if bf16_is_fast("cpu") else torch.float32
    while True:
        if used >= seconds * (len(points) + 1) / POINTS:
            points.append(Point(used, *trainee.score()))
            print(f"  {used:5.0f} s: WER {points[-1].wer:.1f}, speech QA {points[-1].sqa:.1f}", flush=True)
        if used >= seconds:
            return points
        started = time.perf_counter()
        for group, peak in zip(trainee.optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * rise_and_fall(used / seconds)
        with torch.autocast("cpu", precision, enabled=precision == torch.bfloat16):
            loss = trainee.loss(next(trainee.batches))
        loss.backward()
        weights = [weight for group in trainee.optimizer.param_groups for weight in group["params"]]
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        trainee.optimizer.step()
        trainee.optimizer.zero_grad(set_to_none=True)
        used += time.perf_counter() - started


def rise_and_fall(share: float) -> float:
    """Factor on learning rates after a share of the time: linear, then a cosine."""
    if share < WARMUP:
        return max(share / WARMUP, LEAST)
    return LEAST + (1 - LEAST) * (1 + math.cos(math.pi * (share - WARMUP) / (1 - WARMUP))) / 2


def run(side: str, factor: float, world: Path, seconds: float, kept: Path) -> None:
    """One training, in a process of its own; its points are kept in a file."""
    quiet()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        points = train(trainee(side, factor, world, Path(folder)), seconds)
    kept.write_text(json.dumps([asdict(point) for point in points]))


def trainee(side: str, factor: float, world: Path, folder: Path) -> Trainee:
    cfg = tiny_config(world, folder, [] if side == OURS else PLAIN_RECIPE)
    torch.manual_seed(0)
    model = VTBlenderModel(cfg.model).train()
    manifests = write_speech(world, folder)

    def score() -> tuple[float, float]:
        return score_speech(model.eval(), world)

    if side == SALM:
        peer = build_salm(model).train()
        weights = [p for p in peer.parameters() if p.requires_grad]

        def score_peer() -> tuple[float, float]:
            copy_from_salm(peer, model)
            return score()

        return Trainee(
            salm_batches(peer, manifests, BATCH_TOKENS, BUCKETS),
            lambda batch: peer.training_step(batch, 0)["loss"],
            torch.optim.AdamW(weights, lr=ADAMW_LR * factor, betas=(0.9, 0.98), weight_decay=1e-3),
            score_peer,
        )
    started = time.perf_counter()
    if cfg.warm_start.steps:
        warm_start(model, recognition(cfg, model), cfg.warm_start, folder / "warm.safetensors")
    used = time.perf_counter() - started
    for knob in ("lr_scale", "muon_lr") if side == PLAIN else ():
        cfg.model.optim[knob] = {}
    cfg.model.optim.muon_lr = {part: rate * factor for part, rate in cfg.model.optim.muon_lr.items()}
    cfg.model.optim.lr = ADAMW_LR * factor

    def loss(batch: Any) -> Tensor:
        found = model.train().speech_llm(batch)
        return found.sum / max(found.targets, 1)

    batches = our_batches(model, manifests, BATCH_TOKENS, BUCKETS)
    return Trainee(batches, loss, build_optimizer(model.trainable_parts(), cfg.model.optim), score, used)


def tiny_config(world: Path, folder: Path, overrides: list[str]) -> DictConfig:
    """The embedded default's configuration on a world that was made."""
    with initialize_config_dir(str(Path(__file__).parents[2] / "conf"), version_base=None):
        return compose("vtb_tiny", overrides=[f"tiny.directory={world.resolve()}", f"output_dir={folder}", *overrides])


def recognition(cfg: DictConfig, model: VTBlenderModel) -> BlendDataModule:
    """What a warm start reads."""
    data = cfg.data.copy()
    data.train_ds.input_cfg, data.validation_ds = cfg.warm_start.input_cfg, None
    return BlendDataModule(
        data,
        chat_format=model.chat_format,
        token_equivalent_duration=model.token_equivalent_duration,
        sampling_rate=model.sampling_rate,
    )


def write_speech(world: Path, folder: Path) -> list[str]:
    """The world's speech recognition and speech QA as conversations that both loaders read; each wording is drawn once."""
    import yaml

    sources, rng = world.resolve() / "content" / "sources", random.Random(0)
    prompts = yaml.safe_load((world / "content" / "prompts.yaml").read_text())
    made = []
    for name, task, answer in (("asr", "asr", "text"), ("speech_qa", "speech_qa", "answer")):
        rows = [json.loads(line) for line in (sources / f"{name}.jsonl").read_text().splitlines()]
        chats = [_chat(f"{name}{n}", row, rng.choice(prompts[task]), answer, sources) for n, row in enumerate(rows)]
        made.append(write_jsonl(folder / f"{name}.jsonl", chats))
    return made


def _chat(name: str, row: dict[str, Any], prompt: str, answer: str, folder: Path) -> dict[str, Any]:
    audio = {
        "type": "audio",
        "from": "User",
        "value": str((folder / row["audio_filepath"]).resolve()),
        "duration": row["duration"],
    }
    before, after = (part.format(question=row.get("question", "")).strip() for part in prompt.split("{audio}"))
    texts = [{"type": "text", "from": "User", "value": part} if part else None for part in (before, after)]
    turns = [turn for turn in (texts[0], audio, texts[1]) if turn]
    return {"id": name, "conversations": [*turns, {"type": "text", "from": "Assistant", "value": row[answer]}]}


def score_speech(model: VTBlenderModel, world: Path) -> tuple[float, float]:
    """WER and exact match of speech QA on the first of the held-out items."""
    found = {}
    for task, metric, options in (("asr", "wer", {"normalizer": "basic"}), ("sqa", "exact_match", {})):
        items = read_items(world / "content" / "tests" / f"{task}.jsonl")[:ITEMS]
        answers = predict(model, items, decoding=Decoding(40, ITEMS, 32768), progress=False)
        texts = [answer.text or "" for answer in answers]
        found[task] = compute(metric, texts, [item.reference for item in items], **options).value
    return found["asr"], found["sqa"]


def time_to(points: list[Point], wer: float) -> float | None:
    """Seconds until a run's WER, linear between points, first falls to a value; None if never."""
    for earlier, later in pairwise(points):
        if earlier.wer > wer >= later.wer:
            return earlier.seconds + (later.seconds - earlier.seconds) * (earlier.wer - wer) / (earlier.wer - later.wer)
    return points[0].seconds if points[0].wer <= wer else None


def draw(runs: dict[tuple[str, float], list[Point]], best: dict[str, float], path: Path) -> None:
    """WER and speech QA against minutes; each side's best learning rate stands out."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    colors = {OURS: "#2a6f97", PLAIN: "#89c2d9", SALM: "#bc6c25"}
    titles = {OURS: "VTBlender", PLAIN: "VTBlender, optimised as SALM", SALM: "NeMo SALM"}
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4))
    for (side, factor), points in runs.items():
        stands_out = best[side] == factor
        style: dict[str, Any] = {"color": colors[side], "alpha": 1.0 if stands_out else 0.3}
        if stands_out:
            style |= {"marker": "o", "markersize": 3, "label": titles[side]}
        minutes = [point.seconds / 60 for point in points]
        axes[0].semilogy(minutes, [max(point.wer, 0.1) for point in points], **style)
        axes[1].plot(minutes, [point.sqa for point in points], **style)
    for axis, title in zip(axes, ("WER, held-out voices (lower is better)", "speech QA, exact match"), strict=True):
        axis.set(title=title, xlabel="minutes of training, one thread", xlim=(0, None))
        axis.grid(alpha=0.3, which="both")
    axes[1].set_ylim(0, 100)
    axes[1].legend(frameon=False)
    figure.suptitle("The tiny world's speech, same encoder and LLM; faint: the other learning rates", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def measure(world: Path, minutes: float, plot: Path, folder: Path) -> dict[str, Any]:
    """All runs that are not there yet, two at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    jobs = list(chain.from_iterable([(side, factor) for side in (SALM, OURS)] for factor in FACTORS))
    jobs += [(PLAIN, factor) for factor in FACTORS]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as processes:
        files = {(side, f): folder / f"{_NAMES[side]}_x{f}_{minutes:g}min.json" for side, f in jobs}
        missing = [job for job in jobs if not files[job].exists()]
        waiting = [processes.submit(run, *job, world, 60 * minutes, files[job]) for job in missing]
        for future in waiting:
            future.result()
    runs = {job: [Point(**point) for point in json.loads(file.read_text())] for job, file in files.items()}
    sides = (SALM, OURS, PLAIN)
    best = {side: min((runs[side, f][-1].wer, f) for f in FACTORS)[1] for side in sides}
    ends = {side: runs[side, best[side]][-1] for side in sides}
    for (side, factor), points in runs.items():
        print(f"{side:12} learning rates x {factor}: WER {points[-1].wer:.1f}, speech QA {points[-1].sqa:.1f}")
    draw(runs, best, plot)
    reached = {side: time_to(runs[side, best[side]], ends[SALM].wer) for side in (OURS, PLAIN)}
    shares = {side: None if at is None else round(at / (60 * minutes), 3) for side, at in reached.items()}
    return {
        "time_to_salm_wer": shares[OURS],
        "time_to_salm_wer_plain": shares[PLAIN],
        "minutes": minutes,
        **{f"{name}_{value}": getattr(ends[side], value) for side, name in _NAMES.items() for value in ("wer", "sqa")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", type=Path, default=Path("results/tiny_world"), help="made if it is not there")
    parser.add_argument("--minutes", type=float, default=8.0, help="of each training")
    parser.add_argument("--runs", type=Path, default=Path("results/peer_quality"), help="what is done stays here")
    parser.add_argument("--plot", type=Path, default=Path(__file__).with_suffix(".png"))
    arguments = parser.parse_args()
    quiet()
    prepare_world(arguments.world)
    print(json.dumps(measure(arguments.world, arguments.minutes, arguments.plot, arguments.runs)))


def prepare_world(directory: Path) -> None:
    """The tiny world with its default settings; kept where it stands."""
    from vtblender_nemo.tiny.config import TinyConfig
    from vtblender_nemo.tiny.world import prepare

    prepare(TinyConfig(), directory)


if __name__ == "__main__":
    main()
