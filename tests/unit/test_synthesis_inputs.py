"""Inputs of synthesis: every format by row, bad rows with their place, and audio that is found again from the output."""

from __future__ import annotations

import gzip
import json
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.helpers.corpus import speech_rows, wav_bytes, write_jsonl, write_level, write_tar
from tests.helpers.synthesis_works import Copies
from vtblender_nemo.common.audio import load_samples
from vtblender_nemo.common.errors import ConfigError, DataError
from vtblender_nemo.data.config import read_input_cfg
from vtblender_nemo.data.sources import make_source
from vtblender_nemo.synthesis.engine.synthesize import SynthesisOptions, synthesize
from vtblender_nemo.synthesis.inputs import InputRows, open_chats, open_speech

USER, ASSISTANT = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}


def levels_read_again(rows: InputRows, output_dir: Path) -> list[tuple[str, float, float]]:
    """Text, level and seconds of every row, read by the data room from what a synthesis wrote."""
    synthesize(Copies(), rows, output_dir, SynthesisOptions(rows_per_shard=2, entry={"prompts": ["p"]}))
    [entry] = read_input_cfg(output_dir / "input_cfg.yaml", "input_cfg")
    source = make_source(entry, 16000, "input_cfg")
    found = []
    for index in range(len(source)):
        conversation = source.conversation(index, random.Random(0))
        wave = load_samples(conversation.audios[0].cut, 16000)
        found.append((conversation.reference, round(float(wave.mean()), 2), round(len(wave) / 16000, 2)))
    return found


def test_plain_manifests_of_several_folders(tmp_path: Path) -> None:
    manifests = []
    for number in range(2):
        folder = tmp_path / f"in{number}"
        rows = speech_rows(folder, [0.5, 0.6], level=0.1 + 0.2 * number)
        for row in rows:
            del row["id"]
            row["text"] = f"{number} {row['text']}"
        rows.append(
            {**rows[0], "audio_filepath": str(folder / "0001.wav"), "offset": 0.1, "duration": 0.2, "text": "absolute"}
        )
        manifests.append(write_jsonl(folder / "manifest.json", rows))
    rows = open_speech(manifests)
    assert [rows[index].id for index in (0, 1, 3)] == ["0-manifest-1", "0-manifest-2", "1-manifest-1"]
    assert rows[3].place == f"{manifests[1]}:1"
    assert rows[3].data["audio_filepath"] == "in1/0000.wav"
    assert rows[3].data["translation"] == "Rede Nummer 0"
    assert levels_read_again(rows, tmp_path / "out") == [
        ("0 speech number 0", 0.1, 0.5),
        ("0 speech number 1", 0.1, 0.6),
        ("absolute", 0.1, 0.2),
        ("1 speech number 0", 0.3, 0.5),
        ("1 speech number 1", 0.3, 0.6),
        ("absolute", 0.3, 0.2),
    ]


def tarred(folder: Path) -> list[str]:
    """Two tars of two files, at levels 0.1 to 0.4."""
    return [
        write_tar(
            folder / f"audio_{tar}.tar",
            {f"{n}.wav": wav_bytes(np.full(8000, 0.1 * (1 + 2 * tar + n), np.float32)) for n in range(2)},
        )
        for tar in range(2)
    ]


def test_tarred_manifests_keep_their_shards(tmp_path: Path) -> None:
    tarred(tmp_path)
    for tar in range(2):
        rows = [{"audio_filepath": f"{n}.wav", "duration": 0.5, "text": f"{tar}{n}"} for n in range(2)]
        write_jsonl(tmp_path / f"manifest_{tar}.json", rows + [{**rows[0], "text": "again"}] * (1 - tar))
    rows = open_speech([str(tmp_path / "manifest__OP_0..1_CL_.json")], [str(tmp_path / "audio__OP_0..1_CL_.tar")])
    assert rows.shard_sizes == [3, 2]
    found = levels_read_again(rows, tmp_path / "out")
    assert found == [("00", 0.1, 0.5), ("01", 0.2, 0.5), ("again", 0.1, 0.5), ("10", 0.3, 0.5), ("11", 0.4, 0.5)]
    assert sorted(path.name for path in (tmp_path / "out").glob("shard_*")) == ["shard_000000", "shard_000001"]


