"""Audio longer than the LLM's context, or than what it was trained on: the same request about one part after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from vtblender_nemo.common.audio import cut_span, load_samples
from vtblender_nemo.common.conversation import Audio, Conversation, Turn
from vtblender_nemo.common.errors import DataError
from vtblender_nemo.common.quiet_cuts import quiet_spans


@dataclass(frozen=True)
class Parts:
    """Conversations about parts of audios, and which of them belong together.

    Attributes:
        conversations: in order.
        counts: how many of them each of the original conversations has become.
    """

    conversations: list[Conversation]
    counts: list[int]

    def join(self, answers: Sequence[str]) -> list[str]:
        """One answer for each of the original conversations: those about its parts, with spaces between."""
        remaining = iter(answers)
        return [" ".join(text for _ in range(count) if (text := next(remaining))) for count in self.counts]


def split_long_audio(conversations: Sequence[Conversation], part_secs: float, sampling_rate: int) -> Parts:
    """Parts the long audio of each conversation's last turn where little is heard; the rest of the chat stays as it is.

    Suits requests whose answer follows the audio from beginning to end, as transcription and translation do.

    Args:
        conversations: each ending with a user turn.
        part_secs: the longest part.
        sampling_rate: Hz at which pauses are looked for.

    Raises:
        ConfigError: parts that are too short.
        DataError: a last turn with more than one long audio, or a long audio in an earlier turn.
        AudioError: an audio that cannot be decoded.
    """
    made = [_parts_of(conversation, part_secs, sampling_rate) for conversation in conversations]
    return Parts([part for parts in made for part in parts], [len(parts) for parts in made])


def _parts_of(conversation: Conversation, part_secs: float, sampling_rate: int) -> list[Conversation]:
    is_long = [audio for audio in conversation.audios if audio.duration_secs > part_secs]
    if not is_long:
        return [conversation]
    *earlier, last = conversation.turns
    if len(is_long) > 1 or not any(audio is is_long[0] for audio in last.audios):
        raise DataError(
            "only one long audio, in the last turn, can be answered part by part",
            value=f"{len(is_long)} long audios in {conversation.id}",
            knob="part_secs",
        )
    return [
        replace(conversation, turns=(*earlier, _with(last, is_long[0], part)))
        for part in _cut(is_long[0], part_secs, sampling_rate)
    ]


def _cut(audio: Audio, part_secs: float, sampling_rate: int) -> list[Audio]:
    spans = quiet_spans(load_samples(audio.cut, sampling_rate), sampling_rate, part_secs)
    secs = [(start / sampling_rate, end / sampling_rate) for start, end in spans]
    return [Audio(cut_span(audio.cut, start, end - start, audio.cut.id)) for start, end in secs]


def _with(turn: Turn, audio: Audio, part: Audio) -> Turn:
    return replace(turn, parts=tuple(part if one is audio else one for one in turn.parts))
