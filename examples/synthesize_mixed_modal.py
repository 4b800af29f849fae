"""Makes mixed-modal chats of text chats; see `python examples/synthesize_mixed_modal.py --help`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from vtblender_nemo.synthesis import cli_options as shared

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")

# Typer reads these types at run time.
Text = Optional[str]  # noqa: UP045
Number = Optional[int]  # noqa: UP045
Share = Optional[float]  # noqa: UP045
Switch = Optional[bool]  # noqa: UP045
Texts = Optional[list[str]]  # noqa: UP045
File = Optional[Path]  # noqa: UP045

FLAGS = {
    "language": "--language",
    "engines": "--tts",
    "engines[].type": "--tts",
    "work.engines": "--tts, --recordings or engines of --config",
    "spans.variants": "--variants",
    "spans.max_spans": "--max-spans",
    "spans.whole_turn": "--whole-turn",
    "spans.turns": "--turns",
    "filters.languages": "--only-language",
    "filters.excluded_categories": "--exclude-category",
    "filters.prompt_tokens_under": "--prompt-tokens-under",
    "filters.answer_tokens_under": "--answer-tokens-under",
    "filters.tokenizer": "--tokenizer",
    "speech.normalizer": "--normalizer",
    "speech.check_language": "--check-language",
    "speech.min_language_probability": "--min-language-probability",
    "gate.model": "--asr-gate",
    "gate.max_wer": "--max-wer",
}
"""Flags by what they set in the configuration, or (`work...`) in a job's settings, for errors."""


