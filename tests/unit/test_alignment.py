"""Forced alignment: how words are spelled, what NeMo's search makes of known posteriors, and where borders settle."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from tests.helpers import models
from vtblender_nemo.alignment.aligner import Aligned, ForcedAligner, open_aligner
from vtblender_nemo.alignment.borders import settle
from vtblender_nemo.alignment.spelling import Spelling, spelling_of
from vtblender_nemo.common.errors import ConfigError, ModelFileError
from vtblender_nemo.synthesis.work import Refused

RATE = 16_000
FRAME = 0.08
LETTERS = [*" abcdefghijklmnopqrstuvwxyz"]


# Spelling


def speller(known: str) -> Spelling:
    letters = set(known)
    return Spelling(letters.issuperset)


@pytest.mark.parametrize(
    ("known", "word", "wanted"),
    [
        ("abc", "Cab,", ["cab"]),
        ("ABCabc", "Cab,", ["Cab"]),
        ("ABC", "cab", ["CAB"]),
        ("abcde'", "Bad-Cab!", ["bad", "cab"]),
        ("cant'", "can’t", ["can't"]),
        ("cant", "Can't", ["cant"]),
        ("caf", "CAFÀ", ["cafa"]),
        ("cafà", "cafa\u0300", ["cafà"]),
        ("abc", "‘cab’", ["cab"]),
        ("abc", "42", None),
        ("abc", "a-4", None),
        ("abc", "a & b", None),
        ("abc", "ab%", None),
        ("हिन्दी", "हिन्दी।", ["हिन्दी"]),
    ],
)
def test_words_are_spelled_in_the_recognisers_letters(known, word, wanted):
    assert speller(known).of(word) == wanted


def test_vocabularies_that_no_word_can_be_spelled_in_are_refused():
    several = SimpleNamespace(tokenizer=SimpleNamespace(text_to_tokens=lambda text, lang_id: [text]))
    for model in (several, SimpleNamespace(decoder=SimpleNamespace(vocabulary=["a"])), SimpleNamespace()):
        with pytest.raises(ConfigError, match="vocabulary"):
            spelling_of(model)


# Borders


def bursts(*spans: tuple[float, float], secs: float, level: float = 1e-6) -> np.ndarray:
    """Quiet noise with loud noise in some spans of seconds."""
    noise = np.random.default_rng(0).standard_normal(round(secs * RATE))
    loud = np.full(len(noise), level)
    for start, end in spans:
        loud[round(start * RATE) : round(end * RATE)] = 0.1
    return noise * loud


def test_borders_settle_where_the_speech_pauses():
    samples = bursts((0.3, 0.7), (0.9, 1.4), secs=2.0)
    (first, second) = settle([(0.32, 0.64), (0.96, 1.28)], samples, RATE, FRAME)
    assert first == pytest.approx((0.3, 0.7), abs=0.016)
    assert second == pytest.approx((0.9, 1.4), abs=0.016)


def test_words_without_a_pause_meet_where_least_is_heard():
    samples = bursts((0.3, 0.7), (0.72, 1.2), secs=1.5, level=0.02)  # a fifth of the loudness: no silence
    (first, second) = settle([(0.32, 0.56), (0.88, 1.12)], samples, RATE, FRAME)
    assert first[1] == second[0] == pytest.approx(0.71, abs=0.016)
    assert (first[0], second[1]) == (0.0, 1.5)


def test_times_do_not_drift_at_rates_that_windows_do_not_divide():
    rate = 22_050
    samples = np.zeros(20 * rate)
    samples[18 * rate : 19 * rate] = 0.5 * np.sin(np.arange(rate))
    ((start, end),) = settle([(18.1, 18.8)], samples, rate, FRAME)
    assert (start, end) == pytest.approx((18.0, 19.0), abs=0.016)


@given(
    frames=st.lists(st.integers(0, 3), min_size=2, max_size=16),
    seed=st.integers(0, 2**32),
    tail=st.sampled_from([0.0, 0.01, 0.5]),
)
def test_borders_are_in_order_and_in_the_audio(frames, seed, tail):
    """Whatever the recogniser's frames are, which may reach past the last sample."""
    edges = np.cumsum(frames[: len(frames) // 2 * 2]) * FRAME
    words = list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
    rng = np.random.default_rng(seed)
    samples = rng.standard_normal(max(1, round((edges[-1] - 0.03 + tail) * RATE))) * rng.choice([0.0, 1e-5, 1.0])
    found = settle(words, samples, RATE, FRAME)
    assert len(found) == len(words)
    flat = [secs for word in found for secs in word]
    assert all(before <= after + 1e-9 for before, after in pairwise(flat))
    assert flat[0] >= 0
    assert flat[-1] <= len(samples) / RATE


# Search


class Recogniser:
    """A recogniser of single letters that hears fixed frames: `_` is blank."""

    def __init__(self, *heard: str) -> None:
        self.heard = heard
        self.decoder = SimpleNamespace(vocabulary=LETTERS)
        self.encoder = SimpleNamespace(subsampling_factor=8)
        self.cfg = OmegaConf.create({"preprocessor": {"sample_rate": RATE, "window_stride": 0.01}})

    def transcribe(self, audio, batch_size, return_hypotheses, verbose):
        assert return_hypotheses
        self.batch_size, self.lengths = batch_size, [len(samples) for samples in audio]
        order = sorted(range(len(self.heard)), key=lambda place: len(self.heard[place]))
        return [SimpleNamespace(y_sequence=posteriors(self.heard[place]), text=self.heard[place]) for place in order]


class CtcRecogniser(Recogniser):
    pass


CtcRecogniser.__name__ = "EncDecCTCModel"


def posteriors(heard: str) -> torch.Tensor:
    """Log-probabilities (F, letters and blank) that are sure of a letter in every frame."""
    ids = [len(LETTERS) if letter == "_" else LETTERS.index(letter) for letter in heard]
    logits = torch.zeros(len(ids), len(LETTERS) + 1)
    logits[torch.arange(len(ids)), torch.tensor(ids)] = 8.0
    return logits.log_softmax(-1)


def align(*pairs: tuple[str, str]) -> list[Aligned | Refused]:
    """Transcripts aligned with what is heard, in speech without a pause anywhere."""
    samples = [np.random.default_rng(0).standard_normal(round(len(heard) * FRAME * RATE)) for heard, _ in pairs]
    aligner = ForcedAligner(CtcRecogniser(*(heard for heard, _ in pairs)), batch_size=3)
    return aligner.align(samples, [text for _, text in pairs])


def test_words_lie_where_their_letters_are_heard():
    (found,) = align(("___caab___ d_a_d__", "Cab, dad!"))
    assert found.heard == "___caab___ d_a_d__"
    (cab, dad) = found.words
    assert (cab.word, dad.word) == ("Cab,", "dad!")
    # From two frames before the end of b, as it may be heard late, to the first frame of d.
    assert 5 * FRAME - 0.01 <= cab.end_secs == dad.start_secs <= 11 * FRAME + 0.01


def test_rows_of_a_batch_do_not_touch_each_other():
    pairs = [("_ab_ _c__", "ab c"), ("_b_", "b"), ("__a_ __b_ ___cc_", "a b c")]
    together = align(*pairs)
    alone = [align(pair)[0] for pair in pairs]
    assert [one.words for one in together] == [one.words for one in alone]
    assert [one.heard for one in together] == [heard for heard, _ in pairs]


def test_a_path_is_found_through_what_the_recogniser_did_not_hear():
    (found,) = align(("__ab__ ____ _ef_", "ab cd ef"))
    assert [word.word for word in found.words] == ["ab", "cd", "ef"]
    flat = [secs for word in found.words for secs in (word.start_secs, word.end_secs)]
    assert flat == sorted(flat)


def test_words_in_unknown_letters_stay_without_times():
    (found,) = align(("_ab__ ____ _ef_", "ab 42 ef"))
    assert [word.is_timed for word in found.words] == [True, False, True]
    assert [word.word for word in found.words] == ["ab", "42", "ef"]


@pytest.mark.parametrize(
    ("heard", "text", "reason"),
    [
        ("_ab_", "...", "empty_transcript"),
        ("_ab_", "今天", "no_spaces_between_words"),
        ("_ab_", "42 - 43", "unknown_letters"),
        ("_ab", "abcdef", "too_fast"),
    ],
)
def test_what_cannot_be_aligned_is_refused_alone(heard, text, reason):
    found = align(("_ab_ b", "ab b"), (heard, text), ("_b_", "b"))
    assert isinstance(found[1], Refused)
    assert found[1].reason == reason
    assert all(isinstance(one, Aligned) for one in (found[0], found[2]))


def test_a_text_that_the_search_leaves_letters_out_of_is_refused(monkeypatch):
    from nemo.collections.asr.parts.utils import aligner_utils

    monkeypatch.setattr(aligner_utils, "viterbi_decoding", lambda *given: [[0] * 9])
    (found,) = align(("_ab_ _c__", "ab c"))
    assert found.reason == "not_aligned"


def test_a_text_that_nemo_cannot_lead_back_to_letters_is_refused(monkeypatch):
    from nemo.collections.asr.parts.utils import aligner_utils

    original = aligner_utils.get_utt_obj

    def failing(text, *given, **more):
        if text == "ab":
            raise RuntimeError("failed to recover capitalization")
        return original(text, *given, **more)

    monkeypatch.setattr(aligner_utils, "get_utt_obj", failing)
    found = align(("_ab_", "ab"), ("_b_", "b"))
    assert found[0].reason == "not_spelled"
    assert isinstance(found[1], Aligned)


def test_a_recogniser_without_ctc_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no CTC decoder"):
        ForcedAligner(Recogniser(), batch_size=1)
    models.quiet()
    with pytest.raises(ConfigError, match=r"no CTC decoder.*EncDecMultiTaskModel"):
        open_aligner(str(models.canary_file(tmp_path)), 1, "cpu")
    with pytest.raises(ModelFileError, match="--model"):
        open_aligner(str(tmp_path / "gone.nemo"), 1, "cpu")


def test_a_hybrid_recogniser_is_told_to_use_its_ctc_decoder():
    class Hybrid(Recogniser):
        ctc_decoder = object()
        told = None

        def change_decoding_strategy(self, *, decoder_type, verbose):
            self.told = decoder_type

    hybrid = Hybrid()
    ForcedAligner(hybrid, batch_size=1)
    assert hybrid.told == "ctc"
