"""Readers of speech with text: NeMo manifests plain and tarred, Lhotse cuts and shar, speech QA rows."""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lhotse.cut import Cut

from vtblender_nemo.common.conversation import Audio, Conversation, Text, Turn
from vtblender_nemo.common.errors import AudioError, ConfigError, DataError
from vtblender_nemo.data.config import SourceConfig
from vtblender_nemo.data.interleave import open_interleaver, replaced
from vtblender_nemo.data.lazy_audio import lazy_cut, lazy_recording
from vtblender_nemo.data.prompts import Wordings, load_wordings
from vtblender_nemo.data.rows import Row, TarFile, TarShards, expand_paths, recording_name
from vtblender_nemo.data.safe_cuts import FILES, SHAR, deserialized
from vtblender_nemo.data.sources import JsonlSource, source_type
from vtblender_nemo.data.word_times import FIELD as ALIGNMENT

_SPEECH_KEYS = frozenset({"text_field", "prompts", "task", "audio_position", "interleave"})
_AUDIO_FIELDS = frozenset({"id", "audio_filepath", "offset", ALIGNMENT})


class _SpeechSource(JsonlSource):
    """One user turn, a wording with the row's audio, and one answer, the row's `text_field`.

    With `interleave` parts of the audio may be text; `custom["transcript"]` then lists the transcripts of those that are not.
    """

    keys = _SPEECH_KEYS | {"manifest_filepath", "audio_dir"}
    default_prompts: list[str] | None = None

    def __init__(self, config: SourceConfig, sampling_rate: int) -> None:
        super().__init__(config, sampling_rate)
        prompts = self.default_prompts if config.prompts is None else config.prompts
        if prompts is None:
            raise ConfigError(
                f"source {self.name} has no wordings",
                expected="a YAML file of `task: [wording, ...]`, or a list of wordings",
                knob="prompts",
            )
        self.wordings: Wordings = load_wordings(prompts, config.task, audio_position=config.audio_position)
        self.interleaver = open_interleaver(config.interleave)

    def _convert(self, row: Row, index: int, rng: random.Random) -> Conversation:
        if row.data.get("_skipme"):
            raise DataError(
                "row is marked to be skipped", path=row.path, line=row.line, value=row.data["_skipme"], knob="_skipme"
            )
        audio = Audio(self._cut(row, index))
        return self._speech_turns(row.data, audio, rng, self._id(row, index), self._custom(row, _AUDIO_FIELDS))

    def _speech_turns(
        self, fields: Mapping[str, Any], audio: Audio, rng: random.Random, id: str, custom: dict[str, Any]
    ) -> Conversation:
        answer = fields.get(self.config.text_field)
        if not isinstance(answer, str) or not answer.strip():
            raise DataError(
                f"row with an empty {self.config.text_field}",
                value=answer,
                expected="text to be learned",
                knob="text_field",
            )
        parts = self.wordings.user_parts(rng, fields, audio)
        if self.interleaver is not None:
            given = self.interleaver(audio, fields, rng)
            parts = replaced(parts, audio, given.parts)
            custom = {**custom, "transcript": list(given.transcripts)}
        return Conversation(id, (Turn("user", parts), Turn("assistant", (Text(answer),))), self.name, custom)

    def _cut(self, row: Row, index: int) -> Cut:
        folder = Path(self.config.audio_dir) if self.config.audio_dir else row.path.parent
        path, offset_secs, duration_secs = _span(row)
        return lazy_cut(
            folder / path, duration_secs=duration_secs, offset_secs=offset_secs, sampling_rate=self.sampling_rate
        )


def _span(row: Row) -> tuple[str, float | None, float | None]:
    """The audio path, offset and duration (s) of a manifest row; None for what it does not say."""
    path = row.data.get("audio_filepath")
    if not isinstance(path, str) or not path:
        raise DataError("row without audio_filepath", path=row.path, line=row.line, value=path, expected="a path")
    return path, _secs(row, "offset"), _secs(row, "duration")


def _secs(row: Row, name: str) -> float | None:
    value = row.data.get(name)
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{name} is no length of time", value=value, expected="seconds", knob=name) from error


@source_type("nemo")
class Nemo(_SpeechSource):
    """A NeMo manifest: `{"audio_filepath", "duration", "offset"?, "text", "translation"?, "source_lang"?, ...}`."""


@source_type("speech_qa")
class SpeechQa(_SpeechSource):
    """A NeMo manifest with a `question` about the speech and its `answer`."""

    keys = _SpeechSource.keys - {"text_field"}
    default_prompts = ["{question}"]

    def __init__(self, config: SourceConfig, sampling_rate: int) -> None:
        super().__init__(replace(config, text_field="answer"), sampling_rate)


@source_type("nemo_tarred")
class NemoTarred(_SpeechSource):
    """NeMo manifests whose audio stands in tars: one manifest a tar in the same order, or one with `shard_id` in its rows."""

    keys = _SPEECH_KEYS | {"manifest_filepath", "tarred_audio_filepaths", "shard_window"}

    def __init__(self, config: SourceConfig, sampling_rate: int) -> None:
        super().__init__(config, sampling_rate)
        self.tars = TarShards(config.tarred_audio_filepaths, self.rows)

    @property
    def shard_sizes(self) -> list[int]:
        return self.rows.sizes

    def _cut(self, row: Row, index: int) -> Cut:
        return tarred_cut(self.tars, row, self.sampling_rate)