def test_a_file_of_sources_names_manifests_tars_and_tags(tmp_path: Path) -> None:
    tarred(tmp_path)
    for tar in range(2):
        rows = [{"audio_filepath": f"{n}.wav", "duration": 0.5, "text": f"{tar}{n}"} for n in range(2)]
        write_jsonl(tmp_path / f"manifest_{tar}.json", rows)
    files = {"manifest_filepath": "manifest__OP_0..1_CL_.json", "tarred_audio_filepaths": "audio__OP_0..1_CL_.tar"}
    entry = {"type": "nemo_tarred", **files, "tags": {"source_lang": "de"}}
    translation = {**entry, "text_field": "translation", "tags": {"source_lang": "de", "target_lang": "en"}}
    (tmp_path / "input_cfg.yaml").write_text(yaml.safe_dump([entry, translation]))
    named = open_speech([tmp_path / "input_cfg.yaml"])
    plain = open_speech([tmp_path / files["manifest_filepath"]], [tmp_path / files["tarred_audio_filepaths"]])
    assert [named[n].data for n in range(4)] == [{**plain[n].data, **translation["tags"]} for n in range(4)]
    assert named.digest != plain.digest
    found = levels_read_again(named, tmp_path / "out")
    assert found == [("00", 0.1, 0.5), ("01", 0.2, 0.5), ("10", 0.3, 0.5), ("11", 0.4, 0.5)]


def test_files_of_sources_that_are_no_speech(tmp_path: Path) -> None:
    (tmp_path / "chats.yaml").write_text(yaml.safe_dump([{"type": "text_chat", "manifest_filepath": "a.jsonl"}]))
    with pytest.raises(ConfigError, match=r"chats\.yaml.*not a source of transcribed speech.*--input"):
        open_speech([tmp_path / "chats.yaml"])


def test_sources_of_several_languages_keep_their_tags(tmp_path: Path) -> None:
    entries = []
    for code in ("de", "es"):
        write_jsonl(tmp_path / f"{code}.jsonl", speech_rows(tmp_path, [0.5, 0.5]))
        entries.append({"type": "nemo", "manifest_filepath": f"{code}.jsonl", "tags": {"source_lang": code}})
    (tmp_path / "input_cfg.yaml").write_text(yaml.safe_dump(entries))
    rows = open_speech([tmp_path / "input_cfg.yaml"])
    assert [rows[n].data["source_lang"] for n in range(4)] == ["de", "de", "es", "es"]


def test_one_manifest_for_all_tars_is_parted_by_shard_id(tmp_path: Path) -> None:
    order = [(1, 0), (0, 0), (1, 1), (0, 1)]
    rows: list[Any] = [
        {"id": f"{t}{n}", "audio_filepath": f"{n}.wav", "duration": 0.5, "text": f"{t}{n}", "shard_id": t}
        for t, n in order
    ]
    rows[2:2] = ["{broken", {**rows[0], "id": "lost", "shard_id": 7}]
    manifest = write_jsonl(tmp_path / "manifest.json", rows)
    opened = open_speech([manifest], tarred(tmp_path))
    assert opened.shard_sizes == [4, 2]
    assert opened.place(0) == f"{manifest}:2"
    found = levels_read_again(opened, tmp_path / "out")
    assert found == [("00", 0.1, 0.5), ("01", 0.2, 0.5), ("10", 0.3, 0.5), ("11", 0.4, 0.5)]
    refused = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text("utf-8").splitlines()]
    assert [(row["place"], row["reason"]) for row in refused] == [
        (f"{manifest}:3", "bad_row"),
        (f"{manifest}:4", "bad_row"),
    ]
    assert "line is not JSON" in refused[0]["detail"]
    assert "without its shard" in refused[1]["detail"]


def cut_of(path: Path, number: int) -> Any:
    from lhotse import Recording, SupervisionSegment

    cut = Recording.from_file(path).to_cut().with_id(f"cut{number}")
    segment = SupervisionSegment(f"s{number}", "r", 0, cut.duration, text=f"text {number}", language="en")
    segment.custom = {"kind": "read"}
    cut.supervisions = [segment]
    return cut


def test_lhotse_cuts(tmp_path: Path) -> None:
    from lhotse import CutSet

    cuts = [cut_of(write_level(tmp_path / "audio" / f"{n}.wav", 0.1 + 0.1 * n, 1.0), n) for n in range(2)]
    cuts.append(cuts[1].truncate(offset=0.25, duration=0.5).with_id("part"))
    rows = [cut.to_dict() for cut in cuts]
    for row in rows:
        source = row["recording"]["sources"][0]
        source["source"] = str(Path(source["source"]).relative_to(tmp_path))
    path = write_jsonl(tmp_path / "cuts.jsonl", rows)
    opened = open_speech([path])
    assert opened[0].data == {
        "id": "cut0",
        "audio_filepath": "audio/0.wav",
        "duration": 1.0,
        "offset": 0.0,
        "text": "text 0",
        "source_lang": "en",
        "kind": "read",
    }
    assert levels_read_again(opened, tmp_path / "out") == [("text 0", 0.1, 1), ("text 1", 0.2, 1), ("text 1", 0.2, 0.5)]
    packed = tmp_path / "cuts.jsonl.gz"
    CutSet.from_cuts(cuts).to_file(packed)
    assert open_speech([packed])[2].data["offset"] == 0.25


