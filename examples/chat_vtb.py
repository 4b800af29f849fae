"""Talks with a model in the terminal; see `python examples/chat_vtb.py --help`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Optional

import typer

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")


@app.command()
def main(
    model: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="The model, a .nemo file.")],
    device: Annotated[str, typer.Option(help="cuda, cuda:1, cpu; auto takes a GPU where there is one.")] = "auto",
    system: Annotated[
        Optional[str],  # noqa: UP045 (Typer reads it at run time)
        typer.Option(help="What the model is told before the chat."),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 256,
    temperature: Annotated[float, typer.Option(min=0, max=2, help="0 takes the likeliest token each time.")] = 0.0,
    top_p: Annotated[float, typer.Option(min=0.01, max=1, help="Share of the probability to draw from.")] = 1.0,
    seed: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Of the draws; another each time if not given."),
    ] = None,
) -> None:
    r"""A chat in the terminal: text and audio in any order, answers as they come.

    `/audio FILE` adds an audio file to the next turn and `/record` a recording; `/help` lists the other commands.
    Lines may come from a file or a pipe as well.

    ```
    python examples/chat_vtb.py --model results/vtb_tiny/vtb_tiny.nemo
    > /audio speech.wav
    > Transcribe that.
    ```
    """
    from vtblender_nemo.common.errors import VTBlenderError
    from vtblender_nemo.models.loading import load_model, pick_device
    from vtblender_nemo.serving.chat import HELP, TerminalChat
    from vtblender_nemo.serving.engine.engine import Engine
    from vtblender_nemo.serving.engine.requests import Sampling

    try:
        sampling = Sampling(max_new_tokens, temperature=temperature, top_p=top_p, seed=seed)
        engine = Engine(load_model(model, pick_device(device)))
    except VTBlenderError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    try:
        if sys.stdin.isatty():
            typer.echo(HELP)
        TerminalChat(engine, sampling, _say, system).run(_lines())
    finally:
        engine.close()


def _say(text: str) -> None:
    print(text, end="", flush=True)


def _lines() -> Iterator[str]:
    """What is typed, with a history of earlier lines where the terminal can have one."""
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    with suppress(ImportError):
        import readline  # noqa: F401 (arrow keys)
    while True:
        try:
            yield input("> ")
        except (EOFError, KeyboardInterrupt):
            print()
            return


if __name__ == "__main__":
    app()
