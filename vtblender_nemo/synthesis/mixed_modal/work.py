"""Mixed-modal chats from text chats: parts of what the user writes become speech (the paper's fourth source of data).

A row is first drafted (filters, sentences, which of them are spoken), then the texts of all drafts are spoken in batches, then
listened to if there is a gate, and at last put together. All that is random about a row follows from its id and the seed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from vtblender_nemo.common.conversation import Turn
from vtblender_nemo.data.typed import mapping, read_config
from vtblender_nemo.data.word_times import FIELD as ALIGNMENT
from vtblender_nemo.data.word_times import fitting_field
from vtblender_nemo.synthesis.mixed_modal.asr_gate import GateConfig, open_gate
from vtblender_nemo.synthesis.mixed_modal.chat_filters import ChatFilterConfig, open_counter, read_chat, turn_text
from vtblender_nemo.synthesis.mixed_modal.segments import (
    Allowed,
    Span,
    SpanConfig,
    draw_spans,
    draw_turns,
    split_sentences,
)
from vtblender_nemo.synthesis.mixed_modal.speakable import SpeakableConfig, speakable
from vtblender_nemo.synthesis.mixed_modal.text_normalization import open_normalizer
from vtblender_nemo.synthesis.tts.base import SAMPLE_RATE, Speech, SpeechEngine, SpeechRequest
from vtblender_nemo.synthesis.tts.blend import SpeechBlend, read_blend
from vtblender_nemo.synthesis.work import Clip, InputRow, Made, Outcome, Refused, Work, Worker

_SECTIONS = {"spans": SpanConfig, "filters": ChatFilterConfig, "speech": SpeakableConfig, "gate": GateConfig}


@dataclass
class MixedModalConfig:
    """Everything that decides what is made."""

    engines: SpeechBlend = field(default_factory=lambda: read_blend([{"type": "espeak"}]))
    language: str = "en"
    spans: SpanConfig = field(default_factory=SpanConfig)
    filters: ChatFilterConfig = field(default_factory=ChatFilterConfig)
    speech: SpeakableConfig = field(default_factory=SpeakableConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    alignment: bool = False
    """Whether audios tell when each word is said, where the engine knows it, and null where it does not."""


def read_mixed_modal(values: Any, place: str = "config") -> MixedModalConfig:
    """The whole configuration from a mapping, such as a YAML file's content; what is missing keeps its default.

    Args:
        values: `{"language": "en", "engines": [...], "spans": {...}, "filters": {...}, "speech": {...}, "gate": {...}, ...}`.
        place: what holds it, for errors.

    Raises:
        ConfigError: an unknown key, a value of another type than its field, or one out of range.
    """
    values = dict(mapping(values, place))
    sections = {name: values.pop(name, {}) for name in _SECTIONS}
    engines = read_blend(values.pop("engines", [{"type": "espeak"}]), "engines")
    config = read_config(MixedModalConfig, values, place)
    config.engines = engines
    for name, kind in _SECTIONS.items():
        section: Any = read_config(kind, sections[name] or {}, name)
        section.check(name)
        setattr(config, name, section)
    return config


def merge(values: Any, flags: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration in which flags that were given (that are not None) stand in place of what was there.

    Args:
        values: a mapping of keys and sections.
        flags: the same, of those that can be given as flags.

    Raises:
        ConfigError: `values`, or a section of it that a flag changes, is no mapping.
    """
    merged = dict(mapping({} if values is None else values, "--config"))
    for key, value in flags.items():
        if isinstance(value, Mapping):
            given = {name: one for name, one in value.items() if one is not None}
            if given:
                merged[key] = {**mapping(merged.get(key) or {}, key), **given}
        elif value is not None:
            merged[key] = value
    return merged


class MixedModalWork(Work):
    """Makes mixed-modal chats.

    Args:
        config: filters, spans, engines and gate.
        seed: of all that is drawn.
    """

    def __init__(self, config: MixedModalConfig, seed: int) -> None:
        self.config, self.seed = config, seed

    def settings(self) -> dict[str, Any]:
        sections = {name: asdict(getattr(self.config, name)) for name in _SECTIONS}
        sections["gate"].pop("device")
        return {
            "work": "mixed_modal",
            "seed": self.seed,
            "language": self.config.language,
            "engines": self.config.engines.settings(),
            **sections,
            **({"alignment": True} if self.config.alignment else {}),  # jobs from before it was there go on
        }

    def open(self) -> Worker:
        return MixedModalWorker(self.config, self.seed)


@dataclass(frozen=True)
class Segment:
    """A part of a user turn that is spoken.

    Attributes:
        turn: the turn's place in the chat.
        start: its first character in the turn's text.
        end: one past its last character.
        text: what is there as text.
        spoken: what the engine is asked to say.
    """

    turn: int
    start: int
    end: int
    text: str
    spoken: str


