"""Small models of NeMo's own classes: FastPitch and HiFi-GAN with random weights, and a recogniser that can be taught."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf

RATE = 22_050
MELS = 80
HOP = 256
SPEAKERS = 5


def _mel(target: str, **more: Any) -> dict[str, Any]:
    return {
        "_target_": target,
        "n_fft": 1024,
        "sample_rate": RATE,
        "lowfreq": 0,
        "highfreq": 8000,
        "window": "hann",
        **more,
    }


_TOKENIZERS = "nemo.collections.common.tokenizers.text_to_speech.tts_tokenizers"


def phonemes(folder: Path) -> dict[str, Any]:
    """The tokenizer of the released models, with a dictionary of two words; others are spelled."""
    (folder / "dictionary").write_text("HELLO  HH AH0 L OW1\nTHERE  DH EH1 R\n")
    (folder / "heteronyms").write_text("")
    g2p = {
        "_target_": "nemo.collections.tts.g2p.models.en_us_arpabet.EnglishG2p",
        "phoneme_dict": str(folder / "dictionary"),
        "heteronyms": str(folder / "heteronyms"),
        "phoneme_probability": 0.5,
    }
    kinds = {"punct": True, "stresses": True, "chars": True, "apostrophe": True, "pad_with_space": True}
    return {"_target_": f"{_TOKENIZERS}.EnglishPhonemesTokenizer", **kinds, "g2p": g2p}


def build_fastpitch(speakers: int = SPEAKERS, tokenizer: dict[str, Any] | None = None) -> Any:
    """A `FastPitchModel` of two layers on each side; without a tokenizer it reads letters."""
    from nemo.collections.tts.models import FastPitchModel

    width = 32
    transformer = {"n_layer": 2, "n_head": 1, "d_model": width, "d_head": 16, "d_inner": 64, "kernel_size": 3}
    transformer |= {"dropout": 0.1, "dropatt": 0.1, "dropemb": 0.0}
    predictor = {
        "_target_": "nemo.collections.tts.modules.fastpitch.TemporalPredictor",
        "input_size": width,
        "kernel_size": 3,
        "filter_size": 32,
        "dropout": 0.1,
        "n_layers": 2,
    }
    config = {
        "learn_alignment": True,
        "n_speakers": speakers,
        "min_token_duration": 2,  # random weights would speak some letters in no time at all
        "max_token_duration": 20,
        "symbols_embedding_dim": width,
        "pitch_embedding_kernel_size": 3,
        "n_mel_channels": MELS,
        "sample_rate": RATE,
        "text_tokenizer": tokenizer
        or {
            "_target_": f"{_TOKENIZERS}.EnglishCharsTokenizer",
            "punct": True,
            "apostrophe": True,
            "pad_with_space": True,
        },
        "train_ds": {"defer_setup": True, "dataset": {"_target_": "nemo.collections.tts.data.dataset.TTSDataset"}},
        "preprocessor": _mel(
            "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
            features=MELS,
            n_window_size=1024,
            window_size=False,
            n_window_stride=HOP,
            window_stride=False,
            normalize=None,
            dither=0.0,
        ),
        "input_fft": {
            "_target_": "nemo.collections.tts.modules.transformer.FFTransformerEncoder",
            "d_embed": width,
            **transformer,
        },
        "output_fft": {"_target_": "nemo.collections.tts.modules.transformer.FFTransformerDecoder", **transformer},
        "alignment_module": {
            "_target_": "nemo.collections.tts.modules.aligner.AlignmentEncoder",
            "n_text_channels": width,
            "n_mel_channels": MELS,
        },
        "duration_predictor": predictor,
        "pitch_predictor": predictor,
        "optim": {"name": "adamw", "lr": 1e-3},
    }
    return FastPitchModel(OmegaConf.create(config)).eval()


def build_hifigan() -> Any:
    """A `HifiGanModel` with a narrow generator; its discriminators are NeMo's own and large."""
    from nemo.collections.tts.models import HifiGanModel

    config = {
        "train_ds": {"defer_setup": True, "dataset": {"_target_": "nemo.collections.tts.data.dataset.VocoderDataset"}},
        "preprocessor": _mel(
            "nemo.collections.asr.parts.preprocessing.features.FilterbankFeatures",
            nfilt=MELS,
            n_window_size=1024,
            n_window_stride=HOP,
            pad_to=0,
            normalize=None,
            dither=0.0,
            use_grads=False,
        ),
        "generator": {
            "_target_": "nemo.collections.tts.modules.hifigan_modules.Generator",
            "resblock": 1,
            "upsample_rates": [8, 8, 2, 2],
            "upsample_kernel_sizes": [16, 16, 4, 4],
            "upsample_initial_channel": 32,
            "resblock_kernel_sizes": [3, 7, 11],
            "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5], [1, 3, 5]],
        },
        "optim": {"_target_": "torch.optim.AdamW", "lr": 2e-4},
        "max_steps": 1,
    }
    return HifiGanModel(OmegaConf.create(config)).eval()


def build_recogniser() -> Any:
    """An `EncDecCTCModel` over letters: a Conformer of two layers with fourfold subsampling."""
    from nemo.collections.asr.models import EncDecCTCModel

    width = 64
    letters = list(" abcdefghijklmnopqrstuvwxyz'")
    config = {
        "sample_rate": 16_000,
        "labels": letters,
        "preprocessor": {
            "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
            "features": 40,
            "normalize": "per_feature",
            "dither": 0.0,
            "pad_to": 0,
        },
        "encoder": {
            "_target_": "nemo.collections.asr.modules.ConformerEncoder",
            "feat_in": 40,
            "n_layers": 2,
            "d_model": width,
            "subsampling": "dw_striding",
            "subsampling_factor": 4,
            "subsampling_conv_channels": 16,
            "n_heads": 4,
            "conv_kernel_size": 9,
            "conv_norm_type": "layer_norm",
            "dropout": 0.0,
            "dropout_emb": 0.0,
            "dropout_att": 0.0,
            "dropout_pre_encoder": 0.0,
        },
        "decoder": {
            "_target_": "nemo.collections.asr.modules.ConvASRDecoder",
            "feat_in": width,
            "num_classes": len(letters),
            "vocabulary": letters,
        },
        "optim": {"name": "adamw", "lr": 1e-3},
    }
    return EncDecCTCModel(OmegaConf.create(config))


def teach(model: Any, speech: list[np.ndarray], texts: list[str], steps: int = 150) -> None:
    """Trains a recogniser until it knows these by heart; 15 s on a CPU."""
    labels = model.cfg.labels
    lengths = torch.tensor([len(samples) for samples in speech])
    signal = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(samples) for samples in speech], batch_first=True)
    targets = [torch.tensor([labels.index(letter) for letter in text]) for text in texts]
    transcript = torch.nn.utils.rnn.pad_sequence(targets, batch_first=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(steps):
        log_probs, encoded, _ = model(input_signal=signal, input_signal_length=lengths)
        loss = model.loss(
            log_probs=log_probs,
            targets=transcript,
            input_lengths=encoded,
            target_lengths=torch.tensor([len(target) for target in targets]),
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()


def save(model: Any, path: Path) -> str:
    model.save_to(str(path))
    return str(path)
