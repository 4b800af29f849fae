"""A small Canary: a real NeMo `EncDecMultiTaskModel` with `canary2` prompts, of the sizes of the tiny world."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtblender_nemo.tiny.config import EncoderConfig

if TYPE_CHECKING:
    from nemo.collections.asr.models import EncDecMultiTaskModel

FEATURES = 80  # mel bands, as in Canary-1B's kin of this size
_SPECIAL_TOKENS = [
    "translate",
    "transcribe",
    "en",
    "de",
    "es",
    "startofcontext",
    "emo:undefined",
    "itn",
    "noitn",
    "timestamp",
    "notimestamp",
    "diarize",
    "nodiarize",
]
_DECODER_LAYERS = 1
_LONGEST_TEXT = 256


def build_canary(
    config: EncoderConfig,
    sentences: Mapping[str, Sequence[str]],
    workspace: Path,
    *,
    pieces: int = 128,
    overrides: Mapping[str, Any] | None = None,
) -> EncDecMultiTaskModel:
    """Builds the model with random weights.

    Args:
        config: sizes of the encoder.
        sentences: texts by language, for the decoder's tokenizers.
        workspace: folder for tokenizer files; `save_to` packs them into the `.nemo`.
        pieces: sentence pieces of each language.
        overrides: merged over the model's configuration.
    """
    from nemo.collections.asr.models import EncDecMultiTaskModel
    from omegaconf import OmegaConf

    base = _model_config(config, _make_tokenizers(sentences, workspace, pieces))
    return EncDecMultiTaskModel(OmegaConf.merge(base, overrides or {}))


def _make_tokenizers(sentences: Mapping[str, Sequence[str]], workspace: Path, pieces: int) -> dict[str, dict[str, str]]:
    from nemo.collections.common.tokenizers.canary_tokenizer import CanaryTokenizer
    from nemo.collections.common.tokenizers.sentencepiece_tokenizer import create_spt_model

    CanaryTokenizer.build_special_tokenizer(_SPECIAL_TOKENS, str(workspace / "special"), force_rebuild=True)
    folders = {"spl_tokens": workspace / "special"}
    for language, texts in sentences.items():
        corpus = workspace / f"{language}.txt"
        corpus.write_text("\n".join(texts), encoding="utf-8")
        folders[language] = workspace / language
        create_spt_model(
            str(corpus),
            vocab_size=pieces,
            sample_size=-1,
            do_lower_case=False,
            output_dir=str(folders[language]),
            character_coverage=1.0,
            remove_extra_whitespaces=True,
        )
    return {name: {"dir": str(folder), "type": "bpe"} for name, folder in folders.items()}


def _model_config(config: EncoderConfig, tokenizers: dict[str, dict[str, str]]) -> dict[str, Any]:
    width = config.width
    decoder_block = {"hidden_size": width, "inner_size": 2 * width, "num_attention_heads": config.heads, "pre_ln": True}
    no_dropout = {"ffn_dropout": 0.0, "attn_score_dropout": 0.0, "attn_layer_dropout": 0.0}
    return {
        "sample_rate": 16000,
        "label_smoothing": 0.0,
        "prompt_format": "canary2",
        "log_prediction": False,
        "restore_timestamps_model": False,
        "model_defaults": {"asr_enc_hidden": width, "lm_enc_hidden": width, "lm_dec_hidden": width},
        "tokenizer": {
            "dir": None,
            "type": "agg",
            "langs": tokenizers,
            "custom_tokenizer": {
                "_target_": "nemo.collections.common.tokenizers.canary_tokenizer.CanaryTokenizer",
                "tokenizers": None,
            },
        },
        "prompt_defaults": [
            {
                "role": "user",
                "slots": {
                    "decodercontext": "",
                    "source_lang": "<|en|>",
                    "target_lang": "<|en|>",
                    "emotion": "<|emo:undefined|>",
                    "pnc": "<|pnc|>",
                    "itn": "<|noitn|>",
                    "diarize": "<|nodiarize|>",
                    "timestamp": "<|notimestamp|>",
                },
            }
        ],
        "preprocessor": {
            "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
            "sample_rate": 16000,
            "normalize": "per_feature",
            "window_size": 0.025,
            "window_stride": 0.01,
            "window": "hann",
            "features": FEATURES,
            "n_fft": 512,
            "log": True,
            "frame_splicing": 1,
            "dither": 0.0,  # Canary's 1e-5 is inaudible, and drawing it takes time on a CPU
            "pad_to": 0,
            "pad_value": 0.0,
        },
        "encoder": {
            "_target_": "nemo.collections.asr.modules.ConformerEncoder",
            "feat_in": FEATURES,
            "feat_out": -1,
            "n_layers": config.layers,
            "d_model": width,
            "subsampling": "dw_striding",
            "subsampling_factor": 8,
            "subsampling_conv_channels": config.subsampling_channels,
            "causal_downsampling": False,
            "ff_expansion_factor": 4,
            "self_attention_model": "rel_pos",
            "n_heads": config.heads,
            "att_context_size": [-1, -1],
            "xscaling": False,
            "untie_biases": True,
            "pos_emb_max_len": 5000,
            "conv_kernel_size": config.conv_kernel,
            "conv_norm_type": "batch_norm",
            "dropout": 0.0,
            "dropout_pre_encoder": 0.0,
            "dropout_emb": 0.0,
            "dropout_att": 0.0,
        },
        "transf_encoder": {
            "_target_": "nemo.collections.asr.modules.transformer.transformer_encoders.TransformerEncoder",
            "num_layers": 0,
            "mask_future": False,
            "pre_ln_final_layer_norm": True,
            **decoder_block,
            **no_dropout,
        },
        "transf_decoder": {
            "_target_": "nemo.collections.asr.modules.transformer.get_nemo_transformer",
            "model_name": None,
            "pretrained": False,
            "encoder": None,
            "pre_ln_final_layer_norm": True,
            "config_dict": {
                "max_sequence_length": _LONGEST_TEXT,
                "num_token_types": 0,
                "embedding_dropout": 0.0,
                "learn_positional_encodings": False,
                "num_layers": _DECODER_LAYERS,
                "hidden_act": "relu",
                "vocab_size": "None",
                **decoder_block,
                **no_dropout,
            },
        },
        "head": {
            "_target_": "nemo.collections.asr.parts.submodules.token_classifier.TokenClassifier",
            "num_layers": 1,
            "activation": "relu",
            "log_softmax": True,
            "hidden_size": width,
            "num_classes": "None",
            "dropout": 0.0,
            "use_transformer_init": True,
        },
        "decoding": {
            "strategy": "beam",
            "return_best_hypothesis": True,
            "beam": {"beam_size": 1, "len_pen": 0.0, "max_generation_delta": 50},
        },
        "loss": {
            "_target_": "nemo.collections.common.losses.smoothed_cross_entropy.SmoothedCrossEntropyLoss",
            "label_smoothing": 0.0,
            "pad_id": None,
        },
        "optim": {"name": "adamw", "lr": 3e-4},
    }