@dataclass(frozen=True)
class Draft:
    """A row to be made: the chat, and what of it is spoken by which engine."""

    source: InputRow
    id: str
    turns: tuple[Turn, ...]
    segments: tuple[Segment, ...]
    engine: str
    voice_seed: int

    @property
    def spans(self) -> tuple[tuple[int, int, int], ...]:
        """Turn, first and past the last character of every segment."""
        return tuple((segment.turn, segment.start, segment.end) for segment in self.segments)

    def requests(self) -> list[SpeechRequest]:
        return [SpeechRequest(segment.spoken, self.voice_seed) for segment in self.segments]


class MixedModalWorker:
    """Drafts, speaks, listens, puts together; one in every process."""

    def __init__(self, config: MixedModalConfig, seed: int) -> None:
        self._config, self._seed = config, seed
        self._normalize = open_normalizer(config.speech.normalizer, config.language)
        self._count_tokens = open_counter(config.filters.tokenizer)
        self._engines = {name: one.config.open(config.language) for name, one in config.engines.engines.items()}
        self._gate = open_gate(config.gate, config.language)

    def __call__(self, rows: Sequence[InputRow]) -> list[list[Outcome]]:
        """What is made of each row: up to `spans.variants` new rows, and a refusal for everything that could not be made."""
        drafted = [self._draft(row) for row in rows]
        drafts = [draft for row in drafted for draft in row if isinstance(draft, Draft)]
        spoken = self._speak(drafts)
        heard = self._listen(drafts, spoken)
        made = {draft.id: self._put_together(draft, spoken[draft.id], heard.get(draft.id)) for draft in drafts}
        return [[made[draft.id] if isinstance(draft, Draft) else draft for draft in row] for row in drafted]

    # Drafting

    def _draft(self, row: InputRow) -> list[Draft | Refused]:
        turns = read_chat(row, self._config.filters, self._count_tokens)
        if isinstance(turns, Refused):
            return [turns]
        drafts: list[Draft | Refused] = []
        drawn: set[Refused | tuple[tuple[int, int, int], ...]] = set()
        for variant in range(self._config.spans.variants):
            draft = self._draft_variant(row, turns, variant)
            what = draft if isinstance(draft, Refused) else draft.spans
            if what not in drawn:
                drawn.add(what)
                drafts.append(draft)
        return drafts

    def _draft_variant(self, row: InputRow, turns: tuple[Turn, ...], variant: int) -> Draft | Refused:
        rng = row.rng(self._seed, f"variant {variant}")
        name = self._config.engines.draw(rng)
        drawn = self._draw(turns, self._engines[name], rng)
        if isinstance(drawn, Refused):
            return drawn
        segments = []
        for segment in drawn:
            spoken = self._spoken(segment, turn_text(turns[segment.turn]), self._engines[name])
            if isinstance(spoken, Refused):
                return spoken
            segments.append(spoken)
        return Draft(row, f"{row.id}-speech{variant}", turns, tuple(segments), name, rng.getrandbits(63))

    def _draw(self, turns: Sequence[Turn], engine: SpeechEngine, rng: Any) -> list[Segment] | Refused:
        """The stretches of text that are to be spoken."""
        texts = {place: turn_text(turn) for place, turn in enumerate(turns) if turn.role == "user"}
        sentences = {place: split_sentences(text, self._config.language) for place, text in texts.items()}

        def stretch(place: int, span: Span) -> str:
            return texts[place][sentences[place][span.begin][0] : sentences[place][span.end - 1][1]]

        def allowed(place: int) -> Allowed | None:
            return (lambda span: engine.knows(stretch(place, span))) if engine.selective else None

        places = [place for place in draw_turns(list(texts), self._config.spans, rng) if sentences[place]]
        segments = []
        for place in places:
            for span in draw_spans(len(sentences[place]), self._config.spans, rng, allowed(place)):
                start, end = sentences[place][span.begin][0], sentences[place][span.end - 1][1]
                segments.append(Segment(place, start, end, texts[place][start:end], ""))
        if not segments:
            reason = "no_recording" if engine.selective else "no_sentence"
            return Refused(reason, " / ".join(texts.values())[:200])
        return segments

    def _spoken(self, segment: Segment, turn: str, engine: SpeechEngine) -> Segment | Refused:
        """The segment with what is said; recordings are looked up by the text as it was written."""
        spoken = segment.text
        if not engine.selective:
            result = speakable(segment.text, self._normalize, self._config.speech, self._config.language, turn)
            if isinstance(result, Refused):
                return result
            spoken = result
        return Segment(segment.turn, segment.start, segment.end, segment.text, spoken)

    # Speaking and listening

    def _speak(self, drafts: Sequence[Draft]) -> dict[str, list[Speech | Refused]]:
        """What the engines made of each draft's segments, by the draft's id; every engine gets all of its texts at once."""
        spoken: dict[str, list[Speech | Refused]] = {}
        for name, engine in self._engines.items():
            own = [draft for draft in drafts if draft.engine == name]
            if not own:
                continue
            results = iter(engine.speak([request for draft in own for request in draft.requests()]))
            for draft in own:
                spoken[draft.id] = [next(results) for _ in draft.segments]
        return spoken

    def _listen(
        self, drafts: Sequence[Draft], spoken: Mapping[str, Sequence[Speech | Refused]]
    ) -> dict[str, float | Refused]:
        """The highest word error rate among each draft's segments, or a refusal; nothing without a gate."""
        if self._gate is None:
            return {}
        segments = [
            (draft.id, segment.text, speech.samples)
            for draft in drafts
            for segment, speech in zip(draft.segments, spoken[draft.id], strict=True)
            if isinstance(speech, Speech)
        ]
        if not segments:
            return {}
        heard = self._gate.hear([samples for *_, samples in segments], [text for _, text, _ in segments])
        found: dict[str, float | Refused] = {}
        for (id, text, _), one in zip(segments, heard, strict=True):
            worst = found.get(id, 0.0)
            if isinstance(worst, Refused):
                continue
            if one.wer > self._gate.config.max_wer:
                found[id] = Refused("asr_wer", f"WER {one.wer:.2f}: {text!r} was heard as {one.text[:200]!r}")
            else:
                found[id] = max(worst, one.wer)
        return found

    # Putting together

    def _put_together(self, draft: Draft, spoken: Sequence[Speech | Refused], heard: float | Refused | None) -> Outcome:
        for speech in spoken:
            if isinstance(speech, Refused):
                return speech
        if isinstance(heard, Refused):
            return heard
        speeches = [speech for speech in spoken if isinstance(speech, Speech)]
        names = clip_names(draft.id, len(speeches))
        clips = tuple(Clip(name, speech.samples, SAMPLE_RATE) for name, speech in zip(names, speeches, strict=True))
        row = {
            "id": draft.id,
            "conversations": _conversation(
                draft, [self._audio(*one) for one in zip(draft.segments, clips, speeches, strict=True)]
            ),
            **({"task": draft.source.data["task"]} if "task" in draft.source.data else {}),
            "provenance": self._provenance(draft, speeches, heard),
        }
        return Made(row, clips)

    def _audio(self, segment: Segment, clip: Clip, speech: Speech) -> dict[str, Any]:
        """What the row says of an audio, but for who speaks."""
        secs = len(clip.samples) / clip.rate
        told = {"value": f"{clip.name}.flac", "offset": 0.0, "duration": secs, "text": segment.text}
        if self._config.alignment:
            told[ALIGNMENT] = fitting_field(segment.text, speech.words, secs)
        return told

    def _provenance(self, draft: Draft, speeches: Sequence[Speech], wer: float | None) -> dict[str, Any]:
        found: dict[str, Any] = {
            "source": draft.source.id,
            "place": draft.source.place,
            "engine": draft.engine,
            "model": self._engines[draft.engine].model,
            "voice": " / ".join(dict.fromkeys(speech.voice for speech in speeches)),
            "seed": self._seed,
        }
        if self._engines[draft.engine].selective:
            found["recordings"] = [speech.provenance["recording"] for speech in speeches]
        else:
            found["normalizer"] = self._config.speech.normalizer
        if wer is not None:
            found["wer"] = round(wer, 4)
        return found


def clip_names(id: str, count: int) -> list[str]:
    """Names of a row's clips: letters, digits, `_` and `-` only, and unique where ids are."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", id)[:80]
    if plain != id:
        plain += "-" + hashlib.sha256(id.encode()).hexdigest()[:12]
    return [f"{plain}-{number}" for number in range(count)]


def _conversation(draft: Draft, audios: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The chat in NeMo's form: every part of a turn is an entry; blank text between parts is left out."""
    entries: list[dict[str, Any]] = []
    for place, turn in enumerate(draft.turns):
        speaker, text, position = turn.role.title(), turn_text(turn), 0
        for segment, audio in zip(draft.segments, audios, strict=True):
            if segment.turn != place:
                continue
            entries.append(_text(speaker, text[position : segment.start]))
            entries.append({"type": "audio", "from": speaker, **audio})
            position = segment.end
        entries.append(_text(speaker, text[position:]))
    return [entry for entry in entries if entry["value"]]


def _text(speaker: str, text: str) -> dict[str, Any]:
    return {"type": "text", "from": speaker, "value": text.strip()}
