"""Ranks: every one's state is in the checkpoint, each goes on with its own, and none is left without validation."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
import torch.multiprocessing as mp
from lhotse import CutSet, Recording, SupervisionSegment

from tests.helpers.corpus import FRAME_SECS, RATE, chat_rows, make_encoder, speech_rows, write_jsonl, write_tar
from vtblender_nemo.common.parallel import Layout
from vtblender_nemo.data.loader import BlendDataModule

WORLD = 2


def _module(folder: Path) -> BlendDataModule:
    entry = {"type": "text_chat", "manifest_filepath": str(folder / "c.jsonl")}
    train = {"input_cfg": [entry], "batch_size": 3, "num_buckets": 2, "buffer_size": 20}
    return BlendDataModule({"train_ds": train}, make_encoder().chat_format, FRAME_SECS, RATE, folder / "skipped.jsonl")


def _rank_main(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORLD)
    data = _module(folder)
    begun = [batch.ids for batch in itertools.islice(data.train_dataloader(), 4)]
    state = data.state_dict()
    rest = [batch.ids for batch in itertools.islice(data.train_dataloader(), 3)]
    resumed = _module(folder)
    resumed.load_state_dict(json.loads(json.dumps(state)))
    again = [batch.ids for batch in itertools.islice(resumed.train_dataloader(), 3)]
    found = {"states": len(state["ranks"]), "begun": begun, "rest": rest, "again": again}
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_read_apart_and_resume_each_its_own(tmp_path):
    write_jsonl(tmp_path / "c.jsonl", [*chat_rows(60, words=9), "no json"])
    mp.spawn(_rank_main, args=(tmp_path,), nprocs=WORLD)
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(WORLD)]
    for found in ranks:
        assert found["states"] == WORLD
        assert found["again"] == found["rest"]
    ids = [id for found in ranks for batch in found["begun"] + found["rest"] for id in batch]
    assert len(ids) == len(set(ids)) == WORLD * 7 * 3


ROWS, SHARDS = 11, 3


def _manifest(folder: Path) -> dict[str, Any]:
    return {"type": "nemo", "manifest_filepath": write_jsonl(folder / "m.jsonl", speech_rows(folder, [0.3] * ROWS))}


def _tars(folder: Path) -> dict[str, Any]:
    rows = speech_rows(folder, [0.3] * ROWS)
    for shard in range(SHARDS):
        own = rows[shard::SHARDS]
        audio = {row["audio_filepath"]: (folder / row["audio_filepath"]).read_bytes() for row in own}
        write_tar(folder / f"audio_{shard}.tar", audio)
        write_jsonl(folder / f"manifest_{shard}.json", own)
    numbers = f"_OP_0..{SHARDS - 1}_CL_"
    return {
        "type": "nemo_tarred",
        "manifest_filepath": str(folder / f"manifest_{numbers}.json"),
        "tarred_audio_filepaths": str(folder / f"audio_{numbers}.tar"),
    }


def _cuts(folder: Path) -> CutSet:
    recordings = [
        Recording.from_file(folder / row["audio_filepath"], recording_id=row["id"])
        for row in speech_rows(folder, [0.3] * ROWS)
    ]
    cuts = [recording.to_cut() for recording in recordings]
    for cut in cuts:
        cut.supervisions = [SupervisionSegment(cut.id, cut.recording_id, 0.0, cut.duration, text=f"says {cut.id}")]
    return CutSet(cuts)


def _map_cuts(folder: Path) -> dict[str, Any]:
    _cuts(folder).to_file(folder / "cuts.jsonl")
    return {"type": "lhotse", "cuts_path": str(folder / "cuts.jsonl")}


def _shar(folder: Path) -> dict[str, Any]:
    (folder / "shar").mkdir()
    _cuts(folder).to_shar(folder / "shar", fields={"recording": "wav"}, shard_size=4)
    return {"type": "lhotse_shar", "shar_path": str(folder / "shar")}


@pytest.mark.parametrize("write", [_manifest, _tars, _map_cuts, _shar])
@pytest.mark.parametrize(("ranks", "workers"), [(1, 2), (2, 0), (3, 1), (4, 0)])
def test_a_pass_reads_each_row_once_over_ranks_and_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Any, ranks: int, workers: int
) -> None:
    """Of every kind of source; also of passes that do not divide by the ranks."""
    train = {"input_cfg": [{**write(tmp_path), "prompts": ["p"]}], "batch_size": 1, "num_buckets": 1, "buffer_size": 1}
    passes: list[list[str]] = [[], []]
    for rank in range(ranks):
        monkeypatch.setattr("vtblender_nemo.data.loader._rank", lambda rank=rank: (rank, ranks))
        cfg = {"train_ds": {**train, "num_workers": workers}}
        loader = BlendDataModule(cfg, make_encoder().chat_format, FRAME_SECS, RATE).train_dataloader()
        positions = range(rank, 2 * ROWS, ranks)
        for position, batch in zip(positions, loader, strict=False):
            passes[position // ROWS] += batch.ids
    assert [len(set(ids)) for ids in passes] == [ROWS, ROWS]
    assert [len(ids) for ids in passes] == [ROWS, ROWS]
    assert passes[0] != passes[1], "another order"


def _validation_ids(folder: Path, rows: list[Any], rank: int, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    entry = {"type": "text_chat", "manifest_filepath": write_jsonl(folder / "v.jsonl", rows)}
    cfg = {"validation_ds": {"sets": {"chat": {"input_cfg": [entry]}}, "batch_size": 2}}
    monkeypatch.setattr("vtblender_nemo.data.loader._rank", lambda: (rank, 3))
    (loader,) = BlendDataModule(cfg, make_encoder().chat_format, FRAME_SECS, RATE).val_dataloader()
    batches = [[conversation.id for conversation in batch] for batch in loader]
    assert len(loader) == len(batches) == 1
    return batches


def test_a_rank_without_validation_rows_gives_one_empty_batch(tmp_path, monkeypatch):
    """Without one, Lightning leaves out that rank's validation and the others wait for it forever."""
    rows = chat_rows(2)
    assert [_validation_ids(tmp_path, rows, rank, monkeypatch) for rank in range(3)] == [[["c0"]], [["c1"]], [[]]]