def test_cut_that_no_manifest_can_name_is_refused(tmp_path: Path) -> None:
    import soundfile as sf
    from lhotse import Recording

    sf.write(tmp_path / "two.wav", np.zeros((8000, 2)), 16000)
    left = Recording.from_file(tmp_path / "two.wav").to_cut().to_mono()[0]
    faster = cut_of(write_level(tmp_path / "one.wav", 0.1), 0).perturb_speed(1.1)
    rows = open_speech([write_jsonl(tmp_path / "cuts.jsonl", [left.to_dict(), faster.to_dict()])])
    with pytest.raises(DataError, match=r"cuts.jsonl:1: cut takes some channels"):
        rows[0]
    with pytest.raises(DataError, match=r"cuts.jsonl:2: cut's audio is not one plain file"):
        rows[1]


def test_lhotse_shar(tmp_path: Path) -> None:
    from lhotse.shar import SharWriter

    (tmp_path / "shar").mkdir()
    with SharWriter(str(tmp_path / "shar"), fields={"recording": "flac"}, shard_size=2) as writer:
        for number in range(3):
            cut = cut_of(write_level(tmp_path / f"{number}.wav", 0.1 + 0.1 * number, 0.5), number)
            writer.write(cut.truncate(offset=0.1, preserve_id=True) if number == 1 else cut)
    rows = open_speech([tmp_path / "shar"])
    assert rows.shard_sizes == [2, 1]
    assert [rows[index].data["audio_filepath"] for index in range(3)] == ["cut0.flac", "cut1.flac", "cut2.flac"]
    assert levels_read_again(rows, tmp_path / "out") == [
        ("text 0", 0.1, 0.5),
        ("text 1", 0.2, 0.4),
        ("text 2", 0.3, 0.5),
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{broken", r"m.json:2: line is not JSON"),
        ("", r"m.json:2: blank line"),
        ({"text": "x"}, r"m.json:2: row without audio_filepath"),
        ({"audio_filepath": "a.wav", "duration": "long"}, r"m.json:2: duration is no length.*found 'long'"),
        ({"audio_filepath": "a.wav", "offset": -1.0}, r"m.json:2: offset is no length.*found -1.0"),
        ({"audio_filepath": "a.wav", "_skipme": 1}, r"m.json:2: row is marked to be skipped"),
    ],
)
def test_bad_speech_rows(tmp_path: Path, line: Any, said: str) -> None:
    good = {"audio_filepath": "a.wav", "duration": 1.0, "text": "x"}
    rows = open_speech([write_jsonl(tmp_path / "m.json", [good, line, good])])
    with pytest.raises(DataError, match=said):
        rows[1]
    assert (rows[0].id, rows[2].id) == ("m-1", "m-3")
    assert rows.made_up_id(1) == "m-2"
    rows.check_ids()


def test_speech_that_cannot_be_opened(tmp_path: Path) -> None:
    manifest = write_jsonl(tmp_path / "m.json", [{"audio_filepath": "a.wav"}])
    chats = write_jsonl(tmp_path / "c.jsonl", [{"messages": [USER]}])
    cuts = write_jsonl(tmp_path / "cuts.jsonl", [{"type": "MonoCut", "id": "c", "recording": {}}])
    with pytest.raises(ConfigError, match=r"c.jsonl: no row of speech.*found 'a row of "):
        open_speech([chats])
    with pytest.raises(ConfigError, match="several kinds"):
        open_speech([manifest, cuts])
    with pytest.raises(ConfigError, match=r"missing.*--input"):
        open_speech([tmp_path / "none.json"])
    with pytest.raises(ConfigError, match="no Lhotse shar"):
        open_speech([tmp_path])
    with pytest.raises(ConfigError, match=r"do not match.*'manifests': 2, 'tars': 1"):
        open_speech([manifest, manifest], [write_tar(tmp_path / "a.tar", {})])
    with pytest.raises(ConfigError, match=r"tars beside input that needs none.*--tar"):
        open_speech([cuts], [tmp_path / "a.tar"])


MESSAGES = {"id": "x", "messages": [USER, ASSISTANT], "source": "web"}
SHARE_GPT = {
    "id": "x",
    "conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}],
    "source": "web",
}
MAGPIE = {"uuid": "x", "instruction": "hi", "response": "hello", "source": "web"}


def jsonl(folder: Path, rows: list[dict]) -> str:
    return write_jsonl(folder / "c.jsonl", rows)


def packed_jsonl(folder: Path, rows: list[dict]) -> str:
    path = folder / "c.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    return str(path)


