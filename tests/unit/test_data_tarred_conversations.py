"""Mixed-modal conversations whose audio stands in tars, as synthesis writes them."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.corpus import FRAME_SECS, RATE, make_encoder, wav_bytes, write_jsonl, write_tar
from vtblender_nemo.common.audio import load_samples
from vtblender_nemo.common.errors import ConfigError, DataError
from vtblender_nemo.data.loader import BlendDataModule
from vtblender_nemo.data.sources import Source, make_source


def level(value: float, secs: float = 0.5) -> bytes:
    return wav_bytes(np.full(round(secs * RATE), value, np.float32))


def row(id: str, *names: str, **span: float) -> dict:
    parts = [{"type": "audio", "from": "User", "value": name, "duration": 0.5, **span} for name in names]
    asked = {"type": "text", "from": "User", "value": "Answer."}
    return {"id": id, "conversations": [asked, *parts, {"type": "text", "from": "Assistant", "value": f"it is {id}"}]}


def entry(folder: Path, **keys) -> dict:
    return {
        "type": "multimodal_conversation",
        "manifest_filepath": f"{folder}/shard__OP_000000..000003_CL_/manifest.jsonl",
        "tarred_audio_filepaths": f"{folder}/shard__OP_000000..000003_CL_/audio.tar",
        **keys,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four shards: the second without rows and with a tar without members, the third with rows but an empty file."""
    shards = [
        ([row("a", "a.wav"), row("b", "b0.wav", "b1.wav")], {"a.wav": 0.1, "b0.wav": 0.2, "b1.wav": 0.3}),
        ([], {}),
        ([row("c")], None),
        ([row("d", "a.wav"), row("e", "long.wav", offset=0.5)], {"a.wav": 0.4}),
    ]
    for number, (rows, levels) in enumerate(shards):
        shard = tmp_path / f"shard_{number:06}"
        write_jsonl(shard / "manifest.jsonl", rows)
        members = {name: level(value) for name, value in (levels or {}).items()}
        if number == 3:
            ramp = (np.arange(2 * RATE) / 100_000).astype(np.float32)
            members["long.wav"] = wav_bytes(ramp)
        write_tar(shard / "audio.tar", members)
        if levels is None:
            (shard / "audio.tar").write_bytes(b"")
    return tmp_path


def read(source: Source, index: int):
    return source.conversation(index, random.Random(0))


def test_each_shard_gives_its_own_members(folder):
    source = make_source(entry(folder), RATE, "input_cfg[0]")
    assert source.shard_sizes == [2, 0, 1, 2]
    found = [read(source, index) for index in range(5)]
    assert [conversation.id for conversation in found] == ["a", "b", "c", "d", "e"]
    levels = [[float(load_samples(audio.cut, RATE)[0]) for audio in conversation.audios] for conversation in found]
    assert levels[:4] == [[pytest.approx(0.1)], [pytest.approx(0.2), pytest.approx(0.3)], [], [pytest.approx(0.4)]]
    span = load_samples(found[4].audios[0].cut, RATE)
    np.testing.assert_allclose(span, np.arange(8000, 16000) / 100_000, rtol=1e-6)
    assert source.place(4) == (folder / "shard_000003" / "manifest.jsonl", 2)


def test_one_manifest_names_its_shards(tmp_path):
    tars = [write_tar(tmp_path / f"{n}.tar", {"x.wav": level(0.1 + n / 10)}) for n in range(2)]
    rows = [{**row("a", "x.wav"), "shard_id": 1}, {**row("b", "x.wav"), "shard_id": 0}, row("c", "x.wav")]
    source = make_source(
        {
            "type": "multimodal_conversation",
            "manifest_filepath": write_jsonl(tmp_path / "m.jsonl", rows),
            "tarred_audio_filepaths": tars,
        },
        RATE,
        "input_cfg[0]",
    )
    assert [float(load_samples(read(source, n).audios[0].cut, RATE)[0]) for n in (0, 1)] == pytest.approx([0.2, 0.1])
    with pytest.raises(
        DataError, match=r"m.jsonl:3: row without its shard; found None|m.jsonl:3: row without its shard"
    ):
        read(source, 2)


def test_a_member_that_is_missing_names_row_and_tar(folder):
    write_jsonl(folder / "shard_000000" / "manifest.jsonl", [row("a", "nowhere.wav")])
    write_jsonl(folder / "shard_000002" / "manifest.jsonl", [row("c", "a.wav")])
    source = make_source(entry(folder), RATE, "input_cfg[0]")
    with pytest.raises(
        DataError, match=r"shard_000000/manifest.jsonl:1: tar has no such file: .*audio.tar.*nowhere.wav"
    ):
        read(source, 0)
    with pytest.raises(DataError, match=r"shard_000002/manifest.jsonl:1: tar has no such file: .*a.wav"):
        read(source, 1)


def test_tars_and_manifests_must_match(folder):
    three = f"{folder}/shard__OP_000000..000002_CL_/audio.tar"
    with pytest.raises(ConfigError, match=r"manifests and tars do not match.*input_cfg\[0\].tarred_audio_filepaths"):
        make_source(entry(folder, tarred_audio_filepaths=three), RATE, "input_cfg[0]")


@pytest.mark.parametrize("workers", [0, 2])
def test_training_reads_every_row_of_a_pass_once(folder, workers):
    train = {"input_cfg": [entry(folder)], "batch_size": 1, "num_buckets": 1, "num_workers": workers}
    data = BlendDataModule({"train_ds": train}, make_encoder().chat_format, FRAME_SECS, RATE)
    batches = list(itertools.islice(data.train_dataloader(), 10))
    assert sorted(batch.ids[0] for batch in batches[:5]) == sorted(batch.ids[0] for batch in batches[5:])
    assert sorted(batch.ids[0] for batch in batches[:5]) == ["a", "b", "c", "d", "e"]
