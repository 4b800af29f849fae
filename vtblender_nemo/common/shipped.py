"""Files of `conf/` that come with the package: installed they lie inside of it, in a checkout beside it."""

from __future__ import annotations

from pathlib import Path

from vtblender_nemo.common.errors import ConfigError

_PACKAGE = Path(__file__).parents[1]
_FOLDERS = [root / "conf" for root in (_PACKAGE, _PACKAGE.parent)]


def shipped(file: str) -> Path:
    """The path of a file of `conf/`.

    Args:
        file: its path in there, as `prompts/asr.yaml`.

    Raises:
        ConfigError: it is not there.
    """
    places = [folder / file for folder in _FOLDERS]
    for place in places:
        if place.is_file():
            return place
    raise ConfigError("a file of the package is missing", path=places[0], expected="a whole installation")


def shipped_by_name(folder: str) -> dict[str, Path]:
    """The YAML files of a folder of `conf/`, by their names without suffix, in the order of these."""
    return {path.stem: path for place in _FOLDERS for path in sorted((place / folder).glob("*.yaml"))}
