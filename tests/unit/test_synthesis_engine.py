"""The synthesis engine: the same bytes whoever works and whatever is killed; faults cost what they have to and no more."""

from __future__ import annotations

import fcntl
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile as sf
import yaml

from tests.helpers.corpus import write_jsonl
from tests.helpers.synthesis_works import Copies, Tones, run, tree, write_chats
from vtblender_nemo.common.errors import ConfigError, DataError, MissingDependencyError
from vtblender_nemo.data.lazy_audio import lazy_cut
from vtblender_nemo.data.rows import JsonlRows, TarFile, expand_paths
from vtblender_nemo.data.weighted import read_sources
from vtblender_nemo.synthesis.engine.crew import WorkersLostError
from vtblender_nemo.synthesis.engine.jobs import Job
from vtblender_nemo.synthesis.engine.launchers import Launcher, launch
from vtblender_nemo.synthesis.engine.synthesize import SynthesisOptions, synthesize
from vtblender_nemo.synthesis.inputs import open_chats

ROOT = Path(__file__).parents[2]
TEXTS = ["a", "b", "refuse c", "unusable d", "e", "{broken", "f less", "silent g", "nan h", "i", "j"]
# Eleven rows, three a shard: 0-2, 3-5, 6-8, 9-10, of which the first two are a batch.


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chats(tmp_path_factory.mktemp("chats") / "chats.jsonl", TEXTS)


