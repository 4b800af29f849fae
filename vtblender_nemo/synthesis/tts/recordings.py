"""Real speech instead of synthetic: texts that somebody has been recorded saying."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vtblender_nemo.common.audio import load_samples
from vtblender_nemo.common.errors import AudioError, ConfigError, DataError
from vtblender_nemo.data.lazy_audio import lazy_cut
from vtblender_nemo.data.rows import JsonlRows, Row, TarFile, expand_paths
from vtblender_nemo.synthesis.inputs.rows import digest_of
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
    """NeMo manifests with `audio_filepath`, `text`, and `offset` and `duration` where they apply; numbered patterns too."""
    tars: list[str] | None = None
    """The tars that hold the audio, one for every manifest; null: files beside the manifest."""
    max_secs: float = 40.0
    """Longest recording that is used."""

    free = frozenset({"manifests", "tars"})

    def check(self, place: str) -> None:
        """
        Raises:
            ConfigError: no manifest, or tars that do not match.
        """
        paths = expand_paths(self.manifests, knob=f"{place}.manifests")
        tars = [] if self.tars is None else expand_paths(self.tars, knob=f"{place}.tars")
        if self.tars is not None and len(tars) != len(paths):
            raise ConfigError(
                "manifests and tars do not match", value=len(tars), expected=f"{len(paths)} tars", knob=f"{place}.tars"
            )
        if not self.max_secs > 0:
            raise ConfigError("no recording is so short", value=self.max_secs, expected="> 0", knob=f"{place}.max_secs")

    def open(self, language: str) -> SpeechEngine:
        return Recordings(self, language)

    def fingerprint(self) -> Mapping[str, Any]:
        return {"manifests_digest": digest_of(expand_paths(self.manifests, knob="manifests"))}


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
        paths = expand_paths(config.manifests, knob="manifests")
        self._rows = JsonlRows(paths, knob="manifests")
        self._tars = None if config.tars is None else [TarFile(path) for path in expand_paths(config.tars, knob="tars")]
        self._compare = functools.lru_cache(maxsize=100_000)(open_comparison(language))
        self._found: dict[str, list[int]] = {}
        usable = sum(self._add(index, config.max_secs) for index in range(len(self._rows)))
        if not usable:
            raise ConfigError(
                "no recording can be used",
                path=paths[0],
                value=f"{len(self._rows)} rows",
                expected=f"text, and at most {config.max_secs} s",
                knob="manifests",
            )
        if usable < len(self._rows):
            logger.warning(
                "%d of %d recordings have no text, or are too long", len(self._rows) - usable, len(self._rows)
            )

    def _add(self, index: int, max_secs: float) -> bool:
        """Files a recording under its words; False if it cannot be used."""
        try:
            row = self._rows[index].data
        except DataError:
            return False
        text, times = row.get("text"), [row.get("duration"), row.get("offset")]
        if not all(time is None or isinstance(time, int | float) for time in times):
            return False
        key = self._compare.__wrapped__(text) if isinstance(text, str) else ""
        if not key or (times[0] is not None and times[0] > max_secs):
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
            samples = self._load(row, self._rows.locate(index)[0])
        except AudioError as error:
            return Refused("bad_recording", f"{row.path}:{row.line}: {error}")
        speaker = row.data.get("speaker") or row.data.get("speaker_id")
        where = {key: row.data[key] for key in ("audio_filepath", "offset", "duration") if key in row.data}
        return Speech(samples, str(speaker or "unknown"), {"recording": where})

    def _load(self, row: Row, file: int) -> Any:
        name, member = row.data.get("audio_filepath"), None
        if not isinstance(name, str):
            raise AudioError("row without audio_filepath", value=name, expected="a path")
        path = row.path.parent / name
        if self._tars is not None:
            path, member = self._tars[file].path, self._tars[file].find(name)
        cut = lazy_cut(
            path,
            duration_secs=row.data.get("duration"),
            offset_secs=row.data.get("offset") or 0.0,
            sampling_rate=SAMPLE_RATE,
            member=member,
        )
        return load_samples(cut, SAMPLE_RATE)
