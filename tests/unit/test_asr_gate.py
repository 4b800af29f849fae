"""The gate that listens to what was spoken; recognisers of fixed words stand in for real ones."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile as sf

from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.synthesis.mixed_modal.asr_gate import AsrGate, GateConfig, open_gate


class Recogniser:
    def __init__(self, heard: list) -> None:
        self.heard, self.lengths, self.batch_size = heard, [], 0

    def transcribe(self, audio, batch_size, verbose, **prompt):
        self.lengths, self.batch_size = [sf.info(path).frames for path in audio], batch_size
        self.told = prompt
        return self.heard


def speech(*lengths: int) -> list[np.ndarray]:
    return [np.zeros(length, np.float32) for length in lengths]


def test_words_are_compared_without_case_punctuation_and_spelling_of_numbers():
    gate = AsrGate(Recogniser(["it costs twenty dollars", "good evening everyone", ""]), GateConfig(), "en")
    heard = gate.hear(speech(16_000, 16_000, 16_000), ["It costs $20!", "Good morning, everyone.", "Yes."])
    assert [one.wer for one in heard] == pytest.approx([0.0, 1 / 3, 1.0])
    assert heard[1].text == "good evening everyone"


class Hypothesis:
    text = "yes"


@pytest.mark.parametrize("results", [["yes"], [Hypothesis()], ([Hypothesis()], None)])
def test_recognisers_answer_in_several_shapes(results):
    assert AsrGate(Recogniser(results), GateConfig(), "en").hear(speech(16_000), ["Yes."])[0].wer == 0


def test_short_speech_is_lengthened_and_batches_are_as_configured():
    model = Recogniser(["yes", "no"])
    AsrGate(model, GateConfig(batch_size=3), "en").hear(speech(100, 16_000), ["yes", "no"])
    assert model.lengths == [1600, 16_000]
    assert model.batch_size == 3


def test_models_that_do_several_tasks_are_told_the_language():
    model = Recogniser(["ja"])
    AsrGate(model, GateConfig(), "de").hear(speech(16_000), ["Ja."])
    assert model.told == {}
    model.prompt = object()
    AsrGate(model, GateConfig(), "de").hear(speech(16_000), ["Ja."])
    assert model.told == {"source_lang": "de", "target_lang": "de"}


def test_no_model_is_no_gate():
    assert open_gate(GateConfig(), "en") is None


@pytest.mark.parametrize(
    ("values", "knob"),
    [
        ({"model": "/none.nemo"}, "gate.model"),
        ({"max_wer": -1.0}, "gate.max_wer"),
        ({"batch_size": 0}, "gate.batch_size"),
    ],
)
def test_wrong_values_name_their_knob(values, knob):
    with pytest.raises(ConfigError, match=knob):
        GateConfig(**values).check("gate")
