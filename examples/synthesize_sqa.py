"""Makes speech QA from transcribed speech with an LLM; see `python examples/synthesize_sqa.py --help`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from vtblender_nemo.synthesis import cli_options as cli
from vtblender_nemo.synthesis.engine.launchers import Launcher
from vtblender_nemo.synthesis.llm import flags as llms

CONF = Path(__file__).parents[1] / "conf/prompts"

FLAGS = {
    "input": "--input, --utterances, --max-gap or --max-span",
    **llms.LLM_FLAGS,
    "work.options.kinds": "--kinds",
    **{
        f"work.filters.{name}": f"--check-{name}"
        for name in ("grounded", "blind", "reread", "unanswerable", "language", "length")
    },
}
"""Flags by the job's settings, where their names differ, for errors."""

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")

_ASKED, _LLM, _KEPT = "What is asked", llms.LLM_PANEL, "What is kept"


def _flag(panel: str, help: str, **more: Any) -> Any:
    return typer.Option(help=help, rich_help_panel=panel, **more)


@app.command()
def main(
    input: cli.SpeechInput,
    output_dir: cli.OutputDir,
    model: llms.Model,
    tar: cli.Tars = None,
    base_url: llms.BaseUrl = None,
    api_key_env: llms.ApiKeyEnv = "OPENAI_API_KEY",
    concurrency: llms.Concurrency = 16,
    requests_per_minute: llms.RequestsPerMinute = None,
    max_attempts: llms.MaxAttempts = 6,
    timeout: llms.Timeout = 120.0,
    request_json: llms.RequestJson = "{}",
    device: llms.Device = "auto",
    dtype: llms.Dtype = "auto",
    llm_batch_size: llms.LlmBatchSize = 16,
    max_new_tokens: llms.MaxNewTokens = 512,
    temperature: llms.Temperature = 0.0,
    top_p: llms.TopP = 1.0,
    prompts: Annotated[
        Path,
        _flag(
            _LLM,
            "The words in which the LLM is asked, YAML.",
            exists=True,
            dir_okay=False,
            show_default="conf/prompts/sqa_synthesis.yaml",
        ),
    ] = CONF / "sqa_synthesis.yaml",
    questions: Annotated[int, _flag(_ASKED, "Questions a row.", min=1)] = 1,
    kinds: Annotated[
        str,
        _flag(
            _ASKED,
            "Kinds of questions, drawn for each: all, or names of the prompts' file as person,yes_no=2 (weights).",
        ),
    ] = "",
    unanswerable: Annotated[
        float, _flag(_ASKED, "Share of questions that the recording does not answer, as in SQuAD 2.0.", min=0, max=1)
    ] = 0.0,
    unanswerable_answer: Annotated[
        Optional[str],  # noqa: UP045
        _flag(
            _ASKED, "What is answered then, in all languages; default: no_answer of --prompts, in the row's language."
        ),
    ] = None,
    utterances: Annotated[
        int, _flag(_ASKED, "Most neighbouring rows of one audio file that are asked about as one.", min=1)
    ] = 1,
    max_gap: Annotated[float, _flag(_ASKED, "Most seconds between such rows.", min=0)] = 2.0,
    max_span: Annotated[float, _flag(_ASKED, "Most seconds of such rows together.", min=0)] = 40.0,
    language: Annotated[str, _flag(_ASKED, "Of rows that have no source_lang; questions are in the same.")] = "en",
    min_transcript_words: Annotated[int, _flag(_ASKED, "Shorter transcripts are passed over.", min=0)] = 5,
    max_transcript_words: Annotated[int, _flag(_ASKED, "Longer ones too.", min=1)] = 1000,
    check_grounded: Annotated[bool, _flag(_KEPT, "Answers whose words stand in the transcript.")] = True,
    min_grounded: Annotated[float, _flag(_KEPT, "The share of words that have to, above 0 to 1.")] = 0.5,
    check_blind: Annotated[
        bool, _flag(_KEPT, "Questions that the LLM cannot answer without the transcript; one more reply for each.")
    ] = False,
    check_reread: Annotated[
        bool,
        _flag(_KEPT, "Answers that the LLM finds a second time in the transcript; one more reply for each."),
    ] = False,
    check_unanswerable: Annotated[
        bool,
        _flag(
            _KEPT, "Unanswerable questions that the LLM finds no answer to in the transcript; one more reply for each."
        ),
    ] = True,
    min_agreement: Annotated[
        float, _flag(_KEPT, "Two answers of the LLM are the same from this share (F1) of words on, above 0 to 1.")
    ] = 0.5,
    check_language: Annotated[bool, _flag(_KEPT, "Questions and answers in the row's language.")] = True,
    min_language_probability: Annotated[
        float, _flag(_KEPT, "Another language is only told when as sure as this, above 0 to 1.")
    ] = 0.8,
    check_duplicates: Annotated[bool, _flag(_KEPT, "Each question once an utterance, and not too often.")] = True,
    max_same_question: Annotated[int, _flag(_KEPT, "Times that one question is kept in all.", min=1)] = 100,
    check_length: Annotated[bool, _flag(_KEPT, "Questions and answers of these lengths.")] = True,
    min_question_words: Annotated[int, _flag(_KEPT, "Shortest question.", min=0)] = 3,
    max_question_words: Annotated[int, _flag(_KEPT, "Longest question.", min=1)] = 40,
    max_answer_words: Annotated[int, _flag(_KEPT, "Longest answer.", min=1)] = 60,
    rows_per_shard: cli.RowsPerShard = 256,
    batch_rows: cli.BatchRows = 64,
    launcher: cli.Launcher = Launcher.local,
    workers: cli.Workers = 1,
    gpus_per_worker: cli.GpusPerWorker = 0,
    name: cli.Name = None,
    seed: cli.Seed = 0,
) -> None:
    r"""Makes speech QA from transcribed speech: an LLM reads a transcript and writes a question and its answer.

    Every row of the output is a row of the input with `question` and `answer`. What is not used is in `rejected.jsonl`, each with
    its reason. `input_cfg.yaml` in the output folder is the entry for `data.train_ds.input_cfg`. A job that was stopped, or whose
    endpoint failed, goes on when the same command is given again.

    Exit code: 0, or 1 if nothing was made of any row, or 2 for what the user has to mend.

    Example: two questions a row of all kinds, a fifth of them without an answer, from a server that runs Gemma:

    ```
    python examples/synthesize_sqa.py --input data/asr.jsonl --output-dir data/sqa \
      --base-url http://localhost:8000/v1 --model google/gemma-2-27b-it \
      --questions 2 --kinds all --unanswerable 0.2 --check-blind
    ```
    """
    from vtblender_nemo.synthesis.engine.synthesize import SynthesisOptions, synthesize
    from vtblender_nemo.synthesis.inputs import open_speech
    from vtblender_nemo.synthesis.inputs.utterance_groups import JoinedRows, JoinLimits
    from vtblender_nemo.synthesis.llm.clients import Decoding
    from vtblender_nemo.synthesis.speech_qa.duplicates import DuplicateLimits, drop_duplicates
    from vtblender_nemo.synthesis.speech_qa.filters import FilterOptions
    from vtblender_nemo.synthesis.speech_qa.prompts import load_prompts, parse_kinds
    from vtblender_nemo.synthesis.speech_qa.work import QaOptions, SpeechQa, entry_of

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
        wording = load_prompts(prompts)
        asked = QaOptions(
            questions=questions,
            kinds=parse_kinds(kinds, wording),
            unanswerable=unanswerable,
            unanswerable_answer=unanswerable_answer,
            language=language,
            min_transcript_words=min_transcript_words,
            max_transcript_words=max_transcript_words,
        )
        kept = FilterOptions(
            grounded=check_grounded,
            min_grounded=min_grounded,
            blind=check_blind,
            reread=check_reread,
            unanswerable=check_unanswerable,
            min_agreement=min_agreement,
            language=check_language,
            min_language_probability=min_language_probability,
            length=check_length,
            min_question_words=min_question_words,
            max_question_words=max_question_words,
            max_answer_words=max_answer_words,
        )
        speech = open_speech(input, tar)
        rows = speech if utterances == 1 else JoinedRows(speech, JoinLimits(utterances, max_gap, max_span))
        options = SynthesisOptions(
            seed=seed,
            rows_per_shard=rows_per_shard,
            batch_rows=batch_rows,
            launcher=launcher,
            workers=workers,
            gpus_per_worker=gpus_per_worker,
            name=name,
            entry=entry_of(speech, CONF / "sqa.yaml"),
        )
        last_pass = partial(drop_duplicates, limits=DuplicateLimits(overall=max_same_question))
        work = SpeechQa(llm, wording, asked, kept, seed)
        summary = synthesize(work, rows, output_dir, options, last_pass if check_duplicates else None)
    cli.tell(summary, output_dir)


if __name__ == "__main__":
    app()
