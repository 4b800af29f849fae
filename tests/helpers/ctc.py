"""Small CTC recognisers of NeMo, and their training on espeak-ng's speech."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vtblender_nemo.tiny.canary import FEATURES
from vtblender_nemo.tiny.encoder import Clip, clip_batches, collate, features_of
from vtblender_nemo.tiny.grammar import draw_fact
from vtblender_nemo.tiny.optim import muon_and_adamw
from vtblender_nemo.tiny.training import train_steps

RATE = 16_000


def sentences(count: int, seed: int) -> list[str]:
    """Distinct sentences of the tiny world."""
    rng, found = random.Random(f"sentences-{seed}"), dict[str, None]()
    while len(found) < count:
        found[draw_fact(rng).sentence().en] = None
    return list(found)


def build_ctc(
    folder: Path, texts: Sequence[str], *, layers: int, width: int, channels: int = 16, pieces: int = 96, **encoder: Any
) -> Any:
    """A FastConformer with a CTC decoder over sentence pieces of lower-case letters, with random weights."""
    from nemo.collections.asr.models import EncDecCTCModelBPE
    from nemo.collections.common.tokenizers.sentencepiece_tokenizer import create_spt_model
    from omegaconf import OmegaConf

    corpus = folder / "texts.txt"
    corpus.write_text("\n".join(map(letters_of, texts)), encoding="utf-8")
    create_spt_model(str(corpus), pieces, -1, False, tokenizer_type="bpe", output_dir=str(folder / "tokenizer"))
    return EncDecCTCModelBPE(
        OmegaConf.merge(_config(folder / "tokenizer", layers, width, channels), {"encoder": encoder})
    )


def letters_of(text: str) -> str:
    """A text as the recogniser writes it: lower case, no punctuation."""
    return "".join(letter for letter in text.lower() if letter.isalpha() or letter in " '")


def _config(tokenizer: Path, layers: int, width: int, channels: int) -> dict[str, Any]:
    no_dropout = dict.fromkeys(("dropout", "dropout_pre_encoder", "dropout_emb", "dropout_att"), 0.0)
    return {
        "sample_rate": RATE,
        "log_prediction": False,
        "tokenizer": {"dir": str(tokenizer), "type": "bpe"},
        "preprocessor": {
            "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
            "sample_rate": RATE,
            "normalize": "per_feature",
            "window_size": 0.025,
            "window_stride": 0.01,
            "features": FEATURES,
            "n_fft": 512,
            "dither": 0.0,
            "pad_to": 0,
        },
        "encoder": {
            "_target_": "nemo.collections.asr.modules.ConformerEncoder",
            "feat_in": FEATURES,
            "feat_out": -1,
            "n_layers": layers,
            "d_model": width,
            "subsampling": "dw_striding",
            "subsampling_factor": 8,
            "subsampling_conv_channels": channels,
            "ff_expansion_factor": 4,
            "self_attention_model": "rel_pos",
            "n_heads": 4,
            "conv_kernel_size": 9,
            "xscaling": False,
            **no_dropout,
        },
        "decoder": {
            "_target_": "nemo.collections.asr.modules.ConvASRDecoder",
            "feat_in": width,
            "num_classes": -1,
            "vocabulary": [],
        },
        "optim": {"name": "adamw", "lr": 1e-3},
    }


def train_ctc(model: Any, samples: Sequence[torch.Tensor], texts: Sequence[str], steps: int, folder: Path) -> float:
    """Trains a recogniser as the tiny world trains its encoder; gives the last loss.

    Args:
        model: of `build_ctc`.
        samples: float32 (S,) at 16 kHz.
        texts: what is said in each.
        steps: optimiser steps.
        folder: for checkpoints.
    """
    features = features_of(model.preprocessor, samples)
    clips = [Clip(feature, letters_of(text)) for feature, text in zip(features, texts, strict=True)]

    def loss_of(batch: tuple[list[int], int]) -> torch.Tensor:
        own = [clips[index] for index in batch[0]]
        feature, frames = collate(own, batch[1])
        encoded, lengths = model.encoder(audio_signal=feature, length=frames)
        targets = [torch.tensor(model.tokenizer.text_to_ids(clip.text)) for clip in own]
        return nn.functional.ctc_loss(
            model.decoder(encoder_output=encoded).transpose(0, 1),
            torch.cat(targets),
            lengths,
            torch.tensor([len(target) for target in targets]),
            blank=model.tokenizer.vocab_size,
            zero_infinity=True,
        )

    return train_steps(
        model.train(),
        muon_and_adamw(model, 3e-3, 3e-3, 0.001),
        clip_batches(clips, 6000, seed=0),
        loss_of,
        steps=steps,
        decay_share=0.6,
        checkpoint=folder / "checkpoint.pt",
        checkpoint_secs=1e9,
        say=lambda line: None,
    )
