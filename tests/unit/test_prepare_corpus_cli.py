"""`examples/prepare_corpus.py`: its flags, what it says, its exit codes, and going on after it was killed."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner, Result

from tests.helpers.corpora import files_of, librispeech, noise, read_back, write_audio, write_lines
from tests.helpers.corpus import write_jsonl
from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.synthesis.inputs import open_speech

SCRIPT = Path(__file__).parents[2] / "examples/prepare_corpus.py"


def run(*flags: str | Path) -> Result:
    spec = importlib.util.spec_from_file_location("prepare_corpus", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return CliRunner().invoke(script.app, [str(flag) for flag in flags])


def test_librispeech_from_end_to_end(tmp_path):
    samples = librispeech(tmp_path / "corpus", rows=4)
    (tmp_path / "corpus/train-clean-5/100/7/100-7-0001.flac").write_bytes(b"broken")
    flags = ["--corpus", "librispeech", "--input", tmp_path / "corpus", "--output-dir", tmp_path / "out"]
    done = run(*flags, "--splits", "train-clean-5,dev-clean-2", "--limit", "3", "--format", "shar", "--seed", "5")
    assert done.exit_code == 0, done.output
    assert f"{tmp_path}/out: 5 rows" in done.output
    assert "1 refused: audio_unreadable" in done.output
    assert f"entries of input_cfg: {tmp_path}/out/input_cfg.yaml" in done.output
    rows = read_back(tmp_path / "out/input_cfg.yaml")
    assert {name.split("/")[1] for name in rows} == {"100-7-0000", "100-7-0002"}
    for name, row in rows.items():
        np.testing.assert_array_equal(row["samples"], samples[name.split("/")[1]])


def test_chats_from_end_to_end(tmp_path):
    path = write_jsonl(tmp_path / "c.jsonl", [{"id": "a", "instruction": "say", "response": "yes"}])
    done = run("--corpus", "chats", "--input", path, "--output-dir", tmp_path / "out")
    assert done.exit_code == 0, done.output
    (row,) = read_back(tmp_path / "out/input_cfg.yaml").values()
    assert (row["asked"], row["answer"]) == ("say", "yes")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--corpus", "ted"], "spoken_squad, chats (change it with: --corpus)"),
        (["--corpus", "chats", "--format", "shar"], "(change it with: --format)"),
        (["--corpus", "librispeech", "--output-dir", "/proc/none"], "(change it with: --output-dir)"),
        (["--corpus", "mls", "--input", "other"], "one folder is prepared at a time"),
        (["--corpus", "chats", "--splits", "train"], "(change it with: --splits)"),
        (["--corpus", "librispeech"], "folder of the corpus is missing"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path, flags, message):
    done = run("--input", tmp_path / "gone", "--output-dir", tmp_path / "out", *flags)
    assert done.exit_code == 2
    assert message in done.output
    assert "Traceback" not in done.output


def test_a_mistaken_command_leaves_the_folder_to_the_right_one(tmp_path):
    librispeech(tmp_path / "corpus", rows=1)
    (tmp_path / "empty").mkdir()
    mistaken = run("--corpus", "mls", "--input", tmp_path / "empty", "--output-dir", tmp_path / "out")
    assert mistaken.exit_code == 2
    assert run(*flags_of(tmp_path), "--output-dir", tmp_path / "out").exit_code == 0


def test_what_training_would_leave_out_is_told_with_its_knob(tmp_path):
    write_lines(tmp_path / "corpus/train-clean-5/1/2/1-2.trans.txt", ["1-2-0 LONG", "1-2-1 SHORT"])
    for number, secs in enumerate((60.2, 20.0)):
        write_audio(tmp_path / f"corpus/train-clean-5/1/2/1-2-{number}.flac", noise(number, secs))
    done = run(*flags_of(tmp_path), "--output-dir", tmp_path / "out")
    assert done.exit_code == 0
    assert "warning: 1 rows (0.02 h, 75.1% of all) are longer than 40 s" in done.output
    assert "data.train_ds.max_duration=61" in done.output


def chats_file(folder: Path) -> Path:
    return write_jsonl(folder / "c.jsonl", [{"id": "a", "instruction": "say", "response": "yes"}])


@pytest.mark.parametrize("tidied", [False, True])
def test_chats_do_not_replace_a_corpus_nor_a_corpus_chats(tmp_path, tidied):
    librispeech(tmp_path / "corpus", rows=1)
    chats = ["--corpus", "chats", "--input", chats_file(tmp_path)]
    for number, (first, second) in enumerate([(flags_of(tmp_path), chats), (chats, flags_of(tmp_path))]):
        output = tmp_path / f"out{number}"
        assert run(*first, "--output-dir", output).exit_code == 0
        if tidied:
            (output / "job.json").unlink()
            shutil.rmtree(output / "work", ignore_errors=True)
        before = files_of(output)
        refused = run(*second, "--output-dir", output)
        assert refused.exit_code == 2
        assert "folder holds another job" in refused.output
        assert "--output-dir" in refused.output
        assert files_of(output) == before


def test_no_training_split_is_told_with_the_files_that_there_are(tmp_path):
    librispeech(tmp_path / "corpus", parts=["dev-clean"])
    done = run(*flags_of(tmp_path), "--output-dir", tmp_path / "out")
    assert done.exit_code == 0
    assert "no training split was prepared, so there is no input_cfg.yaml" in done.output
    assert f"entries of input_cfg: {tmp_path}/out/input_cfg.dev-clean.yaml" in done.output
    with pytest.raises(
        ConfigError, match=r"input_cfg.yaml: file of sources is missing.*beside it: input_cfg.dev-clean"
    ):
        open_speech([tmp_path / "out/input_cfg.yaml"])


def test_names_of_sources_may_be_chosen_and_changed(tmp_path):
    librispeech(tmp_path / "corpus", rows=1)
    speech = [*flags_of(tmp_path), "--output-dir", tmp_path / "speech"]
    chats = ["--corpus", "chats", "--input", chats_file(tmp_path), "--output-dir", tmp_path / "text"]
    for flags, usual, named in (
        (speech, "librispeech_en_train-clean-5_asr", "books_en_train-clean-5_asr"),
        (chats, "text", "books"),
    ):
        for name, expected in (([], usual), (["--name", "books"], named)):
            assert run(*flags, *name).exit_code == 0
            (entry,) = yaml.safe_load((flags[-1] / "input_cfg.yaml").read_text())
            assert entry["name"] == expected
        refused = run(*flags, "--name", "")
        assert refused.exit_code == 2
        assert "source without a name" in refused.output


def test_nothing_made_of_chats_is_exit_code_1(tmp_path):
    path = write_jsonl(tmp_path / "c.jsonl", [{"id": "a", "messages": [{"role": "user", "content": "hi"}]}])
    assert run("--corpus", "chats", "--input", path, "--output-dir", tmp_path / "out").exit_code == 1


def test_help_has_an_example():
    done = run("--help")
    assert done.exit_code == 0
    assert "examples/prepare_corpus.py --corpus librispeech" in done.output


KILLED = """
import os, runpy, signal, sys
from pathlib import Path

