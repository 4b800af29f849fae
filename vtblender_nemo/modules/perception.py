"""Waveform -> frames in the LLM's embedding space: NeMo's perception module, made from a pretrained speech model.

Shapes: A audio segments, S samples of the longest one, F frames of all of them, H the LLM's hidden size.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from nemo.collections.asr.models import ASRModel
from nemo.collections.asr.modules import ConformerEncoder
from nemo.collections.speechlm2.modules import AudioPerceptionModule
from nemo.core.classes.common import typecheck
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Tensor, nn

from vtblender_nemo.common.errors import ConfigError, ModelFileError
from vtblender_nemo.common.lengths import length_groups
from vtblender_nemo.common.nemo_restore import pretrained_nemo, restore_nemo
from vtblender_nemo.common.trusted_classes import RECOGNISER, VTBLENDER, check_parts
from vtblender_nemo.modules.audio_chunks import chunk, split_group
from vtblender_nemo.modules.recompute import check_degree, recompute_conformer
from vtblender_nemo.modules.soft_tokens import TokenCTC


class Perception(AudioPerceptionModule):
    """Preprocessor, Conformer encoder, Conformer modality adapter, projection to H, optional separator.

    Weights bear the same names as in the host's `SALM`, so that checkpoints can be exchanged.

    Args:
        cfg: `preprocessor`, `encoder`, `modality_adapter`, `spec_augment` (NeMo modules), `output_dim` (H), `separator`:
            whether a trained embedding follows the frames of every segment, `max_padding`: the share of padding above which
            segments are computed apart, `pad_samples_to`: S is rounded up to a multiple of this, `encoder_chunk_secs`:
            longer segments are cut at pauses and encoded chunk by chunk (None: never), `recompute`: what of the encoder and
            the adapter is computed again in the backward pass, and `soft_tokens`: whether frames are to become soft tokens, of
            an LLM with `vocab_size`, `embed_scale` and `embed_rms`.
    """

    def __init__(self, cfg: DictConfig) -> None:
        for part in ("preprocessor", "encoder", "modality_adapter", "spec_augment"):
            if cfg.get(part) is not None and not cfg[part].get("_target_"):
                raise ModelFileError(f"the {part} has no class", value=None, knob=f"model.perception.{part}._target_")
        check_parts(OmegaConf.to_container(cfg), VTBLENDER, "model.perception")
        super().__init__(cfg)
        self.separator = nn.Parameter(torch.zeros(cfg.output_dim)) if cfg.get("separator", False) else None
        self.token_ctc = (
            TokenCTC(cfg.output_dim, cfg.vocab_size, embed_scale=cfg.embed_scale, embed_rms=cfg.embed_rms)
            if cfg.get("soft_tokens", False)
            else None
        )
        check_degree(cfg.recompute, "model.perception.recompute")
        for module in (self.encoder, self.modality_adapter):
            if not isinstance(module, ConformerEncoder):
                continue  # an adapter that passes its input on
            recompute_conformer(module, cfg.recompute)
            # Ranks hold audio of different lengths, or none: the encoder's own all-reduce of lengths would hang or crash.
            module.sync_max_audio_length = False

    def train(self, mode: bool = True) -> Perception:
        """A frozen encoder keeps its batch statistics and has no dropout, whatever the mode of the rest."""
        super().train(mode)
        if self.cfg.get("freeze_encoder", False):
            self.encoder.eval()
        return self

    @property
    def extra_frames(self) -> int:
        """Frames that every segment has beside those of its audio."""
        return int(self.separator is not None)

    @property
    def sampling_rate(self) -> int:
        """Hz that waveforms must have."""
        return self.preprocessor.featurizer.sample_rate

    def encode(self, audios: Tensor, audio_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Waveforms to frames; segments of like length are computed together, long ones in chunks cut at pauses.

        Args:
            audios: (A, S) float32.
            audio_lens: (A,) samples of each.

        Returns:
            Frames (F, H), segment after segment, and their number by segment (A,); separators included.
        """
        chunks = chunk(audios, audio_lens, self.cfg.get("encoder_chunk_secs"), self.sampling_rate)
        groups = length_groups(chunks.lens.tolist(), self.cfg.max_padding)
        if chunks.longest_pass and not torch.is_grad_enabled():
            groups = [part for group in groups for part in split_group(group, chunks.lens, chunks.longest_pass)]
        encoded = [
            self._encode_group(chunks.audios[group], chunks.lens[group], chunks.is_last[group]) for group in groups
        ]
        frames = torch.cat([rows for rows, _ in encoded])
        order = torch.tensor([segment for group in groups for segment in group], device=audios.device)
        frames, lens = _reorder(frames, torch.cat([lens for _, lens in encoded]), order)
        return frames, lens.new_zeros(len(audio_lens)).index_add(0, chunks.owner, lens)

    @typecheck.disable_checks()  # the host types a Conformer's input as a spectrogram, the adapter's is not
    def _encode_group(self, audios: Tensor, audio_lens: Tensor, is_last: Tensor) -> tuple[Tensor, Tensor]:
        """As `encode`, in one pass; the separator stands behind the last chunk (A, bool) of an audio alone."""
        audios = _fit_width(audios, int(audio_lens.max()), self.cfg.pad_samples_to)
        features, feature_lens = self.preprocessor(input_signal=audios, length=audio_lens)
        if self.spec_augmentation is not None and self.training:
            features = self.spec_augmentation(input_spec=features, length=feature_lens)
        encoded, encoded_lens = self._run_encoder(features, feature_lens)
        adapted, frame_lens = self.modality_adapter(audio_signal=encoded, length=encoded_lens)
        frames = self.proj(adapted.transpose(1, 2))
        if self.separator is not None:
            frames, frame_lens = _append(self.separator, frames, frame_lens)
            frame_lens = frame_lens - (~is_last).to(frame_lens)
        within = torch.arange(frames.shape[1], device=frames.device) < frame_lens[:, None]
        return frames[within], frame_lens

    def _run_encoder(self, features: Tensor, lens: Tensor) -> tuple[Tensor, Tensor]:
        if not (features.device.type == "cpu" and torch.is_autocast_enabled("cpu")):
            return self.encoder(audio_signal=features, length=lens)
        with torch.autocast("cpu", enabled=False):  # convolutions of few channels are slower in bfloat16 on a CPU
            embedded, lens = self.encoder.pre_encode(x=features.float().transpose(1, 2), lengths=lens)
        return self.encoder(audio_signal=embedded, length=lens, bypass_pre_encode=True)

    @torch.no_grad()
    def scale_projection(self, embed_rms: float) -> None:
        """Draws the projection so that frames begin with the root mean square of the LLM's token embeddings.

        The adapter ends in a layer norm, hence its output has unit variance. Gemma's embeddings are about 20 times larger
        than what a default linear layer yields, and frames that small are not heard for many steps.
        """
        nn.init.normal_(self.proj.weight, std=embed_rms * self.proj.in_features**-0.5)
        nn.init.zeros_(self.proj.bias)


