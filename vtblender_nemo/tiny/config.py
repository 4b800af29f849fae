"""Every knob of the tiny world; `conf/vtb_tiny.yaml` mirrors these defaults under `tiny:`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass
from typing import Any, TypeVar, get_args, get_type_hints

from vtblender_nemo.common.errors import ConfigError


@dataclass(frozen=True)
class ContentConfig:
    """What is said and asked.

    Attributes:
        spoken_facts: training facts that are spoken once each, for transcription, translation and speech QA.
        speech_qa_rows: rows of the speech QA source.
        mixed_rows: rows of the mixed-modal source.
        text_chats: rows of the text-only source.
        test_items: test items of every speech task but the mixed-modal ones.
        mixed_test_items_per_kind: test items of every kind of mixed-modal chat.
        text_test_items_per_skill: test items of every text skill.
        validation_items: validation items of every task.
        digit_strings: strings of spoken digits as one more source, `digits`, most of them said digit by digit; null for none.
    """

    spoken_facts: int = 4500
    speech_qa_rows: int = 6000
    mixed_rows: int = 5000
    text_chats: int = 4000
    test_items: int = 500
    mixed_test_items_per_kind: int = 300
    text_test_items_per_skill: int = 50
    validation_items: int = 48
    digit_strings: int | None = None


@dataclass(frozen=True)
class SetsConfig:
    """Further tests, and rows that the default blend leaves out; nothing here changes what is trained or tested elsewhere.

    Attributes:
        multi_turn: test items whose last turn asks about an earlier one.
        novel_wordings: test items that want transcripts or translations, in unseen words.
        novel_tasks: test items of tasks that text chats and mixed-modal instructions teach.
        novel_formats: test items that want JSON, capital letters or a few words, in unseen words.
        several_turns: test items of tasks in turn.
        spoken_requests: test items of spoken sums and spoken instructions.
        voices: test items about the voices themselves.
        voice_rows: training rows about them, for `conf/vtb_tiny_voices.yaml`.
        generalisation: test items of what imitation teaches, of new wordings, and of tasks that it holds out, in equal parts.
    """

    multi_turn: int = 150
    novel_wordings: int = 150
    novel_tasks: int = 150
    novel_formats: int = 150
    several_turns: int = 150
    spoken_requests: int = 100
    voices: int = 150
    voice_rows: int = 4000
    generalisation: int = 300


ENGINES = ("espeak", "flite")
FLITE_VOICES = ("awb", "kal16", "rms")
HELD_OUT_FLITE_VOICES = ("slt",)


@dataclass(frozen=True)
class VoicesConfig:
    """Who speaks: espeak-ng's English accents and speaker variants, and voices of flite where it is asked for.

    Attributes:
        engines: weights of the engines of training speech, `{espeak: 1, flite: 1}`; null for espeak-ng alone.
        test_engines: engines by which all speech of the recognition test is said once more, as tests `asr_ENGINE`, by voices
            of which none depends on those of the training; null for none.
        flite_voices: flite's voices that are heard in training; null for a Scot and two men of the USA.
        held_out_flite_voices: flite's voices of its test, heard in no training; null for a woman of the USA.
        accents: accents heard in training.
        held_out_accents: accents of half of the test speech, heard in no training.
        variants: speaker variants heard in training.
        held_out_variants: variants of all test speech, heard in no training.
        rate_wpm: slowest and fastest speech, in words a minute.
        pitch: lowest and highest pitch, on espeak-ng's scale of 0 to 99.
        processes: processes that synthesise side by side; the speech does not depend on their number.
    """

    accents: tuple[str, ...] = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-gbclan", "en-us-nyc", "en-029")
    held_out_accents: tuple[str, ...] = ("en-gb-x-rp", "en-gb-x-gbcwmd")
    variants: tuple[str, ...] = ("m1", "m2", "m3", "m4", "m6", "m8", "f1", "f2", "f4", "f5")
    held_out_variants: tuple[str, ...] = ("m5", "m7", "f3")
    rate_wpm: tuple[int, int] = (165, 215)
    pitch: tuple[int, int] = (30, 70)
    processes: int = 2
    engines: Mapping[str, float] | None = None
    test_engines: tuple[str, ...] | None = None
    flite_voices: tuple[str, ...] | None = None
    held_out_flite_voices: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for knob, names in (("engines", self.engines), ("test_engines", self.test_engines)):
            if names is not None and (not names or not set(names) <= set(ENGINES)):
                raise ConfigError(
                    "no engine, or an unknown one",
                    value=list(names),
                    expected=f"some of {', '.join(ENGINES)}, or null",
                    knob=f"tiny.voices.{knob}",
                )
        for engine, weight in (self.engines or {}).items():
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < float("inf"):
                raise ConfigError(
                    f"the weight of {engine} is no share", value=weight, expected="> 0", knob="tiny.voices.engines"
                )

    def heard_of_flite(self) -> tuple[str, ...]:
        """Flite's voices of the training."""
        return (self.flite_voices or FLITE_VOICES) if "flite" in (self.engines or ()) else ()

    def tested_of_flite(self) -> tuple[str, ...]:
        """Flite's voices of the tests."""
        return (self.held_out_flite_voices or HELD_OUT_FLITE_VOICES) if "flite" in (self.test_engines or ()) else ()


