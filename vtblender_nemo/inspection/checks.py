"""The checks of one row: what training would stumble over, and what it would learn without complaint but should not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from lhotse import Recording
from lhotse.augmentation import AudioTransform
from lhotse.cut import Cut

from vtblender_nemo.common.audio import load_samples
from vtblender_nemo.common.chat import PromptIds
from vtblender_nemo.common.conversation import Audio, Conversation, Text
from vtblender_nemo.common.errors import AudioError, DataError
from vtblender_nemo.data.blend import Encoder, Limits
from vtblender_nemo.data.lazy_audio import TOLERANCE_SECS, LazySource
from vtblender_nemo.data.skips import reason_of
from vtblender_nemo.data.sources import Source
from vtblender_nemo.inspection.headers import Header, read_header

AudioCheck = Literal["none", "header", "decode"]
AUDIO_CHECKS: tuple[str, ...] = ("none", "header", "decode")
Level = Literal["error", "warning"]
Warned = tuple[str, str]
"""A problem, and the same with its values."""

FOREIGN_PLACEHOLDERS = re.compile(
    r"<\|?(?:audio|AUDIO|audio_bos|audioplaceholder|speech)(?:_?\d+)?\|?>|<audio_soft_token>|\[AUDIO\]"
)
"""What other speech LLMs put where an audio stands: Ultravox, NeMo, Qwen-Audio, Phi-4, Gemma 3n, Voxtral."""


CUT_OFF_SECS = 0.5
"""How much longer than its row says a file may be: manifests round durations, some to whole seconds."""


@dataclass(frozen=True)
class Finding:
    """Something wrong with a row.

    Attributes:
        level: an error makes training leave the row out; a warning does not.
        source: name of the source.
        path: the file that holds the row.
        line: 1-based.
        problem: what is wrong, the same words for every such row.
        detail: the values.
    """

    level: Level
    source: str
    path: str
    line: int
    problem: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.level} in {self.source}: {self.detail or self.problem}"


@dataclass(frozen=True)
class RowFacts:
    """What a row without errors counts.

    Attributes:
        audio_secs: seconds of all its audios.
        text_tokens: tokens without those that stand for audio.
        target_tokens: tokens that are learned.
        frames: positions of its audios in the LLM.
        audios: how many.
        left_out_by: the limit that drops it in training, or None.
    """

    audio_secs: float
    text_tokens: int
    target_tokens: int
    frames: int
    audios: int
    left_out_by: str | None


@dataclass(frozen=True)
class Checker:
    """Checks rows as training reads them.

    Attributes:
        encoder: token counts and lengths.
        audio: `none` reads no audio and trusts the rows, `header` opens every file and holds the row to its rate and length,
            `decode` decodes. Tars are gone through for their members whatever it is.
        seed: of the wordings.
    """

    encoder: Encoder
    audio: AudioCheck = "header"
    seed: int = 0

    def check(self, source: Source, index: int, limits: Limits) -> tuple[RowFacts | None, list[Finding], list[Header]]:
        """Checks one row.

        Args:
            source: holds the row.
            index: of the row.
            limits: filters of the training; a row that they drop is no bad row.

        Returns:
            Its counts (None if it is bad), what was found, and the headers of its audio files as far as they were read.
        """
        findings: list[Finding] = []
        headers: list[Header] = []
        warnings: list[Warned] = []
        try:
            conversation = source.conversation(index, source.rng(self.seed, index))
            prompt, length = self.encoder.encode(conversation)
            audios = conversation.audios
            self._check_prompt(conversation, prompt, len(audios))
            for audio in audios if self.audio != "none" else ():
                header, cut_off = self._check_file(audio.cut)
                headers.append(header)
                warnings += cut_off
            warnings += _text_warnings(conversation) + _wording_warnings(source, conversation)
            warnings += _rate_warnings(conversation, headers, self.encoder.sampling_rate)
            if self.audio == "decode":
                warnings += self._decode(audios)
        except DataError as error:
            path, line = source.place(index)
            said = reason_of(error)
            findings.append(Finding("error", source.name, str(path), line, problem_of(error), said))
            return None, findings, headers
        if warnings:
            path, line = source.place(index)
            findings = [Finding("warning", source.name, str(path), line, *warning) for warning in warnings]
        return self._facts(conversation, audios, prompt, length, limits), findings, headers

    def _facts(
        self, conversation: Conversation, audios: Sequence[Audio], prompt: PromptIds, length: int, limits: Limits
    ) -> RowFacts:
        text_tokens = len(prompt.ids) - len(audios)
        broken = limits.broken(conversation, length)
        return RowFacts(
            audio_secs=sum(audio.duration_secs for audio in audios),
            text_tokens=text_tokens,
            target_tokens=prompt.loss_mask.count(True),
            frames=length - text_tokens,
            audios=len(audios),
            left_out_by=None if broken is None else broken[0],
        )

    def _check_prompt(self, conversation: Conversation, prompt: PromptIds, audios: int) -> None:
        places = prompt.ids.count(self.encoder.chat_format.audio_locator_id)
        if places != audios:
            raise DataError("placeholders and audios do not match", value=places, expected=f"{audios}")
        if True not in prompt.loss_mask:
            raise DataError("nothing to be learned", value=conversation.id, expected="an answer of the assistant")

    def _check_file(self, cut: Cut) -> tuple[Header, list[Warned]]:
        """The header of a cut's file, which must hold all that the row says, and should hold no more unless the row asks
        for a part.
        """
        found: Header | None = None
        warnings: list[Warned] = []
        for recording in _recordings(cut):
            for source in recording.sources:
                if source.type == "memory":
                    continue
                member = getattr(source, "member", None)
                found = read_header(str(source.source), member)
                lazy = isinstance(source, LazySource)
                start = source.start_secs if lazy else 0.0
                said = source.duration_secs if lazy else _secs_before_transforms(recording)
                wanted = start + said
                if wanted - found.duration_secs > TOLERANCE_SECS:
                    raise AudioError(
                        "audio is shorter than its manifest says",
                        path=source.source,
                        value=f"{found.duration_secs - start:.3f} s from {start:.3f} s on",
                        expected=f"{wanted - start:.3f} s",
                        knob="duration and offset of the row",
                    )
                if (not lazy or source.is_whole) and found.duration_secs - said > CUT_OFF_SECS:
                    problem = "file is longer than its row says"
                    values = f"{found.duration_secs:.3f} s, the row without offset {said:.3f} s: {source.source}"
                    warnings.append((problem, f"{problem}: {values}"))
        return found or Header(int(cut.sampling_rate), 1, cut.duration), warnings

    def _decode(self, audios: Sequence[Audio]) -> list[Warned]:
        waves = [load_samples(audio.cut, self.encoder.sampling_rate) for audio in audios]
        silent = [number for number, wave in enumerate(waves) if not np.any(wave)]
        return [("audio is silent", f"audio is silent: number {number + 1} of the row") for number in silent]


def problem_of(error: DataError) -> str:
    """What is wrong without the values: the words that rows with the same mistake have in common."""
    return re.split(r" \(|:", error.problem, maxsplit=1)[0]


def _text_warnings(conversation: Conversation) -> list[Warned]:
    for turn in conversation.turns:
        for part in turn.parts:
            if isinstance(part, Text) and ("<" in part.text or "[" in part.text):
                found = FOREIGN_PLACEHOLDERS.search(part.text)
                if found is not None:
                    problem = "text holds another model's placeholder for audio"
                    return [(problem, f"{problem}: {found[0]}")]
    return []


def _wording_warnings(source: Source, conversation: Conversation) -> list[Warned]:
    """One wording was drawn for this check; training will draw others."""
    wordings = getattr(source, "wordings", None)
    if wordings is None or not (missing := wordings.missing(conversation.custom)):
        return []
    problem = "some wordings ask for a field that the row lacks"
    return [(problem, f"{problem}: {', '.join(missing)}")]


def _rate_warnings(conversation: Conversation, headers: list[Header], wanted: int) -> list[Warned]:
    found = []
    for header in headers:
        if header.rate < wanted:
            problem = "rate of the audio is below the model's"
            found.append((problem, f"{problem}: {header.rate} Hz, {wanted} Hz wanted"))
    said = conversation.custom.get("sampling_rate")
    if headers and isinstance(said, int | float) and said != headers[0].rate:
        problem = "row says another rate than its file"
        found.append((problem, f"{problem}: {said} Hz, the file {headers[0].rate} Hz"))
    return found


def _secs_before_transforms(recording: Recording) -> float:
    """The length of the audio in the file: a change of speed changes a recording's own."""
    secs = recording.duration
    for transform in reversed(recording.transforms or []):
        known = transform if isinstance(transform, AudioTransform) else AudioTransform.from_dict(transform)
        _, secs = known.reverse_timestamps(offset=0.0, duration=secs, sampling_rate=recording.sampling_rate)
    return secs


def _recordings(cut: Cut) -> list[Any]:
    tracks = getattr(cut, "tracks", None)
    cuts = [cut] if tracks is None else [track.cut for track in tracks]
    return [one.recording for one in cuts if getattr(one, "recording", None) is not None]