@pytest.fixture(scope="module")
def expected(chats: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("expected")
    run(chats, folder)
    return tree(folder)


def rows_of(files: dict[str, bytes], name: str) -> list[dict]:
    return [json.loads(line) for path in sorted(files) if path.endswith(name) for line in files[path].splitlines()]


def test_every_row_is_made_or_refused(chats: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    summary = run(chats, tmp_path)
    reasons = {"bad_row": 2, "bad_clip": 1, "not_wanted": 1, "nothing_made": 1, "one_less": 1}
    clip_refusals = summary.refused_by_reason.pop("bad_clip")  # one for each of the row's variants, which are drawn
    assert clip_refusals in (1, 2)
    del reasons["bad_clip"]
    assert summary.refused_by_reason == reasons
    assert (summary.rows, summary.shards) == (11, 4)

    made = rows_of(expected, "/manifest.jsonl")
    sources = [row["provenance"]["source"] for row in made]
    refused = [(row["id"], row["reason"]) for row in rows_of({"r": expected["rejected.jsonl"]}, "r")]
    assert list(dict.fromkeys(sources)) == ["c0", "c1", "c4", "c6", "c9", "c10"]
    assert len(made) == summary.made
    assert {id for id, _ in refused} == {"c2", "c3", "chats-6", "c6", "c7", "c8"}
    assert rows_of({"r": expected["rejected.jsonl"]}, "r")[2]["place"] == f"{chats}:6"
    assert made[0]["provenance"] == {"source": "c0", "place": f"{chats}:1", "seed": 0, "engine": "tones"}


def test_entry_reads_what_was_written(expected: dict[str, bytes], chats: Path, tmp_path: Path) -> None:
    summary = run(chats, tmp_path)
    [entry] = yaml.safe_load((tmp_path / "input_cfg.yaml").read_text("utf-8"))
    assert entry == summary.entry
    assert entry["type"] == "multimodal_conversation"
    rows = JsonlRows(expand_paths(str(tmp_path / entry["manifest_filepath"]), knob=""), knob="")
    tars = [TarFile(path) for path in expand_paths(str(tmp_path / entry["tarred_audio_filepaths"]), knob="")]
    assert len(rows) == summary.made
    assert len(tars) == summary.shards
    for index in range(len(rows)):
        audio, answer = rows[index].data["conversations"]
        tar = tars[rows.locate(index)[0]]
        cut = lazy_cut(tar.path, duration_secs=audio["duration"], sampling_rate=16000, member=tar.find(audio["value"]))
        wave = cut.load_audio()[0]
        ups = int(((wave[:-1] < 0) & (wave[1:] >= 0)).sum())  # as many as the tone's periods in 0.1 s
        assert abs(ups - float(answer["value"]) / 10) <= 1


def test_clips_are_flac_of_16_bits_without_owner_or_time(chats: Path, tmp_path: Path) -> None:
    import tarfile

    run(chats, tmp_path)
    with tarfile.open(tmp_path / "shard_000000" / "audio.tar") as tar:
        members = tar.getmembers()
        info = sf.info(tar.extractfile(members[0]))
    assert (info.format, info.subtype, info.samplerate, info.frames) == ("FLAC", "PCM_16", 16000, 1600)
    assert {(member.mtime, member.uid, member.gid, member.uname) for member in members} == {(0, 0, 0, "")}


def test_shard_without_clips_has_an_empty_tar_where_others_have_clips(tmp_path: Path) -> None:
    run(write_chats(tmp_path / "chats.jsonl", ["refuse", "refuse", "refuse", "a"]), tmp_path / "out")
    assert TarFile(tmp_path / "out" / "shard_000000" / "audio.tar").members == []
    assert len(TarFile(tmp_path / "out" / "shard_000001" / "audio.tar").members) >= 1


@pytest.mark.parametrize("workers", [2, 3])
def test_bytes_do_not_depend_on_workers(chats: Path, expected: dict[str, bytes], tmp_path: Path, workers: int) -> None:
    run(chats, tmp_path, workers=workers)
    assert tree(tmp_path) == expected


@pytest.mark.parametrize("workers", [1, 2])
def test_work_is_loaded_once_by_every_worker(chats: Path, tmp_path: Path, workers: int) -> None:
    (tmp_path / "flags").mkdir()
    for _ in range(2):  # the second time there is nothing to do
        run(chats, tmp_path / "out", tmp_path / "flags", workers=workers, rows_per_shard=1)
    opened = len(list((tmp_path / "flags").glob("opened-*")))
    assert 1 <= opened <= workers  # the first may be done before the second is up


def test_bytes_do_not_depend_on_the_order_of_shards(chats: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    shards = (range(0, 3), range(3, 6), range(6, 9), range(9, 11))
    for seed in range(3):
        folder = tmp_path / str(seed)
        folder.mkdir()
        order = random.Random(seed).sample(range(4), 4)
        job = Job(Tones(), open_chats([chats]), shards, folder, seed=0, batch_rows=2)
        assert [step.shard for step in launch(job, order, Launcher.local, 1) if step.whole] == order
        (folder / "job.json").write_bytes(expected["job.json"])  # the run that ends the job finds nothing left to make
        run(chats, folder)
        assert tree(folder) == expected


def test_random_numbers_are_the_rows_own(tmp_path: Path) -> None:
    """What is made of a row does not change with the rows around it."""
    alone = write_chats(tmp_path / "alone.jsonl", ["a"])
    many = tmp_path / "many.jsonl"
    write_jsonl(
        many,
        [json.loads(line) | {"id": id} for id, line in zip("xyz", alone.read_text().splitlines() * 3, strict=True)],
    )
    lines = many.read_text().splitlines()
    one = write_jsonl(tmp_path / "one.jsonl", [lines[2]])
    run(many, tmp_path / "out_many")
    run(Path(one), tmp_path / "out_one")
    of_many = [
        row["conversations"] for row in rows_of(tree(tmp_path / "out_many"), "/manifest.jsonl") if row["id"][0] == "z"
    ]
    assert of_many == [row["conversations"] for row in rows_of(tree(tmp_path / "out_one"), "/manifest.jsonl")]


def killed_at_event(number: int, chats: Path, folder: Path) -> bool:
    """Runs the job in a child that is killed at its n-th deed on the output folder; whether it was."""
    child = os.fork()
    if child == 0:  # pragma: no cover
        deeds = 0

        def count(event: str, args: tuple) -> None:
            nonlocal deeds
            if event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir") and str(folder) in str(args[0]):
                deeds += 1
                if deeds == number:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
        sys.addaudithook(count)
        try:
            run(chats, folder)
        except BaseException:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL)
    return status != 0


def test_job_killed_at_any_moment_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    """Every opening, renaming and removing of a file in the output folder is a moment."""
    chats = write_chats(tmp_path / "chats.jsonl", ["a", "refuse b", "c", "refuse d"])  # two shards, one without clips
    run(chats, tmp_path / "calm")
    calm, number = tree(tmp_path / "calm"), 1
    while killed_at_event(number, chats, tmp_path / str(number)):
        run(chats, tmp_path / str(number))
        assert tree(tmp_path / str(number)) == calm, f"killed at deed {number}"
        number += 1
    assert number > 40
    assert tree(tmp_path / str(number)) == calm


def test_job_killed_again_and_again_ends_in_the_same_bytes(
    chats: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    kills = 0
    while killed_at_event(34, chats, tmp_path):  # far enough for a shard in every run
        kills += 1
        assert kills < 20
    assert kills > 2
    assert tree(tmp_path) == expected


def test_a_folder_that_something_else_filled_is_left_alone(chats: Path, tmp_path: Path) -> None:
    (tmp_path / "input_cfg.yaml").write_text("[]")
    with pytest.raises(ConfigError, match=r"holds files but no job.*--output-dir"):
        run(chats, tmp_path)
    (tmp_path / "job.json").write_text('{"corpus": "librispeech"}')
    with pytest.raises(ConfigError, match=r"holds another job: corpus was .librispeech"):
        run(chats, tmp_path)
    assert (tmp_path / "input_cfg.yaml").read_text() == "[]"


def test_whole_shards_are_not_made_again(chats: Path, tmp_path: Path) -> None:
    run(chats, tmp_path)
    kept = tmp_path / "shard_000001"
    before = (kept / "manifest.jsonl").stat()
    lost = {path.name: path.read_bytes() for path in (tmp_path / "shard_000002").iterdir()}
    for path in (tmp_path / "shard_000002").iterdir():
        path.unlink()
    run(chats, tmp_path)
    assert (kept / "manifest.jsonl").stat().st_ino == before.st_ino
    assert {path.name: path.read_bytes() for path in (tmp_path / "shard_000002").iterdir()} == lost


def remove(path: Path) -> None:
    path.unlink()


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize("damage", [remove, cut_short])
@pytest.mark.parametrize("name", ["audio.tar", "manifest.jsonl", "rejected.jsonl", "done.json"])
def test_shard_that_was_damaged_is_made_again_and_no_other(
    chats: Path, expected: dict[str, bytes], tmp_path: Path, name: str, damage: Callable[[Path], None], caplog: Any
) -> None:
    run(chats, tmp_path)
    kept = (tmp_path / "shard_000000/manifest.jsonl").stat().st_ino
    damage(tmp_path / "shard_000001" / name)
    run(chats, tmp_path)
    assert tree(tmp_path) == expected
    assert (tmp_path / "shard_000000/manifest.jsonl").stat().st_ino == kept
    if (name, damage) != ("done.json", remove):  # a shard without it was never whole
        assert f"shard_000001 is made again: {name}" in caplog.text


def with_fault(tmp_path: Path, fault: str) -> tuple[Path, Path]:
    """Chats with a fault in the middle of the second shard, and the folder for flags; no fault is met where none is given."""
    texts = ["a", "b", "c", "d", f"e {fault}", "f", "g", "h"]
    (tmp_path / "flags").mkdir()
    return write_chats(tmp_path / "chats.jsonl", texts), tmp_path / "flags"


def test_worker_killed_in_mid_shard_costs_nothing(tmp_path: Path) -> None:
    chats, flags = with_fault(tmp_path, "kill-worker")
    run(chats, tmp_path / "calm")
    run(chats, tmp_path / "killed", flags, workers=2)
    assert (flags / "kill-worker").exists()
    assert tree(tmp_path / "killed") == tree(tmp_path / "calm")


def test_main_process_killed_while_its_workers_run(tmp_path: Path) -> None:
    chats, flags = with_fault(tmp_path, "kill-main")
    run(chats, tmp_path / "calm")
    command = [sys.executable, "-m", "tests.helpers.synthesis_works", chats, tmp_path / "killed", "2", flags]
    ended = subprocess.run(
        command, cwd=ROOT, stderr=subprocess.PIPE, text=True
    )  # waits for the orphans: they hold stderr
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert not (tmp_path / "killed" / "summary.json").exists()
    run(chats, tmp_path / "killed")
    assert tree(tmp_path / "killed") == tree(tmp_path / "calm")


def test_rows_that_kill_every_worker_stop_the_job(tmp_path: Path) -> None:
    chats, flags = with_fault(tmp_path, "die-always")
    with pytest.raises(WorkersLostError, match="again and again at shard 1"):
        run(chats, tmp_path / "out", flags, workers=2)
    assert (tmp_path / "out" / "shard_000000" / "done.json").exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_crash_of_the_work_stops_the_job_and_keeps_whole_shards(tmp_path: Path, workers: int) -> None:
    chats, flags = with_fault(tmp_path, "crash")
    with pytest.raises(ZeroDivisionError, match="e crash"):
        run(chats, tmp_path / "out", flags, workers=workers)
    assert not (tmp_path / "out" / "shard_000001").exists()
    if workers == 1:
        assert (tmp_path / "out" / "shard_000000" / "done.json").exists()
    run(chats, tmp_path / "out")  # without faults, as if they had been mended
    run(chats, tmp_path / "calm")
    assert tree(tmp_path / "out") == tree(tmp_path / "calm")


def test_other_settings_in_the_same_folder_are_refused(chats: Path, tmp_path: Path) -> None:
    run(chats, tmp_path)
    with pytest.raises(ConfigError, match=r"batch_rows was 2 and is 5.*job.json|job.json.*batch_rows was 2 and is 5"):
        run(chats, tmp_path, batch_rows=5)
    options = SynthesisOptions(rows_per_shard=3, batch_rows=2)
    with pytest.raises(ConfigError, match=r"work\.seed was 0 and is 1"):
        synthesize(Tones(seed=1), open_chats([chats]), tmp_path, options)
    other = write_chats(tmp_path / "other.jsonl", [*TEXTS[:-1], "J"])
    with pytest.raises(ConfigError, match=r"input\.digest was"):
        run(other, tmp_path)
    run(chats, tmp_path, workers=2)  # workers change nothing


def test_job_that_failed_before_its_first_shard_may_be_begun_with_other_settings(tmp_path: Path) -> None:
    chats, flags = with_fault(tmp_path, "crash")
    with pytest.raises(ZeroDivisionError):
        run(chats, tmp_path / "out", flags, rows_per_shard=10)
    run(chats, tmp_path / "out", rows_per_shard=9)


def test_moved_input_is_the_same_input(chats: Path, tmp_path: Path) -> None:
    run(chats, tmp_path / "out")
    moved = tmp_path / "elsewhere" / "chats.jsonl"
    moved.parent.mkdir()
    moved.write_bytes(chats.read_bytes())
    run(moved, tmp_path / "out")


def test_two_commands_on_one_folder(chats: Path, tmp_path: Path) -> None:
    holder = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(holder, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="another process is at work"):
            run(chats, tmp_path)
    finally:
        os.close(holder)
    run(chats, tmp_path)


def test_two_rows_of_one_id_are_an_error_that_names_both(tmp_path: Path) -> None:
    rows = [{"id": id, "messages": [{"role": "user", "content": "x"}]} for id in ("a", "b", "a")]
    chats = write_jsonl(tmp_path / "chats.jsonl", rows)
    with pytest.raises(
        DataError, match=r"chats.jsonl:1: two rows have one id, the other at .*chats.jsonl:3; found 'a'"
    ):
        run(Path(chats), tmp_path / "out")


def test_work_that_refuses_every_row(tmp_path: Path) -> None:
    summary = run(write_chats(tmp_path / "chats.jsonl", ["refuse", "refuse"]), tmp_path / "out")
    assert (summary.made, summary.entry, summary.exit_code) == (0, None, 1)
    assert not (tmp_path / "out" / "input_cfg.yaml").exists()


def test_chats_without_clips_are_read_as_text(chats: Path, tmp_path: Path) -> None:
    options = SynthesisOptions(rows_per_shard=6, entry={"name": "copies"}, name="unused")
    summary = synthesize(Copies(), open_chats([chats]), tmp_path, options)
    pattern = "shard__OP_000000..000001_CL_/manifest.jsonl"
    assert summary.entry == {"type": "text_chat", "manifest_filepath": pattern, "name": "copies"}
    assert summary.made == 10


def test_outputs_in_folders_of_their_own_make_one_blend(tmp_path: Path) -> None:
    for number in range(2):
        run(write_chats(tmp_path / f"{number}.jsonl", ["a", "b"]), tmp_path / f"out{number}", name=None)
    entries = [
        {"type": "group", "input_cfg": str(tmp_path / f"out{number}/input_cfg.yaml"), "weight": number + 1}
        for number in range(2)
    ]
    weighted = read_sources(entries, sampling_rate=16000)
    assert [(one.source.name, round(one.probability, 6)) for one in weighted] == [
        ("out0", 0.333333),
        ("out1", 0.666667),
    ]


def test_name_of_the_entry_may_be_another_when_a_job_goes_on(chats: Path, tmp_path: Path) -> None:
    run(chats, tmp_path)
    assert run(chats, tmp_path, name="other").entry["name"] == "other"
    with pytest.raises(ConfigError, match="source without a name.*--name"):
        run(chats, tmp_path, name="")


def test_text_that_utf8_cannot_hold_does_not_stop_a_job(tmp_path: Path) -> None:
    row = (
        r'{"id": "s", "messages": [{"role": "user", "content": "half \ud83d"}, {"role": "assistant", "content": "é"}]}'
    )
    chats = write_jsonl(tmp_path / "chats.jsonl", [row])
    synthesize(Copies(), open_chats([chats]), tmp_path / "out", SynthesisOptions())
    [made] = rows_of(tree(tmp_path / "out"), "/manifest.jsonl")
    assert made["messages"] == json.loads(row)["messages"]


def test_ray_that_is_not_installed(chats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'vtblender_nemo\[ray\]'"):
        run(chats, tmp_path, launcher="ray")


@pytest.mark.parametrize(
    ("options", "said"),
    [({"rows_per_shard": 0}, "--rows-per-shard"), ({"workers": 0}, "--workers"), ({"launcher": "slurm"}, "--launcher")],
)
def test_options_out_of_range(chats: Path, tmp_path: Path, options: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        run(chats, tmp_path, **options)