def test_a_rank_whose_validation_rows_are_all_bad_gives_one_empty_batch(tmp_path, monkeypatch):
    rows = [*chat_rows(1), "no json", *chat_rows(1)]
    assert _validation_ids(tmp_path, rows, 1, monkeypatch) == [[]]


def test_ranks_that_hold_one_model_are_given_the_same_rows(tmp_path, monkeypatch):
    """And one of them lists the rows that were left out."""
    entry = {
        "type": "text_chat",
        "manifest_filepath": write_jsonl(tmp_path / "v.jsonl", [*chat_rows(3), "no json", "none"]),
    }
    cfg = {
        "train_ds": {"input_cfg": [entry], "batch_size": 1},
        "validation_ds": {"sets": {"chat": {"input_cfg": [entry]}}},
    }
    monkeypatch.setattr("vtblender_nemo.common.parallel._layout", Layout(tensor_size=2))
    trained, validated = [], []
    for rank in range(4):
        monkeypatch.setattr("vtblender_nemo.common.parallel._world", lambda rank=rank: (rank, 4))
        folder = tmp_path / str(rank)
        folder.mkdir()
        data = BlendDataModule(cfg, make_encoder().chat_format, FRAME_SECS, RATE, folder / "skipped.jsonl")
        trained.append([batch.ids for batch in itertools.islice(data.train_dataloader(), 8)])
        validated.append([[one.id for one in batch] for loader in data.val_dataloader() for batch in loader])
    assert trained[0] == trained[1] != trained[2] == trained[3]
    assert validated == [[["c0", "c2"]], [["c0", "c2"]], [["c1"]], [["c1"]]]
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/skipped*")}
    assert written >= {"0/skipped.chat.jsonl", "2/skipped.chat.rank1.jsonl"}
    assert not [name for name in written if name.startswith(("1/", "3/"))]
