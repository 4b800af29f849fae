"""Parts of the tiny encoder's training that need no NeMo."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import soundfile
import torch

from vtblender_nemo.common.errors import DataError
from vtblender_nemo.tiny.encoder import Clip, CtcUnits, clip_batches, collate, log_mel


class Words:
    """A tokenizer of whole words."""

    def __init__(self):
        self.words = ["unused", "the", "king", "queen", "apples"]

    def encode(self, text, add_special_tokens):
        assert add_special_tokens is False
        return [self.words.index(word) for word in text.split()]

    def decode(self, ids):
        return " ".join(self.words[token] for token in ids)


def test_units_are_the_tokens_that_occur():
    units = CtcUnits(Words(), ["the king", "the apples"])
    assert units.blank == 3
    assert units.encode("the apples king") == [0, 2, 1]


def test_decoding_merges_repetitions_and_drops_blanks():
    units = CtcUnits(Words(), ["the king", "the apples"])
    blank = units.blank
    assert units.decode([blank, 0, 0, blank, 0, 1, 1, 1, blank, blank, 2]) == "the the king apples"
    assert units.decode([blank, blank]) == ""
    assert units.decode([]) == ""


def clip(frames):
    return Clip(torch.full((80, frames), 0.5, dtype=torch.half), "the king")


def test_batches_are_of_few_shapes_and_hold_every_clip():
    clips = [clip(frames) for frames in range(60, 400, 2)]
    seen = set()
    for indices, length in islice(clip_batches(clips, 1000, seed=0), 60):
        assert length % 64 == 0
        assert len(indices) == max(2, 1000 // length)
        assert all(length - 64 < max(clips[index].features.shape[1], 65) <= length for index in indices if length > 128)
        assert all(clips[index].features.shape[1] <= length for index in indices)
        seen |= set(indices)
    assert len(seen) > 0.9 * len(clips)


def test_batches_come_in_the_same_order_every_time():
    clips = [clip(frames) for frames in range(60, 400, 7)]
    assert list(islice(clip_batches(clips, 1000, 5), 40)) == list(islice(clip_batches(clips, 1000, 5), 40))
    assert list(islice(clip_batches(clips, 1000, 5), 40)) != list(islice(clip_batches(clips, 1000, 6), 40))


def test_features_are_padded_with_zeros():
    features, frames = collate([clip(3), clip(5)], 8)
    assert features.shape == (2, 80, 8)
    assert frames.tolist() == [3, 5]
    assert features[0].sum() == 3 * 80 * 0.5
    assert (features[1, :, 5:] == 0).all()


class Energy(torch.nn.Module):
    """A preprocessor whose features are the mean of every 160 samples, in 80 equal bands."""

    def forward(self, input_signal, length):
        frames = input_signal.shape[1] // 160
        means = input_signal[:, : frames * 160].reshape(len(input_signal), frames, 160).mean(-1)
        return means[:, None].expand(-1, 80, -1), length // 160


def test_features_keep_the_order_of_the_files(tmp_path):
    files = []
    for number, secs in enumerate([0.3, 0.1, 0.2]):
        files.append(tmp_path / f"{number}.wav")
        soundfile.write(files[-1], np.full(int(16000 * secs), (number + 1) / 10), 16000, subtype="FLOAT")
    features = log_mel(Energy(), files)
    assert [tuple(one.shape) for one in features] == [(80, 30), (80, 10), (80, 20)]
    assert [one[0, 0].item() for one in features] == pytest.approx([0.1, 0.2, 0.3], abs=1e-3)


def test_another_sample_rate_is_refused(tmp_path):
    file = tmp_path / "a.wav"
    soundfile.write(file, np.zeros(800), 8000)
    with pytest.raises(DataError, match=r"a\.wav.*8000.*16000"):
        log_mel(Energy(), [file])
