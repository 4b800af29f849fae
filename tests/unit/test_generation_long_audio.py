"""Long audio: cut at pauses, encoded in chunks, answered part by part."""

from __future__ import annotations

import resource
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers.models import HIDDEN, SAMPLING_RATE, assistant, audio_part, speech, user
from vtblender_nemo.common.conversation import from_messages
from vtblender_nemo.common.errors import ConfigError, DataError
from vtblender_nemo.common.quiet_cuts import quiet_spans
from vtblender_nemo.models.long_audio import split_long_audio
from vtblender_nemo.modules.audio_chunks import chunk, split_group


def with_pauses(secs: float, *pauses: float, rate: int = 1000) -> np.ndarray:
    """Noise with silence of 0.2 s in the middle of which the given seconds lie."""
    samples = np.random.default_rng(0).uniform(0.5, 1.0, int(secs * rate)).astype(np.float32)
    for pause in pauses:
        samples[round((pause - 0.1) * rate) : round((pause + 0.1) * rate)] = 0
    return samples


def test_cuts_lie_in_the_last_pause_of_the_last_quarter() -> None:
    """Parts of 4 s at 1000 Hz. Looked at in windows of 20 samples, five of which make the 0.1 s that are compared.

    The first pause lasts from 3100 to 3500: the latest silent five begin at 3400. The second is looked for from 3450 + 3000 on
    and lasts from 6900 to 7100: windows begin at 6450, and the latest silent five at 6990.
    """
    samples = with_pauses(9.0, 1.0, 3.2, 3.4, 5.0, 7.0)
    assert quiet_spans(samples, 1000, 4.0) == [(0, 3450), (3450, 7040), (7040, 9000)]


@pytest.mark.parametrize("samples", [8001, 8499, 8500, 12_001, 16_000, 23_456])
@pytest.mark.parametrize("sound", ["noise", "silence"])
def test_parts_are_whole_and_neither_long_nor_tiny(samples: int, sound: str) -> None:
    wave = with_pauses(samples / 1000 + 1)[:samples] if sound == "noise" else np.zeros(samples, dtype=np.float32)
    spans = quiet_spans(wave, 1000, 4.0)
    assert spans[0][0] == 0
    assert spans[-1][1] == samples
    assert [end for _, end in spans[:-1]] == [start for start, _ in spans[1:]]
    assert all(500 <= end - start <= 4000 for start, end in spans)


def test_what_is_short_stays_whole() -> None:
    assert quiet_spans(np.zeros(4000), 1000, 4.0) == [(0, 4000)]
    with pytest.raises(ConfigError, match="part_secs"):
        quiet_spans(np.zeros(4000), 1000, 1.0)


def test_chunks_by_hand() -> None:
    audios = torch.zeros(3, 9000)
    audios[0, :3000], audios[1] = 1.0, torch.from_numpy(with_pauses(9.0, 3.4, 7.0))
    chunks = chunk(audios, torch.tensor([3000, 9000, 4000]), 4.0, 1000)
    assert chunks.owner.tolist() == [0, 1, 1, 1, 2]
    assert chunks.is_last.tolist() == [True, False, False, True, True]
    assert chunks.lens.tolist()[0::4] == [3000, 4000]
    assert int(chunks.lens[1:4].sum()) == 9000
    rejoined = torch.cat([chunks.audios[row, : chunks.lens[row]] for row in (1, 2, 3)])
    assert torch.equal(rejoined, audios[1])
    whole = chunk(audios, torch.tensor([3000, 9000, 4000]), None, 1000)
    assert (whole.audios is audios, whole.owner.tolist(), whole.longest_pass) == (True, [0, 1, 2], 0)


def test_passes_hold_no_more_than_allowed() -> None:
    lens = torch.tensor([10, 9, 9, 8, 30])
    assert split_group([0, 1, 2, 3], lens, 20) == [[0, 1], [2, 3]]
    assert split_group([4], lens, 20) == [[4]]


