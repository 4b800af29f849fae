"""Makes shards that train of a public corpus or of text chats; see `python examples/prepare_corpus.py --help`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from vtblender_nemo.corpora.shards import Format
from vtblender_nemo.synthesis.cli_options import Launcher
from vtblender_nemo.synthesis.engine.launchers import Launcher as LauncherKind

if TYPE_CHECKING:
    from vtblender_nemo.corpora.prepare import Options

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")

_CHATS = "chats"


@app.command()
def main(
    corpus: Annotated[
        str,
        typer.Option(
            help="librispeech, common_voice, mls, voxpopuli, fleurs, covost2, europarl_st, spoken_squad; or chats."
        ),
    ],
    input: Annotated[
        list[str],
        typer.Option(
            help="The corpus as it is unpacked, one folder. For chats: JSONL, parquet, a folder of them or that `datasets` "
            "saved, or owner/name:split of the Hugging Face hub; several by repeating it."
        ),
    ],
    output_dir: Annotated[
        Path, typer.Option(file_okay=False, help="Where shards go; a job that stopped there goes on.")
    ],
    format: Annotated[
        Format, typer.Option(help="tarred: NeMo manifests with tars of FLAC. shar: Lhotse's. Chats are JSONL.")
    ] = Format.tarred,
    splits: Annotated[
        Optional[list[str]],  # noqa: UP045 (Typer reads it at run time)
        typer.Option(help="Parts of the corpus, as train-clean-100; by default those it trains and tests with."),
    ] = None,
    languages: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Codes, as de, or pairs of translated speech, as en-de; by default all that are there."),
    ] = None,
    tasks: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="asr, ast or sqa: what the entries teach; by default all that the corpus can."),
    ] = None,
    name: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="Of the source in a blend, where no other may have it; the output folder's if not given. Of a corpus of "
            "speech: what the names of its sources begin with; the corpus's if not given."
        ),
    ] = None,
    launcher: Launcher = LauncherKind.local,
    workers: Annotated[int, typer.Option(min=1, help="Processes or Ray actors; they change no output.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the order of the rows.")] = 0,
    limit: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Most lines of every language and split, from the first on; for chats, most rows."),
    ] = None,
    rows_per_shard: Annotated[int, typer.Option(min=1, help="Rows of a shard, which is what a kill costs.")] = 1000,
) -> None:
    r"""Makes shards that train of a public corpus or of text chats.

    The corpus has to be there, unpacked in its own layout (see `conf/data/CORPORA.md`); nothing is downloaded. Audio
    becomes mono FLAC of 16 kHz. Beside the shards stand `input_cfg.yaml` with the entries of the training splits,
    `input_cfg.<split>.yaml` for the others, the wordings, `LICENCE.txt`, `summary.json`, and `rejected.jsonl` with every
    line that was not taken and why.

    Exit code: 0, or 1 if nothing was made of any line, or 2 if nothing could be done.

    Example: two parts of LibriSpeech, with four processes

    ```
    python examples/prepare_corpus.py --corpus librispeech --input /data/LibriSpeech \
      --splits train-clean-100,dev-clean --output-dir data/librispeech --workers 4
    python examples/train_vtb.py --config-name vtb_blend data.train_ds.input_cfg=data/librispeech/input_cfg.yaml
    ```
    """
    from vtblender_nemo.corpora.prepare import Options
    from vtblender_nemo.synthesis.cli_options import errors_told

    options = Options(format, _names(splits), _names(languages), _names(tasks), seed, limit, rows_per_shard, name=name)
    with errors_told():
        if corpus == _CHATS:
            _prepare_chats(input, output_dir, options, workers, launcher)
        else:
            _prepare_speech(corpus, input, output_dir, options, workers, launcher)


def _prepare_speech(
    corpus: str, inputs: list[str], output_dir: Path, options: Options, workers: int, launcher: LauncherKind
) -> None:
    from vtblender_nemo.common.errors import ConfigError
    from vtblender_nemo.corpora.prepare import prepare
    from vtblender_nemo.corpora.registry import known_corpora
    from vtblender_nemo.corpora.report import TRAINING
    from vtblender_nemo.corpora.shards import MAX_SECS

    if corpus not in known_corpora():
        expected = f"one of {', '.join([*known_corpora(), _CHATS])}"
        raise ConfigError("unknown corpus", value=corpus, expected=expected, knob="--corpus")
    if len(inputs) > 1:
        raise ConfigError("one folder is prepared at a time", value=inputs, expected="one", knob="--input")
    report = prepare(corpus, Path(inputs[0]), output_dir, options, workers, launcher)
    typer.echo(f"{output_dir}: {report.rows} rows, {report.hours:.2f} h of speech", err=True)
    for reason, count in report.refused.items():
        typer.echo(f"  {count} refused: {reason}; see {output_dir / 'rejected.jsonl'}", err=True)
    if report.long_rows:
        share = report.long_hours / report.hours
        typer.echo(
            f"  warning: {report.long_rows} rows ({report.long_hours:.2f} h, {share:.1%} of all) are longer than {MAX_SECS:g} s "
            f"and would be left out of training; take them with data.train_ds.max_duration={math.ceil(report.longest_secs)}",
            err=True,
        )
    if report.configs and output_dir / TRAINING not in report.configs:
        typer.echo(f"  no training split was prepared, so there is no {TRAINING}", err=True)
    for config in report.configs:
        typer.echo(f"  entries of input_cfg: {config}", err=True)
    raise typer.Exit(0 if report.rows else 1)


def _prepare_chats(inputs: list[str], output_dir: Path, options: Options, workers: int, launcher: LauncherKind) -> None:
    from vtblender_nemo.common.errors import ConfigError
    from vtblender_nemo.corpora.chats import prepare_chats
    from vtblender_nemo.synthesis.cli_options import tell
    from vtblender_nemo.synthesis.engine.synthesize import SynthesisOptions

    for flag in ("splits", "languages", "tasks"):
        if getattr(options, flag):
            raise ConfigError("chats have none of these", value=getattr(options, flag), knob=f"--{flag}")
    if options.format == Format.shar:
        raise ConfigError("chats have no audio", value=options.format.value, expected="JSONL alone", knob="--format")
    how = SynthesisOptions(
        options.seed, options.rows_per_shard, batch_rows=256, workers=workers, launcher=launcher, name=options.name
    )
    tell(prepare_chats(inputs, output_dir, how, limit=options.limit), output_dir)


def _names(values: list[str] | None) -> tuple[str, ...]:
    """Names of a flag that was repeated, or that lists them with commas."""
    return tuple(name for value in values or [] for name in value.split(",") if name)


if __name__ == "__main__":
    app()
