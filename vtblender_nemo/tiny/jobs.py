"""The two trainings of the tiny world, and the answers to be imitated, as processes: `python -m vtblender_nemo.tiny.jobs
llm|encoder|imitation FOLDER SCRATCH OUTPUT`.

Each reads the config that `world.prepare` left in the world's folder, continues from its checkpoint if there is one,
and leaves what it made and a `result.json` behind.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from vtblender_nemo.common.precision import bf16_is_fast
from vtblender_nemo.common.stopping import stop_with_parent
from vtblender_nemo.evaluation.metrics import compute
from vtblender_nemo.tiny import encoder as encoding
from vtblender_nemo.tiny import llm
from vtblender_nemo.tiny.chats import Chat, ChatMaker
from vtblender_nemo.tiny.config import TinyConfig, config_from
from vtblender_nemo.tiny.heard import NOISE_FOLDER, Listener, Warp, heard_features
from vtblender_nemo.tiny.imitation import answer_transcripts
from vtblender_nemo.tiny.optim import muon_and_adamw
from vtblender_nemo.tiny.sources import hold_out_for
from vtblender_nemo.tiny.stages import say
from vtblender_nemo.tiny.training import train_steps
from vtblender_nemo.tiny.voices import voice_of

CONFIG_NAME, RESULT_NAME, CHECKPOINT_NAME = "config.json", "result.json", "checkpoint.pt"
_LLM_WEIGHT_DECAY, _ENCODER_WEIGHT_DECAY = 0.01, 0.001
_SAID_EVERY = 2000  # utterances


def language_model_chats(config: TinyConfig) -> Iterator[Chat]:
    """All that the language model is ever trained on, in its order."""
    return ChatMaker(hold_out_for(config), f"llm-{config.seed}").chats()


def train_language_model(directory: Path, scratch: Path, output: Path) -> None:
    """Trains the language model and writes it as a Hugging Face folder, with its accuracy on held-out text."""
    from transformers import AutoTokenizer

    config = read_config(directory)
    torch.manual_seed(config.seed)
    tokenizer = AutoTokenizer.from_pretrained(directory / "tokenizer", trust_remote_code=False)
    model = llm.make_model(config.llm, tokenizer).train()
    chat_format = llm.chat_format_of(tokenizer)
    batches = llm.text_batches(
        language_model_chats(config),
        chat_format,
        config.llm.tokens_per_batch,
        config.llm.prompt_loss_weight,
        config.seed,
    )
    bf16 = bf16_is_fast("cpu")
    loss = train_steps(
        model,
        muon_and_adamw(model, config.llm.muon_lr, config.llm.adamw_lr, _LLM_WEIGHT_DECAY),
        batches,
        lambda batch: llm.text_loss(model, batch[0], batch[1], bf16),
        steps=config.llm.steps,
        decay_share=config.llm.decay_share,
        checkpoint=scratch / CHECKPOINT_NAME,
        checkpoint_secs=config.checkpoint_secs,
        say=say,
    )
    items = read_jsonl(directory / "content" / "tests" / "text.jsonl")
    answers = llm.answer(model.eval(), chat_format, [llm.turns_of(item["messages"]) for item in items])
    result = text_accuracy(items, answers)
    say(f"accuracy on held-out text {result['accuracy']:.1f}")
    llm.save_model(model, tokenizer, output)
    result |= {"loss": loss, "parameters": sum(weights.numel() for weights in model.parameters())}
    (scratch / RESULT_NAME).write_text(json.dumps(result))


def imitate(directory: Path, scratch: Path, output: Path) -> None:
    """Has the language model answer about transcripts, as `imitation.answer_transcripts`."""
    os.chdir(directory)
    result = answer_transcripts(read_config(directory), output)
    (scratch / RESULT_NAME).write_text(json.dumps(result))


def text_accuracy(items: list[dict[str, Any]], answers: list[str]) -> dict[str, Any]:
    """Exact match of answers in percent: over all items, and by skill."""
    right: dict[str, list[bool]] = defaultdict(list)
    for item, answer in zip(items, answers, strict=True):
        right[item["custom"]["skill"]].append(answer == item["reference"])
    by_skill = {skill: 100 * sum(hits) / len(hits) for skill, hits in right.items()}
    return {"accuracy": 100 * sum(map(sum, right.values())) / len(items), "accuracy_by_skill": by_skill}


def train_encoder(directory: Path, scratch: Path, output: Path) -> None:
    """Trains the encoder through a CTC head and writes it as a Canary `.nemo`, with its WER on held-out speech."""
    _quiet_nemo()
    from nemo.collections.asr.modules import SpectrogramAugmentation
    from transformers import AutoTokenizer

    from vtblender_nemo.tiny.canary import build_canary

    config = read_config(directory)
    torch.manual_seed(config.seed)
    canary = build_canary(config.encoder, _sentences(directory), _folder(scratch / "tokenizers"))
    say("computing log-mel features")
    clips = _read_clips(directory, scratch / "features.pt", canary.preprocessor, config)
    train = [clip for split, clip, _ in clips if split == "train"]
    units = encoding.CtcUnits(
        AutoTokenizer.from_pretrained(directory / "tokenizer", trust_remote_code=False), [clip.text for clip in train]
    )
    model = encoding.CtcRecogniser(canary.encoder, units.blank, bf16_is_fast("cpu")).train()
    augment = SpectrogramAugmentation(
        freq_masks=config.encoder.freq_masks,
        freq_width=config.encoder.freq_width,
        time_masks=config.encoder.time_masks,
        time_width=config.encoder.time_width,
    )
    encoding.set_dropout(canary.encoder, config.encoder.dropout or 0.0)
    mel_warp, time_warp = config.encoder.mel_warp or 0.0, config.encoder.time_warp or 0.0
    warp = Warp(mel_warp, time_warp) if mel_warp or time_warp else None
    loss = train_steps(
        model,
        muon_and_adamw(model, config.encoder.muon_lr, config.encoder.adamw_lr, _ENCODER_WEIGHT_DECAY),
        encoding.clip_batches(train, config.encoder.frames_per_batch, config.seed),
        lambda batch: encoding.ctc_loss(model, units, [train[index] for index in batch[0]], batch[1], augment, warp),
        steps=config.encoder.steps,
        decay_share=config.encoder.decay_share,
        checkpoint=scratch / CHECKPOINT_NAME,
        checkpoint_secs=config.checkpoint_secs,
        say=say,
    )
    result = _recognition(model, units, [(clip, accent) for split, clip, accent in clips if split == "test"], config)
    say(f"held-out WER {result['wer']:.1f}")
    encoding.set_dropout(canary.encoder, 0.0)  # what the model's own configuration says
    canary.eval().save_to(str(output))
    result |= {"ctc_loss": loss, "parameters": sum(weights.numel() for weights in canary.encoder.parameters())}
    (scratch / RESULT_NAME).write_text(json.dumps(result))


def _recognition(
    model: encoding.CtcRecogniser, units: encoding.CtcUnits, clips: list[tuple[encoding.Clip, str]], config: TinyConfig
) -> dict[str, float]:
    """WER over all test speech, and apart for accents that were heard in training and those that were not."""
    made = encoding.transcribe(model, units, [clip for clip, _ in clips])
    new_accent = [accent in config.voices.held_out_accents for _, accent in clips]
    rates = {
        "wer": [True] * len(clips),
        "wer_new_accent": new_accent,
        "wer_known_accent": [not new for new in new_accent],
    }
    return {
        name: compute(
            "wer",
            [text for text, keep in zip(made, kept, strict=True) if keep],
            [clip.text for (clip, _), keep in zip(clips, kept, strict=True) if keep],
            normalizer="basic",
        ).value
        for name, kept in rates.items()
        if any(kept)
    }


def _read_clips(
    directory: Path, cache: Path, preprocessor: torch.nn.Module, config: TinyConfig
) -> list[tuple[str, encoding.Clip, str]]:
    """Split, features and accent of all training and test speech; the features are kept for a continued training."""
    content = directory / "content"
    rows = [row for row in read_jsonl(content / "utterances.jsonl") if row["name"].startswith(("train_", "test_"))]
    if config.encoder.augment is not None:
        rows = [row for row in rows for _ in range(_copies(row, config))]
    if cache.exists():
        features = torch.load(cache, weights_only=True)
    else:
        features = _features(rows, directory, preprocessor, config)
        torch.save(features, cache.with_suffix(".partial"))
        cache.with_suffix(".partial").rename(cache)
    return [
        (row["name"].split("_")[0], encoding.Clip(feature, row["text"]), voice_of(row["voice"]).accent)
        for row, feature in zip(rows, features, strict=True)
    ]


def _copies(row: Mapping[str, Any], config: TinyConfig) -> int:
    return (config.encoder.copies or 1) if row["name"].startswith("train_") else 1


def _features(
    rows: list[dict[str, Any]], directory: Path, preprocessor: torch.nn.Module, config: TinyConfig
) -> list[torch.Tensor]:
    """Features of every row; copies of a training utterance follow each other, each heard another way."""
    content, settings = directory / "content", config.encoder
    if settings.augment is None:
        return encoding.log_mel(preprocessor, [content / row["file"] for row in rows])
    files = {
        split: list(dict.fromkeys(content / r["file"] for r in rows if r["name"].startswith(f"{split}_")))
        for split in ("train", "test")
    }
    listener = Listener(settings.augment, directory / NOISE_FOLDER, config.seed)
    made = dict(zip(files["test"], ([one] for one in encoding.log_mel(preprocessor, files["test"])), strict=True))
    for number, (file, heard) in enumerate(
        zip(files["train"], heard_features(preprocessor, files["train"], settings.copies or 1, listener), strict=True),
        1,
    ):
        made[file] = heard
        if number % _SAID_EVERY == 0:
            say(f"heard {number} of {len(files['train'])} utterances")
    return [features for file in dict.fromkeys(content / row["file"] for row in rows) for features in made[file]]


def _sentences(directory: Path) -> dict[str, list[str]]:
    sources = directory / "content" / "sources"
    return {
        "en": [row["text"] for row in read_jsonl(sources / "asr.jsonl")],
        "de": [row["translation"] for row in read_jsonl(sources / "ast_de.jsonl")],
        "es": [row["translation"] for row in read_jsonl(sources / "ast_es.jsonl")],
    }


def read_config(directory: Path) -> TinyConfig:
    """The config that `world.prepare` left in the world's folder."""
    settings: Mapping[str, Any] = json.loads((directory / CONFIG_NAME).read_text())
    return config_from(settings)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """All rows of a file that this package wrote."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def _quiet_nemo() -> None:
    warnings.filterwarnings("ignore")
    from nemo.core.classes.common import typecheck
    from nemo.utils import logging as nemo_logging

    nemo_logging.setLevel(logging.ERROR)
    typecheck.set_typecheck_enabled(False)  # it checks every call of every module


if __name__ == "__main__":
    stop_with_parent()
    torch.set_num_threads(1)
    {"llm": train_language_model, "encoder": train_encoder, "imitation": imitate}[sys.argv[1]](
        *map(Path, sys.argv[2:5])
    )
