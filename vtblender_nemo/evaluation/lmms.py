"""Checkpoints in lmms-eval, found by its entry point `lmms_eval.models`: VoiceBench, FLEURS, CoVoST 2, Open ASR and more.

    lmms-eval --model vtblender --model_args pretrained=X.nemo --tasks fleurs_en --batch_size 16

`vtblender` takes what nearly all audio tasks give, a prompt and a list of audios; `vtblender_chat` takes tasks that write chat
messages themselves (`doc_to_messages`), with several audios in their places. lmms-eval makes messages of other tasks too, but
loses audio that is no file while it does.

lmms-eval comes with the extra `lmms`, and is what imports this module.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from tqdm import tqdm

from vtblender_nemo.common.errors import ConfigError, DataError
from vtblender_nemo.common.wordings import TRANSCRIPTION_PROMPT

Message = dict[str, Any]

logger = logging.getLogger(__name__)

_SAMPLING = ("temperature", "top_p", "top_k")
_IGNORED = frozenset({"until", "use_cache", "max_gen_toks", "max_length", "image_aspect_ratio"})


def manifests() -> list[Any]:
    """What lmms-eval's registry takes."""
    from lmms_eval.models.registry_v2 import ModelManifest

    here = __name__
    return [
        ModelManifest("vtblender", simple_class_path=f"{here}.VTBlender"),
        ModelManifest("vtblender_chat", chat_class_path=f"{here}.VTBlenderChat"),
    ]


class VTBlender(lmms):
    """A VTBlenderModel that is given a prompt and audios, the audios first.

    Args:
        pretrained: a `.nemo`.
        device: as `cuda`; with several processes (`accelerate launch`) each takes a device of its own.
        batch_size: items answered at once.
        max_new_tokens: of answers to tasks that set no limit, and the most that any task gets.
        prompt: what items without any text are asked.
        system: system turn of every item; a file of that name is read.
        part_secs: longer audio is cut at pauses into parts of at most so many seconds, each asked about by itself, and the
            answers are joined: for transcribing and translating.
        max_batch_size: given by the harness, not needed.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str,
        device: str | None = None,
        batch_size: int | str = 1,
        max_new_tokens: int = 512,
        prompt: str = TRANSCRIPTION_PROMPT,
        system: str = "",
        part_secs: float | None = None,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        self._join_processes(device)
        self._batch_size, self._max_new_tokens = _positive(batch_size, "batch_size"), int(max_new_tokens)
        self._prompt, self._part_secs = prompt, part_secs
        self._system = self._resolve_system_prompt(system)
        self.model = self._load(pretrained)

    @property
    def batch_size(self) -> int:
        return self._batch_size

    @property
    def device(self) -> torch.device:
        return self._device

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Answers in the order of the requests. An item whose audio cannot be used is logged and gets an empty answer."""
        messages = [self._messages(request) for request in requests]
        answers: dict[int, str] = {}
        with tqdm(total=len(requests), disable=self.rank != 0, desc="vtblender") as bar:
            for batch in self._batches(requests, messages):
                settings = _generation_settings(_settings(requests[batch[0]]), self._max_new_tokens)
                texts = self._answer([messages[number] for number in batch], settings)
                for number, text in zip(batch, texts, strict=True):
                    request = requests[number]
                    answers[number] = _until(text, _settings(request).get("until"))
                    self.cache_hook.add_partial(
                        "generate_until", (request.args[0], _settings(request)), answers[number]
                    )
                bar.update(len(batch))
        return [answers[number] for number in range(len(requests))]

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        raise ConfigError(
            "log-likelihoods of audio tasks are not computed", expected="tasks of output_type generate_until"
        )

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        raise ConfigError("tasks of several rounds are not run", expected="tasks of output_type generate_until")

    def _messages(self, request: Instance) -> list[Message]:
        context, _, doc_to_visual, doc_id, task, split = request.args
        audios = [part for part in doc_to_visual(self.task_dict[task][split][doc_id]) or () if part is not None]
        return self._chat([{"role": "user", "content": [*map(audio_part, audios), {"type": "text", "text": context}]}])

    def _chat(self, messages: list[Message]) -> list[Message]:
        """Messages with a text in them, and the system turn."""
        parts = [part for message in messages for part in message["content"]]
        if not any(part["type"] == "text" and part["text"].strip() for part in parts):
            messages[-1]["content"].append({"type": "text", "text": self._prompt})
        if self._system:
            messages = [message for message in messages if message["role"] != "system"]
            messages.insert(0, {"role": "system", "content": self._system})
        return messages

    def _batches(self, requests: Sequence[Instance], messages: Sequence[list[Message]]) -> Iterator[list[int]]:
        """Numbers of requests with the same settings, those with the most audio first."""
        by_settings: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            by_settings.setdefault(repr(sorted(_settings(request).items(), key=lambda item: item[0])), []).append(
                number
            )
        for numbers in by_settings.values():
            numbers.sort(key=lambda number: -_length(messages[number]))
            for start in range(0, len(numbers), self._batch_size):
                yield numbers[start : start + self._batch_size]

    def _answer(self, chats: list[list[Message]], settings: Mapping[str, Any]) -> list[str]:
        """Answers a batch at once; where an item is at fault, one by one."""
        try:
            return self.model.generate(chats, part_secs=self._part_secs, **settings)
        except DataError as error:
            if len(chats) > 1:
                return [text for chat in chats for text in self._answer([chat], settings)]
            logger.error("no answer, counted as an empty one: %s", error)
            return [""]

    def _join_processes(self, device: str | None) -> None:
        accelerator = Accelerator()
        self._rank, self._world_size = accelerator.process_index, accelerator.num_processes
        if self._world_size > 1:
            self.accelerator = accelerator
            self._device = accelerator.device
        else:
            self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))

    def _load(self, pretrained: str) -> Any:
        from vtblender_nemo.models.vtblender import VTBlenderModel

        return VTBlenderModel.restore_from(pretrained, map_location=self._device).eval()


