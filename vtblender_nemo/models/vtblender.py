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
from omegaconf import DictConfig, OmegaConf, open_dict
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from vtblender_nemo.backbones.transformers_llm import TransformersLLM
from vtblender_nemo.common import shards
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
from vtblender_nemo.models.nemo_file import (
    PartsConnector,
    check_artifact,
    check_restored,
    extract_weights,
    restoring_told,
    with_changes,
)
from vtblender_nemo.models.session import Session
from vtblender_nemo.models.speech_llm import SpeechLLM
from vtblender_nemo.models.step_losses import StepLosses
from vtblender_nemo.models.target_loss import Imitation, TargetLoss
from vtblender_nemo.models.tokenizers import pretrained_tokenizer
from vtblender_nemo.models.training_steps import TrainingSteps
from vtblender_nemo.models.validation import ValidationRun
from vtblender_nemo.modules.perception import Perception
from vtblender_nemo.training.optim import build_optimizer, build_scheduler

_LLM_PREFIX = "speech_llm.llm."


class VTBlenderModel(TrainingSteps, ModelPT):
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
        self.step_losses = StepLosses()
        self.split_when_out_of_memory = False
        self._leave_llm_out = False
        self._whole_state: dict[str, Any] | None = None
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

    def trained_parameters(self) -> dict[str, int]:
        """How many parameters each part trains."""
        return {part: sum(shards.numel(p) for _, p in named) for part, named in self.trainable_parts().items()}

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

    # Training: beside what `TrainingSteps` does -----------------------------------------------------------------------

    def configure_optimizers(self) -> Any:
        optimizer = build_optimizer(self.trainable_parts(), self.cfg.optim)
        scheduler = build_scheduler(optimizer, self.cfg.optim.sched, self.trainer.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    @property
    def oomptimizer_schema(self) -> dict[str, Any]:
        """For the host's `oomptimizer.py`, which finds `bucket_batch_size`; see `conf/data/README.md`."""
        return profiling_schema(self.chat_format)

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
        with self._without_llm(not keep), self._whole():
            super().save_to(str(unfinished))
        if is_global_rank_zero():
            unfinished.replace(target)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.barrier()  # so that no rank takes the file for finished, or missing, too early

    @classmethod
    def restore_from(cls, restore_path: str | Path, *args: Any, tensor_parallel: int = 1, **kwargs: Any) -> Any:
        """Restores a model from a `.nemo`; takes the host's arguments.

        Args:
            restore_path: the file.
            args: of the host.
            tensor_parallel: processes that hold the model together; all of them have to restore it, and to use it, alike.
            kwargs: of the host.

        Raises:
            ModelFileError: the file is missing, damaged, unsafe, or holds another model; or its LLM was left out and the one
                found under its name is not the one that was trained with.
        """
        config = check_archive(restore_path, VTBLENDER)
        if kwargs.get("save_restore_connector") is None:
            kwargs["save_restore_connector"] = (SafeConnector if tensor_parallel == 1 else PartsConnector)(VTBLENDER)
        if tensor_parallel != 1:
            given = kwargs.get("override_config_path") or config
            kwargs["override_config_path"] = with_changes(given, {"tensor_parallel": tensor_parallel})
        with restore_state_kept(), restoring_told(restore_path):
            return super().restore_from(str(restore_path), *args, **kwargs)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        if self._whole_state is not None:
            return self._whole_state
        state = super().state_dict(*args, **kwargs)
        return self._trained_only(state) if self._leave_llm_out else state

    def checkpoint_state(self) -> dict[str, Any]:
        """What checkpoints hold: the trained weights, whole. All ranks have to ask for it together."""
        state = self._trained_only(super().state_dict())
        return shards.whole_state(state, self)

    def load_state_dict(self, state_dict: dict[str, Any], strict: bool = True, **kwargs: Any) -> Any:
        """Loads weights; the frozen LLM's may be missing, nothing else may. They are whole, or this rank's parts.

        Raises:
            ModelFileError: other weights are missing, unknown, or of another shape.
        """
        try:
            result = super().load_state_dict(shards.own_state(state_dict, self), strict=False, **kwargs)
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
        hyper_parameters = checkpoint.get(self.CHECKPOINT_HYPER_PARAMS_KEY)
        if OmegaConf.is_config(hyper_parameters):  # plain, so that a checkpoint is read without running what it holds
            checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY] = OmegaConf.to_container(hyper_parameters, resolve=True)
            checkpoint.pop(self.CHECKPOINT_HYPER_PARAMS_TYPE, None)

    @contextmanager
    def _without_llm(self, leave_out: bool) -> Iterator[None]:
        self._leave_llm_out = leave_out
        try:
            yield
        finally:
            self._leave_llm_out = False

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """As long as the context lasts, configuration and weights are those of a model in one process."""
        if not shards.parted(self):
            yield
            return
        size = self.cfg.get("tensor_parallel", 1)
        self._whole_state = shards.whole_state(self.state_dict(), self, keep=is_global_rank_zero())
        with open_dict(self.cfg):
            self.cfg.tensor_parallel = 1
        try:
            yield
        finally:
            self.cfg.tensor_parallel, self._whole_state = size, None

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
            pretrained_tokenizer(self.cfg.pretrained_llm).save_pretrained(folder)
        self._register_tokenizer_files(folder)
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)

    def _register_tokenizer_files(self, folder: Path) -> None:
        names = {path.name.replace(".", "_"): path.name for path in sorted(folder.iterdir()) if path.is_file()}
        with open_dict(self.cfg):
            self.cfg.tokenizer = {"names": names, "files": dict.fromkeys(names)}
        for key, name in names.items():
            self.register_artifact(f"tokenizer.files.{key}", str(folder / name))
