"""Finds when the words of transcribed speech are said; see `python examples/align_corpus.py --help`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vtblender_nemo.synthesis import cli_options as cli
from vtblender_nemo.synthesis.engine.launchers import Launcher

CONF = Path(__file__).parents[1] / "conf/prompts"

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")


@app.command()
def main(
    input: cli.SpeechInput,
    output_dir: cli.OutputDir,
    model: Annotated[
        str,
        typer.Option(
            help="A recogniser of NeMo with a CTC decoder, alone or in a hybrid: a .nemo file, or a public name such as "
            "stt_en_fastconformer_hybrid_large_pc. The shorter its frames, the better it knows where words begin."
        ),
    ],
    tar: cli.Tars = None,
    language: Annotated[str, typer.Option(help="Language of the transcripts, two letters.")] = "en",
    max_secs: Annotated[
        float, typer.Option(help="Longest audio; attention over longer ones costs much memory.")
    ] = 40.0,
    max_unaligned: Annotated[
        float,
        typer.Option(
            help="Share of a row's words that may stay without times, as the model has no letters for them (digits, often). "
            "They are not parted from their neighbours."
        ),
    ] = 0.0,
    max_wer: Annotated[
        float,
        typer.Option(help="Rows of which the model hears more words otherwise than they are written are refused."),
    ] = 0.5,
    batch_size: Annotated[int, typer.Option(min=1, help="Most utterances that the model is given at once.")] = 16,
    device: Annotated[str, typer.Option(help="cuda, cuda:1, cpu; auto: a GPU where there is one.")] = "auto",
    rows_per_shard: cli.RowsPerShard = 1000,
    batch_rows: cli.BatchRows = 64,
    launcher: cli.Launcher = Launcher.local,
    workers: cli.Workers = 1,
    gpus_per_worker: cli.GpusPerWorker = 0,
    name: cli.Name = None,
) -> None:
    r"""Gives transcribed speech the times of its words, by forced alignment.

    Every row of the output is a row of the input with `alignment`, `[[word, start, end], ...]` in seconds from the beginning of
    the row's audio. With it a source can be interleaved (`interleave: {}` in its entry of `input_cfg`): spans of the transcript
    stand in place of their speech. Lhotse cuts become rows of a NeMo manifest. What cannot be aligned is in `rejected.jsonl`,
    each row with its reason. `input_cfg.yaml` in the output folder is the entry for `data.train_ds.input_cfg`. A job that was
    stopped goes on when the same command is given again.

    Exit code: 0, or 1 if no row could be aligned, or 2 for what the user has to mend.

    Example: a corpus that `prepare_corpus.py` has left

    ```
    python examples/align_corpus.py --input data/asr/input_cfg.yaml --output-dir data/aligned \
      --model stt_en_fastconformer_hybrid_large_pc
    ```
    """
    with cli.errors_told({"input": "--input"}, app):
        from vtblender_nemo.alignment.work import AlignOptions, AlignWork, entry_of
        from vtblender_nemo.synthesis.engine.synthesize import SynthesisOptions, synthesize
        from vtblender_nemo.synthesis.inputs import open_speech

        rows = open_speech(input, tar)
        options = AlignOptions(max_secs, max_unaligned, max_wer, language, batch_size)
        how = SynthesisOptions(
            rows_per_shard=rows_per_shard,
            batch_rows=batch_rows,
            launcher=launcher,
            workers=workers,
            gpus_per_worker=gpus_per_worker,
            name=name,
            entry=entry_of(CONF / "asr.yaml"),
        )
        summary = synthesize(AlignWork(rows, model, device, options), rows, output_dir, how)
    cli.tell(summary, output_dir)


if __name__ == "__main__":
    app()
