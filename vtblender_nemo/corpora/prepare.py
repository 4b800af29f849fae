"""Prepares a corpus: found once, written shard by shard by whoever a launcher starts, and continued where it was stopped."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vtblender_nemo.common.errors import ConfigError, VTBlenderError
from vtblender_nemo.common.files import write_json
from vtblender_nemo.common.job_folder import JOB, alone, is_begun
from vtblender_nemo.common.progress import progress_bar
from vtblender_nemo.corpora.listing import LISTING, REFUSED, changed_lists, plan_shards, write_listing
from vtblender_nemo.corpora.registry import Corpus, Task, corpus_of
from vtblender_nemo.corpora.report import SUMMARY, Report, write_report
from vtblender_nemo.corpora.shards import Format, Shard, is_whole, make_shard
from vtblender_nemo.corpora.utterance import Selection
from vtblender_nemo.synthesis.engine.launchers import Launcher, launch

logger = logging.getLogger(__name__)

WORK = "work"


@dataclass(frozen=True)
class Options:
    """What is prepared, and how.

    Attributes:
        format: tarred NeMo manifests or Lhotse shar.
        splits: names of the corpus's parts; empty means those it trains and tests with.
        languages: codes, or pairs as `en-de`; empty means all that are there.
        tasks: what rows shall teach; empty means all that the corpus can.
        seed: of the order of the rows.
        limit: most lines of every language and split.
        rows_per_shard: rows of one shard, which is what is done again after a kill.
        sampling_rate: Hz of the audio that is written.
        name: what the sources' names in a blend begin with; None takes the corpus's. It may change when a job goes on.
    """

    format: Format = Format.tarred
    splits: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    seed: int = 0
    limit: int | None = None
    rows_per_shard: int = 1000
    sampling_rate: int = 16_000
    name: str | None = None

    def check(self) -> None:
        """
        Raises:
            ConfigError: a number out of range, or an empty name.
        """
        if self.name == "":
            raise ConfigError("source without a name", value=self.name, expected="some letters", knob="--name")
        for name, least in (("limit", 1), ("rows_per_shard", 1), ("sampling_rate", 8000)):
            value = getattr(self, name)
            if value is not None and value < least:
                knob = f"--{name.replace('_', '-')}"
                raise ConfigError("number out of range", value=value, expected=f">= {least}", knob=knob)


def prepare(
    name: str,
    folder: Path,
    output_dir: Path,
    options: Options,
    workers: int = 1,
    launcher: Launcher = Launcher.local,
) -> Report:
    """Makes shards of a corpus, or what an earlier run has left of them.

    Args:
        name: of the corpus.
        folder: the corpus as it is unpacked.
        output_dir: gets a folder of shards for every language and split, `input_cfg.yaml` and its like,
            `prompts/`, `LICENCE.txt`, `rejected.jsonl`, `summary.json`, and for continuing `job.json` and `work/`.
        options: what is prepared.
        workers: processes or actors; what is written does not depend on their number.
        launcher: `local` processes, or the actors of a `ray` cluster, whose nodes see the folders under the same paths. The
            corpus's lists are read, and its files looked at, by this process.

    Raises:
        ConfigError: an unknown corpus, options that do not fit it, or a folder that holds another job.
        DataError: lists that cannot be read, or not one utterance.
        MissingDependencyError: audio of a kind whose decoder is not installed, or Ray is not.
        WorkersLostError: workers were killed from outside again and again.
    """
    options.check()
    corpus = corpus_of(name)
    tasks = _tasks(corpus, options.tasks)
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"folder cannot be made ({error.strerror})", path=output_dir, knob="--output-dir") from error
    with alone(output_dir):
        _sweep(output_dir)
        settings = {"corpus": name, "input": str(folder.resolve()), **asdict(options)}
        settings.pop("name")  # no shard holds it
        if not is_begun(output_dir, settings):
            _check_empty(output_dir)
            write_json(settings, output_dir / JOB)
        shards = _planned(corpus, tasks, folder, output_dir, options, workers)
        _run(shards, (output_dir / WORK / LISTING, options.format, options.sampling_rate), workers, launcher)
        _sweep(output_dir)
        refused, sources = output_dir / WORK / REFUSED, options.name or corpus.name
        return write_report(corpus, tasks, options.format, shards, refused, output_dir, sources)


def _check_empty(output_dir: Path) -> None:
    """
    Raises:
        ConfigError: a finished job's files stand in the folder, of which its `job.json` was removed.
    """
    path = output_dir / SUMMARY
    if path.is_file():
        raise ConfigError("the folder holds another job", path=path, expected="an empty folder", knob="--output-dir")


def _planned(
    corpus: Corpus, tasks: Sequence[Task], folder: Path, output_dir: Path, options: Options, workers: int
) -> list[Shard]:
    """All shards, of utterances that are found now or were before."""
    work = output_dir / WORK
    if not (work / LISTING).is_file():
        selection = Selection(folder, options.splits, options.languages, options.limit, workers)
        try:
            write_listing(corpus.read(selection), tasks, work)
        except VTBlenderError:  # a mistake in the command, which may be given again in other words
            (output_dir / JOB).unlink()
            raise
    elif changed := changed_lists(work):
        logger.warning(
            "%s has changed since this job read it%s; it goes on with what it found then: give another --output-dir to take "
            "the corpus as it is now",
            changed[0],
            f", and {len(changed) - 1} more of the corpus's lists" if len(changed) > 1 else "",
        )
    return plan_shards(work, output_dir, options.seed, options.rows_per_shard)


def _tasks(corpus: Corpus, wanted: Sequence[str]) -> list[Task]:
    by_name = {task.name: task for task in corpus.tasks}
    for name in wanted:
        if name not in by_name:
            raise ConfigError(
                f"{corpus.title} cannot teach this",
                value=name,
                expected=f"some of {', '.join(by_name)}",
                knob="--tasks",
            )
    return [by_name[name] for name in wanted or by_name]


def _sweep(output_dir: Path) -> None:
    """Removes files that a killed process had not given their names yet."""
    for path in output_dir.rglob(".*"):
        if path.is_file() and path.suffix[1:].isdigit():
            path.unlink()


@dataclass(frozen=True)
class _Shards:
    """What every worker has to know: shards, the function that makes one, and what it is told besides."""

    shards: tuple[Shard, ...]
    make_one: Callable[..., Any]
    what: tuple[Path, Format, int]

    def open(self) -> _Shards:
        return self

    def make(self, number: int) -> Iterator[int]:
        shard = self.shards[number]
        self.make_one(shard, *self.what)
        yield len(shard.lines)


def _run(shards: Sequence[Shard], what: tuple[Path, Format, int], workers: int, launcher: Launcher) -> None:
    """Makes the shards that are not done yet, or whose files were lost."""
    todo = [number for number, shard in enumerate(shards) if not is_whole(shard, what[1])]
    if not todo:
        return
    total, left = (sum(len(shard.lines) for shard in some) for some in (shards, [shards[number] for number in todo]))
    steps = launch(_Shards(tuple(shards), make_shard, what), todo, launcher, workers)
    with progress_bar(total, done=total - left) as bar, closing(steps):
        for step in steps:
            if step.whole:
                bar.update(len(shards[step.shard].lines))
