"""Changes to the waveforms of conversations, as Lhotse transforms: nothing is decoded here.

What is drawn follows from the row's own random numbers, so that a row of one visit sounds the same on every rank, in
every worker and after a resume. Durations are those of the changed audio before lengths and limits are looked at.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lhotse import Recording
from lhotse.augmentation import AudioTransform
from lhotse.cut import Cut, MixedCut, PaddingCut
from lhotse.utils import fastcopy

from vtblender_nemo.common.audio import SHORTEST_SECS, cut_from_file
from vtblender_nemo.common.conversation import Audio, Conversation, Turn
from vtblender_nemo.common.errors import AudioError, ConfigError, DataError
from vtblender_nemo.data.augment_config import AugmentConfig, BandwidthConfig, NoiseConfig, ReverbConfig, SpeedConfig
from vtblender_nemo.data.lazy_audio import lazy_cut
from vtblender_nemo.data.order import key_of, mix
from vtblender_nemo.data.rows import JsonlRows, Row, expand_paths
from vtblender_nemo.data.sources import placed
from vtblender_nemo.data.waveforms import LowerRate, TelephoneLine, generated_room

AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".sph"})

Change = Callable[[Cut], Cut]


@dataclass(frozen=True)
class Drawn:
    """An effect as it was drawn: what it does to a cut, and its values for the record."""

    change: Change
    values: dict[str, Any]


@dataclass(frozen=True)
class Clip:
    """A part of a recording of noise or of a room: seconds of the file, from `offset_secs` on."""

    path: Path
    offset_secs: float
    duration_secs: float


class Augmenter:
    """Draws effects for conversations and hangs them on their cuts.

    All audios of a conversation get the same speed, room, kind of noise and line, as if it had been held at one place.

    Args:
        config: the effects.
        sampling_rate: Hz of the model's audio; cuts are brought to it first.
        place: the key that holds the configuration, for errors.

    Raises:
        ConfigError: noises or impulse responses that are missing or cannot be opened.
    """

    def __init__(self, config: AugmentConfig, sampling_rate: int, place: str = "data.train_ds.augment") -> None:
        self._rate = sampling_rate
        self._effects: list[tuple[str, float, Callable[[random.Random], Drawn]]] = []
        if config.speed is not None:
            self._add("speed", config.speed, _speed(config.speed))
        if config.reverb is not None:
            clips = _clips(config.reverb, f"{place}.reverb")
            self._add("reverb", config.reverb, _reverb(config.reverb, clips, sampling_rate))
        if config.noise is not None:
            clips = _clips(config.noise, f"{place}.noise")
            if not clips:
                raise ConfigError("noise without recordings", expected="a manifest or a folder", knob=f"{place}.noise")
            self._add("noise", config.noise, _noise(config.noise, clips, sampling_rate))
        if config.telephone is not None:
            self._add("telephone", config.telephone, _telephone)
        if config.bandwidth is not None:
            self._add("bandwidth", config.bandwidth, _bandwidth(config.bandwidth))

    def _add(self, name: str, config: Any, draw: Callable[[random.Random], Drawn]) -> None:
        self._effects.append((name, config.prob, draw))

    def __call__(self, conversation: Conversation, rng: random.Random) -> Conversation:
        """The conversation with what was drawn for it; `custom["augment"]` tells what that is.

        Args:
            conversation: any; without audio it is returned as it is.
            rng: random numbers of this visit to the row alone.
        """
        if not conversation.audios:
            return conversation
        drawn = self._draw(rng)
        if not drawn:
            return conversation
        turns = tuple(
            Turn(turn.role, tuple(self._part(part, drawn) for part in turn.parts)) for turn in conversation.turns
        )
        record = {name: effect.values for name, effect in drawn.items()}
        return replace(conversation, turns=turns, custom={**conversation.custom, "augment": record})

    def _draw(self, rng: random.Random) -> dict[str, Drawn]:
        drawn, key = {}, rng.getrandbits(64)
        for name, prob, draw in self._effects:
            own = random.Random(mix(key, key_of(name)))  # an effect's settings leave the others' draws as they were
            if own.random() < prob:
                drawn[name] = draw(own)
        return drawn

    def _part(self, part: Any, drawn: dict[str, Drawn]) -> Any:
        if not isinstance(part, Audio):
            return part
        cut = part.cut.resample(self._rate)
        for effect in drawn.values():
            cut = effect.change(cut)
        return Audio(cut)


def _speed(config: SpeedConfig) -> Callable[[random.Random], Drawn]:
    def draw(rng: random.Random) -> Drawn:
        factor = float(rng.choice(config.factors))
        return Drawn(lambda cut: cut.perturb_speed(factor, affix_id=False), {"factor": factor})

    return draw


def _reverb(config: ReverbConfig, clips: list[Clip], rate: int) -> Callable[[random.Random], Drawn]:
    def draw(rng: random.Random) -> Drawn:
        if clips:
            clip = rng.choice(clips)
            response = _cut_of(clip, rate, channel_share=rng.random()).recording
            change = _on_tracks(lambda cut: cut.reverb_rir(rir_recording=response, affix_id=False))
            return Drawn(change, {"response": str(clip.path)})
        t60_secs, ratio_db = rng.uniform(*config.t60), rng.uniform(*config.direct_to_echo)
        room = generated_room(seed=rng.getrandbits(63), t60_secs=t60_secs, direct_to_echo_db=ratio_db, rate=rate)
        return Drawn(_on_tracks(_transformed(room)), {"t60": round(t60_secs, 3), "direct_to_echo": round(ratio_db, 1)})

    return draw


def _noise(config: NoiseConfig, clips: list[Clip], rate: int) -> Callable[[random.Random], Drawn]:
    def draw(rng: random.Random) -> Drawn:
        clip, snr_db = rng.choice(clips), rng.uniform(*config.snr)

        def change(cut: Cut) -> Cut:
            pieces = _pieces(cut.duration, clip, rate, rng)
            for start_secs, piece in pieces:
                cut = cut.mix(_cut_of(piece, rate), offset_other_by=start_secs, snr=snr_db, preserve_id="left")
            return cut

        return Drawn(change, {"noise": str(clip.path), "snr": round(snr_db, 1)})

    return draw


def _telephone(rng: random.Random) -> Drawn:
    return Drawn(_on_mix(TelephoneLine()), {})


def _bandwidth(config: BandwidthConfig) -> Callable[[random.Random], Drawn]:
    def draw(rng: random.Random) -> Drawn:
        rate = rng.choice(config.rates)
        return Drawn(_on_mix(LowerRate(rate)), {"rate": rate})

    return draw


def _pieces(length_secs: float, clip: Clip, rate: int, rng: random.Random) -> list[tuple[float, Clip]]:
    """What fills so many seconds to the sample, and when: a part of a noise, or a shorter noise again and again."""
    length, size = round(length_secs * rate), int(clip.duration_secs * rate)
    if size >= length:
        start = clip.offset_secs + rng.randint(0, size - length) / rate
        return [(0.0, replace(clip, offset_secs=start, duration_secs=length / rate))]
    pieces = [(start, min(size, length - start)) for start in range(0, length, size)]
    return [
        (start / rate, replace(clip, duration_secs=samples / rate))
        for start, samples in pieces
        if samples >= SHORTEST_SECS * rate
    ]


def _cut_of(clip: Clip, rate: int, channel_share: float | None = None) -> Cut:
    return lazy_cut(
        clip.path,
        duration_secs=clip.duration_secs,
        offset_secs=clip.offset_secs,
        sampling_rate=rate,
        channel_share=channel_share,
    )


def _transformed(transform: AudioTransform) -> Change:
    def change(cut: Cut) -> Cut:
        recording: Recording = cut.recording
        return fastcopy(cut, recording=fastcopy(recording, transforms=[*(recording.transforms or []), transform]))

    return change


def _on_mix(transform: AudioTransform) -> Change:
    """The transform on what is heard of a mix. It has to come last: Lhotse mixes no more into such a mix."""

    def change(cut: Cut) -> Cut:
        if isinstance(cut, MixedCut):
            return fastcopy(cut, transforms=[*(cut.transforms or []), transform])
        return _on_tracks(_transformed(transform))(cut)

    return change


def _on_tracks(change: Change) -> Change:
    """The change on every track of a mix, as before another is mixed into it."""

    def changed(cut: Cut) -> Cut:
        if isinstance(cut, MixedCut):
            return fastcopy(cut, tracks=[fastcopy(track, cut=changed(track.cut)) for track in cut.tracks])
        return cut if isinstance(cut, PaddingCut) else change(cut)

    return changed


def _clips(config: ReverbConfig | NoiseConfig, place: str) -> list[Clip]:
    """The recordings of a manifest and of a folder; headers are read where a manifest has no durations."""
    clips = []
    if config.manifest_filepath is not None:
        clips += _manifest_clips(config.manifest_filepath, f"{place}.manifest_filepath")
    if config.folder is not None:
        clips += _folder_clips(Path(config.folder), f"{place}.folder")
    return clips


def _manifest_clips(paths: Any, knob: str) -> list[Clip]:
    rows = JsonlRows(expand_paths(paths, knob=knob), knob=knob)
    clips = []
    for index in range(len(rows)):
        try:
            clips.append(_row_clip(rows[index]))
        except DataError as error:
            raise _config_error(error if error.line else placed(error, *rows.place(index)), knob) from error
    return clips


def _row_clip(row: Row) -> Clip:
    path = row.data.get("audio_filepath")
    if not isinstance(path, str) or not path:
        raise DataError("row without audio_filepath", value=path, expected="a path")
    return _clip(row.path.parent / path, _seconds(row, "offset") or 0.0, _seconds(row, "duration"))


def _seconds(row: Row, field: str) -> float | None:
    value = row.data.get(field)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise DataError(f"{field} is no number", value=value, expected="seconds")
    return value


def _folder_clips(folder: Path, knob: str) -> list[Clip]:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES)
    if not paths:
        raise ConfigError("folder without audio files", path=folder, knob=knob)
    try:
        return [_clip(path, 0.0, None) for path in paths]
    except DataError as error:
        raise _config_error(error, knob) from error


def _clip(path: Path, offset_secs: float, duration_secs: float | None) -> Clip:
    if not path.is_file():
        raise AudioError("audio file is missing", path=path)
    if duration_secs is None:
        duration_secs = cut_from_file(path, offset_secs=offset_secs).duration
    if not (0 <= offset_secs < math.inf and SHORTEST_SECS <= duration_secs < math.inf):
        raise AudioError(
            "the part asked for is no span",
            path=path,
            value={"offset": offset_secs, "duration": duration_secs},
            expected=f"offset >= 0 s, duration >= {SHORTEST_SECS} s",
        )
    return Clip(path, float(offset_secs), float(duration_secs))


def _config_error(error: DataError, knob: str) -> ConfigError:
    return ConfigError(
        error.problem, path=error.path, line=error.line, value=error.value, expected=error.expected, knob=knob
    )
