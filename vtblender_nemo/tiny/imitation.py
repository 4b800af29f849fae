"""What the tiny language model is asked about transcripts of training speech, and its answers, to be imitated by hearing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from vtblender_nemo.common.errors import ConfigError, DataError
from vtblender_nemo.common.shipped import shipped
from vtblender_nemo.synthesis.imitation.tasks import Task, TaskBank, load_bank
from vtblender_nemo.tiny.config import ImitationConfig, TinyConfig

NAME = "imitation"
"""Of the world's folder, and of the source in it."""

_BANK = "prompts/imitation_tiny.yaml"
_SPEECH = "content/sources/asr.jsonl"
_LLM = "llm"
_LONGEST_ANSWER = 80  # tokens
_SHARD_ROWS = 500
_BATCH_ROWS = 250
_PROMPTS_AT_ONCE = 256

Wordings = Mapping[str, Mapping[str, str]]
"""By task and by name; each with the place of the speech."""


@dataclass(frozen=True)
class Asked:
    """What imitation teaches, and what it leaves for tests.

    Attributes:
        bank: all that it asks.
        wordings_left: of the tasks in `bank`, wordings that it does not ask.
        tasks_left: tasks that it does not ask.
    """

    bank: TaskBank
    wordings_left: Wordings
    tasks_left: Wordings

    @property
    def taught(self) -> Wordings:
        """The wordings of `bank`."""
        return {task.name: task.wordings for task in self.bank.tasks}

    def settings(self) -> dict[str, Any]:
        """All of it, JSON-like."""
        kinds = {"taught": self.taught, "wordings_left": self.wordings_left, "tasks_left": self.tasks_left}
        return {kind: {task: dict(texts) for task, texts in wordings.items()} for kind, wordings in kinds.items()}


def asked_by(config: ImitationConfig) -> Asked:
    """What is asked, and what is held out.

    Raises:
        ConfigError: a pattern that names nothing, nothing is left to be asked, or fewer tasks than every transcript wants.
    """
    whole = _whole_bank()
    try:
        bank = whole.without(config.hold_out)
    except ConfigError as error:
        raise ConfigError(
            error.problem, value=error.value, expected=error.expected, knob="tiny.imitation.hold_out"
        ) from error
    if not 1 <= config.tasks_per_utterance <= len(bank.tasks):
        raise ConfigError(
            "so many tasks cannot be asked of every transcript",
            value=config.tasks_per_utterance,
            expected=f"1 to {len(bank.tasks)}: {', '.join(task.name for task in bank.tasks)}",
            knob="tiny.imitation.tasks_per_utterance, tiny.imitation.hold_out",
        )
    taught = {task.name: task.wordings for task in bank.tasks}
    left = {task.name: _without(task, taught.get(task.name, {})) for task in whole.tasks}
    return Asked(
        bank,
        {name: wordings for name, wordings in left.items() if wordings and name in taught},
        {name: wordings for name, wordings in left.items() if name not in taught},
    )


@lru_cache
def _whole_bank() -> TaskBank:
    return load_bank([shipped(_BANK)])


def _without(task: Task, wordings: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in task.wordings.items() if name not in wordings}


def answer_transcripts(config: TinyConfig, output: Path) -> dict[str, Any]:
    """Has a world's language model answer about the transcripts of its recognition source, or goes on with that.

    The working directory is the world's folder: rows name model and source by their paths from there, wherever it lies.

    Args:
        config: of the world, with `imitation`; content and language model are made.
        output: folder for rows of type `imitation` and the `input_cfg.yaml` that reads them.

    Returns:
        How many rows there are, and why others were refused.

    Raises:
        DataError: there are none.
    """
    from vtblender_nemo.synthesis.engine.synthesize import SynthesisOptions, synthesize
    from vtblender_nemo.synthesis.imitation.work import Imitation, ImitationOptions, entry_of, fingerprint_of
    from vtblender_nemo.synthesis.inputs import open_speech
    from vtblender_nemo.synthesis.llm.clients import Decoding
    from vtblender_nemo.synthesis.llm.local import LocalLLM

    assert config.imitation is not None
    rows = open_speech([_SPEECH])
    work = Imitation(
        LocalLLM(_LLM, Decoding(_LONGEST_ANSWER), dtype="float32", device="cpu", batch_size=_PROMPTS_AT_ONCE),
        fingerprint_of(_LLM, None, None),
        asked_by(config.imitation).bank,
        ImitationOptions(min_transcript_words=1, tasks_per_utterance=config.imitation.tasks_per_utterance),
        seed=config.seed,
    )
    options = SynthesisOptions(
        seed=config.seed,
        rows_per_shard=_SHARD_ROWS,
        batch_rows=_BATCH_ROWS,
        workers=max(1, min(config.voices.processes, len(rows) // _SHARD_ROWS)),
        entry=entry_of(work.llm_fingerprint),
        name=NAME,
    )
    summary = synthesize(work, rows, output, options)
    if not summary.made:
        raise DataError(
            "no answer of the language model can be imitated",
            value=summary.refused_by_reason,
            expected="one that has learned to answer",
            knob="tiny.llm.steps, or tiny.imitation=null",
        )
    return {"transcripts": summary.rows, "rows": summary.made, "refused": summary.refused_by_reason}