def tarred_cut(tars: TarShards, row: Row, sampling_rate: int) -> Cut:
    """The audio of a manifest row that stands in a tar."""
    tar = tars.of(row)
    name, offset_secs, duration_secs = _span(row)
    member = tar.find(recording_name(name))
    return lazy_cut(
        tar.path, duration_secs=duration_secs, offset_secs=offset_secs, sampling_rate=sampling_rate, member=member
    )


class _CutSource(_SpeechSource):
    """Rows that are serialised Lhotse cuts with one supervision or more."""

    source_types: tuple[str, ...] = FILES

    def _convert(self, row: Row, index: int, rng: random.Random) -> Conversation:
        cut = deserialized(row.data, self.source_types)
        if not isinstance(cut, Cut) or not cut.has_recording:
            raise DataError("row is no cut with a recording", value=row.data, expected="a Lhotse cut")
        fields = {**fields_of(cut), **self.config.tags}
        cut = self._open(cut, row, index)
        custom = self._custom(Row(fields, row.path, row.line), frozenset({ALIGNMENT}))
        return self._speech_turns(fields, Audio(cut.with_id(f"{row.path}:{row.line}:{cut.id}")), rng, cut.id, custom)

    @abstractmethod
    def _open(self, cut: Cut, row: Row, index: int) -> Cut:
        """The cut with audio that can be decoded."""

    def _read(self, index: int, rng: random.Random) -> Conversation:
        return self._convert(self.rows[index], index, rng)


def fields_of(cut: Cut) -> dict[str, Any]:
    """A cut's text, language, word alignment and custom fields as a manifest's."""
    fields: dict[str, Any] = {"duration": cut.duration}
    for supervision in cut.supervisions:
        fields |= supervision.custom or {}
        if supervision.language is not None:
            fields["source_lang"] = supervision.language
    fields |= getattr(cut, "custom", None) or {}
    texts = [supervision.text for supervision in cut.supervisions if supervision.text]
    return fields | _alignment_of(cut) | ({"text": " ".join(texts)} if texts else {})


def _alignment_of(cut: Cut) -> dict[str, Any]:
    """The words that all supervisions with a text are aligned by, in seconds of the cut; nothing where one is not."""
    spoken = [supervision for supervision in cut.supervisions if supervision.text]
    if not spoken or not all((supervision.alignment or {}).get("word") for supervision in spoken):
        return {}
    items = [item for supervision in spoken for item in supervision.alignment["word"]]
    return {ALIGNMENT: [[item.symbol, item.start, item.end] for item in items]}


@source_type("lhotse")
class LhotseCuts(_CutSource):
    """Lhotse cuts in JSONL or JSONL.gz."""

    keys = _SPEECH_KEYS | {"cuts_path", "audio_dir"}

    def __init__(self, config: SourceConfig, sampling_rate: int) -> None:
        paths = expand_paths(config.cuts_path, knob="cuts_path")
        super().__init__(replace(config, manifest_filepath=paths), sampling_rate)

    def _open(self, cut: Cut, row: Row, index: int) -> Cut:
        return cut.with_recording_path_prefix(self.config.audio_dir or row.path.parent)


@source_type("lhotse_shar")
class LhotseShar(_CutSource):
    """Lhotse shar folders: `cuts.*.jsonl.gz` beside `recording.*.tar`, whose members stand in the cuts' order."""

    keys = _SPEECH_KEYS | {"shar_path", "shard_window"}
    source_types = SHAR

    def __init__(self, config: SourceConfig, sampling_rate: int) -> None:
        folders = expand_paths(config.shar_path, knob="shar_path")
        cuts = [path for folder in folders for path in sorted(folder.glob("cuts.*.jsonl*"))]
        self.tars = [TarFile(path) for folder in folders for path in sorted(folder.glob("recording.*.tar"))]
        if not self.tars or len(self.tars) != len(cuts):
            raise ConfigError(
                "shar with cuts and recordings that do not match",
                path=folders[0],
                value={"cuts": len(cuts), "recordings": len(self.tars)},
                expected="cuts.NNNNNN.jsonl.gz and recording.NNNNNN.tar for every shard",
                knob="shar_path",
            )
        super().__init__(replace(config, manifest_filepath=cuts), sampling_rate)

    @property
    def shard_sizes(self) -> list[int]:
        return self.rows.sizes

    def _open(self, cut: Cut, row: Row, index: int) -> Cut:
        shard, line = self.rows.locate(index)
        members = self.tars[shard].members
        member = members[2 * line] if 2 * line < len(members) else None  # every recording is followed by its JSON
        if member is None or member.name.rsplit(".", 1)[0] != cut.id:
            found = member.name if member else "the end of the tar"
            raise AudioError("shar's recordings are not in its cuts' order", value=found, expected=cut.id)
        cut.recording = lazy_recording(cut.recording, self.tars[shard].path, member)
        return cut
