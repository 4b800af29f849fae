"""Files of `conf/` that come with the package: installed they lie inside of it, in a checkout beside it."""

from __future__ import annotations

from pathlib import Path

from vtblender_nemo.common.errors import ConfigError


def shipped(file: str) -> Path:
    """The path of a file of `conf/`.

    Args:
        file: its path in there, as `prompts/asr.yaml`.

    Raises:
        ConfigError: it is not there.
    """
    package = Path(__file__).parents[1]
    places = [root / "conf" / file for root in (package, package.parent)]
    for place in places:
        if place.is_file():
            return place
    raise ConfigError("a file of the package is missing", path=places[0], expected="a whole installation")
