"""`python -m tests.benchmark.bad_input`: makes every kind of bad input for real, and writes what its user is told to
`tests/benchmark/bad_input.md`.
"""

from __future__ import annotations

import logging
import re
import tempfile
from pathlib import Path

from tests.benchmark.bad_input_kind import Kind
from tests.benchmark.bad_input_kinds import KINDS
from tests.fuzz import files
from vtblender_nemo.common.errors import VTBlenderError

TABLE = Path(__file__).with_suffix(".md")


def told(kind: Kind, folder: Path) -> VTBlenderError:
    """What is raised of a kind; anything else than our own error passes.

    Args:
        kind: of bad input.
        folder: an empty one.
    """
    files.write_audio(folder)
    try:
        kind.read(folder)
    except VTBlenderError as error:
        return error
    raise AssertionError(f"{kind.name} ({kind.where}) is taken")


def lacking(kind: Kind, error: VTBlenderError) -> set[str]:
    """Parts that the error of a kind should tell and does not; a place is a file or a key."""
    has = {"value": error.value is not None, "expected": error.expected, "knob": error.knob}
    has["place"] = error.path is not None or error.knob
    return {part for part in kind.parts if not has[part]}


def main() -> None:
    logging.disable(logging.ERROR)
    lines = [
        "# What users are told of bad input",
        "",
        f"{len(KINDS)} kinds, made by `python -m tests.benchmark.bad_input`.",
        "",
    ]
    lines += ["| kind | where | error text |", "|---|---|---|"]
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as folder:
            error = told(kind, Path(folder))
            text = f"{type(error).__name__}: {error}".replace(folder, "FOLDER")
        if missing := lacking(kind, error):
            print(f"{kind.name} ({kind.where}) does not tell {', '.join(sorted(missing))}: {text}")
        text = re.sub(r"\s+", " ", text).replace("|", "\\|").replace("<", "&lt;")
        lines.append(f"| {kind.name} | {kind.where} | {text} |")
    TABLE.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{TABLE}: {len(KINDS)} kinds")


if __name__ == "__main__":
    main()
