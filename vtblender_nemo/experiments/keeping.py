"""Finished runs of a sweep in a folder that outlives its machine, as one of a repository: later sweeps take them from there.

A run is one file, `runs/VARIANT-seedN.json.gz`: its scores, and the settings that decide them. Sweeps beside each other, as
`experiments/forgetting` and `experiments/lora_rank`, have some runs in common under other names: one sweep makes them for all.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vtblender_nemo.common.errors import DataError
from vtblender_nemo.common.files import write_bytes, write_json, write_text
from vtblender_nemo.experiments.settings import VariantConfig

RUNS = "runs"
_SETTINGS, _RUN = _FILES = ("settings.json", "run.json")
_NAMES = ("variant.name", "variant.x")
"""What a sweep calls a run by; decides no score."""


def keep(run: Path, kept: Path) -> None:
    """Keeps a finished run.

    Args:
        run: its folder.
        kept: the folder of the sweep's kept runs and report.
    """
    content = {name: (run / name).read_text(encoding="utf-8") for name in _FILES}
    packed = gzip.compress(json.dumps(content).encode(), mtime=0)  # the same bytes for the same run
    path = _path(run, kept)
    if not path.exists() or path.read_bytes() != packed:
        write_bytes(packed, path)


def take(run: Path, kept: Path, *, seed: int, variant: VariantConfig, settings: Mapping[str, Any]) -> bool:
    """Puts a kept run into its folder, as if it had been made there: its own, or one of the sweeps beside that has its settings.

    Args:
        run: its folder.
        kept: the folder of the sweep's kept runs.
        seed: of the run.
        variant: of the run.
        settings: what decides its scores, as `deciding_settings` tells it.

    Returns:
        Whether there was one.

    Raises:
        DataError: a kept file is damaged.
    """
    path = _path(run, kept)
    if path.exists():
        for name, text in _read(path).items():
            write_text(text, run / name)
        return True
    wanted = json.loads(json.dumps(settings))
    for path in sorted(kept.parent.glob(f"*/{RUNS}/*-seed{seed}.json.gz")):
        content = _read(path)
        if _but_names(json.loads(content[_SETTINGS])) == _but_names(wanted):
            scores = json.loads(content[_RUN])
            scores |= {"variant": variant.name, "x": variant.x, "line": variant.line}
            scores["about"] |= {"made_by": f"{path.parent.parent.name}: {path.name.removesuffix('.json.gz')}"}
            write_json(wanted, run / _SETTINGS)
            write_json(scores, run / _RUN)  # last: with it the run is done
            return True
    return False


def _read(path: Path) -> dict[str, str]:
    try:
        content = json.loads(gzip.decompress(path.read_bytes()))
        return {name: content[name] for name in _FILES}
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"a kept run cannot be read ({error})", path=path, expected="a file as sweeps keep it", knob="sweep.keep_in"
        ) from error


def _but_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in _NAMES}


def keep_report(sweep: Path, kept: Path) -> None:
    """Keeps a sweep's report and its plots."""
    for path in (*sweep.glob("report.*"), *sweep.glob("*.png")):
        write_bytes(path.read_bytes(), kept / path.name)


def _path(run: Path, kept: Path) -> Path:
    return kept / RUNS / f"{run.name}.json.gz"
