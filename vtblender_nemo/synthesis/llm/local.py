"""A Hugging Face causal LM, run in this process.

Shape letters: B prompts, T positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vtblender_nemo.common.chat import ChatFormat
from vtblender_nemo.common.conversation import Text, Turn
from vtblender_nemo.common.errors import ConfigError, DataError, ModelFileError
from vtblender_nemo.synthesis.devices import open_device
from vtblender_nemo.synthesis.llm.clients import LLM, Decoding, Messages
from vtblender_nemo.synthesis.work import Refused

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DTYPES = ("auto", "bfloat16", "float16", "float32")

_NO_AUDIO = "<|audio is not for this model|>"
"""`ChatFormat` wants a tag for audio; prompts of text have none."""


@dataclass(frozen=True)
class LocalLLM(LLM):
    """A causal LM from a folder or the Hugging Face hub.

    Attributes:
        dtype: of the weights; "auto" is what they are stored in.
        device: "cpu", "cuda", "cuda:1"; "auto" spreads the model over all visible GPUs, or takes the CPU where there is none.
        batch_size: most prompts answered at once.
    """

    dtype: str = "auto"
    device: str = "auto"
    batch_size: int = 16

    engine = "transformers"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ConfigError(
                "unknown type of weights", value=self.dtype, expected=f"one of {', '.join(DTYPES)}", knob="--dtype"
            )
        if self.batch_size < 1:
            raise ConfigError(
                "batches without prompts", value=self.batch_size, expected="at least 1", knob="--llm-batch-size"
            )

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "dtype": self.dtype}

    def open(self) -> LocalClient:
        """
        Raises:
            ModelFileError: no model there.
            ConfigError: no such device, too little GPU memory, or a tokenizer without chat template.
        """
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(self.model, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise _unreadable(self.model, error) from error
        return LocalClient(self._load(), ChatFormat(tokenizer, _NO_AUDIO), self.decoding, self.batch_size)

    def _load(self) -> PreTrainedModel:
        from transformers import AutoModelForCausalLM

        device = open_device(self.device, "the LLM", "--device")
        spread = self.device == "auto" and device.type == "cuda"
        dtype = "auto" if self.dtype == "auto" else getattr(torch, self.dtype)
        try:
            model = AutoModelForCausalLM.from_pretrained(
                self.model, dtype=dtype, trust_remote_code=False, device_map="auto" if spread else None
            )
        except (OSError, ValueError) as error:
            raise _unreadable(self.model, error) from error
        if spread:
            _check_fits(model, self.model)
            return model.eval()
        try:
            return model.to(device).eval()
        except RuntimeError as error:
            raise ConfigError(f"the LLM cannot be put there ({error})", value=self.device, knob="--device") from error


class LocalClient:
    """Answers prompts in batches of about one length.

    A prompt is answered alone as in any batch, also where answers are drawn, as its draws follow from its own seed. What is left
    of the company is the rounding of padded sums, which in bfloat16 may tip a near tie.
    """

    def __init__(self, model: PreTrainedModel, chat: ChatFormat, decoding: Decoding, batch_size: int) -> None:
        from transformers import GenerationConfig

        self._model, self._chat, self._decoding, self._batch_size = model, chat, decoding, batch_size
        self._stop_ids = sorted({*chat.stop_ids, *_as_list(model.generation_config.eos_token_id)})
        pad = chat.tokenizer.pad_token_id
        self._pad_id: int = pad if pad is not None else self._stop_ids[0]
        # The model's own defaults (sampling, penalties) would fill what is left open here.
        model.generation_config = GenerationConfig(eos_token_id=self._stop_ids, pad_token_id=self._pad_id)

    def complete(
        self, prompts: Sequence[Messages], *, json_schema: Mapping[str, Any] | None = None
    ) -> list[str | Refused]:
        """See `LLMClient`; the schema is not enforced.

        Raises:
            ConfigError: a batch does not fit into the GPU's memory.
        """
        encoded = [self._encode(messages) for messages in prompts]
        replies: dict[int, str | Refused] = {n: ids for n, ids in enumerate(encoded) if isinstance(ids, Refused)}
        for batch in self._batches({n: ids for n, ids in enumerate(encoded) if not isinstance(ids, Refused)}):
            seeds = [self._decoding.seed_of(prompts[n]) for n in batch]
            answers = self._generate(list(batch.values()), seeds)
            replies.update(zip(batch, map(self._text, answers), strict=True))
        return [replies[n] for n in range(len(prompts))]

    def _encode(self, messages: Messages) -> list[int] | Refused:
        turns = [Turn(message["role"], (Text(message["content"]),)) for message in messages]  # type: ignore[arg-type]
        try:
            ids = self._chat.encode(turns).ids
        except DataError as error:  # empty, or a token of the chat template in the text
            return Refused("unusable_prompt", str(error))
        room = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        if room is not None and len(ids) + self._decoding.max_new_tokens > room:
            return Refused("prompt_too_long", f"{len(ids)} + {self._decoding.max_new_tokens} tokens, room for {room}")
        return ids

    def _batches(self, prompts: Mapping[int, list[int]]) -> Iterator[dict[int, list[int]]]:
        """By length, longest first, so that little is padded and memory runs out at once or never."""
        order = sorted(prompts, key=lambda n: (-len(prompts[n]), n))
        for start in range(0, len(order), self._batch_size):
            yield {n: prompts[n] for n in order[start : start + self._batch_size]}

    @torch.inference_mode()
    def _generate(self, prompts: list[list[int]], seeds: list[int]) -> list[list[int]]:
        """New ids of each prompt, as many as the longest answer has."""
        from transformers import GenerationConfig, LogitsProcessorList

        longest = max(map(len, prompts))
        device = self._model.get_input_embeddings().weight.device
        ids = torch.tensor([[self._pad_id] * (longest - len(row)) + row for row in prompts], device=device)
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in prompts], device=device)
        processors = [SeededDraw(self._decoding, seeds)] if self._decoding.temperature > 0 else []
        try:
            grown = self._model.generate(
                input_ids=ids,
                attention_mask=mask,
                logits_processor=LogitsProcessorList(processors),
                generation_config=GenerationConfig(
                    do_sample=False,
                    max_new_tokens=self._decoding.max_new_tokens,
                    eos_token_id=self._stop_ids,
                    pad_token_id=self._pad_id,
                ),
            )
        except torch.OutOfMemoryError as error:
            shape = f"{len(prompts)} prompts of {longest} tokens"
            raise ConfigError("a batch does not fit into memory", value=shape, knob="--llm-batch-size") from error
        return grown[:, longest:].tolist()

    def _text(self, ids: list[int]) -> str | Refused:
        end = next((position for position, token in enumerate(ids) if token in self._stop_ids), None)
        text = self._chat.decode(ids[:end])
        return text if end is not None else Refused("reply_cut_off", text)


class SeededDraw:
    """Makes the argmax of the scores a draw from their softmax, each row by random numbers of its own.

    The largest of logits plus Gumbel noise is a draw from their softmax (Gumbel 1954; Maddison et al. 2014); transformers' own
    sampling takes the noise of all rows from one stream.
    """

    def __init__(self, decoding: Decoding, seeds: Sequence[int]) -> None:
        from transformers import TopPLogitsWarper

        self._temperature = decoding.temperature
        self._top_p = TopPLogitsWarper(decoding.top_p) if decoding.top_p < 1 else None
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Args: `input_ids` (B, T), `scores` (B, V)."""
        scores = scores.float() / self._temperature
        if self._top_p is not None:
            scores = self._top_p(input_ids, scores)
        # On the CPU: the same numbers whatever the GPU.
        noise = torch.stack([torch.empty(scores.shape[1]).exponential_(generator=g) for g in self._generators])
        return scores - noise.log().to(scores.device)


def _as_list(value: int | list[int] | None) -> list[int]:
    return [] if value is None else value if isinstance(value, list) else [value]


def _check_fits(model: PreTrainedModel, name: str) -> None:
    """Parts that were put off to memory or disk would make every token wait for them."""
    off = sorted(part for part, device in model.hf_device_map.items() if device in ("cpu", "disk"))
    if off:
        raise ConfigError(
            "the LLM does not fit into the GPUs' memory",
            value=name,
            expected=f"room for {len(off)} more of its parts",
            knob="--dtype, a smaller --model, or more GPUs",
        )


def _unreadable(name: str, error: Exception) -> ModelFileError:
    return ModelFileError(
        f"the LLM cannot be loaded ({error})",
        value=name,
        expected="a Hugging Face folder or hub name of a causal LM",
        knob="--model",
    )
