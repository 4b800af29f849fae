"""Flags that all synthesis commands share, and how they tell their errors and what came of them.

The types are for parameters of a Typer command, as `workers: Workers = 1`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from vtblender_nemo.common.errors import VTBlenderError
from vtblender_nemo.synthesis.engine.launchers import Launcher as LauncherKind
from vtblender_nemo.synthesis.engine.synthesize import ENTRY, SUMMARY, Summary
from vtblender_nemo.synthesis.engine.writer import REJECTED

_MOST_REASONS = 10

SpeechInput = Annotated[
    list[str],
    typer.Option(
        "--input",
        help="Transcribed speech: a NeMo manifest, Lhotse cuts or a Lhotse shar folder; several of one kind by repeating "
        "it, or by a numbered pattern such as manifest__OP_0..7_CL_.json. Or the input_cfg.yaml that prepare_corpus has left.",
    ),
]
Tars = Annotated[
    list[str] | None,
    typer.Option("--tar", help="The tars of a NeMo manifest's audio, by repeating it or by a numbered pattern."),
]
ChatInput = Annotated[
    list[str],
    typer.Option(
        "--input",
        help="Chats: JSONL, parquet, a folder of them, a folder that `datasets` saved, or owner/name:split of the Hugging "
        "Face hub; several by repeating it.",
    ),
]
OutputDir = Annotated[
    Path, typer.Option("--output-dir", file_okay=False, help="Where shards go; a job that stopped there goes on.")
]
Name = Annotated[
    str | None,
    typer.Option(
        "--name", help="Of the source in a blend, where no other may have it; the output folder's if not given."
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Of all that is random.")]
Launcher = Annotated[
    LauncherKind,
    typer.Option(
        "--launcher", help="local: processes of this machine. ray: the cluster of RAY_ADDRESS, or one started here."
    ),
]
Workers = Annotated[int, typer.Option("--workers", min=1, help="Processes or Ray actors; they change no output.")]
RowsPerShard = Annotated[
    int,
    typer.Option(
        "--rows-per-shard",
        min=1,
        help="Input rows of a shard, which is what a kill costs, the replies of an endpoint among it; tarred input keeps its "
        "tars.",
    ),
]
BatchRows = Annotated[int, typer.Option("--batch-rows", min=1, help="Rows that are worked on at once.")]
GpusPerWorker = Annotated[
    int,
    typer.Option(
        "--gpus-per-worker", min=0, help="GPUs of each worker alone; 0 shows all of them to all, under Ray none."
    ),
]


_JOB_FLAGS = {"input": "--input", "work.work": "another command"}
_KEY = re.compile(r"[a-z]\w*(\[\d*\])?(\.[\w-]+(\[\d*\])?)*")


@contextmanager
def errors_told(flags: Mapping[str, str] | None = None, app: typer.Typer | None = None) -> Iterator[None]:
    """Prints a user's mistake in one line and ends the command with exit code 2.

    Args:
        flags: by a key of the configuration or of `job.json`, as `spans.turns`, `engines[].type` or `work.llm`: the flag that
            sets it, or all that is below it; told beside the key.
        app: the command; its other keys are told with the flag of their name, or as keys of the file of `--config`.
    """
    try:
        yield
    except VTBlenderError as error:
        knob = _knob(error.knob or "", {**_JOB_FLAGS, **(flags or {})}, _options(app))
        told = type(error)(**{**vars(error), "knob": knob or None})
        typer.echo(f"error: {told}", err=True)
        raise typer.Exit(2) from error


def _options(app: typer.Typer | None) -> frozenset[str]:
    params = typer.main.get_command(app).params if app is not None else []
    return frozenset(option for param in params for option in param.opts)


def _knob(knob: str, flags: Mapping[str, str], options: frozenset[str]) -> str:
    """What changes it, with a flag for every key that has one."""
    parts = re.split(r"(,? or |, )", knob)
    without_flag = None
    for place, part in enumerate(parts):
        if place % 2 or not _KEY.fullmatch(part):
            continue
        flag = _flag(re.sub(r"\[\d+\]", "[]", part), flags, options)
        parts[place] = f"{flag} ({part})" if flag else re.sub(r"^(work|config)\.", "", part)
        without_flag = without_flag if flag else place
    if without_flag is not None and "--config" in options:
        parts[without_flag] += " in the file of --config"
    return "".join(parts)


def _flag(key: str, flags: Mapping[str, str], options: frozenset[str]) -> str | None:
    for above in (key, key.removeprefix("work.")):
        while above:
            if above in flags:
                return flags[above]
            above = above.rpartition(".")[0]
    own = "--" + key.rpartition(".")[2].replace("_", "-")
    return own if own in options and (key.startswith("work.") or "." not in key) else None


def tell(summary: Summary, output_dir: Path) -> None:
    """Prints what came of a job, and ends the command: exit code 0, or 1 if nothing was made of any row."""
    typer.echo(f"{output_dir}: {summary.made} rows made of {summary.rows} in {summary.shards} shards", err=True)
    if summary.clips:
        typer.echo(f"  {summary.clips} clips, {summary.audio_secs / 3600:.2f} h of speech", err=True)
    for reason, count in list(summary.refused_by_reason.items())[:_MOST_REASONS]:
        typer.echo(f"  {count} refused: {reason}", err=True)
    if summary.refused_by_reason:
        more = len(summary.refused_by_reason) - _MOST_REASONS
        others = f"; {more} more reasons are counted in {SUMMARY}" if more > 0 else ""
        typer.echo(f"  each with its reason in {output_dir / REJECTED}{others}", err=True)
    if summary.entry is None:
        typer.echo("warning: nothing was made of any row", err=True)
    else:
        typer.echo(f"  train on it with data.train_ds.input_cfg={output_dir / ENTRY}", err=True)
    raise typer.Exit(summary.exit_code)
