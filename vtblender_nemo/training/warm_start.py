"""A head start for the adapter where a budget is tiny: frames learn to lie near the embeddings of the words they carry.

Not part of the paper's single stage; off unless `warm_start.steps` is set. Adapter and projection are trained by CTC
(Graves et al., 2006) on transcripts, with an output layer that is tied to the LLM's token embeddings: afterwards the LLM meets
frames that resemble what it can read. Encoder and LLM stay as they are.

Shapes: A audio segments, F frames of all of them, H hidden, V vocabulary.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from omegaconf import DictConfig, OmegaConf
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from vtblender_nemo.common.batch import Batch
from vtblender_nemo.common.errors import ConfigError, ModelFileError
from vtblender_nemo.common.files import file_sha256, is_file, write_bytes
from vtblender_nemo.data.loader import BlendDataModule
from vtblender_nemo.data.typed import plain
from vtblender_nemo.models.vtblender import VTBlenderModel
from vtblender_nemo.modules.soft_tokens import TokenCTC
from vtblender_nemo.training.fit import resolve_precision
from vtblender_nemo.training.optim import build_optimizer, build_scheduler

_TRAINED = ("modality_adapter", "projection")
_HEAD = "perception.token_ctc."
_WITHOUT_EFFECT = {
    "model": ("lora", "train_llm", "optim", "imitation", "validation"),
    "data.train_ds": ("num_workers", "worker_timeout_secs", "max_bad_share"),
    "warm_start": ("accelerator", "keep_in"),
}
"""Keys that may differ between trainings that would make the same head start."""


def warm_start(model: VTBlenderModel, data: BlendDataModule, cfg: DictConfig, path: Path) -> None:
    """Trains adapter and projection on transcripts, or takes over what an earlier call has kept.

    Args:
        model: changed in place.
        data: conversations with one audio each, answered by its transcript.
        cfg: `warm_start`: `steps`, `optim` (as `model.optim`), `precision`.
        path: a safetensors file that keeps the result.

    Raises:
        ModelFileError: such a file that is damaged, or of another adapter.
    """
    if not path.exists():
        modes = {module: module.training for module in model.modules()}
        encoder_was_trained = [(p, p.requires_grad) for p in model.perception.encoder.parameters()]
        model.perception.encoder.requires_grad_(False)
        trainer = pl.Trainer(
            accelerator=cfg.accelerator,
            devices=1,
            precision=resolve_precision(cfg.precision, cfg.accelerator),
            max_steps=cfg.steps,
            limit_train_batches=cfg.steps,
            gradient_clip_val=1.0,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
        )
        trainer.fit(_TiedCTC(model, cfg), data.train_dataloader())
        for parameter, trained in encoder_was_trained:
            parameter.requires_grad_(trained)
        for module, mode in modes.items():
            module.training = mode
        write_bytes(save({name: weight.contiguous() for name, weight in _adapter_state(model).items()}), path)
    _take_over(model, path)


def kept_name(cfg: DictConfig, model: VTBlenderModel) -> str:
    """A file's name for the head start of a configuration: the same for all that would make the same one.

    Args:
        cfg: the whole configuration, with the warm start's sources as `data.train_ds.input_cfg`.
        model: before its warm start.
    """
    settings: dict[str, Any] = {"seed": cfg.seed}
    for section, keys in _WITHOUT_EFFECT.items():
        values = plain(OmegaConf.select(cfg, section))
        settings[section] = {key: _files_by_content(value) for key, value in values.items() if key not in keys}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, weight in sorted({**model.perception.state_dict(), "embeddings": model.llm.token_table()}.items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return f"{digest.hexdigest()[:32]}.safetensors"


def _files_by_content(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _files_by_content(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_files_by_content(entry) for entry in value]
    return file_sha256(Path(value)) if isinstance(value, str) and is_file(value) else value


def _take_over(model: VTBlenderModel, path: Path) -> None:
    """
    Raises:
        ModelFileError: the file is damaged, or of another adapter.
    """
    expected = "what a warm start of the same model has kept; without the file it is made again"
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelFileError(f"the head start cannot be read ({error})", path=path, expected=expected) from error
    shapes = {name: tuple(weight.shape) for name, weight in _adapter_state(model).items()}
    other = sorted(
        name for name in {*found, *shapes} if name not in found or tuple(found[name].shape) != shapes.get(name)
    )
    if other:
        raise ModelFileError("the head start is of another adapter", path=path, value=other[:5], expected=expected)
    model.perception.load_state_dict(found, strict=False)


class _TiedCTC(pl.LightningModule):
    """CTC over the LLM's vocabulary through its embeddings.

    Args:
        model: its perception is trained.
        cfg: see `warm_start`.
    """

    def __init__(self, model: VTBlenderModel, cfg: DictConfig) -> None:
        super().__init__()
        self.perception = model.perception
        self._cfg = cfg
        llm = model.llm
        self.head = self.perception.token_ctc or TokenCTC(
            llm.hidden_size, llm.vocab_size, embed_scale=llm.embed_scale(), embed_rms=llm.embed_rms()
        )
        self._parts = {
            part: [(name, parameter) for name, parameter in named if not name.startswith(_HEAD)]
            for part, named in model.trainable_parts().items()
            if part in _TRAINED
        }
        self._answer_end = len(model.chat_format.answer_end_ids)
        self.register_buffer("table", llm.token_table(), persistent=False)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.perception.encoder.eval()  # its batch statistics stay those of its own training
        frames, frame_lens = self.perception.encode(batch.audios, batch.audio_lens)
        targets, target_lens = self._transcripts(batch)
        loss = self.head.loss(frames.float(), frame_lens, targets, target_lens, self.get_buffer("table"))
        self.log("ctc_loss", loss, prog_bar=True, batch_size=len(batch))
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = build_optimizer({**self._parts, "ctc": list(self.head.named_parameters())}, self._cfg.optim)
        return {
            "optimizer": optimizer,
            "lr_scheduler": build_scheduler(optimizer, self._cfg.optim.sched, self._cfg.steps),
        }

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch.to(device)

    def _transcripts(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The answers' tokens without the end of turn: (sum of lengths,) and (A,)."""
        if len(batch.audio_lens) != len(batch):
            raise ConfigError(
                "a warm start needs one audio in every conversation",
                value=f"{len(batch.audio_lens)} audios in {len(batch)} conversations",
                expected="speech recognition alone",
                knob="warm_start.input_cfg",
            )
        rows = [ids[mask][: -self._answer_end] for ids, mask in zip(batch.input_ids, batch.loss_mask, strict=True)]
        return torch.cat(rows), torch.tensor([len(row) for row in rows], device=batch.input_ids.device)


def _adapter_state(model: VTBlenderModel) -> dict[str, Tensor]:
    """Weights and batch statistics of adapter, projection, separator, and the output layer of soft tokens."""
    kept = ("modality_adapter.", "proj.", "separator", "token_ctc.")
    return {name: weight for name, weight in model.perception.state_dict().items() if name.startswith(kept)}
