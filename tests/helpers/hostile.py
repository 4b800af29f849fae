"""Archives and files that somebody has tampered with."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

CONFIG = "model_config.yaml"


class Touch:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int | None = None) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    info.size = size if size is not None else 1 if kind == tarfile.REGTYPE else 0
    return info


def write_archive(
    path: Path, files: Mapping[str, bytes], mode: Any = "w", last: Sequence[tarfile.TarInfo] = ()
) -> Path:
    """A tar of files, with further members of arbitrary headers behind them, whose content is the letter x."""
    with tarfile.open(path, mode) as tar:
        for name, content in files.items():
            tar.addfile(member(name, size=len(content)), io.BytesIO(content))
        for info in last:
            tar.addfile(info, io.BytesIO(b"x" * info.size) if info.isreg() else None)
    return path


def repacked(source: Path, target: Path, replace: Mapping[str, bytes], extra: Sequence[tarfile.TarInfo] = ()) -> Path:
    """A copy of an archive with the contents of some members replaced, and others added."""
    with tarfile.open(source) as old:
        files = {one.name: old.extractfile(one).read() for one in old.getmembers() if one.isreg()}
    return write_archive(
        target, {name: replace.get(name.removeprefix("./"), content) for name, content in files.items()}, last=extra
    )


def changed_config(source: Path, change: Callable[[dict[str, Any]], Any]) -> bytes:
    """The configuration inside an archive, changed."""
    with tarfile.open(source) as old:
        name = next(name for name in old.getnames() if name.removeprefix("./") == CONFIG)
        config = yaml.safe_load(old.extractfile(name).read())
    change(config)
    return yaml.safe_dump(config).encode()
