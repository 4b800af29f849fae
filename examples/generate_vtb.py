"""Answers every row of a manifest with a trained model; see `python examples/generate_vtb.py --help`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")


@app.command()
def main(
    model: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="The model, a .nemo file.")],
    input: Annotated[
        Path,
        typer.Option(
            "--input",
            "--manifest",
            exists=True,
            help="What is to be answered: rows (JSONL), a folder of audio files, a folder of Lhotse shar, Lhotse cuts, or "
            "a YAML file of sources.",
        ),
    ],
    output: Annotated[
        Path, typer.Option(help="Where the rows with their predictions go: .jsonl, or .json for one list.")
    ],
    prompt: Annotated[
        Optional[str],  # noqa: UP045 (Typer reads it at run time)
        typer.Option(
            help="What rows with audio_filepath are asked; default: transcription. Rows with messages ask themselves."
        ),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length limit of an answer, in tokens.")] = 128,
    batch_size: Annotated[int, typer.Option(min=1, help="Most rows answered at once.")] = 16,
    part_secs: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            min=2.0,
            help="Longer audio is cut at pauses into parts of at most so many seconds; each part is asked about by "
            "itself, and the answers are joined: for transcribing or translating long recordings.",
        ),
    ] = None,
    subtitles: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(file_okay=False, help="Folder for an SRT file of every recording; goes with --part-secs, as 8."),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes, each with a model of its own; they share the GPUs.")
    ] = 1,
    device: Annotated[str, typer.Option(help="cuda, cuda:1, cpu; auto takes a GPU where there is one.")] = "auto",
) -> None:
    r"""Answers every row of a manifest, or every audio of a folder.

    A row holds `audio_filepath` (relative to the manifest's folder, or absolute; with `offset` and `duration` in
    seconds a part of the file), or `messages`, a conversation that ends with a user turn. The output has the same rows
    in the same order, each with `prediction`, or with `"prediction": null` and `error`. What was done before a stop is
    not done again.

    Exit code: 0, or 1 if any row failed, or 2 if nothing could be done.

    Example: with these two rows in `calls/in.jsonl`

    ```
    {"audio_filepath": "hello.wav"}
    {"messages": [{"role": "user", "content": [
      {"type": "audio", "audio": "fact.wav"}, {"type": "text", "text": "Where is Anna?"}]}]}
    ```

    (each on one line) this writes the words of `calls/hello.wav` and an answer to the question about `calls/fact.wav`:

    ```
    python examples/generate_vtb.py --model results/vtb_tiny/vtb_tiny.nemo --input calls/in.jsonl --output out.jsonl
    ```

    and this transcribes all recordings below `calls/`, with subtitles, by two processes:

    ```
    python examples/generate_vtb.py --model results/vtb_tiny/vtb_tiny.nemo --input calls --output out.jsonl \
      --part-secs 8 --subtitles calls_srt --workers 2
    ```
    """
    from vtblender_nemo.common.errors import ConfigError, VTBlenderError
    from vtblender_nemo.common.wordings import TRANSCRIPTION_PROMPT
    from vtblender_nemo.evaluation.answer_inputs import read_inputs
    from vtblender_nemo.evaluation.answer_workers import AnswerJob, answer_inputs, check_workers
    from vtblender_nemo.evaluation.manifest import answer_manifest, check_paths, file_id
    from vtblender_nemo.evaluation.runner import Decoding
    from vtblender_nemo.models.loading import load_model, pick_device

    try:
        if subtitles is not None and part_secs is None:
            raise ConfigError("subtitles need parts to be timed by", knob="--part-secs, as 8")
        check_paths(input, output)
        asked = TRANSCRIPTION_PROMPT if prompt is None else prompt
        rows = read_inputs(input, prompt=asked)
        check_workers(workers, len(rows))
        decoding = Decoding(max_new_tokens=max_new_tokens, batch_size=batch_size)
        if workers > 1:
            job = AnswerJob(model, input, output, asked, decoding, device, part_secs, subtitles, workers)
            written = answer_inputs(job, rows)
        else:
            written = answer_manifest(
                load_model(model, pick_device(device)),
                rows,
                output,
                decoding=decoding,
                model_id=file_id(model),
                part_secs=part_secs,
                subtitle_dir=subtitles,
            )
    except VTBlenderError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    typer.echo(f"{output}: {written.rows} rows, {written.failed} of them failed", err=True)
    raise typer.Exit(1 if written.failed else 0)


if __name__ == "__main__":
    app()
