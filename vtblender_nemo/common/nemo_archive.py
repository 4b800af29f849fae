"""`.nemo` archives that nobody has to trust: the members that are checked are the ones that are unpacked.

Nothing of NeMo is imported; `common/nemo_restore.py` restores models through this.
"""

from __future__ import annotations

import lzma
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

import yaml

from vtblender_nemo.common.errors import ModelFileError
from vtblender_nemo.common.trusted_classes import Trusted, check_classes

CONFIG_FILE = "model_config.yaml"
WEIGHTS_FILE = "model_weights.ckpt"
_MOST_CONFIG_BYTES = 16 << 20
_MOST_MEMBERS = 10_000
_MOST_UNPACKED = 20  # times the archive's size; weights hardly shrink when they are packed
_SMALL_BYTES = 64 << 20  # what may be unpacked of any archive
_PLAIN_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE)
_READ_ERRORS = (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError, ValueError, OverflowError)


def check_archive(path: str | Path, trusted: Trusted) -> dict[str, Any]:
    """Makes sure that a file is a `.nemo` of a kind of model, and safe to unpack.

    Returns:
        The model's configuration.

    Raises:
        ModelFileError: no such file, no tar archive, members that lie outside of it, stand in it twice, are links, devices or
            sparse, or are larger than such an archive can hold; no configuration or weights; a configuration that names
            other classes than `trusted`.
    """
    path = _existing(path)
    with _members(path) as (archive, members):
        for wanted in (CONFIG_FILE, WEIGHTS_FILE):
            if wanted not in members or not members[wanted].isreg():
                raise ModelFileError(
                    f"the archive holds no {wanted}", path=path, expected=f"a .nemo file of {trusted.what}"
                )
        content = _read(archive, members[CONFIG_FILE], path)
    return check_config(content, trusted, path)


def unpack(path: str | Path, folder: str | Path, names: set[str] | None = None) -> None:
    """Unpacks an archive, or members of it.

    Args:
        path: the archive.
        folder: where to.
        names: of members, as they stand in the archive; all of them by default.

    Raises:
        ModelFileError: see `check_archive`; members are checked in the same pass that unpacks them.
    """
    path = _existing(path)
    with _members(path) as (archive, members):
        for member in members.values():
            if names is None or member.name in names:
                archive.extract(member, folder, filter="data")


def check_config(content: bytes, trusted: Trusted, path: str | Path) -> dict[str, Any]:
    """A configuration out of an archive.

    Raises:
        ModelFileError: it is too large, no YAML mapping, has a key twice, or names other classes than `trusted`.
    """
    if len(content) > _MOST_CONFIG_BYTES:
        raise ModelFileError(
            f"{CONFIG_FILE} is too large", path=path, value=len(content), expected=f"at most {_MOST_CONFIG_BYTES} bytes"
        )
    try:
        config = yaml.load(content, _OnceLoader)  # a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        said = (getattr(error, "problem", None) or str(error) or type(error).__name__).splitlines()[0]
        mark = getattr(error, "problem_mark", None)
        where = f" in its line {mark.line + 1}" if mark is not None else ""
        raise ModelFileError(
            f"{CONFIG_FILE} is no plain YAML ({said}{where})", path=path, expected="a mapping, as save_to wrote it"
        ) from error
    if not isinstance(config, dict):
        raise ModelFileError(f"{CONFIG_FILE} holds no mapping", path=path, value=config)
    check_classes(config, trusted, path)
    return config


class _OnceLoader(yaml.SafeLoader):
    """YAML whose mappings have every key once, as OmegaConf wants it: no second value is read in place of a checked one."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for child, _ in node.value:
            key = str(child.value)
            if key in seen and child.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {key!r} stands twice", problem_mark=child.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise ModelFileError("model file not found", path=path, expected="a .nemo file that is there")
    return path


@contextmanager
def _members(path: Path) -> Iterator[tuple[tarfile.TarFile, dict[str, tarfile.TarInfo]]]:
    """An open archive and its checked members by their plain names."""
    try:
        with _open(path) as archive:
            yield archive, _checked(archive, path)
    except _READ_ERRORS as error:
        raise ModelFileError(
            f"not a .nemo archive ({error})", path=path, expected="a tar file, plain or gzipped"
        ) from error


def _open(path: Path) -> tarfile.TarFile:
    """As NeMo opens it: plain, or else by gzip."""
    try:
        return tarfile.open(path, "r:")
    except tarfile.ReadError as plain:
        try:
            return tarfile.open(path, "r:gz")
        except tarfile.ReadError:
            raise plain from None


def _checked(archive: tarfile.TarFile, path: Path) -> dict[str, tarfile.TarInfo]:
    """Members by name, told by their headers one after another: what is too large is not even read."""
    members: dict[str, tarfile.TarInfo] = {}
    known: set[str] = set()
    most = max(_SMALL_BYTES, _MOST_UNPACKED * path.stat().st_size)
    total = 0
    for member in archive:
        name = str(PurePosixPath(member.name))
        plain = not (
            PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name or "\0" in name
        )
        if not plain or not (member.type in _PLAIN_FILES or member.isdir()) or member.issparse():
            raise ModelFileError(
                "unsafe member in the archive", path=path, value=member.name[:200], expected="plain files inside it"
            )
        if name.casefold() in known and not member.isdir():
            raise ModelFileError(
                "a file stands in the archive twice", path=path, value=name, expected="every name once"
            )
        total += member.size
        if total > most or len(members) >= _MOST_MEMBERS:
            raise ModelFileError(
                "the archive unpacks to more than a model's can",
                path=path,
                value=f"{total} bytes in {len(members) + 1} files or more",
                expected=f"at most {most} bytes in {_MOST_MEMBERS} files",
            )
        known.add(name.casefold())
        members[name] = member
    return members


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> bytes:
    if member.size > _MOST_CONFIG_BYTES:
        raise ModelFileError(
            f"{CONFIG_FILE} is too large", path=path, value=member.size, expected=f"at most {_MOST_CONFIG_BYTES} bytes"
        )
    content: IO[bytes] | None = archive.extractfile(member)
    assert content is not None, "a plain file has content"
    return content.read()
