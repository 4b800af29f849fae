"""Token counts: by an LLM's tokenizer, or estimated from the length of the texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from vtblender_nemo.common.chat import ChatFormat, PromptIds
from vtblender_nemo.common.conversation import Audio, Turn, check_turns
from vtblender_nemo.common.errors import ConfigError, DataError
from vtblender_nemo.data.blend import TurnFormat

BYTES_PER_TOKEN = 4.0
"""English prose has about 4.3 bytes a token in Gemma's vocabulary; text in other scripts has other ratios."""
TOKENS_PER_TURN = 4
"""What chat templates put around a turn, as `<start_of_turn>user` and `<end_of_turn>` with their newlines."""


class EstimatedFormat:
    """Stands in for a `ChatFormat`: as many ids as a tokenizer would give by rule of thumb, none of which means a token.

    Args:
        audio_locator_tag: the text that stands for an audio.

    Attributes:
        audio_locator_id: the id of an audio; the other ids are 0.
    """

    audio_locator_id = 1

    def __init__(self, audio_locator_tag: str) -> None:
        self.audio_locator_tag = audio_locator_tag

    def encode(self, turns: Sequence[Turn]) -> PromptIds:
        """An estimate of a conversation's ids.

        Raises:
            DataError: turns in a wrong order, or the locator tag inside a text.
        """
        check_turns(turns, answered=bool(turns) and turns[-1].role == "assistant")
        prompt = PromptIds([], [])
        for turn in turns:
            size = TOKENS_PER_TURN
            for part in turn.parts:
                if isinstance(part, Audio):
                    prompt.ids.append(self.audio_locator_id)
                    prompt.loss_mask.append(False)
                else:
                    size += self._tokens(part.text)
            prompt.ids.extend([0] * size)
            prompt.loss_mask.extend([turn.role == "assistant"] * size)
        return prompt

    def _tokens(self, text: str) -> int:
        if self.audio_locator_tag in text:
            raise DataError(
                "the audio locator tag stands inside a text",
                value=text,
                expected=f"text without {self.audio_locator_tag}",
                knob="model.audio_locator_tag",
            )
        size = len(text) if text.isascii() else len(text.encode())
        return -int(-size // BYTES_PER_TOKEN)


_CACHED_TEXTS, _LONGEST_CACHED = 20_000, 400
"""Texts and characters: wordings, and transcripts that several tasks share, come again and again."""


class _FastTokenizer:
    """A Hugging Face tokenizer whose call goes straight to the Rust one, without offsets and masks that nobody reads.

    Args:
        tokenizer: has a `backend_tokenizer`.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer, self._backend = tokenizer, tokenizer.backend_tokenizer
        self._cache: dict[str, list[int]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, texts: list[str], *, add_special_tokens: bool) -> dict[str, list[list[int]]]:
        assert not add_special_tokens, "what is cached is without them"
        new = [text for text in texts if text not in self._cache]
        encodings = self._backend.encode_batch_fast(new, add_special_tokens=False) if new else []
        ids = {text: encoding.ids for text, encoding in zip(new, encodings, strict=True)}
        found = {"input_ids": [ids[text] if text in ids else self._cache[text] for text in texts]}
        if len(self._cache) + len(ids) > _CACHED_TEXTS:
            self._cache.clear()
        self._cache.update((text, own) for text, own in ids.items() if len(text) <= _LONGEST_CACHED)
        return found


def open_format(llm: str | None, audio_locator_tag: str) -> tuple[TurnFormat, str]:
    """What counts tokens, and its name for the record.

    Args:
        llm: Hugging Face folder or hub name of an LLM; None estimates.
        audio_locator_tag: the text that stands for an audio.

    Raises:
        ConfigError: a tokenizer that cannot be opened, or has no chat template.
    """
    if llm is None:
        said = (
            f"estimated, not counted: {BYTES_PER_TOKEN:g} bytes of text a token, {TOKENS_PER_TURN} tokens around a turn"
        )
        return EstimatedFormat(audio_locator_tag), said
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(llm, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"tokenizer cannot be opened ({str(error).splitlines()[0]})",
            value=llm,
            expected="a Hugging Face folder or hub name",
            knob="--llm",
        ) from error
    fast = _FastTokenizer(tokenizer) if hasattr(tokenizer, "backend_tokenizer") else tokenizer
    return ChatFormat(cast("Any", fast), audio_locator_tag), str(llm)
