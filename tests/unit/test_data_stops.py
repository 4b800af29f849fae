"""Data that end a training: too many rows that cannot be used, and workers that are stuck or gone."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from tests.helpers.corpus import chat_rows, speech_rows, write_jsonl
from tests.helpers.data_modules import module, take, train_ds, write_corpus
from vtblender_nemo.common.errors import ConfigError, DataError
from vtblender_nemo.data import train_loader
from vtblender_nemo.data.collate import Collator


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def half_bad(folder: Path, *, decoded: bool) -> dict[str, Any]:
    """Speech of which every second row has no text, or no file; and chats."""
    rows = speech_rows(folder, [0.3] * 10)
    for number in range(0, 10, 2):
        if decoded:
            (folder / f"{number:04d}.wav").unlink()
        else:
            rows[number]["text"] = ""
    speech = {
        "type": "nemo",
        "name": "asr",
        "manifest_filepath": write_jsonl(folder / "m.jsonl", rows),
        "prompts": ["P"],
        "weight": 1,
    }
    chats = {"type": "text_chat", "manifest_filepath": write_jsonl(folder / "c.jsonl", chat_rows(5)), "weight": 1}
    return {"input_cfg": [speech, chats], "batch_size": 2, "num_buckets": 1}


@pytest.mark.parametrize("decoded", [False, True])
def test_too_many_bad_rows_of_a_source_stop_the_run(tmp_path: Path, decoded: bool) -> None:
    config = half_bad(tmp_path, decoded=decoded)
    with pytest.raises(
        DataError, match=r"rows of source asr cannot be used; .*skipped.jsonl.*found '(4\d|5\d) of 10\d'.*max_bad_share"
    ):
        take(module({**config, "max_bad_share": 0.3}, tmp_path / "skipped.jsonl"), 1000)
    for bearable in (0.6, None):
        assert len(take(module({**config, "max_bad_share": bearable}), 300)) == 300


def test_a_share_out_of_range_names_its_key(corpus: Path) -> None:
    with pytest.raises(ConfigError, match=r"found 2.*data.train_ds.max_bad_share"):
        module(train_ds(corpus, max_bad_share=2))


@pytest.fixture(params=[True, False], ids=["signal", "no_signal"])
def told_by_signal(request: pytest.FixtureRequest) -> Iterator[None]:
    """Without it, PyTorch does not hear at once that a worker has ended, as where somebody else handles the signal."""
    before = signal.getsignal(signal.SIGCHLD)
    if not request.param:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGCHLD, before)


@pytest.mark.usefixtures("told_by_signal")
def test_a_worker_that_is_gone_is_told_with_its_row(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_loader, "POLL_SECS", 0.2)
    monkeypatch.setattr(Collator, "__call__", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(
        DataError, match=r"(speech|chats)\.jsonl:\d+: the processes .*stuck, or one has ended .*worker.*num_workers"
    ):
        take(module(train_ds(corpus, num_workers=1)), 1)


def test_a_worker_that_is_stuck_is_told_with_its_row(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_loader, "POLL_SECS", 0.1)
    never = multiprocessing.Event()
    monkeypatch.setattr(Collator, "__call__", lambda *_: never.wait())
    with pytest.raises(
        DataError, match=r"jsonl:\d+: .*timed out.*expected a micro-batch within 0.2 s.*worker_timeout_secs"
    ):
        take(module(train_ds(corpus, num_workers=1, worker_timeout_secs=0.2)), 1)


def test_a_worker_that_is_slow_is_waited_for(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = take(module(train_ds(corpus, num_workers=0)), 3)
    monkeypatch.setattr(train_loader, "POLL_SECS", 0.05)
    polls, go_on, collate = [], multiprocessing.Event(), Collator.__call__
    monkeypatch.setattr(Collator, "__call__", lambda *given: (go_on.wait(), collate(*given))[1])
    wait = _MultiProcessingDataLoaderIter._try_get_data

    def counted(loader: Any, timeout: float = 5.0) -> Any:
        polls.append(timeout)
        if len(polls) == 3:
            go_on.set()
        return wait(loader, timeout)

    monkeypatch.setattr(_MultiProcessingDataLoaderIter, "_try_get_data", counted)
    slow = take(module(train_ds(corpus, num_workers=1)), 3)
    assert len(polls) > 3
    assert [batch.ids for batch in slow] == [batch.ids for batch in fast]