@dataclass(frozen=True)
class LanguageModelConfig:
    """The tiny Gemma and its training on text alone.

    Attributes:
        vocabulary: size of the tokenizer.
        layers: decoder layers.
        hidden: width of the embeddings.
        heads: attention heads, each with its own keys and values.
        feed_forward: inner width of the feed-forward parts.
        init_std: spread of the initial weights; Gemma's usual 0.02 learns far slower at this width.
        steps: optimiser steps.
        tokens_per_batch: positions in a batch, padding included.
        muon_lr: peak learning rate of the layers' matrices.
        adamw_lr: peak learning rate of everything else.
        prompt_loss_weight: weight of the user's tokens in the loss, beside 1/sqrt(n) in an answer of n tokens.
        decay_share: share of the steps, at the end, over which the learning rate falls.
    """

    vocabulary: int = 1700
    layers: int = 4
    hidden: int = 192
    heads: int = 4
    feed_forward: int = 512
    init_std: float = 0.06
    steps: int = 2000
    tokens_per_batch: int = 1200
    muon_lr: float = 1.5e-3
    adamw_lr: float = 2e-3
    prompt_loss_weight: float = 0.05
    decay_share: float = 0.6


@dataclass(frozen=True)
class EncoderConfig:
    """The tiny Conformer and its training as a speech recogniser.

    Attributes:
        layers: Conformer layers.
        width: d_model.
        heads: attention heads.
        conv_kernel: width of the convolutions, in frames of 80 ms.
        subsampling_channels: channels of the 8x subsampling; it costs most of the time, so they are few.
        freq_masks: SpecAugment's masks over mel bands.
        freq_width: widest of them, in bands of 80.
        time_masks: SpecAugment's masks over time.
        time_width: widest of them, in frames of 10 ms.
        steps: optimiser steps.
        frames_per_batch: feature frames of 10 ms in a batch, padding included.
        muon_lr: peak learning rate of the layers' matrices.
        adamw_lr: peak learning rate of everything else.
        decay_share: share of the steps, at the end, over which the learning rate falls.
        augment: effects on training speech, as those of `data.train_ds.augment`; noise without recordings is the world's own.
        copies: versions of every training utterance, each drawn anew from `augment`; null for one.
        mel_warp: largest change of the mel scale in a batch, as the logarithm of a factor; null for none.
        time_warp: largest change of durations in a batch, likewise.
        dropout: inside the layers, in this training only; null for none.
    """

    layers: int = 4
    width: int = 144
    heads: int = 4
    conv_kernel: int = 9
    subsampling_channels: int = 16
    freq_masks: int = 2
    freq_width: int = 10
    time_masks: int = 2
    time_width: int = 6
    steps: int = 1000
    frames_per_batch: int = 12_000
    muon_lr: float = 3e-3
    adamw_lr: float = 3e-3
    decay_share: float = 0.6
    augment: Mapping[str, Any] | None = None
    copies: int | None = None
    mel_warp: float | None = None
    time_warp: float | None = None
    dropout: float | None = None


