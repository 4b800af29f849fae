"""Words found by a recogniser, held against the times that espeak-ng reports of its own speech; minutes."""

from __future__ import annotations

import importlib.util
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

from tests.helpers import ctc, models
from tests.helpers.corpus import write_jsonl
from vtblender_nemo.data.word_times import as_field
from vtblender_nemo.synthesis.espeak import Utterance, Voice, synthesize_with_times

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[2] / "examples/align_corpus.py"
VOICE = Voice("en-us", "m3", 170, 45)
TRAINED, TESTED, STEPS = 300, 60, 250


def speak(texts: list[str]) -> list[Utterance]:
    return [synthesize_with_times(text, VOICE) for text in texts]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> tuple[Path, list[Utterance], Path]:
    """A manifest of speech that no training has heard, what espeak-ng says of it, and a recogniser for it."""
    models.quiet()
    folder = tmp_path_factory.mktemp("alignment")
    texts = ctc.sentences(TRAINED + TESTED, seed=0)
    spoken = speak(texts)
    torch.manual_seed(0)
    # Frames of 40 ms and a narrow view: with 80 ms and all of the utterance in view it marks words up to 300 ms late.
    narrow = {"subsampling_factor": 4, "att_context_size": [4, 4]}
    model = ctc.build_ctc(folder, texts[:TRAINED], layers=2, width=96, pieces=40, **narrow)
    samples = [torch.from_numpy(one.samples) for one in spoken[:TRAINED]]
    ctc.train_ctc(model, samples, texts[:TRAINED], STEPS, folder)
    model.eval().save_to(str(folder / "ctc.nemo"))
    rows = []
    for number, (text, one) in enumerate(zip(texts[TRAINED:], spoken[TRAINED:], strict=True)):
        soundfile.write(folder / f"{number}.wav", one.samples, one.rate, subtype="PCM_16")
        secs = len(one.samples) / one.rate
        rows.append({"id": f"u{number}", "audio_filepath": f"{number}.wav", "duration": secs, "text": text})
    return Path(write_jsonl(folder / "test.jsonl", rows)), spoken[TRAINED:], folder / "ctc.nemo"


def align(*flags: Any) -> None:
    spec = importlib.util.spec_from_file_location("align_corpus", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    result = CliRunner().invoke(script.app, [str(flag) for flag in flags])
    assert result.exit_code == 0, result.output


def borders(words: list[list[Any]]) -> dict[int, tuple[float, float]]:
    """End of a word and start of the next, by the letters before them: espeak-ng says `in the` as one word."""
    found, letters = {}, 0
    for (word, _, end), (_, start, _) in pairwise(words):
        letters += sum(letter.isalnum() for letter in word)
        found[letters] = (end, start)
    return found


def test_a_recogniser_finds_the_words_where_espeak_says_them(corpus, tmp_path):
    """Half of the cuts between words within 40 ms (a frame) of where none is said, nine of ten within 160 ms."""
    manifest, spoken, model = corpus
    align("--input", manifest, "--output-dir", tmp_path / "out", "--model", model, "--device", "cpu")
    rows = [json.loads(line) for line in (tmp_path / "out/shard_000000/manifest.jsonl").read_text().splitlines()]
    assert len(rows) >= 0.9 * TESTED
    errors = []
    for row in rows:
        found, said = borders(row["alignment"]), borders(as_field(spoken[int(row["id"][1:])].words))
        assert said.keys() <= found.keys()
        for place, (end, start) in said.items():
            cut = sum(found[place]) / 2
            errors.append(max(end - cut, cut - start, 0.0))
    assert len(errors) > 5 * len(rows)
    assert np.median(errors) < 0.04
    assert np.quantile(errors, 0.9) < 0.16
