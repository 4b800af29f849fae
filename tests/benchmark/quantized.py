"""What quantised weights cost: WER and text accuracy of a model as it is, with LoRA merged, and with weights of 8 and 4 bits.

    python tests/benchmark/quantized.py --model results/vtb_tiny/vtb_tiny.nemo \
        --speech results/tiny_world/content/tests/asr.jsonl --text results/tiny_world/content/tests/text.jsonl

Each LLM is exported, loaded again, and put in the place of the model's own. Needs `pip install "vtblender_nemo[quant]"`. The last
line is one JSON object: for each LLM the bytes of its weights, WER and exact match with 95% intervals, and seconds of both tasks.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import typer

from vtblender_nemo.evaluation.items import read_items
from vtblender_nemo.evaluation.runner import Decoding, EvalTask, evaluate
from vtblender_nemo.export.about import About
from vtblender_nemo.export.formats import export
from vtblender_nemo.export.options import ExportOptions
from vtblender_nemo.export.quantized import hear_through
from vtblender_nemo.models.loading import load_model

MERGED = 0


def tasks(speech: Path, text: Path, items: int | None) -> list[EvalTask]:
    return [
        EvalTask("speech", read_items(speech)[:items], "wer", {"normalizer": "basic"}),
        EvalTask("text", read_items(text)[:items], "exact_match"),
    ]


def measure(model: Any, some: Sequence[EvalTask], folder: Path, name: str) -> dict[str, Any]:
    started = time.monotonic()
    results = evaluate(model, some, output_dir=folder / f"answers_{name}", decoding=Decoding(48, 64), model_id=name)
    scores = {task: (found.score.value, found.score.low, found.score.high) for task, found in results.items()}
    return {"name": name, **scores, "secs": time.monotonic() - started}


def through_export(path: Path, bits: int, folder: Path) -> tuple[Any, int]:
    """The model, hearing through its exported LLM, and the bytes of that LLM's weights."""
    model = load_model(path, "cpu")
    format = "merged" if bits == MERGED else "quantized"
    target = folder / f"{format}{bits}"
    export(model, format, ExportOptions(target, bits=bits or 8), About(path))
    hear_through(model, target)
    return model, sum(file.stat().st_size for file in target.glob("*.safetensors"))


def main(
    model: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="The model, a .nemo file.")],
    speech: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="Test items that want transcripts.")],
    text: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="Test items of text skills.")],
    bits: Annotated[list[int], typer.Option(help="Of weights; 0 merges LoRA alone.")] = [MERGED, 8, 4],  # noqa: B006
    items: Annotated[int | None, typer.Option(help="Of each task at most; all by default.")] = None,
) -> None:
    some = tasks(speech, text, items)
    with tempfile.TemporaryDirectory() as workspace:
        folder = Path(workspace)
        rows = [measure(load_model(model, "cpu"), some, folder, "as it is")]
        for number in bits:
            hearing, size = through_export(model, number, folder)
            name = f"{number} bits" if number else "merged"
            rows.append({**measure(hearing, some, folder, name), "bytes": size})
    print(f"\n{'LLM':10} {'MB':>7} {'WER':>20} {'text':>20} {'secs':>7}")
    for row in rows:
        size = f"{row['bytes'] / 1e6:.1f}" if "bytes" in row else ""
        wer, accuracy = (f"{value:.1f} ({low:.1f}-{high:.1f})" for value, low, high in (row["speech"], row["text"]))
        print(f"{row['name']:10} {size:>7} {wer:>20} {accuracy:>20} {row['secs']:7.1f}")
    print(json.dumps(rows))


if __name__ == "__main__":
    typer.run(main)