@app.command()
def main(
    input: shared.ChatInput,
    output_dir: shared.OutputDir,
    tts: Annotated[
        Texts,
        typer.Option(
            help="Who speaks: espeak, flite, nemo, openai; NAME=WEIGHT, repeated, draws one for every row. "
            "Default: espeak. Voices and models are set by --config."
        ),
    ] = None,
    recordings: Annotated[
        Texts,
        typer.Option(
            help="Real speech: transcribed recordings as a NeMo manifest, Lhotse cuts or a Lhotse shar folder, or the "
            "input_cfg.yaml that prepare_corpus has left; weight 1 in a blend with --tts."
        ),
    ] = None,
    config: Annotated[
        File, typer.Option(exists=True, dir_okay=False, help="All settings as YAML (see below); flags go before it.")
    ] = None,
    language: Annotated[
        Text, typer.Option(help="Language of the chats and the voices, two letters; en if not given.")
    ] = None,
    variants: Annotated[Number, typer.Option(help="Most rows made of one chat.")] = None,
    max_spans: Annotated[Number, typer.Option(help="Most speech segments of one user turn.")] = None,
    whole_turn: Annotated[Share, typer.Option(help="Share of turns that are spoken from end to end.")] = None,
    turns: Annotated[Text, typer.Option(help="User turns that get speech: first, any (one of them) or every.")] = None,
    only_language: Annotated[Texts, typer.Option(help="Chats whose field `language` says so; may be repeated.")] = None,
    exclude_category: Annotated[
        Texts, typer.Option(help="Not the chats whose field `task_category` says so; may be repeated.")
    ] = None,
    single_turn: Annotated[bool, typer.Option("--single-turn", help="Only one question and one answer.")] = False,
    prompt_tokens_under: Annotated[Number, typer.Option(help="Every user turn is shorter; 128 if not given.")] = None,
    answer_tokens_under: Annotated[Number, typer.Option(help="Every answer is shorter; 1024 if not given.")] = None,
    tokenizer: Annotated[
        Text, typer.Option(help="Counts tokens, from Hugging Face; otherwise words are counted.")
    ] = None,
    normalizer: Annotated[
        Text, typer.Option(help="Writes numbers out: num2words (if not given), nemo or none.")
    ] = None,
    check_language: Annotated[
        Switch, typer.Option(help="Only what is in the voices' --language is spoken; on if not given.")
    ] = None,
    min_language_probability: Annotated[
        Share, typer.Option(help="Another language is only told when as sure as this, above 0 to 1; 0.8 if not given.")
    ] = None,
    asr_gate: Annotated[
        File, typer.Option(help="A recogniser (.nemo) that listens; what it hears wrong is refused.")
    ] = None,
    max_wer: Annotated[
        Share, typer.Option(help="Highest word error rate that passes the gate; 0.3 if not given.")
    ] = None,
    alignment: Annotated[
        bool, typer.Option("--alignment", help="Audios tell when each word is said, so that they can be interleaved.")
    ] = False,
    name: shared.Name = None,
    seed: shared.Seed = 0,
    launcher: shared.Launcher = shared.LauncherKind.local,
    workers: shared.Workers = 1,
    gpus_per_worker: shared.GpusPerWorker = 0,
    rows_per_shard: shared.RowsPerShard = 1000,
    batch_rows: shared.BatchRows = 32,
) -> None:
    r"""Turns parts of what users write into speech.

    Of every chat a random run of sentences is spoken, in up to two rows that differ in which; the rest stays text. Chats
    that are filtered out and texts that cannot be spoken are listed in `rejected.jsonl`, each with its reason. Output are
    numbered shards with their audio in tars, and `input_cfg.yaml`, the entry for `data.train_ds.input_cfg`. The same
    command goes on after a stop.

    Exit code: 0, or 1 if nothing was made of any row, or 2 if nothing could be done.

    Example: English chats without maths and code, half of them spoken by espeak-ng and half by flite, as in the paper but
    for the voices

    ```
    python examples/synthesize_mixed_modal.py --input magpie.jsonl --output-dir data/mixed --tts espeak=0.5 --tts flite=0.5 \
      --single-turn --only-language en --exclude-category Math --exclude-category "Coding & Debugging" --workers 8
    ```

    The paper's voices, in `voices.yaml` for `--config` (other keys: language, spans, filters, speech, gate):

    ```
    engines:
      - {type: nemo, fastpitch: tts_en_fastpitch_multispeaker, hifigan: tts_en_hifitts_hifigan_ft_fastpitch, pace: [0.9, 1.1]}
    ```
    """
    with shared.errors_told(FLAGS, app):
        from vtblender_nemo.synthesis.engine.synthesize import SynthesisOptions, synthesize
        from vtblender_nemo.synthesis.inputs import open_chats
        from vtblender_nemo.synthesis.mixed_modal.work import MixedModalWork, merge, read_mixed_modal

        flags: dict[str, Any] = {
            "engines": _engines(tts, recordings),
            "language": language,
            "spans": {"variants": variants, "max_spans": max_spans, "whole_turn": whole_turn, "turns": turns},
            "filters": {
                "languages": only_language,
                "excluded_categories": exclude_category,
                "single_turn": single_turn or None,
                "prompt_tokens_under": prompt_tokens_under,
                "answer_tokens_under": answer_tokens_under,
                "tokenizer": tokenizer,
            },
            "speech": {
                "normalizer": normalizer,
                "check_language": check_language,
                "min_language_probability": min_language_probability,
            },
            "gate": {"model": asr_gate and str(asr_gate), "max_wer": max_wer},
            "alignment": alignment or None,
        }
        work = MixedModalWork(read_mixed_modal(merge(_read(config), flags)), seed)
        options = SynthesisOptions(
            seed=seed,
            rows_per_shard=rows_per_shard,
            batch_rows=batch_rows,
            launcher=launcher,
            workers=workers,
            gpus_per_worker=gpus_per_worker,
            name=name,
        )
        summary = synthesize(work, open_chats(input), output_dir, options)
    shared.tell(summary, output_dir)


def _engines(tts: list[str] | None, recordings: list[str] | None) -> list[dict[str, Any]] | None:
    """Entries of a blend from the flags; None where they name no engine."""
    from vtblender_nemo.synthesis.tts.blend import read_shares

    found = read_shares(tts or [])
    if recordings:
        found.append({"type": "recordings", "manifests": recordings})
    return found or None


def _read(config: Path | None) -> Any:
    from vtblender_nemo.data.typed import read_yaml

    return {} if config is None else read_yaml(config, "--config")


if __name__ == "__main__":
    app()
