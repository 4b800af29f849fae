"""What stands beside the shards: entries of `input_cfg`, wordings, the licence, refusals and counts."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vtblender_nemo.common.errors import DataError
from vtblender_nemo.common.files import write_json, write_text
from vtblender_nemo.common.shipped import shipped
from vtblender_nemo.corpora.registry import Corpus, Task
from vtblender_nemo.corpora.shards import FILES, MAX_SECS, Format, Shard
from vtblender_nemo.synthesis.engine.writer import json_line

SUMMARY, TRAINING = "summary.json", "input_cfg.yaml"
_BY_LANGUAGE = "asr_by_language"  # wordings that name the language that is spoken


@dataclass(frozen=True)
class Report:
    """What came of a corpus.

    Attributes:
        rows: written.
        hours: of their audio; audio that several rows share counts for each.
        refused: by reason, the most frequent first.
        long_rows: those longer than the default of `data.train_ds.max_duration`, which training leaves out.
        long_hours: of their audio.
        longest_secs: the longest row.
        configs: files with entries for `data.train_ds.input_cfg`, the training splits' first.
    """

    rows: int
    hours: float
    refused: dict[str, int]
    long_rows: int
    long_hours: float
    longest_secs: float
    configs: tuple[Path, ...]


@dataclass(frozen=True)
class _Subset:
    """The shards of one language and split, with their counts."""

    folder: Path
    counts: list[dict[str, Any]]

    @property
    def language(self) -> str:
        return self.folder.parent.name

    @property
    def split(self) -> str:
        return self.folder.name

    @property
    def languages(self) -> dict[str, str]:
        """The codes that all its rows have in common."""
        return next((count["languages"] for count in self.counts if count["languages"]), {})

    @property
    def rows(self) -> int:
        return sum(count["rows"] for count in self.counts)

    @property
    def hours(self) -> float:
        return sum(count["row_secs"] for count in self.counts) / 3600

    @property
    def long_rows(self) -> int:
        return sum(count["long_rows"] for count in self.counts)

    @property
    def long_hours(self) -> float:
        return sum(count["long_row_secs"] for count in self.counts) / 3600

    @property
    def longest_secs(self) -> float:
        return max(count["longest_secs"] for count in self.counts)


def write_report(
    corpus: Corpus,
    tasks: Sequence[Task],
    format: Format,
    shards: Sequence[Shard],
    refused: Path,
    output_dir: Path,
    sources: str,
) -> Report:
    """Writes `input_cfg.yaml` (training splits), `input_cfg.<split>.yaml`, `prompts/`, `LICENCE.txt`, `rejected.jsonl` and
    `summary.json`.

    Args:
        corpus: which one.
        tasks: what its rows shall teach.
        format: of the shards.
        shards: all of them, done.
        refused: JSONL of the lines that gave no utterance.
        output_dir: of the job.
        sources: what the names of the entries begin with.
    """
    subsets = _subsets(shards)
    reasons = _write_rejected(refused, subsets, output_dir / "rejected.jsonl")
    configs = _write_configs(sources, tasks, format, [subset for subset in subsets if subset.rows], output_dir)
    write_text(_licence_note(corpus), output_dir / "LICENCE.txt")
    report = Report(
        rows=sum(subset.rows for subset in subsets),
        hours=sum(subset.hours for subset in subsets),
        refused=reasons,
        long_rows=sum(subset.long_rows for subset in subsets),
        long_hours=sum(subset.long_hours for subset in subsets),
        longest_secs=max((subset.longest_secs for subset in subsets), default=0.0),
        configs=tuple(configs),
    )
    summary = {
        "corpus": corpus.name,
        "rows": report.rows,
        "hours": round(report.hours, 4),
        "max_duration": MAX_SECS,
        "longer_rows": report.long_rows,
        "longer_hours": round(report.long_hours, 4),
        "longest_secs": report.longest_secs,
        "refused": reasons,
        "subsets": {
            f"{subset.language}/{subset.split}": {
                "rows": subset.rows,
                "hours": round(subset.hours, 4),
                "longer_rows": subset.long_rows,
                "longer_hours": round(subset.long_hours, 4),
                "longest_secs": subset.longest_secs,
                "clips": sum(count["clips"] for count in subset.counts),
                "refused_audio": sum(len(count["refused"]) for count in subset.counts),
                "shards": len(subset.counts),
            }
            for subset in subsets
        },
    }
    write_json(summary, output_dir / SUMMARY)
    return report


def _subsets(shards: Sequence[Shard]) -> list[_Subset]:
    folders: dict[Path, list[dict[str, Any]]] = {}
    for shard in shards:
        counts = json.loads(shard.done.read_text(encoding="utf-8"))
        folders.setdefault(shard.folder, []).append(counts)
    return [_Subset(folder, counts) for folder, counts in folders.items()]


def _write_rejected(listed: Path, subsets: Sequence[_Subset], path: Path) -> dict[str, int]:
    """Joins all refusals; gives their numbers by reason."""
    reasons: Counter[str] = Counter()
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    with unfinished.open("wb") as file:
        for row in _refusals(listed, subsets):
            reasons[row["reason"]] += 1
            file.write(json_line(row))
    unfinished.replace(path)
    return dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0])))


def _refusals(listed: Path, subsets: Sequence[_Subset]) -> Iterator[dict[str, Any]]:
    with listed.open(encoding="utf-8") as file:
        yield from map(json.loads, file)
    for subset in subsets:
        for count in subset.counts:
            yield from count["refused"]


def _write_configs(
    sources: str, tasks: Sequence[Task], format: Format, subsets: Sequence[_Subset], output_dir: Path
) -> list[Path]:
    """Writes entries, those of training splits to one file.

    Those of every other split go to one of its own, so that nothing trains on tests by accident.
    """
    files: dict[str, list[dict[str, Any]]] = {}
    for subset in sorted(subsets, key=lambda subset: not subset.split.startswith("train")):
        name = TRAINING if subset.split.startswith("train") else f"input_cfg.{subset.split}.yaml"
        files.setdefault(name, []).extend(_entry(sources, task, format, subset, output_dir) for task in tasks)
    for name, entries in files.items():
        write_text(yaml.safe_dump(entries, sort_keys=False, allow_unicode=True), output_dir / name)
    return [output_dir / name for name in files]


def _entry(sources: str, task: Task, format: Format, subset: _Subset, output_dir: Path) -> dict[str, Any]:
    spoken = subset.languages
    folder = f"{subset.language}/{subset.split}"
    rows, audio = (f"{folder}/{_numbered(name, len(subset.counts))}" for name in FILES[format])
    place = {"type": "lhotse_shar", "shar_path": folder}
    if format == Format.tarred:
        place = {"type": "nemo_tarred", "manifest_filepath": rows, "tarred_audio_filepaths": audio}
    prompts = _BY_LANGUAGE if task.name == "asr" and _foreign(spoken.get("source_lang")) else task.prompts
    used = ("source_lang", "target_lang") if task.name == "ast" else ("source_lang",)
    return {
        **place,
        "name": "_".join([sources, subset.language, subset.split, task.name]),
        "text_field": task.text_field,
        "task": task.name,
        "prompts": _copy_prompts(prompts, output_dir),
        "tags": {name: spoken[name] for name in used if name in spoken},
    }


def _numbered(name: str, count: int) -> str:
    """The name of one shard's file, or the pattern of several, as NeMo and this package write it."""
    return name.format(number=0) if count == 1 else name.replace("{number:06}", f"_OP_{0:06}..{count - 1:06}_CL_")


def _foreign(code: str | None) -> bool:
    """Whether a code is of another language than English, and one whose name wordings know."""
    from vtblender_nemo.data.prompts import language_name

    if code is None or code == "en":
        return False
    try:
        language_name(code)
    except DataError:
        return False
    return True


def _copy_prompts(name: str, output_dir: Path) -> str:
    """Puts a file of this package's wordings beside the shards; gives its path from the output folder."""
    path = shipped(f"prompts/{name}.yaml")
    target = output_dir / "prompts" / path.name
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, target)
    return f"prompts/{path.name}"


def _licence_note(corpus: Corpus) -> str:
    changes = [
        "recordings were cut to the corpus's own segments and made mono FLAC of 16 bits",
        "rows were put in another order and joined to shards",
        *([corpus.changes] if corpus.changes else []),
    ]
    return (
        f"These files were made from {corpus.title}.\n\n"
        f"Licence: {corpus.licence}.\nStated at: {corpus.stated_at}\n\n"
        f"What was changed: {'; '.join(changes)}.\n"
        "This note is no legal advice: read the licence where it is stated.\n"
    )
