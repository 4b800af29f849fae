"""Synthesis on a Ray cluster of two nodes writes the bytes that one process writes, whatever dies on the way."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Before Ray is imported, which reads them once: it tells nobody of itself, and leaves no token in the home folder.
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}

from tests.helpers.synthesis_works import Tones, run, tree, write_chats
from vtblender_nemo.synthesis.engine.crew import News
from vtblender_nemo.synthesis.engine.jobs import Job
from vtblender_nemo.synthesis.engine.launchers import Launcher, launch
from vtblender_nemo.synthesis.engine.ray_cluster import RayCrew
from vtblender_nemo.synthesis.inputs import open_chats

pytestmark = pytest.mark.slow
ray = pytest.importorskip("ray", reason="pip install 'vtblender_nemo[ray]'")

ROOT = Path(__file__).parents[2]
NODE = {"num_cpus": 1, "object_store_memory": 100_000_000, "include_dashboard": False}


@pytest.fixture(autouse=True)
def _python_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's workers find the works of the tests."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Two nodes with one CPU each, of this machine."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    cluster.add_node(**NODE)
    cluster.wait_for_nodes()
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def test_worker_killed_in_mid_run(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths are relative to where the command runs, which is not where the cluster was started."""
    monkeypatch.chdir(tmp_path)
    calm, killed, flags = Path("calm"), Path("ray"), Path("flags")
    flags.mkdir()
    texts = ["a", "b", "c", "d", "e kill-worker", "f", "unusable g", "refuse h", "i", "j"]
    chats = write_chats(Path("chats.jsonl"), texts)
    run(chats, calm)
    run(chats, killed, flags, launcher="ray", workers=2)
    assert (flags / "kill-worker").exists()
    assert tree(killed) == tree(calm)

    crash = write_chats(Path("crash.jsonl"), ["a crash"])
    with pytest.raises(ZeroDivisionError, match="a crash"):
        run(crash, Path("crash"), flags, launcher="ray", workers=2)


def test_node_lost_in_mid_run(cluster: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """From the tenth shard on workers wait until the loss is known, or the lost one might be done before it dies."""
    words = ["meet" if number < 6 else "hold" if number >= 30 else "" for number in range(90)]
    chats = write_chats(tmp_path / "chats.jsonl", [f"row {number} {word}" for number, word in enumerate(words)])
    run(chats, tmp_path / "calm")
    rows = open_chats([chats])
    shards = tuple(range(start, start + 3) for start in range(0, 90, 3))
    (tmp_path / "ray").mkdir()
    (tmp_path / "flags").mkdir()
    job = Job(Tones(flags=tmp_path / "flags"), rows, shards, tmp_path / "ray", seed=0, batch_rows=2)
    second = next(node for node in cluster.list_all_nodes() if node is not cluster.head_node)
    done = []
    for step in launch(job, range(len(shards)), Launcher.ray, 2):
        done += [step.shard] if step.whole else []
        if done and second in cluster.list_all_nodes():
            cluster.remove_node(second, allow_graceful=False)
        if not step.whole and not step.rows:  # a shard is to be made again
            (tmp_path / "flags" / "go").touch()
    assert "an actor died" in caplog.text
    assert sorted(done) == list(range(len(shards)))
    (tmp_path / "ray" / "job.json").write_bytes((tmp_path / "calm" / "job.json").read_bytes())
    run(chats, tmp_path / "ray")
    assert tree(tmp_path / "ray") == tree(tmp_path / "calm")


def test_ray_on_one_machine_without_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    chats = write_chats(tmp_path / "chats.jsonl", ["a", "b", "c", "d"])
    run(chats, tmp_path / "calm")
    run(chats, tmp_path / "ray", launcher="ray", workers=2)
    assert tree(tmp_path / "ray") == tree(tmp_path / "calm")
    assert not ray.is_initialized()


def wait_for_death(actor: Any) -> None:
    """Ray kills in its own time."""
    try:
        while True:
            ray.get(actor.load.remote())
    except ray.exceptions.RayActorError:
        pass


def test_actor_that_is_dead_already_never_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    rows = open_chats([write_chats(tmp_path / "chats.jsonl", ["a"])])
    crew = RayCrew(Job(Tones(), rows, (range(1),), tmp_path, seed=0, batch_rows=2), workers=2)
    try:
        dead, alive = crew.start(), crew.start()
        assert {crew.next() for _ in range(2)} == {(dead, News.FREE), (alive, News.FREE)}
        ray.kill(dead)
        wait_for_death(dead)
        crew.give(dead, 0)
        assert crew.next() == (dead, News.LOST)
        crew.give(alive, 0)
        assert [crew.next() for _ in range(3)] == [(alive, News.BEGUN), (alive, 1), (alive, News.FREE)]
    finally:
        crew.close()
