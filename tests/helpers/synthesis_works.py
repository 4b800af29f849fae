"""Works for tests of the synthesis engine: every kind of outcome, faults on demand, and nothing that needs a model.

Nothing heavy is imported, since every worker process does so again. A row's text says what happens to it;
`python -m tests.helpers.synthesis_works INPUT OUTPUT WORKERS [FLAGS]` does a job.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vtblender_nemo.common.errors import DataError
from vtblender_nemo.synthesis.engine.synthesize import Summary, SynthesisOptions, synthesize
from vtblender_nemo.synthesis.inputs import open_chats
from vtblender_nemo.synthesis.work import Clip, InputRow, Made, Outcome, Refused, Work

RATE = 16000


@dataclass(frozen=True)
class Tones(Work):
    """Says every chat as a tone whose pitch is drawn for its row.

    Attributes:
        flags: a folder where a fault that was met leaves a file, so that it is met once; None: no faults.
    """

    seed: int = 0
    flags: Path | None = None

    def settings(self) -> dict[str, Any]:
        return {"name": "tones", "seed": self.seed}

    def open(self) -> _Toner:
        if self.flags is not None:
            (self.flags / f"opened-{os.getpid()}-{time.monotonic_ns()}").touch()
        return _Toner(self)


class _Toner:
    def __init__(self, work: Tones) -> None:
        self._work = work

    def __call__(self, rows: Sequence[InputRow]) -> list[list[Outcome]]:
        return [self._outcomes(row) for row in rows]

    def _outcomes(self, row: InputRow) -> list[Outcome]:
        text = row.data["messages"][0]["content"]
        self._faults(text)
        if "refuse" in text:
            return [Refused("not_wanted", text)]
        if "silent" in text:
            return []
        rng = row.rng(self._work.seed, "pitch")
        pitch, variants = rng.uniform(100, 400), rng.randint(1, 2)
        made: list[Outcome] = [
            self._made(row, number, pitch, np.nan if "nan" in text else 0.3) for number in range(variants)
        ]
        return [*made, Refused("one_less", text)] if "less" in text else made

    def _faults(self, text: str) -> None:
        if "unusable" in text:
            raise DataError("row cannot be used", value=text)
        if self._work.flags is None:
            return
        for fault, pid in (("kill-worker", os.getpid), ("kill-main", os.getppid)):
            flag = self._work.flags / fault
            if fault in text and not flag.exists():
                flag.touch()
                os.kill(pid(), signal.SIGKILL)
        if "meet" in text:  # waits for a second worker
            (self._work.flags / f"here-{os.getpid()}").touch()
            while len(list(self._work.flags.glob("here-*"))) < 2:
                time.sleep(0.01)
        while "hold" in text and not (self._work.flags / "go").exists():
            time.sleep(0.01)
        if "die-always" in text:
            os.kill(os.getpid(), signal.SIGKILL)
        if "crash" in text:
            raise ZeroDivisionError(text)

    def _made(self, row: InputRow, number: int, pitch: float, level: float) -> Made:
        times = np.arange(RATE // 10) / RATE
        clip = Clip(f"{row.id}-{number}", (level * np.sin(2 * np.pi * pitch * times)).astype(np.float32), RATE)
        conversations = [
            {"type": "audio", "from": "User", "value": f"{clip.name}.flac", "duration": 0.1},
            {"type": "text", "from": "Assistant", "value": f"{pitch:.3f}"},
        ]
        row_out = {"id": clip.name, "conversations": conversations, "provenance": {"engine": "tones"}}
        if "gpus" in row.data["messages"][0]["content"]:
            row_out["gpus"] = os.environ.get("CUDA_VISIBLE_DEVICES")
        return Made(row_out, (clip,))


@dataclass(frozen=True)
class Copies(Work):
    """Gives every row back."""

    def settings(self) -> dict[str, Any]:
        return asdict(self)

    def open(self) -> _Copier:
        return _Copier()


class _Copier:
    def __call__(self, rows: Sequence[InputRow]) -> list[list[Outcome]]:
        return [[Made(dict(row.data))] for row in rows]


def write_chats(path: Path, texts: Sequence[str]) -> Path:
    """Chats with these first words; a text that begins with `{` is a line as it is."""
    lines = [text if text.startswith("{") else json.dumps(_chat(number, text)) for number, text in enumerate(texts)]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def _chat(number: int, text: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}, {"role": "assistant", "content": f"{number}"}]
    return {"id": f"c{number}", "messages": messages}


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder but `summary.json`, which holds times."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "summary.json"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def run(chats: Path, output_dir: Path, flags: Path | None = None, **options: Any) -> Summary:
    """Tones of chats, three rows a shard and two a batch; the entry's name is the same for every folder."""
    chosen = SynthesisOptions(**{"rows_per_shard": 3, "batch_rows": 2, "name": "tones", **options})
    return synthesize(Tones(flags=flags), open_chats([chats]), output_dir, chosen)


if __name__ == "__main__":
    chats, output_dir, workers = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    run(chats, output_dir, Path(sys.argv[4]) if len(sys.argv) > 4 else None, workers=workers)
