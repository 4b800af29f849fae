"""The paper's model at full size with random weights: two bfloat16 steps, save, restore. Takes 22 GiB and some minutes on a CPU.

    python -m tests.benchmark.full_size [FOLDER]

Prints the parameters trained, the seconds and the peak memory of each stage, and one JSON object as the last line.
"""

from __future__ import annotations

import gc
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import soundfile as sf
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from transformers import GemmaConfig

from tests.helpers.models import SAMPLING_RATE, audio_part, canary_file, quiet, speech, user
from tests.helpers.paper import CANARY_1B, GEMMA_2B
from tests.helpers.tokenizer import make_tokenizer
from vtblender_nemo import VTBlenderModel
from vtblender_nemo.training.fit import build_data, build_model, fit

CONF = Path(__file__).parents[2] / "conf"
STEPS = 2


class Stages:
    """Seconds and peak memory of each stage."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, float]] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        self.found[name] = {"seconds": round(time.monotonic() - started, 1), "peak_gib": round(peak, 1)}
        print(name, self.found[name], flush=True)


def write_inputs(folder: Path) -> dict[str, list[dict[str, str]]]:
    """A Canary, an LLM's folder without weights, and a few rows; returns the sources by sampler."""
    canary_file(folder, **CANARY_1B)
    GemmaConfig(**GEMMA_2B, architectures=["GemmaForCausalLM"]).save_pretrained(folder / "llm")
    make_tokenizer().save_pretrained(folder / "llm")
    sf.write(folder / "a.wav", speech(3.0), SAMPLING_RATE)
    row = {"audio_filepath": "a.wav", "duration": 3.0, "text": "the king bought two red boats"}
    (folder / "asr.jsonl").write_text(json.dumps(row) + "\n")
    chat = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "good day"}]
    (folder / "text.jsonl").write_text(json.dumps({"id": "0", "messages": chat}) + "\n")
    return {
        "audio": [
            {"type": "nemo", "name": "asr", "manifest_filepath": str(folder / "asr.jsonl"), "prompts": ["Transcribe:"]}
        ],
        "text": [{"type": "text_chat", "name": "text", "manifest_filepath": str(folder / "text.jsonl")}],
    }


def configure(folder: Path, sources: dict[str, list[dict[str, str]]]) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base=None):
        cfg = compose("vtb_3b", overrides=["hardware=gpu_80gb", "save_checkpoint=last"])
    OmegaConf.set_struct(cfg, False)
    cfg.output_dir = str(folder / "run")
    cfg.model.pretrained_llm, cfg.model.pretrained_asr = str(folder / "llm"), str(folder / "canary.nemo")
    cfg.model.pretrained_weights = False
    cfg.data.validation_ds = None
    for name, entries in sources.items():
        cfg.data.train_ds.samplers[name].input_cfg = entries
        cfg.data.train_ds.samplers[name].batch_size = 2
    cfg.data.train_ds.num_workers = 0
    cfg.model.optim.sched.warmup_steps = 1
    cfg.trainer.update(
        {
            "accelerator": "cpu",
            "precision": "bf16-mixed",
            "max_steps": STEPS,
            "accumulate_grad_batches": 1,
            "limit_val_batches": 0,
        }
    )
    cfg.trainer.val_check_interval = STEPS
    cfg.exp_manager.create_checkpoint_callback = False
    return cfg


def main() -> None:
    quiet()
    stages = Stages()
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as name:
        folder = Path(name)
        with stages("write inputs"):
            cfg = configure(folder, write_inputs(folder))
        with stages("build"):
            model = build_model(cfg)
        with stages("two steps"):
            before = model.perception.proj.weight.detach().clone()
            fit(cfg, model, build_data(cfg, model))
            assert not torch.equal(before, model.perception.proj.weight)
        trained = model.trained_parameters()
        with stages("save"):
            model.save_to(folder / "model.nemo")
        some = {n: w.clone() for n, w in list(model.state_dict().items())[::50]}
        size = (folder / "model.nemo").stat().st_size / 2**30
        del model
        gc.collect()  # model, trainer and optimiser hold each other
        with stages("restore"):
            restored = VTBlenderModel.restore_from(folder / "model.nemo")
            assert all(torch.equal(restored.state_dict()[n], w) for n, w in some.items())
        with stages("generate"):
            print(restored.generate([[user("Transcribe:", audio_part(2.0))]], max_new_tokens=4))
    print(json.dumps({"trained_parameters": trained, "nemo_gib": round(size, 2), "stages": stages.found}))


if __name__ == "__main__":
    main()
