"""One process of fuzzing: libFuzzer by atheris draws inputs by the coverage of this package's code.

Crashes do not stop it: each new one (by error, and by the last line of this package) keeps its input and trace in a folder.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["vtblender_nemo"], enable_loader_override=False):
    from tests.fuzz.targets import Target, open_target

from tests.fuzz.mutate import Case, dumped, mutated, parsed

_BYTES_SHARE = 0.1  # of the changes are to bytes: the parsers are read too
_SLOW_SECS = 20


class Slow(Exception):
    """An input took too long."""


def main(name: str, seconds: int, corpus: Path, crashes: Path, seed: int) -> None:
    """Fuzzes until the time is over; libFuzzer then ends the process."""
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="fuzz_", dir=memory if memory.is_dir() else None))
    with atheris.instrument_imports(include=["vtblender_nemo"], enable_loader_override=False):
        target = open_target(name, folder)
    for case in target.seeds:
        if not target.read(case):
            sys.stderr.write(f"a seed of kind {case[0]} is refused\n")
    corpus.mkdir(parents=True, exist_ok=True)
    for number, case in enumerate(target.seeds):
        (corpus / f"seed_{number:03}").write_text(_text(case))
    session = _Session(target, crashes, time.monotonic() + seconds, folder)
    signal.signal(signal.SIGALRM, _slow)
    flags = [f"-seed={seed}", "-max_len=40000", "-rss_limit_mb=4096", f"-max_total_time={seconds + 60}"]
    atheris.Setup(["fuzz", *flags, str(corpus)], session.read, custom_mutator=session.mutator)
    try:
        atheris.Fuzz()
    except BaseException:
        traceback.print_exc()
    finally:  # threads of the libraries keep the process from ending by itself
        session.end(1)


class _Session:
    """What libFuzzer calls, and what came of it."""

    def __init__(self, target: Target, crashes: Path, end_secs: float, folder: Path) -> None:
        self._target, self._crashes, self._end_secs, self._folder = target, crashes, end_secs, folder
        self._seen: set[str] = set()
        self._read = self._taken = 0

    def read(self, data: bytes) -> None:
        if time.monotonic() > self._end_secs:
            self.end(0)
        case = parsed(data)
        if case is None:
            return
        self._read += 1
        signal.alarm(_SLOW_SECS)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                self._taken += self._target.read(case)
        except Exception as error:
            _keep(error, case, self._crashes, self._seen)
        finally:
            signal.alarm(0)

    def mutator(self, data: bytes, max_size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        case = parsed(data) or rng.choice(self._target.seeds)
        try:
            return _text(self._changed(case, rng, max_size)).encode("utf-8", "replace")[:max_size]
        except (ArithmeticError, RecursionError, ValueError):  # too deep or too large to be changed any further
            return _text(rng.choice(self._target.seeds)).encode()[:max_size]

    def _changed(self, case: Case, rng: random.Random, max_size: int) -> Case:
        if rng.random() > _BYTES_SHARE:
            return mutated(case, self._target.seeds, rng, lambda content: atheris.Mutate(content, len(content) + 20))
        kind, value = case
        text = value if isinstance(value, str) else dumped(value)
        return kind, atheris.Mutate(text.encode("latin-1", "replace"), max_size).decode("latin-1")

    def end(self, status: int) -> None:
        sys.stderr.write(f"executions: {self._read}, {self._taken} of them taken; crashes: {len(self._seen)}\n")
        sys.stderr.flush()
        shutil.rmtree(self._folder, ignore_errors=True)
        os._exit(status)


def _text(case: Case) -> str:
    return f"[{json.dumps(case[0])}, {dumped(case[1])}]"


def _slow(*_: Any) -> None:
    raise Slow(f"an input took more than {_SLOW_SECS} s")


def _keep(error: BaseException, case: Case, crashes: Path, seen: set[str]) -> None:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "vtblender_nemo" in frame.filename and "/tests/" not in frame.filename]
    place = f"{Path(ours[-1].filename).stem}_{ours[-1].lineno}" if ours else "nowhere"
    name = f"{case[0]}_{type(error).__name__}_{place}"
    if name in seen:
        return
    seen.add(name)
    crashes.mkdir(parents=True, exist_ok=True)
    (crashes / f"{name}.json").write_text(_text(case))
    (crashes / f"{name}.txt").write_text("".join(traceback.format_exception(error, limit=-12))[-20_000:])
    sys.stderr.write(f"CRASH {name}: {str(error)[:150]!r}\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]), int(sys.argv[5]))
