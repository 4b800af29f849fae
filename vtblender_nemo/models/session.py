"""A chat that goes on: what the LLM has seen stays in its cache, so that a turn costs its own positions alone.

Shapes: P positions, H hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vtblender_nemo.backbones.decoding import Chooser, advance, decode
from vtblender_nemo.backbones.kv_cache import GrowingCache, can_grow
from vtblender_nemo.backbones.transformers_llm import check_sampling
from vtblender_nemo.common.chat import ChatFormat
from vtblender_nemo.common.conversation import Message, Text, Turn, from_messages
from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.models.generation import answering, check_length, until_stop
from vtblender_nemo.models.slots import Slot, embed_slots, read_slots
from vtblender_nemo.models.speech_llm import SpeechLLM


class Session:
    """One chat with a model whose weights do not change meanwhile.

    Answers are those that `VTBlenderModel.generate` gives to the whole chat. A turn runs through encoder and LLM only from where
    the chat's token ids begin to differ from those in the cache: at the new turn, or a few tokens before, where the chat template
    ends an answer otherwise than the LLM did, or where an answer's text is tokenised otherwise.

    Args:
        model: perception and LLM.
        chat_format: of the LLM's tokenizer.
        system: what the system turn says, or None for no such turn.

    Attributes:
        turns: the chat so far. A question that was answered with nothing, or that failed, is not part of it.

    Raises:
        ConfigError: the LLM keeps more of the past than keys and values, as recurrent layers do.
    """

    def __init__(self, model: SpeechLLM, chat_format: ChatFormat, *, system: str | None = None) -> None:
        if not can_grow(model.llm.causal_lm.config):
            raise ConfigError(
                "this LLM's memory of a chat cannot be cut back",
                value=type(model.llm.causal_lm).__name__,
                expected="an LLM with full or sliding-window attention in all layers",
                knob="generate with the whole chat",
            )
        self.turns: tuple[Turn, ...] = (Turn("system", (Text(system),)),) if system else ()
        self._model = model
        self._format = chat_format
        self._cache = GrowingCache()
        self._slots: list[Slot] = []

    @property
    def positions(self) -> int:
        """How many positions the cache holds."""
        return _positions_of(self._slots)

    @property
    def bytes(self) -> int:
        """Memory that the cache holds."""
        return self._cache.bytes

    def release(self) -> None:
        """Frees the cache. The chat stays, and its next turn costs as much as the whole chat."""
        self._cache, self._slots = GrowingCache(), []

    def ask(self, content: str | Sequence[Message], max_new_tokens: int = 256, **sampling: Any) -> str:
        """Answers the next user turn.

        Args:
            content: text, or parts as in `VTBlenderModel.generate`: `[{"type": "text", ...}, {"type": "audio", ...}]`.
            max_new_tokens: of the answer.
            sampling: as in `VTBlenderModel.generate`, but for beams.

        Raises:
            DataError: a turn that cannot be read, or a chat that is longer than the LLM's context.
            AudioError: an audio that is missing or cannot be decoded.
            ConfigError: unknown sampling, or beams.
        """
        check_sampling(sampling, max_new_tokens)
        if sampling.pop("num_beams", 1) != 1:
            raise ConfigError("a session answers without beams", knob="num_beams=1")
        asked = (*self.turns, *from_messages([{"role": "user", "content": content}]).turns)
        with answering(self._model):
            answer = self._answer(asked, max_new_tokens, sampling)
        if answer:
            self.turns = (*asked, Turn("assistant", (Text(answer),)))
        return answer

    def _answer(self, turns: tuple[Turn, ...], max_new_tokens: int, sampling: dict[str, Any]) -> str:
        wanted = list(read_slots(self._format, turns))
        kept = min(_common(self._slots, wanted), len(wanted) - 1)  # at least one position has to run
        ((embeds, new),) = embed_slots(self._model, [wanted[kept:]])
        check_length(_positions_of([*self._slots[:kept], *new]), max_new_tokens, self._model.llm)
        self._slots = self._slots[:kept]
        self._cache.crop_to(self.positions)
        try:
            ids = self._continue(embeds, max_new_tokens, sampling)
        except BaseException:
            self._cache.crop_to(self.positions)  # layers may have come to different lengths
            raise
        self._slots += new
        in_cache = self._cache.get_seq_length() - self.positions
        self._slots += [Slot(token) for token in ids[:in_cache]]
        return self._format.decode(until_stop(ids, self._format.stop_ids))

    def _continue(self, embeds: Tensor, max_new_tokens: int, sampling: dict[str, Any]) -> list[int]:
        llm, stop_ids = self._model.llm, self._format.stop_ids
        with llm.decoding_weights():
            with llm.reading(torch.tensor([len(embeds) - 1], device=embeds.device)):
                hidden = advance(llm, embeds[None], self._cache)[:, -1]
            mask = torch.ones(1, self._cache.get_seq_length(), dtype=torch.bool, device=embeds.device)
            choose = Chooser(stop_ids, **sampling)
            return decode(llm, hidden, mask, self._cache, choose, max_new_tokens=max_new_tokens, stop_ids=stop_ids)[
                0
            ].tolist()


def _positions_of(slots: Sequence[Slot]) -> int:
    return sum(slot.positions for slot in slots)


def _common(held: Sequence[Slot], wanted: Sequence[Slot]) -> int:
    """How many slots are alike at the head of both."""
    for number, (one, other) in enumerate(zip(held, wanted, strict=False)):
        if one.token != other.token or one.audio is not other.audio:
            return number
    return min(len(held), len(wanted))
