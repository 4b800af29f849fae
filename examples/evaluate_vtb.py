"""Evaluates a model on a file of tasks; see `python examples/evaluate_vtb.py --help`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")


@app.command()
def main(
    model: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="The model, a .nemo file.")],
    output_dir: Annotated[Path, typer.Option(file_okay=False, help="Gets predictions, scores and the report.")],
    config: Annotated[
        str, typer.Option(help="The task file: a path, or the name of a file of conf/evaluation, as tiny or public.")
    ] = "tiny",
    tasks: Annotated[str, typer.Option(help="Only these tasks of it, by commas.")] = "",
    set_variable: Annotated[
        Optional[list[str]],  # noqa: UP045 (Typer reads it at run time)
        typer.Option("--set", help="A variable of the task file, NAME=VALUE; may be repeated."),
    ] = None,
    limit: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Only so many items of every task, evenly spread over it."),
    ] = None,
    batch_tokens: Annotated[
        int, typer.Option(min=1, help="Most positions in a batch: speech frames, text, answers and padding.")
    ] = 16384,
    batch_size: Annotated[int, typer.Option(min=1, help="Most items in a batch.")] = 64,
    device: Annotated[str, typer.Option(help="cuda, cuda:1, cpu; auto takes a GPU where there is one.")] = "auto",
    compare: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option(help="Output folder of another evaluation, for the report to compare with; may be repeated."),
    ] = None,
) -> None:
    r"""Evaluates a model: predictions, scores with 95% intervals, and a report.

    Into the output folder go `scores.json`, `report.html`, `plots/` and `predictions/TASK.jsonl`. The same command
    again goes on after a stop; with other tasks it adds theirs. Predictions of the same model are made once.

    Exit code: 0, or 1 if any item failed, or 2 if something could not be done.

    ```
    python examples/evaluate_vtb.py --model results/vtb_tiny/vtb_tiny.nemo --output-dir results/vtb_tiny/evaluation
    python examples/evaluate_vtb.py --model M.nemo --output-dir scores --tasks asr,noise --set world=results/tiny_world
    python examples/evaluate_vtb.py --model M.nemo --output-dir scores --config public --set root=/data/prepared
    ```
    """
    from vtblender_nemo.common.errors import VTBlenderError
    from vtblender_nemo.evaluation.evaluate import EvaluationConfig, evaluate_model
    from vtblender_nemo.evaluation.score_table import show_scores

    try:
        settings = EvaluationConfig(
            model,
            output_dir,
            config,
            [name for part in tasks.split(",") if (name := part.strip())],
            _variables(set_variable or []),
            limit,
            batch_size,
            batch_tokens,
            device,
            compare or [],
        )
        sheet = evaluate_model(settings)
    except VTBlenderError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    show_scores(sheet)
    typer.echo(f"scores  {output_dir / 'scores.json'}\nreport  {output_dir / 'report.html'}")
    raise typer.Exit(1 if any(measure.failed for measure in sheet.measures) else 0)


def _variables(given: list[str]) -> dict[str, str]:
    from vtblender_nemo.common.errors import ConfigError

    pairs = [text.partition("=") for text in given]
    for text, (name, equals, _) in zip(given, pairs, strict=True):
        if not name or not equals:
            raise ConfigError("no variable", value=text, expected="NAME=VALUE", knob="--set")
    return {name: value for name, _, value in pairs}


if __name__ == "__main__":
    app()
