"""`VTBlenderModel`: the joint model as a NeMo `ModelPT`: built, trained, validated, saved and restored the host's way."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from nemo.core.classes import ModelPT
from nemo.core.classes.common import PretrainedModelInfo
from nemo.utils.get_rank import is_global_rank_zero
from omegaconf import DictConfig, open_dict
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from vtblender_nemo.backbones.transformers_llm import TransformersLLM
from vtblender_nemo.common.batch import Batch
from vtblender_nemo.common.chat import ChatFormat
from vtblender_nemo.common.conversation import Conversation, Message
from vtblender_nemo.common.errors import ModelFileError
from vtblender_nemo.common.nemo_archive import check_archive
from vtblender_nemo.common.nemo_restore import SafeConnector, restore_state_kept
from vtblender_nemo.common.trusted_classes import VTBLENDER
from vtblender_nemo.data.typed import read_config
from vtblender_nemo.models.building import make_llm, make_perception
from vtblender_nemo.models.calibration import profiling_schema
from vtblender_nemo.models.generation import answer, answer_parts, answering, as_conversations
from vtblender_nemo.models.nemo_file import check_artifact, check_restored, extract_weights, restoring_told
from vtblender_nemo.models.session import Session
from vtblender_nemo.models.speech_llm import SpeechLLM
from vtblender_nemo.models.target_loss import Imitation, TargetLoss
from vtblender_nemo.models.validation import ValidationRun
from vtblender_nemo.modules.perception import Perception
from vtblender_nemo.training.optim import build_optimizer, build_scheduler

_LLM_PREFIX = "speech_llm.llm."


class VTBlenderModel(ModelPT):
    """Perception and a frozen LLM with LoRA, trained jointly on text and speech.

    Args:
        cfg: the `model` section of a configuration (`conf/base.yaml` tells every key).
        trainer: set by Lightning users who build the trainer first.
    """

    def __init__(self, cfg: DictConfig, trainer: Trainer | None = None) -> None:
        super().__init__(cfg=cfg, trainer=trainer)
        self.strict_loading = (
            False  # Lightning's checkpoints leave the frozen LLM out; `load_state_dict` is strict itself
        )
        restoring = self._is_model_being_restored()
        if restoring:
            check_restored(self.cfg)
        imitation = read_config(Imitation, self.cfg.get("imitation") or {}, "model.imitation")
        imitation.check(train_llm=self.cfg.get("train_llm", False))
        self._tokenizer_dir = tempfile.TemporaryDirectory(prefix="vtblender_tokenizer_")
        self.chat_format = ChatFormat(self._load_tokenizer(restoring), self.cfg.audio_locator_tag)
        llm = make_llm(self.cfg, restoring=restoring)
        perception = make_perception(self.cfg, llm, restoring=restoring)
        self.speech_llm = SpeechLLM(
            perception,
            llm,
            self.chat_format.audio_locator_id,
            packing=self.cfg.packing,
            pad_positions_to=self.cfg.pad_positions_to,
            imitation=imitation,
        )
        self._targets_in_step = 0
        self._leave_llm_out = False
        self._validation: ValidationRun | None = None
        if self.cfg.get("init_from") and not restoring:
            self._init_from(self.cfg.init_from)

    # Parts ------------------------------------------------------------------------------------------------------------

    @property
    def perception(self) -> Perception:
        return self.speech_llm.perception

    @property
    def llm(self) -> TransformersLLM:
        return self.speech_llm.llm

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.chat_format.tokenizer

    @property
    def tokenizer_folder(self) -> Path:
        """The LLM's own tokenizer as files, for as long as the model lives."""
        return Path(self._tokenizer_dir.name)

    @property
    def sampling_rate(self) -> int:
        """Hz of the waveforms that the encoder takes."""
        return self.perception.sampling_rate

    @property
    def token_equivalent_duration(self) -> float:
        """Seconds of audio in one frame, which counts as much as one text token."""
        return self.perception.token_equivalent_duration

    def trainable_parts(self) -> dict[str, list[tuple[str, nn.Parameter]]]:
        """Trainable parameters with their names, by part: encoder, modality_adapter, projection, lora, llm."""
        parts: dict[str, list[tuple[str, nn.Parameter]]] = {}
        for name, parameter in self.speech_llm.named_parameters():
            if parameter.requires_grad:
                parts.setdefault(_part_of(name), []).append((name, parameter))
        return parts

    def trained_parameters(self) -> dict[str, int]:
        """How many parameters each part trains."""
        return {part: sum(p.numel() for _, p in named) for part, named in self.trainable_parts().items()}

    # Use --------------------------------------------------------------------------------------------------------------

    def generate(
        self,
        conversations: Sequence[Conversation | Sequence[Message]],
        max_new_tokens: int = 256,
        *,
        part_secs: float | None = None,
        **sampling: Any,
    ) -> list[str]:
        """Answers conversations, all in one batch unless audio is parted.

        Args:
            conversations: chats in the format of Hugging Face processors, each ending with a user turn: `[{"role": "user",
                "content": [{"type": "text", "text": ...}, {"type": "audio", "audio": path, or array with "sampling_rate"}]}]`.
            max_new_tokens: of each answer.
            part_secs: an audio of the last turn that is longer is cut at pauses into parts of at most so many seconds; each part
                is asked about by itself, and the answers are joined. For transcribing and translating audio that is longer than
                the LLM's context or than what it was trained on.
            sampling: `do_sample=True`, `temperature`, `top_p`, `top_k`, ...; greedy without.

        Returns:
            One string per conversation.

        Raises:
            DataError: a conversation that cannot be read, or is too long.
            AudioError: an audio that is missing or cannot be decoded.
        """
        with answering(self):
            chats = as_conversations(conversations)
            if part_secs is not None:
                return answer_parts(self.speech_llm, self.chat_format, chats, part_secs, max_new_tokens, **sampling)
            return answer(self.speech_llm, self.chat_format, chats, max_new_tokens=max_new_tokens, **sampling)

    def session(self, *, system: str | None = None) -> Session:
        """A chat whose turns cost their own tokens: `session.ask("...")`, again and again.

        Args:
            system: what the system turn says, if there is one.
        """
        return Session(self.speech_llm, self.chat_format, system=system)

    def forward(self, batch: Batch) -> TargetLoss:
        return self.speech_llm(batch)

    # Training ---------------------------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """The summed loss of a micro-batch; `on_before_optimizer_step` divides by the targets of the whole step."""
        loss = self.speech_llm(batch)
        self._targets_in_step += loss.targets
        self._log_losses(batch, loss)
        total = loss.sum
        return {"loss": total if total.requires_grad else total + self._nothing()}

    def _nothing(self) -> Tensor:
        """0 with a gradient path: text alone trains nothing where the LLM is frozen and has no LoRA."""
        return 0.0 * self.perception.proj.bias.sum()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Turns gradients of summed losses into those of the mean over all target tokens of all ranks and micro-batches.

        Lightning has divided by the micro-batches of the step, and data-parallel training has averaged over ranks.
        """
        targets = torch.tensor(float(self._targets_in_step), device=self.device)
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(targets)
        self._targets_in_step = 0
        factor = self.trainer.accumulate_grad_batches * self.trainer.world_size / float(targets.clamp(min=1))
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        torch._foreach_mul_(gradients, factor)

    @property
    def oomptimizer_schema(self) -> dict[str, Any]:
        """For the host's `oomptimizer.py`, which finds `bucket_batch_size`; see `conf/data/README.md`."""
        return profiling_schema(self.chat_format)

    def configure_optimizers(self) -> Any:
        optimizer = build_optimizer(self.trainable_parts(), self.cfg.optim)
        scheduler = build_scheduler(optimizer, self.cfg.optim.sched, self.trainer.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch.to(device) if isinstance(batch, Batch) else batch

    def _log_losses(self, batch: Batch, loss: TargetLoss) -> None:
        if not loss.targets:
            return
        values = loss.values.detach()
        sums = values.new_zeros(len(batch)).index_add(0, loss.conversation, values)
        counts = values.new_zeros(len(batch)).index_add(0, loss.conversation, torch.ones_like(values))
        self.log("train_loss", values.mean(), prog_bar=True, batch_size=len(batch))
        for source in sorted(set(batch.sources)):
            of_source = torch.tensor([name == source for name in batch.sources], device=values.device)
            if counts[of_source].sum() > 0:
                mean = sums[of_source].sum() / counts[of_source].sum()
                self.log(f"train_loss/{source}", mean, batch_size=int(of_source.sum()))
        if batch.twin is not None:
            self._log_parts(loss)

    def _log_parts(self, loss: TargetLoss) -> None:
        """The losses that `train_loss` is made of, each as the mean of the targets that have it."""
        for name, part in (("train_ce", loss.nll), ("train_kl", loss.kl)):
            if part is not None and part.numel():
                self.log(name, part.detach().mean(), batch_size=part.numel())

    # Validation -------------------------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        self._validation = ValidationRun(self.cfg.validation)

    def validation_step(self, batch: list[Conversation], batch_idx: int, dataloader_idx: int = 0) -> None:
        assert self._validation is not None, "Lightning starts the epoch first"
        name = self.trainer.datamodule.validation_names[dataloader_idx]
        self._validation.add(name, self.speech_llm, self.chat_format, batch)

    def on_validation_epoch_end(self, sync_metrics: bool = False) -> None:
        assert self._validation is not None, "Lightning starts the epoch first"
        for name, value in self._validation.scores().items():
            self.log(name, value, rank_zero_only=False, sync_dist=False, batch_size=1)
        self._validation = None

    # Data come from a LightningDataModule -----------------------------------------------------------------------------

    def setup_training_data(self, train_data_config: Any) -> None:
        """The blend is a `BlendDataModule`, given to `trainer.fit`: the model holds no loaders."""

    def setup_validation_data(self, val_data_config: Any) -> None:
        """See `setup_training_data`."""

    @classmethod
    def list_available_models(cls) -> list[PretrainedModelInfo]:
        return []

    # Files ------------------------------------------------------------------------------------------------------------

    def save_to(self, save_path: str | Path) -> None:
        """Writes a `.nemo`, whole or not at all. With `save_llm: false` the frozen LLM stays out, named by path and hash."""
        target = Path(save_path).expanduser().resolve()
        unfinished = target.with_name(target.name + ".unfinished")
        # a quantised LLM is packed in a form that only its loader makes
        keep = self.cfg.get("train_llm", False) or (self.cfg.get("save_llm", True) and not self.cfg.get("quantization"))
        with open_dict(self.cfg):
            self.cfg.llm_fingerprint = None if keep else self.llm.fingerprint()
        with self._without_llm(not keep):
            super().save_to(str(unfinished))
        if is_global_rank_zero():
            unfinished.replace(target)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.barrier()  # so that no rank takes the file for finished, or missing, too early

    @classmethod
    def restore_from(cls, restore_path: str | Path, *args: Any, **kwargs: Any) -> Any:
        """Restores a model from a `.nemo`; takes the host's arguments.

        Raises:
            ModelFileError: the file is missing, damaged, unsafe, or holds another model; or its LLM was left out and the one
                found under its name is not the one that was trained with.
        """
        check_archive(restore_path, VTBLENDER)
        if kwargs.get("save_restore_connector") is None:
            kwargs["save_restore_connector"] = SafeConnector(VTBLENDER)
        with restore_state_kept(), restoring_told(restore_path):
            return super().restore_from(str(restore_path), *args, **kwargs)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        state = super().state_dict(*args, **kwargs)
        return self._trained_only(state) if self._leave_llm_out else state

    def load_state_dict(self, state_dict: dict[str, Any], strict: bool = True, **kwargs: Any) -> Any:
        """Loads weights; the frozen LLM's may be missing, nothing else may.

        Raises:
            ModelFileError: other weights are missing, unknown, or of another shape.
        """
        try:
            result = super().load_state_dict(state_dict, strict=False, **kwargs)
        except RuntimeError as error:  # shapes that differ
            raise ModelFileError(
                f"weights do not fit the model ({error})", expected="a file of a model with the same configuration"
            ) from error
        missing = set(result.missing_keys) - self._frozen_llm_names()
        if missing or result.unexpected_keys:
            raise ModelFileError(
                "weights do not fit the model",
                value={"missing": sorted(missing)[:5], "unknown": sorted(result.unexpected_keys)[:5]},
                expected="a file of a model with the same configuration",
            )
        return result

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["state_dict"] = self._trained_only(checkpoint["state_dict"])

    @contextmanager
    def _without_llm(self, leave_out: bool) -> Iterator[None]:
        self._leave_llm_out = leave_out
        try:
            yield
        finally:
            self._leave_llm_out = False

    def _trained_only(self, state: dict[str, Any]) -> dict[str, Any]:
        frozen = self._frozen_llm_names()
        return {name: weight for name, weight in state.items() if name not in frozen}

    def _frozen_llm_names(self) -> set[str]:
        if self.cfg.get("train_llm", False):
            return set()
        return {_LLM_PREFIX + name for name in self.llm.base_weights()}

    def _init_from(self, path: str) -> None:
        with tempfile.TemporaryDirectory() as directory:
            self.load_state_dict(extract_weights(path, directory))

    # Building ---------------------------------------------------------------------------------------------------------

    def _load_tokenizer(self, restoring: bool) -> PreTrainedTokenizerBase:
        """From the LLM's folder, or from the archive's copy; either way its files become artifacts of the next `.nemo`."""
        folder = self.tokenizer_folder
        if restoring:
            for key, name in self.cfg.tokenizer.names.items():
                packed = str(self.cfg.tokenizer.files[key])
                check_artifact(name, packed)
                shutil.copy(self.register_artifact(f"tokenizer.files.{key}", packed), folder / name)
        else:
            _pretrained_tokenizer(self.cfg.pretrained_llm).save_pretrained(folder)
        self._register_tokenizer_files(folder)
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)

    def _register_tokenizer_files(self, folder: Path) -> None:
        names = {path.name.replace(".", "_"): path.name for path in sorted(folder.iterdir()) if path.is_file()}
        with open_dict(self.cfg):
            self.cfg.tokenizer = {"names": names, "files": dict.fromkeys(names)}
        for key, name in names.items():
            self.register_artifact(f"tokenizer.files.{key}", str(folder / name))


def _pretrained_tokenizer(name_or_path: str) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelFileError(
            f"the LLM's tokenizer cannot be loaded ({error})",
            value=name_or_path,
            expected="a Hugging Face folder or hub name of a causal LM",
            knob="model.pretrained_llm",
        ) from error


def _part_of(name: str) -> str:
    if name.startswith("llm."):
        return "lora" if ".lora_" in name else "llm"
    if name.startswith("perception.encoder"):
        return "encoder"
    return "modality_adapter" if name.startswith("perception.modality_adapter") else "projection"
