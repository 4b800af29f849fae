"""Model files of every released format, kept small in `tests/data/released/`, and what they answered when they were made.

    python -m tests.helpers.released

adds the file of the present version, with its answers; those of earlier versions are never made anew.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.helpers.models import SAMPLING_RATE, canary_file, llm_folder, model_config, user
from tests.helpers.tokenizer import make_tokenizer
from vtblender_nemo import VTBlenderModel, __version__

FOLDER = Path(__file__).parents[1] / "data/released"
WIDTH, LETTERS, STOP = 16, "abcdefghijkl", 5
NEW = 10


def chats() -> list[list[dict[str, Any]]]:
    """Text alone, one audio, and two of them around text; made of sines, which no library draws otherwise one day."""
    time = np.arange(SAMPLING_RATE) / SAMPLING_RATE
    low, high = (
        (0.3 * np.sin(2 * np.pi * hertz * time) * np.sin(np.pi * time)).astype(np.float32) for hertz in (220, 1300)
    )
    audio = [{"type": "audio", "audio": wave, "sampling_rate": SAMPLING_RATE} for wave in (low, high)]
    return [
        [user("hello")],
        [user("Transcribe:", audio[0])],
        [user(audio[1], "and", audio[0])],
    ]


def answers(model: Any) -> list[str]:
    """Greedy answers to `chats`, each by itself."""
    return [model.generate([chat], NEW)[0] for chat in chats()]


def make(path: Path) -> list[str]:
    """Writes a model whose answers are letters, and returns its answers."""
    with tempfile.TemporaryDirectory() as workspace:
        model = VTBlenderModel(_config(Path(workspace))).eval()
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if ".lora_B" in name or name.endswith("separator"):
                    weight.normal_(std=0.3, generator=generator)
            model.perception.proj.weight.mul_(5)
        for key in ("pretrained_llm", "pretrained_asr"):
            model.cfg[key] = f"gone/{key}"  # a file must not need where it came from
        model.save_to(path)
        return answers(model)


def _config(folder: Path) -> Any:
    canary = canary_file(folder, encoder={"d_model": WIDTH, "n_layers": 1, "subsampling_conv_channels": 16})
    perception = {"modality_adapter": {"d_model": WIDTH, "n_heads": 2, "n_layers": 1, "ff_expansion_factor": 2}}
    return model_config(_talking_llm(folder), canary, perception=perception, lora={"r": 2, "lora_alpha": 4})


def _talking_llm(folder: Path) -> Path:
    from transformers import AutoModelForCausalLM

    path = llm_folder(folder, "llama", hidden_size=WIDTH, intermediate_size=24, tie_word_embeddings=False)
    llm = AutoModelForCausalLM.from_pretrained(path)
    said = [*make_tokenizer().convert_tokens_to_ids(list(LETTERS)), STOP]
    with torch.no_grad():
        head = llm.get_output_embeddings().weight
        kept = head[said].clone()
        head[:] = kept.mean(0)  # whose logit no maximum is below
        head[said] = kept
    llm.save_pretrained(path)
    return path


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    target = FOLDER / f"{__version__}.nemo"
    found = make(target)
    target.with_suffix(".json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(f"{target}: {target.stat().st_size} bytes, {found}")  # noqa: T201
