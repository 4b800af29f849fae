"""The listing of a job: every utterance that a corpus gives, found once, in the corpus's own order, one a line."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from vtblender_nemo.common.errors import DataError
from vtblender_nemo.common.files import write_json
from vtblender_nemo.corpora.registry import Task
from vtblender_nemo.corpora.shards import Shard
from vtblender_nemo.corpora.utterance import Found, Refusal, Utterance
from vtblender_nemo.data.rows import LineFile
from vtblender_nemo.synthesis.engine.writer import json_line

LISTING, REFUSED, DONE, LISTS = "listing.jsonl", "refused.jsonl", "done", "lists.json"


def write_listing(found: Found, tasks: Sequence[Task], folder: Path) -> None:
    """Writes `listing.jsonl` and, before it, `refused.jsonl` and `lists.json`; what stands there already is replaced.

    Args:
        found: what a corpus gives.
        tasks: what rows have to have a text for.
        folder: where the files go.

    Raises:
        DataError: not one utterance was found.
    """
    folder.mkdir(parents=True, exist_ok=True)
    known: set[bytes] = set()
    reasons: Counter[str] = Counter()
    lists: dict[str, list[int] | None] = {}
    unfinished = [folder / f".{name}.{os.getpid()}" for name in (LISTING, REFUSED)]
    with unfinished[0].open("wb") as rows, unfinished[1].open("wb") as refused:
        for item in found:
            path, _, line = item.place.rpartition(":")
            if line and path not in lists:
                lists[path] = _stamp(path)
            checked = item if isinstance(item, Refusal) else _checked(item, tasks, known)
            file = refused if isinstance(checked, Refusal) else rows
            reasons.update([checked.reason] if isinstance(checked, Refusal) else [])
            file.write(json_line(asdict(checked)))
        empty = not rows.tell()
    unfinished[1].replace(folder / REFUSED)
    if empty:
        raise DataError(
            "no utterance could be taken",
            path=folder / REFUSED,
            value=dict(reasons.most_common()) or "no line",
            expected="the corpus as it is unpacked (conf/data/CORPORA.md); every line's reason stands in this file",
            knob="--input",
        )
    write_json({path: stamp for path, stamp in lists.items() if stamp is not None}, folder / LISTS)
    unfinished[0].replace(folder / LISTING)


def changed_lists(folder: Path) -> list[str]:
    """The corpus's own lists that were changed or removed since the listing was made of them.

    Args:
        folder: of the listing.
    """
    path = folder / LISTS
    stamps = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return [name for name, stamp in stamps.items() if _stamp(name) != stamp]


def _stamp(path: str) -> list[int] | None:
    """Size and time of change (ns) of a file; None if there is none."""
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]


def _checked(utterance: Utterance, tasks: Sequence[Task], known: set[bytes]) -> Utterance | Refusal:
    """The utterance with an id that may name a file, or why it is refused."""
    safe = replace(utterance, id=utterance.id.replace("/", "_"), clip=utterance.clip.replace("/", "_"))
    key = hashlib.blake2b(f"{safe.subset}\0{safe.id}".encode(), digest_size=8).digest()
    fields = {"transcript": safe.text} | {
        task.text_field: safe.fields.get(task.text_field, safe.text) for task in tasks
    }
    fields.pop("text", None)
    for name, text in fields.items():
        if not str(text).strip():
            return Refusal(safe.id, safe.place, f"empty_{name}")
    if key in known:
        return Refusal(safe.id, safe.place, "duplicate_id", safe.id)
    known.add(key)
    return safe


def plan_shards(folder: Path, output_dir: Path, seed: int, rows_per_shard: int) -> list[Shard]:
    """Deals the listed utterances out to shards, language by language and split by split.

    Files are taken in a random order that follows from the seed; the parts of one file stay together, so that it is decoded
    once.

    Args:
        folder: of the listing.
        output_dir: gets a folder for every language and split.
        seed: of the order.
        rows_per_shard: most rows of a shard.
    """
    groups: dict[str, dict[str, list[int]]] = {}
    names: dict[tuple[str, str], str] = {}
    lines = LineFile(folder / LISTING)
    for number in range(len(lines)):
        row = json.loads(lines[number])
        subset, audio = f"{row['language']}/{row['split']}", "\0".join(row["audio"])
        groups.setdefault(subset, {}).setdefault(audio, []).append(number)
        names.setdefault((subset, audio), row["id"])  # not the path: the order is the same wherever the corpus stands
    shards = []
    for subset, files in groups.items():
        drawn = {audio: _drawn(seed, names[(subset, audio)]) for audio in files}
        order = sorted(files, key=drawn.__getitem__)
        numbers = [number for audio in order for number in files[audio]]
        parts = [numbers[start : start + rows_per_shard] for start in range(0, len(numbers), rows_per_shard)]
        for index, part in enumerate(parts):
            shards.append(Shard(output_dir / subset, index, tuple(part), folder / DONE / subset / f"{index:06}.json"))
    return shards


def _drawn(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{name}".encode()).digest()
