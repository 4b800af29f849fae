"""Traps of the host that this package ends. Those that other files hold:

- a manifest row with an offset and `sampling_rate`: test_data_sources.test_segments_of_one_file_are_right_to_the_sample
- one bad JSON line: test_data_blend.test_filters_drop_count_and_name_their_knob,
  test_data_loader.test_skipped_rows_are_counted_and_each_listed_once
- ranks that read the same rows: test_data_blend.test_over_ranks_a_pass_reads_each_row_once,
  test_data_ranks.test_two_processes_read_apart_and_resume_each_its_own
- a source that runs dry: test_data_blend.test_a_finished_source_goes_on_and_keeps_its_share
- augmentation that silently does nothing: test_data_augment, test_data_augment_blend
"""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import pytest

from tests.helpers.corpus import FRAME_SECS, RATE, chat_rows, make_encoder, speech_rows, write_jsonl
from vtblender_nemo.data.loader import BlendDataModule


def module(train: dict) -> BlendDataModule:
    return BlendDataModule({"train_ds": train}, make_encoder().chat_format, FRAME_SECS, RATE)


def blend(folder: Path, speech: list, chats: list) -> list[dict]:
    return [
        {"type": "nemo", "manifest_filepath": write_jsonl(folder / "s.jsonl", speech), "prompts": ["P"], "weight": 1},
        {"type": "text_chat", "manifest_filepath": write_jsonl(folder / "c.jsonl", chats), "weight": 1},
    ]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_whose_audio_all_failed_keeps_its_text(tmp_path, workers):
    broken = [{"id": f"s{n}", "audio_filepath": f"{n}.wav", "duration": 0.5, "text": "x"} for n in range(4)]
    train = {"input_cfg": blend(tmp_path, broken, chat_rows(40)), "batch_size": 6, "num_buckets": 1}
    data = module({**train, "num_workers": workers})
    batches = list(itertools.islice(data.train_dataloader(), 4))
    lost = data.skipped()["nemo/on_bad_row"]
    assert lost > 0
    assert all(set(batch.sources) == {"text_chat"} for batch in batches)
    assert sum(len(batch) for batch in batches) == 4 * 6 - lost, "every text conversation is there"
    assert all(batch.audios.shape == (0, 0) for batch in batches)


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_and_ranks_read_different_rows(tmp_path, monkeypatch, workers):
    entries = blend(tmp_path, speech_rows(tmp_path, [0.3] * 24), chat_rows(24))
    seen: Counter[str] = Counter()
    for rank in range(2):
        monkeypatch.setattr("vtblender_nemo.data.loader._rank", lambda rank=rank: (rank, 2))
        loader = module({"input_cfg": entries, "batch_size": 4, "num_buckets": 1, "num_workers": workers})
        for batch in itertools.islice(loader.train_dataloader(), 4):
            seen.update(batch.ids)
    assert len(seen) == 2 * 4 * 4
    assert set(seen.values()) == {1}


def test_a_short_source_goes_on_when_its_rows_are_used_up(tmp_path):
    entries = blend(tmp_path, [*speech_rows(tmp_path, [0.3] * 3), "no json"], chat_rows(400))
    data = module({"input_cfg": entries, "batch_size": 10, "num_buckets": 1, "max_bad_share": None})
    for _ in itertools.islice(data.train_dataloader(), 60):
        pass
    assert data.shares()["nemo"]["rows_seen"] > 200
    assert data.shares()["nemo"]["share"] == pytest.approx(0.5, abs=0.06)  # 3 standard deviations of 600 draws
