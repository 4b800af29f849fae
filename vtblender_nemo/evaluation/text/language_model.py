"""The harness's model class over a VTBlenderModel's LLM.

All that the harness needs of a Hugging Face model, its own class already does; what differs here is where an answer ends, which
weights it is generated with, and that a stopped run goes on where it stopped.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import CacheHook
from lm_eval.models.huggingface import HFLM
from torch import Tensor
from transformers import PreTrainedModel

from vtblender_nemo.common.chat import TEMPLATE_DATE, ChatFormat
from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.evaluation.journal import Journal

_LENGTH_NAMES = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # the first one given counts
_SAMPLING = ("do_sample", "temperature", "top_k", "top_p", "min_p", "typical_p")


class TextLLM(Protocol):
    """What is measured: a `TransformersLLM`."""

    @property
    def causal_lm(self) -> PreTrainedModel: ...

    @property
    def max_positions(self) -> int: ...

    def embed(self, ids: Tensor) -> Tensor: ...

    def generate(
        self, embeds: Tensor, mask: Tensor, *, max_new_tokens: int, stop_ids: Sequence[int], **sampling: Any
    ) -> Tensor: ...


class HarnessLM(HFLM):
    """Log-likelihoods as the harness computes them of any Hugging Face model; answers as `VTBlenderModel.generate` gives them.

    Prompts are rendered by the tokenizer's chat template as the harness does it: a template that knows no system role loses the
    task's description. They start with the beginning-of-sequence token only where the template writes one, as in training.

    Args:
        llm: with LoRA, or inside `without_lora()`.
        chat_format: of the model's tokenizer.
        batch_size: requests computed at once.
        journal: keeps what is answered; None keeps nothing.
        settings: all that decides an answer beside the request, as the model's name: names answers in the journal.
    """

    def __init__(
        self,
        llm: TextLLM,
        chat_format: ChatFormat,
        *,
        batch_size: int = 16,
        journal: Journal | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self._llm = llm
        self._stop_ids = list(chat_format.stop_ids)
        with _without_warnings():
            super().__init__(
                pretrained=llm.causal_lm,
                tokenizer=copy.deepcopy(chat_format.tokenizer),  # the harness changes its padding
                batch_size=batch_size,
                max_length=llm.max_positions,
                softmax_dtype="float32",
                add_bos_token=False,
                enable_thinking=False,
                chat_template_args={"date_string": TEMPLATE_DATE},
            )
        self._journal = journal or Journal(None)
        self._settings = dict(settings or {})
        self.set_cache_hook(_JournalHook(self._journal, self._key))

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """See `lm_eval.api.model.LM`; so are the next two."""
        found = self._resumed("loglikelihood", requests, super().loglikelihood, disable_tqdm)
        return [(value, greedy) for value, greedy in found]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        return self._resumed("loglikelihood_rolling", requests, super().loglikelihood_rolling, disable_tqdm)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        for request in requests:
            self._check_room(request)
        return self._resumed("generate_until", requests, super().generate_until, disable_tqdm)

    def _model_generate(
        self, context: Tensor, max_length: int, stop: list[str], attention_mask: Tensor | None = None, **settings: Any
    ) -> Tensor:
        """Prompts (B, T), padded on the left -> prompts and answers (B, T + N); the harness cuts answers at `stop`."""
        sampling = {name: value for name, value in settings.items() if value is not None}
        if not sampling.get("do_sample"):
            sampling = {name: value for name, value in sampling.items() if name not in _SAMPLING}
        mask = torch.ones_like(context) if attention_mask is None else attention_mask
        with torch.inference_mode():
            ids = self._llm.generate(
                self._llm.embed(context),
                mask.bool(),
                max_new_tokens=max_length - context.shape[1],
                stop_ids=self._stop_ids,
                **sampling,
            )
        ended = torch.isin(ids, torch.tensor(self._stop_ids, device=ids.device)).cumsum(1) > 0
        # an end of turn that is no special token would be read as text
        return torch.cat([context, ids.masked_fill(ended, self.tokenizer.pad_token_id)], dim=1)

    def _check_room(self, request: Instance) -> None:
        settings = request.args[1]
        asked = next((settings[name] for name in _LENGTH_NAMES if settings.get(name) is not None), self.max_gen_toks)
        if int(asked) >= self.max_length:
            raise ConfigError(
                f"answers to {request.task_name} leave no room for a prompt",
                value=asked,
                expected=f"less than the LLM's {self.max_length} positions",
                knob="max_gen_toks of the text task",
            )

    def _resumed(
        self, kind: str, requests: list[Instance], compute: Callable[..., list[Any]], disable_tqdm: bool
    ) -> list[Any]:
        """Answers of the journal, and those that `compute` finds for the other requests."""
        kept = [
            None if _is_drawn(request) else self._journal.get(self._key(kind, request.args)) for request in requests
        ]
        missing = [request for request, text in zip(requests, kept, strict=True) if text is None]
        computed = iter(compute(missing, disable_tqdm=disable_tqdm) if missing else [])
        return [next(computed) if text is None else json.loads(text) for text in kept]

    def _key(self, kind: str, arguments: Sequence[Any]) -> str:
        described = json.dumps([self._settings, kind, *arguments], sort_keys=True, default=str)
        return hashlib.sha256(described.encode()).hexdigest()[:32]


class _JournalHook(CacheHook):
    """The harness tells of every answer as it comes."""

    def __init__(self, journal: Journal, key: Callable[[str, Sequence[Any]], str]) -> None:
        super().__init__(None)
        self._journal, self._key_of = journal, key

    def add_partial(self, attr: str, req: Any, res: Any) -> None:
        self._journal.add({self._key_of(attr, req): json.dumps(res)})


@contextmanager
def _without_warnings() -> Iterator[None]:
    """The harness warns of every model that is in memory already."""
    logger = logging.getLogger(HFLM.__module__)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _is_drawn(request: Instance) -> bool:
    """Whether the answer is left to chance: repeats of a request must not all get the first one's."""
    settings = request.args[1] if len(request.args) > 1 else None
    return isinstance(settings, Mapping) and bool(settings.get("do_sample"))
