"""Every kind of bad input in `tests/benchmark/bad_input.md` is told by an error of ours, with all that helps to mend it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmark.bad_input import TABLE, lacking, told
from tests.benchmark.bad_input_kind import Kind
from tests.benchmark.bad_input_kinds import KINDS


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.where}: {kind.name}")
def test_bad_input_is_told(kind: Kind, tmp_path: Path) -> None:
    error = told(kind, tmp_path)
    assert lacking(kind, error) == set(), str(error)
    assert len(str(error)) < 1200


def test_the_table_has_every_kind() -> None:
    lines = [line for line in TABLE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")][1:]
    assert [line.split(" | ")[:2] for line in lines] == [[f"| {kind.name}", kind.where] for kind in KINDS]
    assert len(lines) >= 50
