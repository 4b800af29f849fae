"""Checks the rows of a blend and shows what is in it; see `python examples/inspect_blend.py --help`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # the rows are shared out among processes instead

import typer

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")

_CHECKS, _BLEND, _OUTPUT = "What is checked", "How it is blended", "What is written"


def _flag(panel: str, help: str, *names: str, min: float | None = None) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, min=min)


@app.command()
def main(
    input: Annotated[
        list[Path],
        typer.Option(
            help="YAML of sources (a list, or under `input_cfg`); several make one blend. Or one training configuration."
        ),
    ],
    report: Annotated[
        Optional[Path],  # noqa: UP045 (Typer reads it at run time)
        _flag(_OUTPUT, "One HTML file with plots and playable samples."),
    ] = None,
    json: Annotated[Optional[Path], _flag(_OUTPUT, "Everything but the samples, for machines.", "--json")] = None,  # noqa: UP045
    findings: Annotated[
        Optional[Path],  # noqa: UP045
        _flag(_OUTPUT, "Every bad row and warning, JSONL."),
    ] = None,
    samples: Annotated[int, _flag(_OUTPUT, "Conversations in the report.", min=0)] = 12,
    audio: Annotated[
        Literal["none", "header", "decode"],
        _flag(
            _CHECKS,
            "none trusts the rows and reads no audio (of tars their members' names), header opens every file, decode "
            "decodes every file.",
        ),
    ] = "header",
    llm: Annotated[
        Optional[str],  # noqa: UP045
        _flag(_CHECKS, "Hugging Face folder or hub name whose tokenizer counts; without it counts are estimated."),
    ] = None,
    locator_tag: Annotated[
        Optional[str],  # noqa: UP045
        _flag(_CHECKS, "Text that no row may hold; default: the training configuration's, or `<unused0>`."),
    ] = None,
    max_rows: Annotated[
        Optional[int],  # noqa: UP045
        _flag(_CHECKS, "Rows of every source that are checked, from its first on; default: all.", min=1),
    ] = None,
    override: Annotated[
        Optional[list[str]],  # noqa: UP045
        _flag(_BLEND, "key=value of a training configuration, as its training takes it.", "--set"),
    ] = None,
    draws: Annotated[int, _flag(_BLEND, "Rows drawn for shares, bins and padding.", min=1)] = 10_000,
    batch_tokens: Annotated[int, _flag(_BLEND, "Most positions of a micro-batch, for lists of sources.", min=1)] = 8000,
    num_buckets: Annotated[int, _flag(_BLEND, "Buckets by length, for lists of sources.", min=1)] = 8,
    frame_secs: Annotated[float, _flag(_BLEND, "Seconds of audio that one position of the LLM stands for.")] = 0.08,
    sampling_rate: Annotated[int, _flag(_BLEND, "Hz of the model's audio.", min=1)] = 16000,
    workers: Annotated[int, typer.Option(min=1, help="Processes that check rows.")] = 1,
    seed: Annotated[Optional[int], typer.Option(help="Of draws and wordings; default: the training's, or 0.")] = None,  # noqa: UP045
) -> None:
    r"""Checks every row of a blend as training reads it, and shows what is in it.

    Bad rows (no JSON, an empty answer, a file that is missing, broken or shorter than its row says, the locator tag in
    a text) are told with file and line; so is what trains but looks wrong, as a file longer than its row says. Then
    rows, hours, tokens, the share of every source, bins for buckets and the padding under them.

    Exit code: 0, or 1 if rows are bad, or 2 if nothing could be done.

    Example: two sources that synthesis has made, and the report of them

    ```
    python examples/inspect_blend.py --input data/asr/input_cfg.yaml --input data/sqa/input_cfg.yaml \
      --audio decode --workers 8 --llm google/gemma-2b-it --report blend.html
    ```

    The embedded default's blend, once its world is made:

    ```
    python examples/inspect_blend.py --input conf/vtb_tiny.yaml --llm results/tiny_world/llm --report blend.html
    ```
    """
    from vtblender_nemo.data.typed import check_file
    from vtblender_nemo.synthesis.cli_options import errors_told

    with errors_told():
        for path in input:
            check_file(path, "--input", "file")  # before imports that take seconds

        from dataclasses import replace

        from vtblender_nemo.data.blend import Encoder
        from vtblender_nemo.inspection.inspection import Options, inspect
        from vtblender_nemo.inspection.report import summary, write_findings, write_html, write_report_json
        from vtblender_nemo.inspection.subject import Batching, open_subject
        from vtblender_nemo.inspection.tokens import open_format

        subject = open_subject(input, override or [], Batching(batch_tokens, num_buckets))
        if seed is not None:
            subject = replace(subject, train=replace(subject.train, seed=seed))
        chat_format, tokens = open_format(llm, locator_tag or subject.locator_tag)
        encoder = Encoder(chat_format, frame_secs, sampling_rate, subject.extra_frames)
        options = Options(audio, workers, max_rows, draws, samples if report is not None else 0)
        found = inspect(subject, encoder, options, tokens, _bars)
        typer.echo(summary(found))
        for output, write in ((report, write_html), (json, write_report_json), (findings, write_findings)):
            if output is not None:
                write(found, output)
                typer.echo(f"written: {output}")
    raise typer.Exit(1 if found.errors else 0)


def _bars(stage: str, rows: int) -> Callable[[int], object]:
    from vtblender_nemo.common.progress import progress_bar

    bar = progress_bar(rows, unit="row", label=stage)

    def update(done: int) -> None:
        bar.update(done)
        if bar.n >= bar.total:
            bar.close()

    return update


if __name__ == "__main__":
    app()