@torch.no_grad()
def test_chunks_are_encoded_as_audios_of_their_own(vtblender: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The frames of a long audio are those of its chunks, one behind the other, with one separator."""
    perception = vtblender.perception
    monkeypatch.setitem(perception.cfg, "encoder_chunk_secs", 2.0)
    samples = [speech(1.0, 1), speech(5.0, 2), speech(1.5, 3)]
    padded = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(wave) for wave in samples], batch_first=True)
    frames, lens = perception.encode(padded, torch.tensor([len(wave) for wave in samples]))
    spans = quiet_spans(samples[1], SAMPLING_RATE, 2.0)
    assert len(spans) == 3
    pieces = [samples[0], *(samples[1][start:end] for start, end in spans), samples[2]]
    alone = [perception.encode(torch.from_numpy(piece)[None], torch.tensor([len(piece)]))[0] for piece in pieces]
    wanted = [alone[0], torch.cat([alone[1][:-1], alone[2][:-1], alone[3]]), alone[4]]
    assert lens.tolist() == [len(rows) for rows in wanted]
    torch.testing.assert_close(frames, torch.cat(wanted), rtol=1e-4, atol=1e-4)


def test_each_part_is_asked_about_and_answers_are_joined(vtblender: Any) -> None:
    long = with_pauses(7.0, 2.8, 5.5, rate=SAMPLING_RATE) * 0.1
    part = {"type": "audio", "audio": long, "sampling_rate": SAMPLING_RATE}
    chats = [
        [user("hi", audio_part(0.5)), assistant("yes"), user("Transcribe:", part)],
        [user("hello")],
    ]
    found = vtblender.generate(chats, max_new_tokens=6, part_secs=3.0)
    spans = quiet_spans(long, SAMPLING_RATE, 3.0)
    assert len(spans) == 3
    asked = [[*chats[0][:2], user("Transcribe:", {**part, "audio": long[start:end]})] for start, end in spans]
    answers = [vtblender.generate([chat], max_new_tokens=6)[0] for chat in asked]
    assert found == [" ".join(filter(None, answers)), vtblender.generate([chats[1]], max_new_tokens=6)[0]]


def test_parts_keep_the_rest_of_the_turn() -> None:
    chat = from_messages([user("Transcribe:", audio_part(5.0), "in lower case", audio_part(1.0))])
    parts = split_long_audio([chat, chat], 3.0, SAMPLING_RATE)
    assert parts.counts == [2, 2]
    first = parts.conversations[0].turns[0].parts
    assert [type(part).__name__ for part in first] == ["Text", "Audio", "Text", "Audio"]
    assert sum(c.turns[0].audios[0].duration_secs for c in parts.conversations[:2]) == pytest.approx(5.0)
    assert parts.join(["a", "", "b", "c"]) == ["a", "b c"]


@pytest.mark.parametrize(
    "messages",
    [[user(audio_part(5.0), audio_part(6.0, 1))], [user(audio_part(5.0)), assistant("yes"), user("and?")]],
)
def test_several_long_audios_or_earlier_ones_are_refused(messages: Any) -> None:
    with pytest.raises(DataError, match="part_secs"):
        split_long_audio([from_messages(messages)], 3.0, SAMPLING_RATE)


@pytest.mark.slow
def test_half_an_hour_is_transcribed_in_bounded_memory(vtblender: Any) -> None:
    """Whole, its self-attention alone would take 4 heads x 22,500^2 positions x 4 bytes = 8 GB a layer."""
    half_hour = np.tile(speech(60.0), 30)
    part = {"type": "audio", "audio": half_hour, "sampling_rate": SAMPLING_RATE}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    texts = vtblender.generate([[user("Transcribe:", part)]], max_new_tokens=2, part_secs=30.0)
    assert len(texts) == 1
    with torch.no_grad():
        frames, lens = vtblender.perception.encode(torch.from_numpy(half_hour)[None], torch.tensor([len(half_hour)]))
    assert lens.tolist() == [len(frames)]
    assert abs(len(frames) - 22_500) < 100
    assert frames.shape[1] == HIDDEN
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    assert grown < 2.5, f"{grown:.1f} GiB more"
