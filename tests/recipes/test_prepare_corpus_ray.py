"""A corpus that the actors of a Ray cluster prepare is the one that one process prepares."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before Ray is imported, which reads them once: it tells nobody of itself, and leaves no token in the home folder.
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}

from tests.helpers.corpora import files_of, librispeech
from vtblender_nemo.corpora.prepare import Options, prepare
from vtblender_nemo.synthesis.engine.launchers import Launcher

pytestmark = pytest.mark.slow
pytest.importorskip("ray", reason="pip install 'vtblender_nemo[ray]'")

ROOT = Path(__file__).parents[2]


def test_actors_write_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.chdir(tmp_path)  # paths are relative to where the command runs
    librispeech(Path("corpus"), rows=5)
    options = Options(rows_per_shard=2)
    here = prepare("librispeech", Path("corpus"), Path("here"), options)
    ray = prepare("librispeech", Path("corpus"), Path("ray"), options, workers=2, launcher=Launcher.ray)
    assert ray.rows == here.rows == 10
    assert files_of(tmp_path / "ray") == files_of(tmp_path / "here")
