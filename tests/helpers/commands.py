"""The commands of `examples/` in this process, and what they leave."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(script: str, *flags: Any) -> Result:
    """Runs a command by its name, as `synthesize_sqa`, with flags of any type."""
    spec = importlib.util.spec_from_file_location(script, EXAMPLES / f"{script}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return CliRunner().invoke(module.app, [str(flag) for flag in flags])


def rejected(output: Path) -> dict[str, str]:
    """Reasons by row; of a row with several, the last."""
    rows = [json.loads(line) for line in (output / "rejected.jsonl").read_text().splitlines()]
    return {row["id"]: row["reason"] for row in rows}