@dataclass(frozen=True)
class ImitationConfig:
    """What the language model answers about transcripts of training speech, of the tasks in `conf/prompts/imitation_tiny.yaml`.

    Attributes:
        tasks_per_utterance: different tasks for every transcript.
        hold_out: tasks and wordings that are kept for tests, as `task` or `task/wording` with * for any letters.
    """

    tasks_per_utterance: int = 3
    hold_out: tuple[str, ...] = (
        *("json", "count", "last_word"),
        *("repeat/say_again", "translate_*/say_it", "upper/in", "*/new_*"),
    )


@dataclass(frozen=True)
class TinyConfig:
    """The whole tiny world.

    Attributes:
        seed: changes sentences, voices, weights and the order of training.
        content: what is said and asked.
        sets: further tests.
        voices: who speaks.
        llm: the language model.
        encoder: the speech encoder.
        checkpoint_secs: seconds between the checkpoints from which a stopped training continues.
        real_items: NeMo manifest of real recordings that become the test `real_digits` and are never trained on; null for none.
        alignments: whether training rows tell when each word is said, as espeak-ng reports it; null for no.
        imitation: answers of the language model as one more source, `imitation`; null for none.
    """

    seed: int = 0
    content: ContentConfig = field(default_factory=ContentConfig)
    sets: SetsConfig = field(default_factory=SetsConfig)
    voices: VoicesConfig = field(default_factory=VoicesConfig)
    llm: LanguageModelConfig = field(default_factory=LanguageModelConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    checkpoint_secs: float = 60.0
    real_items: str | None = None
    alignments: bool | None = None
    imitation: ImitationConfig | None = None

    def __post_init__(self) -> None:
        for kind in ("accents", "variants"):
            both = set(getattr(self.voices, kind)) & set(getattr(self.voices, f"held_out_{kind}"))
            if both:
                raise ConfigError(
                    f"{kind} are both trained on and held out",
                    value=sorted(both),
                    expected="each in one list",
                    knob=f"tiny.voices.held_out_{kind}",
                )
        if both := set(self.voices.heard_of_flite()) & set(self.voices.tested_of_flite()):
            raise ConfigError(
                "voices of flite are both trained on and tested",
                value=sorted(both),
                expected="each in one list",
                knob="tiny.voices.held_out_flite_voices",
            )


def decisive(settings: Any) -> Any:
    """Settings without those that are null, which decide nothing: what was made before they existed stays valid."""
    if isinstance(settings, Mapping):
        return {key: decisive(value) for key, value in settings.items() if value is not None}
    return settings


T = TypeVar("T")


def config_from(mapping: Mapping[str, Any]) -> TinyConfig:
    """Fills the config from a mapping, such as the `tiny:` section of a YAML file; what is missing keeps its default.

    Raises:
        ConfigError: a key that the config does not have, or held-out voices that are trained on.
    """
    return _fill(mapping, TinyConfig, "tiny")


def _fill(mapping: Mapping[str, Any], kind: type[T], prefix: str) -> T:
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for key, value in mapping.items():
        if key not in hints:
            knob = f"{prefix}.{key}"
            raise ConfigError(f"unknown key {knob}", expected=f"one of {', '.join(hints)}", knob=knob)
        section = _section(hints[key])
        if section is not None and isinstance(value, Mapping):
            values[key] = _fill(value, section, f"{prefix}.{key}")
        else:
            values[key] = tuple(value) if isinstance(value, list) else value
    return kind(**values)


def _section(hint: Any) -> type | None:
    """The dataclass that a key holds, or may hold; None for a plain value."""
    return next((kind for kind in (hint, *get_args(hint)) if is_dataclass(kind) and isinstance(kind, type)), None)
