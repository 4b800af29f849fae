"""Serves a model over HTTP with OpenAI's API; see `python examples/serve_vtb.py --help`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Optional

import typer

from vtblender_nemo.common.wordings import TRANSCRIPTION_PROMPT, TRANSLATION_PROMPT

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")

_LIMITS = "Limits"


@app.command()
def main(
    model: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="The model, a .nemo file.")],
    host: Annotated[str, typer.Option(help="Address to listen at; any but a loopback one needs a key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of it.")] = 8000,
    device: Annotated[str, typer.Option(help="cuda, cuda:1, cpu; auto takes a GPU where there is one.")] = "auto",
    model_name: Annotated[
        Optional[str],  # noqa: UP045 (Typer reads it at run time)
        typer.Option(help="What clients call the model; default: its file's name."),
    ] = None,
    transcription_prompt: Annotated[
        str, typer.Option(help="What /v1/audio/transcriptions asks; a wording that the model was trained with.")
    ] = TRANSCRIPTION_PROMPT,
    translation_prompt: Annotated[str, typer.Option(help="The same for /v1/audio/translations.")] = TRANSLATION_PROMPT,
    report: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(exists=True, dir_okay=False, help="Page of an evaluation (report.html), to be opened from ours."),
    ] = None,
    max_rows: Annotated[int, typer.Option(min=1, help="Answers in the making at once.", rich_help_panel=_LIMITS)] = 16,
    queue_size: Annotated[
        int, typer.Option(min=1, help="Requests that may wait; others get 429.", rich_help_panel=_LIMITS)
    ] = 64,
    max_positions: Annotated[
        int, typer.Option(min=1, help="Positions of all answers in the making.", rich_help_panel=_LIMITS)
    ] = 65536,
    prefix_mib: Annotated[
        int, typer.Option(min=0, help="Memory for chats that may go on, MiB.", rich_help_panel=_LIMITS)
    ] = 256,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Longest answer, in tokens.", rich_help_panel=_LIMITS)
    ] = 512,
    max_audio_secs: Annotated[
        float, typer.Option(min=1, help="Most audio in a request, in seconds.", rich_help_panel=_LIMITS)
    ] = 600.0,
    max_body_mib: Annotated[int, typer.Option(min=1, help="Largest request, MiB.", rich_help_panel=_LIMITS)] = 32,
    max_turns: Annotated[int, typer.Option(min=1, help="Most messages of a chat.", rich_help_panel=_LIMITS)] = 64,
    timeout_secs: Annotated[
        float, typer.Option(min=1, help="Until an answer has to be whole.", rich_help_panel=_LIMITS)
    ] = 120.0,
) -> None:
    r"""Serves a model over HTTP: `/v1/chat/completions` (text and `input_audio`, whole or streamed),
    `/v1/audio/transcriptions`, `/v1/audio/translations`, `/v1/models`, `/health`, `/metrics`, and a page to talk with at `/`.

    With the key in `VTBLENDER_API_KEY`, requests have to show it as `Authorization: Bearer KEY`.

    ```
    python examples/serve_vtb.py --model results/vtb_tiny/vtb_tiny.nemo
    curl localhost:8000/v1/audio/transcriptions -F file=@speech.wav -F model=any
    ```
    """
    from vtblender_nemo.common.errors import VTBlenderError
    from vtblender_nemo.serving.config import API_KEY_VARIABLE, ServerConfig
    from vtblender_nemo.serving.engine.engine import EngineConfig
    from vtblender_nemo.serving.serve import serve
    from vtblender_nemo.serving.uploads import AudioLimits

    try:
        config = ServerConfig(
            model_name or model.stem,
            host=host,
            port=port,
            api_key=os.environ.get(API_KEY_VARIABLE) or None,
            max_body_bytes=max_body_mib << 20,
            max_turns=max_turns,
            max_new_tokens=max_new_tokens,
            timeout_secs=timeout_secs,
            audio=AudioLimits(max_secs=max_audio_secs),
            transcription_prompt=transcription_prompt,
            translation_prompt=translation_prompt,
            report=report,
        )
        limits = EngineConfig(
            max_rows=max_rows, max_positions=max_positions, queue_size=queue_size, prefix_bytes=prefix_mib << 20
        )
        serve(model, device, config, limits)
    except VTBlenderError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error


if __name__ == "__main__":
    app()
