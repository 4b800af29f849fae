"""Real speech instead of synthetic: texts that somebody has been recorded saying."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vtblender_nemo.common.audio import load_samples
from vtblender_nemo.common.errors import ConfigError, DataError
from vtblender_nemo.data.word_times import FIELD as ALIGNMENT
from vtblender_nemo.data.word_times import read_alignment
from vtblender_nemo.synthesis.inputs.rows import existing
from vtblender_nemo.synthesis.inputs.speech import SpeechRows, open_speech
from vtblender_nemo.synthesis.tts.base import SAMPLE_RATE, EngineConfig, Speech, SpeechEngine, SpeechRequest
from vtblender_nemo.synthesis.work import Refused

logger = logging.getLogger(__name__)


def open_comparison(language: str) -> Callable[[str], str]:
    """Whisper's text normaliser: what is left of a text when case, punctuation and spelling of numbers are put aside."""
    normalize: Callable[[str], str]
    if language == "en":
        from whisper_normalizer.english import EnglishTextNormalizer

        normalize = EnglishTextNormalizer()
    else:
        from whisper_normalizer.basic import BasicTextNormalizer

        normalize = BasicTextNormalizer()
    # It leaves one full stop of three.
    return lambda text: " ".join(word for word in normalize(text).split() if any(map(str.isalnum, word)))


@dataclass
class RecordingsConfig(EngineConfig):
    """Where transcribed recordings are."""

    manifests: list[str] = field(default_factory=list)
    """NeMo manifests with `audio_filepath`, `text`, and `offset` and `duration` where they apply; numbered patterns too. Or
    Lhotse cuts or shar, or the `input_cfg.yaml` that corpus preparation leaves."""
    tars: list[str] | None = None
    """The tars that hold a manifest's audio, one for every manifest, or several for one whose rows have `shard_id`; null:
    files beside the manifest, or what `input_cfg.yaml` names."""
    max_secs: float = 40.0
    """Longest recording that is used."""

    free = frozenset({"manifests", "tars"})

    def check(self, place: str) -> None:
        """
        Raises:
            ConfigError: no recordings, of an unknown format or of several, or tars that do not match.
        """
        self.open_rows(f"{place}.")
        if not self.max_secs > 0:
            raise ConfigError("no recording is so short", value=self.max_secs, expected="> 0", knob=f"{place}.max_secs")

    def open_rows(self, place: str = "") -> SpeechRows:
        """
        Raises:
            ConfigError: as `check`.
        """
        manifests = f"{place}manifests, or --recordings"
        try:
            return open_speech(existing(self.manifests, knob=manifests), self.tars)
        except ConfigError as error:
            knob = f"{place}tars" if error.knob == "--tar" else manifests
            raise ConfigError(**{**vars(error), "knob": knob}) from error

    def open(self, language: str) -> SpeechEngine:
        return Recordings(self, language)

    def fingerprint(self) -> Mapping[str, Any]:
        return {"manifests_digest": self.open_rows().digest}


class Recordings(SpeechEngine):
    """Finds recordings by what is said in them; of several of one text a row draws one.

    The index holds a number for every recording and each distinct transcript once, so that a million recordings take about
    200 MB in every process.

    Raises:
        ConfigError: a manifest is missing or empty.
    """

    selective = True
    model = "recordings"

    def __init__(self, config: RecordingsConfig, language: str) -> None:
        self._rows = config.open_rows()
        self._compare = functools.lru_cache(maxsize=100_000)(open_comparison(language))
        self._found: dict[str, list[int]] = {}
        usable = sum(self._add(index, config.max_secs) for index in range(len(self._rows)))
        if not usable:
            raise ConfigError(
                "no recording can be used",
                path=config.manifests[0],
                value=f"{len(self._rows)} rows",
                expected=f"text, and at most {config.max_secs} s",
                knob="engines[].manifests, or --recordings",
            )
        if usable < len(self._rows):
            logger.warning(
                "%d of %d recordings cannot be read, have no text, or are longer than %s s",
                len(self._rows) - usable,
                len(self._rows),
                config.max_secs,
            )

    def _add(self, index: int, max_secs: float) -> bool:
        """Files a recording under its words; False if it cannot be used."""
        try:
            row = self._rows[index].data
        except DataError:
            return False
        text, duration = row.get("text"), row.get("duration")
        key = self._compare.__wrapped__(text) if isinstance(text, str) else ""
        if not key or (duration is not None and duration > max_secs):
            return False
        self._found.setdefault(key, []).append(index)
        return True

    def knows(self, text: str) -> bool:
        return self._compare(text) in self._found

    def speak(self, requests: Sequence[SpeechRequest]) -> list[Speech | Refused]:
        return [self._speak(request) for request in requests]

    def _speak(self, request: SpeechRequest) -> Speech | Refused:
        found = self._found.get(self._compare(request.text))
        if not found:
            return Refused("no_recording", repr(request.text))
        index = request.rng().choice(found)
        row = self._rows[index]
        try:
            samples = load_samples(self._rows.cut_of(row, SAMPLE_RATE), SAMPLE_RATE)
            words = None if row.data.get(ALIGNMENT) is None else read_alignment(row.data[ALIGNMENT])
        except DataError as error:
            return Refused("bad_recording", f"{row.place}: {error}")
        speaker = row.data.get("speaker") or row.data.get("speaker_id")
        where = {key: row.data[key] for key in ("audio_filepath", "offset", "duration") if key in row.data}
        return Speech(samples, str(speaker or "unknown"), {"recording": where}, words)
