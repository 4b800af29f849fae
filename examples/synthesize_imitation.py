"""Makes imitation targets from transcribed speech; see `python examples/synthesize_imitation.py --help`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from vtblender_nemo.synthesis import cli_options as cli
from vtblender_nemo.synthesis.engine.launchers import Launcher
from vtblender_nemo.synthesis.llm import flags as llms

TASKS = Path(__file__).parents[1] / "conf/prompts/imitation_synthesis.yaml"

FLAGS = {
    **llms.LLM_FLAGS,
    "work.llm_fingerprint": "--model or --weights",
    "work.tasks": "--tasks or --hold-out",
    "work.trained_on": "--trained-on",
    **{f"work.filters.{name}": f"--check-{name}" for name in ("refusals", "reading", "loops")},
}
"""Flags by the job's settings, where their names differ, for errors."""

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")

_ASKED, _KEPT = "What is asked", "What is kept"


def _flag(panel: str, help: str, **more: Any) -> Any:
    return typer.Option(help=help, rich_help_panel=panel, **more)


@app.command()
def main(
    input: cli.SpeechInput,
    output_dir: cli.OutputDir,
    model: llms.Model,
    tar: cli.Tars = None,
    base_url: llms.BaseUrl = None,
    weights: Annotated[
        Optional[str],  # noqa: UP045 (Typer reads it at run time)
        _flag(
            llms.ENDPOINT_PANEL, "What it serves, as a Hugging Face folder or hub name: training wants the same LLM."
        ),
    ] = None,
    api_key_env: llms.ApiKeyEnv = "OPENAI_API_KEY",
    concurrency: llms.Concurrency = 16,
    requests_per_minute: llms.RequestsPerMinute = None,
    max_attempts: llms.MaxAttempts = 6,
    timeout: llms.Timeout = 120.0,
    request_json: llms.RequestJson = "{}",
    device: llms.Device = "auto",
    dtype: llms.Dtype = "auto",
    llm_batch_size: llms.LlmBatchSize = 16,
    max_new_tokens: llms.MaxNewTokens = 256,
    temperature: llms.Temperature = 0.0,
    top_p: llms.TopP = 1.0,
    prompts: Annotated[
        list[Path],
        _flag(
            _ASKED,
            "Tasks and their wordings, YAML; several files by repeating it.",
            exists=True,
            dir_okay=False,
            show_default="conf/prompts/imitation_synthesis.yaml",
        ),
    ] = [TASKS],  # noqa: B006 (nobody changes it)
    tasks: Annotated[
        str,
        _flag(
            _ASKED,
            "Tasks to draw from, with weights: summarise=2,translate_* (* for any letters); or wordings of them, "
            "as */order or repeat/short.",
        ),
    ] = "*",
    hold_out: Annotated[
        str,
        _flag(_ASKED, "Tasks and wordings that are kept for tests, named in the same way; --tasks draws them then."),
    ] = "",
    trained_on: Annotated[
        Optional[list[Path]],  # noqa: UP045
        _flag(
            _ASKED,
            "Makes rows for a test: the output folder, or its input_cfg.yaml, of the rows that are trained on; several by "
            "repeating it. Every new row then tells its `generalisation` (known, prompt, task) and `wording_distance`.",
            exists=True,
        ),
    ] = None,
    tasks_per_utterance: Annotated[int, _flag(_ASKED, "Different tasks a row.", min=1)] = 3,
    language: Annotated[
        str, _flag(_ASKED, "Of rows that have no source_lang; none is translated into its own.")
    ] = "en",
    min_transcript_words: Annotated[int, _flag(_ASKED, "Shorter transcripts are passed over.", min=0)] = 3,
    max_transcript_words: Annotated[int, _flag(_ASKED, "Longer ones too.", min=1)] = 1000,
    check_refusals: Annotated[bool, _flag(_KEPT, "Answers that do not decline to answer.")] = True,
    check_reading: Annotated[bool, _flag(_KEPT, "Answers that do not speak of a text, where one is to hear.")] = True,
    check_loops: Annotated[bool, _flag(_KEPT, "Answers that do not say one thing again and again.")] = True,
    rows_per_shard: cli.RowsPerShard = 256,
    batch_rows: cli.BatchRows = 64,
    launcher: cli.Launcher = Launcher.local,
    workers: cli.Workers = 1,
    gpus_per_worker: cli.GpusPerWorker = 0,
    name: cli.Name = None,
    seed: cli.Seed = 0,
) -> None:
    r"""Makes imitation targets from transcribed speech: the LLM that is to be trained is asked about a transcript, and what it
    answers is what the model shall answer when it hears the speech.

    Every row of the output is a row of the input with `task`, `prompt` and `answer`. What is not used is in `rejected.jsonl`,
    each with its reason. `input_cfg.yaml` in the output folder is the entry for `data.train_ds.input_cfg`, with the fingerprint
    of the LLM. A job that was stopped, or whose endpoint failed, goes on when the same command is given again.

    Exit code: 0, or 1 if nothing was made of any row, or 2 for what the user has to mend.

    Example: four tasks a row, while sentiment, translation into Dutch and one manner of asking are kept for tests:

    ```
    python examples/synthesize_imitation.py --input data/asr/input_cfg.yaml --output-dir data/imitation \
      --model google/gemma-2b-it --tasks-per-utterance 4 --hold-out "sentiment,translate_nl,*/indirect"
    ```

    and the test of all tasks and wordings on other speech, which tells what was held out and how far it lies from the rest:

    ```
    python examples/synthesize_imitation.py --input data/asr_test/input_cfg.yaml --output-dir data/imitation_test \
      --model google/gemma-2b-it --tasks-per-utterance 4 --trained-on data/imitation
    ```
    """
    from vtblender_nemo.synthesis.engine.synthesize import SynthesisOptions, synthesize
    from vtblender_nemo.synthesis.imitation.filters import FilterOptions
    from vtblender_nemo.synthesis.imitation.tasks import load_bank
    from vtblender_nemo.synthesis.imitation.trained_rows import read_trained
    from vtblender_nemo.synthesis.imitation.work import Imitation, ImitationOptions, entry_of, fingerprint_of
    from vtblender_nemo.synthesis.inputs import open_speech
    from vtblender_nemo.synthesis.llm.clients import Decoding
    from vtblender_nemo.synthesis.weights import parse_weights

    with cli.errors_told(FLAGS, app):
        llm = llms.make_llm(
            model,
            Decoding(max_new_tokens, temperature, top_p, seed),
            base_url=base_url,
            api_key_env=api_key_env,
            concurrency=concurrency,
            requests_per_minute=requests_per_minute,
            max_attempts=max_attempts,
            timeout=timeout,
            request_json=request_json,
            device=device,
            dtype=dtype,
            llm_batch_size=llm_batch_size,
            workers=workers,
        )
        bank = load_bank(prompts).chosen(parse_weights(tasks, "--tasks")).without(_names(hold_out))
        asked = ImitationOptions(
            language=language,
            min_transcript_words=min_transcript_words,
            max_transcript_words=max_transcript_words,
            tasks_per_utterance=tasks_per_utterance,
        )
        kept = FilterOptions(refusals=check_refusals, reading=check_reading, loops=check_loops)
        rows = open_speech(input, tar)
        trained = read_trained(trained_on) if trained_on else None
        work = Imitation(llm, fingerprint_of(model, base_url, weights), bank, asked, kept, seed, trained)
        options = SynthesisOptions(
            seed=seed,
            rows_per_shard=rows_per_shard,
            batch_rows=batch_rows,
            launcher=launcher,
            workers=workers,
            gpus_per_worker=gpus_per_worker,
            name=name,
            entry=entry_of(work.llm_fingerprint),
        )
        summary = synthesize(work, rows, output_dir, options)
    cli.tell(summary, output_dir)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


if __name__ == "__main__":
    app()