class VTBlenderChat(VTBlender):
    """A VTBlenderModel that is given chat messages, each audio in its place."""

    is_simple = False

    def _messages(self, request: Instance) -> list[Message]:
        _, doc_to_messages, _, doc_id, task, split = request.args
        given = doc_to_messages(self.task_dict[task][split][doc_id])
        return self._chat([{"role": m["role"], "content": list(_parts(m["content"]))} for m in given])


def audio_part(audio: Any) -> Message:
    """An audio of a data set as a part of a message.

    Args:
        audio: a path, samples with their rate (`{"array": ..., "sampling_rate": Hz}`), or a decoder of the package datasets.

    Raises:
        DataError: anything else.
    """
    if hasattr(audio, "get_all_samples"):  # datasets' decoder is torchcodec's
        decoded = audio.get_all_samples()
        audio = {"array": decoded.data, "sampling_rate": decoded.sample_rate}
    if isinstance(audio, Mapping):
        if audio.get("array") is not None and audio.get("sampling_rate"):
            samples = np.asarray(audio["array"])
            samples = samples if samples.dtype == np.int16 else samples.astype(np.float32)
            return {"type": "audio", "audio": samples, "sampling_rate": int(audio["sampling_rate"])}
        audio = audio.get("path") or audio.get("url")
    if isinstance(audio, str):
        return {"type": "audio", "audio": audio}
    raise DataError("no audio that can be read", value=type(audio).__name__, expected="a path, or samples with a rate")


def _parts(content: Any) -> Iterator[Message]:
    """Parts of a message of lmms-eval, in which some tasks call audio video."""
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    for part in content:
        if part["type"] == "text":
            yield {"type": "text", "text": part["text"]}
        elif part["type"] == "audio" or (part["type"] == "video" and _is_sound(part.get("url"))):
            yield audio_part(part.get("url", part.get("audio")))
        else:
            raise ConfigError("a task for another kind of model", value=part["type"], expected="audio and text only")


def _is_sound(url: Any) -> bool:
    return hasattr(url, "get_all_samples") or (isinstance(url, Mapping) and "sampling_rate" in url)


def _settings(request: Instance) -> dict[str, Any]:
    """The generation settings, which stand second or third."""
    return next(argument for argument in request.args[1:3] if isinstance(argument, dict))


def _generation_settings(asked: Mapping[str, Any], most_new_tokens: int) -> dict[str, Any]:
    """Arguments of `VTBlenderModel.generate`; greedy unless a temperature, or `do_sample`, says otherwise."""
    asked = {name: value for name, value in asked.items() if value is not None and name not in _IGNORED}
    most = min(int(asked.pop("max_new_tokens", most_new_tokens)), most_new_tokens)
    settings = {"max_new_tokens": most, **asked}
    if not settings.pop("do_sample", float(asked.get("temperature", 0)) > 0):
        settings = {name: value for name, value in settings.items() if name not in _SAMPLING}
    else:
        settings["do_sample"] = True
    if settings.get("num_beams") == 1:
        del settings["num_beams"]
    return settings


def _until(text: str, stops: Any) -> str:
    for stop in [stops] if isinstance(stops, str) else stops or []:
        if stop:
            text = text.split(stop)[0]
    return text


def _length(messages: Sequence[Message]) -> int:
    """Samples of audio in memory, the greater part of what an item costs; audio in files counts nothing here."""
    parts = (part for message in messages if not isinstance(message["content"], str) for part in message["content"])
    return sum(part["audio"].size for part in parts if isinstance(part.get("audio"), np.ndarray))


def _positive(value: int | str, knob: str) -> int:
    if not str(value).isdecimal() or int(value) < 1:
        raise ConfigError("wrong number", value=value, expected="a whole number from 1", knob=knob)
    return int(value)