def _fit_width(audios: Tensor, longest: int, multiple_of: int) -> Tensor:
    """Cut or padded with zeros to the longest audio's samples, rounded up."""
    width = -(-longest // multiple_of) * multiple_of
    return nn.functional.pad(audios, (0, width - audios.shape[1]))


def _append(row: Tensor, frames: Tensor, frame_lens: Tensor) -> tuple[Tensor, Tensor]:
    """A row (H,) behind the last frame of every segment: padded frames (A, longest, H) become one longer."""
    frames = nn.functional.pad(frames, (0, 0, 0, 1))
    end = frame_lens.view(-1, 1, 1).expand(-1, 1, frames.shape[2])
    return frames.scatter(1, end, row.to(frames).expand(len(frames), 1, -1)), frame_lens + 1


def _reorder(frames: Tensor, lens: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """Packed segments, of which the first is number order[0], in the order of their numbers."""
    starts = lens.cumsum(0) - lens
    place = order.argsort()
    lens, starts = lens[place], starts[place]
    shift = torch.repeat_interleave(starts - (lens.cumsum(0) - lens), lens)
    return frames[torch.arange(len(frames), device=frames.device) + shift], lens


def load_speech_model(name_or_path: str) -> ASRModel:
    """A pretrained NeMo ASR model from a `.nemo` file or by its public name.

    Raises:
        ModelFileError: no such file, or nothing that NeMo can restore.
        ConfigError: its encoder is not a Conformer.
    """
    is_file = name_or_path.endswith(".nemo")
    if is_file and not Path(name_or_path).is_file():
        raise ModelFileError("speech model not found", path=name_or_path, knob="model.pretrained_asr")
    try:
        load = restore_nemo if is_file else pretrained_nemo
        speech_model = load(ASRModel, name_or_path, RECOGNISER, map_location=torch.device("cpu"))
    except ModelFileError as error:
        raise ModelFileError(
            f"speech model cannot be restored: {error.problem}",
            path=error.path,
            value=error.value,
            expected=error.expected,
            knob=f"model.pretrained_asr; in the file: {error.knob}" if error.knob else "model.pretrained_asr",
        ) from error
    except Exception as error:  # tar, omegaconf, torch and hub errors alike
        raise ModelFileError(
            f"speech model cannot be restored ({error})",
            value=name_or_path,
            expected="a NeMo ASR model (.nemo file or public name)",
            knob="model.pretrained_asr",
        ) from error
    if not isinstance(getattr(speech_model, "encoder", None), ConformerEncoder):
        raise ConfigError(
            "the speech model's encoder is not a Conformer",
            value=type(getattr(speech_model, "encoder", None)).__name__,
            expected="a NeMo ConformerEncoder, as Canary has",
            knob="model.pretrained_asr",
        )
    return speech_model


def perception_config(cfg: DictConfig, speech_model_cfg: DictConfig, **llm: Any) -> DictConfig:
    """Completes `model.perception` with the preprocessor and encoder of a speech model and what frames are for.

    Args:
        cfg: the section.
        speech_model_cfg: of the whole speech model.
        llm: `output_dim`, the LLM's width; for soft tokens `vocab_size`, `embed_scale` and `embed_rms`, too.
    """
    complete = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))
    with open_dict(complete):
        complete.preprocessor = speech_model_cfg.preprocessor
        complete.encoder = speech_model_cfg.encoder
        complete.modality_adapter.feat_in = speech_model_cfg.encoder.d_model
        complete.update(llm)
    return complete


def copy_encoder(speech_model: ASRModel, perception: Perception) -> None:
    """Copies preprocessor buffers and encoder weights, all of them or none."""
    perception.preprocessor.load_state_dict(speech_model.preprocessor.state_dict())
    perception.encoder.load_state_dict(speech_model.encoder.state_dict())
