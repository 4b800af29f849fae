"""Files of every version load for ever, and answer as they did. A new version adds its own:
`python -m tests.helpers.released`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.helpers.models import quiet
from tests.helpers.released import FOLDER, answers
from vtblender_nemo import VTBlenderModel, __version__

MEGABYTE = 2**20


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.nemo")), ids=lambda path: path.stem)
def test_an_old_file_loads_and_answers_as_it_did(path: Path, tmp_path: Path) -> None:
    quiet()
    model = VTBlenderModel.restore_from(path).eval()
    wanted = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert answers(model) == wanted
    model.save_to(tmp_path / "now.nemo")
    assert answers(VTBlenderModel.restore_from(tmp_path / "now.nemo").eval()) == wanted


def test_every_version_has_a_small_file() -> None:
    sizes = {path.stem: path.stat().st_size for path in FOLDER.glob("*.nemo")}
    assert __version__ in sizes
    assert max(sizes.values()) < MEGABYTE / 2