left, real = int(sys.argv.pop(1)), Path.replace

def replace(path, target):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    return real(path, target)

Path.replace = replace
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A corpus, and what is made of it undisturbed."""
    folder = tmp_path_factory.mktemp("whole")
    librispeech(folder / "corpus", parts=["train-clean-5"], rows=4)
    assert run(*flags_of(folder), "--output-dir", folder / "out").exit_code == 0
    return folder


def flags_of(folder: Path) -> list[str]:
    return ["--corpus", "librispeech", "--input", str(folder / "corpus"), "--rows-per-shard", "1"]


# Files get their names one by one: job, refused, lists, listing, then rows, audio and counts of every shard, then the report.
@pytest.mark.parametrize("renamed", [3, 8, 16])
def test_a_process_that_was_killed_is_continued(tmp_path, whole, renamed):
    """SIGKILL just before a file gets its name; the second run gives what an undisturbed one gives."""
    flags = [*flags_of(whole), "--output-dir", str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[1])}
    command = [sys.executable, "-c", KILLED, str(renamed), str(SCRIPT), *flags]
    killed = subprocess.run(command, capture_output=True, env=environment)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("work/done/*/*/*.json")}
    assert len(done) == min(max(renamed - 4, 0) // 3, 4)
    assert run(*flags).exit_code == 0
    assert all(path.stat().st_mtime_ns == nanoseconds for path, nanoseconds in done.items())
    assert files_of(tmp_path / "out") == files_of(whole / "out")