def json_list(folder: Path, rows: list[dict]) -> str:
    (folder / "c.json").write_text(json.dumps(rows, indent=1))
    return str(folder / "c.json")


def parquet(folder: Path, rows: list[dict]) -> str:
    import pyarrow
    from pyarrow.parquet import write_table

    write_table(pyarrow.Table.from_pylist(rows), folder / "c.parquet", row_group_size=2)
    return str(folder / "c.parquet")


def saved_dataset(folder: Path, rows: list[dict]) -> str:
    from datasets import Dataset

    Dataset.from_list(rows).save_to_disk(folder / "saved")
    return str(folder / "saved")


def folder_of_parquet(folder: Path, rows: list[dict]) -> str:
    (folder / "dataset" / "data").mkdir(parents=True)
    parquet(folder / "dataset" / "data", rows)
    return str(folder / "dataset")


@pytest.mark.parametrize("write", [jsonl, packed_jsonl, json_list, parquet, saved_dataset, folder_of_parquet])
@pytest.mark.parametrize("row", [MESSAGES, SHARE_GPT, MAGPIE], ids=["messages", "share_gpt", "magpie"])
def test_chats_of_every_shape_in_every_format(tmp_path: Path, write: Callable, row: dict) -> None:
    id_column = "uuid" if "uuid" in row else "id"
    rows = open_chats([write(tmp_path, [{**row, id_column: f"x{number}"} for number in range(5)])])
    assert len(rows) == 5
    rows.check_ids()
    again = pickle.loads(pickle.dumps(rows))
    for number in (4, 0, 3):
        expected = {"messages": [USER, ASSISTANT], "source": "web", "id": f"x{number}"}
        assert rows[number].data == expected
        assert again[number] == rows[number]
    assert again.digest == rows.digest
    assert rows.place(3).endswith(":4")


def test_digest_is_of_the_content(tmp_path: Path) -> None:
    digests = set()
    for number, rows in enumerate(([MESSAGES], [MESSAGES], [MESSAGES, SHARE_GPT])):
        (tmp_path / str(number)).mkdir()
        digests.add(open_chats([jsonl(tmp_path / str(number), rows)]).digest)
    assert len(digests) == 2


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"text": "x"}, r"c.jsonl:1: row without a chat"),
        ({"messages": "hi"}, r"c.jsonl:1: messages is no list of turns"),
        ({"messages": []}, r"c.jsonl:1: messages is no list of turns"),
        ({"messages": [{"role": "tool", "content": "x"}]}, r"c.jsonl:1: unknown speaker; found 'tool'"),
        ({"messages": [{"role": "user", "content": None}]}, r"c.jsonl:1: turn without text"),
        ({"conversations": ["hi"]}, r"c.jsonl:1: turn is no object; found 'hi'"),
        ({"instruction": "x", "response": 3}, r"c.jsonl:1: turn without text; found 3"),
        ({"instruction": "x"}, r"c.jsonl:1: row without a chat; found \['instruction'\]"),
    ],
)
def test_bad_chats(tmp_path: Path, row: dict, said: str) -> None:
    rows = open_chats([jsonl(tmp_path, [row, MESSAGES])])
    with pytest.raises(DataError, match=said):
        rows[0]
    assert rows[1].id == "x"


def test_chats_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text("hi")
    (tmp_path / "c.parquet").write_text("hi")
    (tmp_path / "c.json").write_text('[{"id": ')
    (tmp_path / "empty").mkdir()
    for source, said in (
        (tmp_path / "none.jsonl", "file is missing"),
        (tmp_path / "c.txt", "unknown kind"),
        (tmp_path / "c.parquet", "no parquet"),
        (tmp_path / "c.json", "no JSON list"),
        (tmp_path / "empty", "folder without chats"),
        ("nobody/has-this:train", "neither a file nor a dataset"),
        ("a/b:c:d:e", "name is unclear"),
    ):
        with pytest.raises(ConfigError, match=said):
            open_chats([source])


def test_dates_become_text(tmp_path: Path) -> None:
    from datetime import datetime

    rows = open_chats([parquet(tmp_path, [{**MESSAGES, "made": datetime(2024, 5, 1)}])])
    assert rows[0].data["made"] == "2024-05-01 00:00:00"


def test_ids_are_unique_over_all_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_jsonl(tmp_path / name / "c.jsonl", [{"messages": [USER]}, MESSAGES, "{broken", "{broken"])
    rows = open_chats([tmp_path / "a" / "c.jsonl", tmp_path / "b" / "c.jsonl"])
    assert (rows[0].id, rows[4].id) == ("0-c-1", "1-c-1")
    with pytest.raises(DataError, match=r"a/c.jsonl:2: two rows have one id, the other at .*b/c.jsonl:2; found 'x'"):
        rows.check_ids()
