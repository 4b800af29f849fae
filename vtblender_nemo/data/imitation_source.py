"""The reader of imitation rows: what the LLM itself answered about a transcript is to be answered about its speech."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lhotse.cut import Cut

from vtblender_nemo.common.conversation import Audio, Conversation, Text, Turn
from vtblender_nemo.common.errors import DataError
from vtblender_nemo.data.config import SourceConfig
from vtblender_nemo.data.prompts import Wordings
from vtblender_nemo.data.rows import Row, TarShards
from vtblender_nemo.data.sources import source_type
from vtblender_nemo.data.speech_sources import _SPEECH_KEYS, _SpeechSource, tarred_cut

AUDIO = "{audio}"
_AUDIO_KEYS = frozenset({"audio_dir", "tarred_audio_filepaths", "shard_window"})
_FROM_ROW = frozenset({"text_field", "prompts", "task", "audio_position"})


class OwnWording(Wordings):
    """The wording that a row brings with it in `prompt`, with `{audio}` once; other braces are braces."""

    def __init__(self) -> None:
        super().__init__([AUDIO])

    def user_parts(self, rng: random.Random, fields: Mapping[str, Any], audio: Audio) -> tuple[Text | Audio, ...]:
        """The wording around the audio.

        Raises:
            DataError: no `prompt`, or none with one place for the audio.
        """
        before, after = halves(fields)
        return (*_spoken(before), audio, *_spoken(after))


@source_type("imitation")
class Imitation(_SpeechSource):
    """A manifest made by `examples/synthesize_imitation.py`: `{"audio_filepath", "duration", "text", "prompt", "answer", ...}`.

    The twin of a row is what the LLM was asked when it answered: the same prompt about the transcript. With
    `tarred_audio_filepaths` the audio stands in tars, as that of `nemo_tarred`.
    """

    keys = (_SPEECH_KEYS - _FROM_ROW) | _AUDIO_KEYS | {"manifest_filepath", "llm_fingerprint"}
    default_prompts = [AUDIO]  # nothing is drawn from them

    def __init__(self, config: SourceConfig, sampling_rate: int) -> None:
        super().__init__(replace(config, text_field="answer"), sampling_rate)
        self.wordings = OwnWording()
        tars = config.tarred_audio_filepaths
        self.tars = None if tars is None else TarShards(tars, self.rows)

    @property
    def shard_sizes(self) -> list[int]:
        return super().shard_sizes if self.tars is None else self.rows.sizes

    def _cut(self, row: Row, index: int) -> Cut:
        return super()._cut(row, index) if self.tars is None else tarred_cut(self.tars, row, self.sampling_rate)

    def _speech_turns(
        self, fields: Mapping[str, Any], audio: Audio, rng: random.Random, id: str, custom: dict[str, Any]
    ) -> Conversation:
        heard = super()._speech_turns(fields, audio, rng, id, custom)
        before, after = halves(fields)
        read = Turn("user", (*_spoken(before), Text(transcript_of(fields)), *_spoken(after)))
        return replace(heard, twin=(read, *heard.turns[1:]))


def halves(fields: Mapping[str, Any]) -> tuple[str, str]:
    """What stands before and behind the audio in a row's prompt.

    Raises:
        DataError: no `prompt`, or none with one place for the audio.
    """
    prompt = fields.get("prompt")
    if not isinstance(prompt, str) or prompt.count(AUDIO) != 1:
        raise DataError("row without a prompt about its audio", value=prompt, expected=f"text with {AUDIO} once")
    before, after = prompt.split(AUDIO)
    return before, after


def transcript_of(fields: Mapping[str, Any]) -> str:
    """
    Raises:
        DataError: there is none.
    """
    text = fields.get("text")
    if not isinstance(text, str) or not text.strip():
        raise DataError("row without the transcript of its audio", value=text, expected="text in `text`")
    return text


def _spoken(text: str) -> tuple[Text, ...]:
    return (Text(text),) if text.strip() else ()
