"""Behaviour imitation: an LLM answers about the transcript of a recording what a model that hears the recording shall answer.

The LLM reads the very turn that the twin of a conversation has in training: the wording with the transcript in place of
`{audio}` (MTBI, arXiv 2505.18644).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from vtblender_nemo.common.chat import joined
from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.common.llm_fingerprint import folder_fingerprint
from vtblender_nemo.synthesis.imitation.filters import FilterOptions, judge
from vtblender_nemo.synthesis.imitation.tasks import AUDIO, Drawn, TaskBank
from vtblender_nemo.synthesis.imitation.wording_distance import Trained
from vtblender_nemo.synthesis.llm.clients import LLM, LLMClient, Messages
from vtblender_nemo.synthesis.transcripts import TranscriptOptions
from vtblender_nemo.synthesis.work import InputRow, Made, Outcome, Refused, Work


@dataclass(frozen=True)
class ImitationOptions(TranscriptOptions):
    """What the LLM is asked about a row.

    Attributes:
        tasks_per_utterance: different tasks for each row; a row in a language that tasks ask for may get fewer.
    """

    tasks_per_utterance: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tasks_per_utterance < 1:
            raise ConfigError(
                "nothing is asked", value=self.tasks_per_utterance, expected="at least 1", knob="--tasks-per-utterance"
            )


@dataclass(frozen=True)
class Imitation(Work):
    """Answers about transcribed speech; the rows that come of it are `imitation` rows.

    Attributes:
        llm: who answers: the LLM that is to be trained.
        llm_fingerprint: of its weights.
        bank: what it is asked.
        options: how much, and about which rows.
        filters: which answers are kept.
        seed: of what is drawn for a row.
        trained: what was asked in training, where rows for a test tell how far they lie from it.
    """

    llm: LLM
    llm_fingerprint: str
    bank: TaskBank
    options: ImitationOptions = field(default_factory=ImitationOptions)
    filters: FilterOptions = field(default_factory=FilterOptions)
    seed: int = 0
    trained: Trained | None = None

    def __post_init__(self) -> None:
        if self.options.tasks_per_utterance > len(self.bank.tasks):
            raise ConfigError(
                "more tasks are wanted for a row than there are",
                value=self.options.tasks_per_utterance,
                expected=f"at most {len(self.bank.tasks)}: {', '.join(task.name for task in self.bank.tasks)}",
                knob="--tasks-per-utterance, --tasks or --hold-out",
            )

    def settings(self) -> dict[str, Any]:
        return {
            "work": "imitation",
            "llm": self.llm.settings(),
            "llm_fingerprint": self.llm_fingerprint,
            "prompts": self.bank.version,
            "tasks": self.bank.settings(),
            "options": asdict(self.options),
            "filters": asdict(self.filters),
            "seed": self.seed,
            **({} if self.trained is None else {"trained_on": self.trained.digest}),
        }

    def open(self) -> ImitationWorker:
        return ImitationWorker(self, self.llm.open())


@dataclass(frozen=True)
class _Request:
    """One task about the row of this number in its batch."""

    row: int
    drawn: Drawn
    transcript: str


class ImitationWorker:
    """Answers about rows, all prompts of a batch at once; made by `Imitation.open`."""

    def __init__(self, work: Imitation, client: LLMClient) -> None:
        self._work, self._client = work, client
        trained = work.trained
        self._marks = {
            (task.name, prompt): {} if trained is None else trained.fields(task.name, prompt)
            for task in work.bank.tasks
            for prompt in task.wordings.values()
        }

    def __call__(self, rows: Sequence[InputRow]) -> list[list[Outcome]]:
        """See `Worker`; a row that cannot be asked about is refused, and costs no other."""
        outcomes: list[list[Outcome]] = [[] for _ in rows]
        requests: list[_Request] = []
        for number, row in enumerate(rows):
            for planned in self._plan(number, row):
                if isinstance(planned, Refused):
                    outcomes[number].append(planned)
                else:
                    requests.append(planned)
        replies = self._client.complete([read_prompt(one.drawn.prompt, one.transcript) for one in requests])
        for request, reply in zip(requests, replies, strict=True):
            outcomes[request.row].append(self._outcome(rows[request.row], request, reply))
        return outcomes

    def _plan(self, number: int, row: InputRow) -> Iterator[_Request | Refused]:
        """What is asked about a row, or why nothing is."""
        options = self._work.options
        read = options.read(row)
        if isinstance(read, Refused):
            yield read
            return
        rng = row.rng(self._work.seed, "tasks")
        for drawn in self._work.bank.draw(rng, options.tasks_per_utterance, read.language):
            yield _Request(number, drawn, read.text)

    def _outcome(self, row: InputRow, request: _Request, reply: str | Refused) -> Outcome:
        if isinstance(reply, Refused):
            return _of_task(reply, request)
        refused = judge(reply, request.transcript, self._work.filters)
        return Made(self._new_row(row, request.drawn, reply)) if refused is None else _of_task(refused, request)

    def _new_row(self, row: InputRow, drawn: Drawn, answer: str) -> dict[str, Any]:
        llm = self._work.llm
        provenance = {
            "source": row.id,
            "place": row.place,
            "engine": llm.engine,
            "model": llm.model,
            "prompt_version": self._work.bank.version,
            "wording": drawn.wording,
            "seed": self._work.seed,
        }
        return {
            **{name: value for name, value in row.data.items() if name != "provenance"},
            "id": f"{row.id}-{drawn.task}",
            "task": drawn.task,
            "prompt": drawn.prompt,
            "answer": answer,
            **self._marks[drawn.task, drawn.prompt],
            "provenance": provenance,
        }


def read_prompt(prompt: str, transcript: str) -> Messages:
    """What the LLM reads: the wording's parts and the transcript as one text, joined as `ChatFormat` joins those of a turn."""
    before, after = prompt.split(AUDIO)
    return [{"role": "user", "content": joined((before, transcript, after))}]


def fingerprint_of(model: str, base_url: str | None, weights: str | None) -> str:
    """The fingerprint of the LLM that answers.

    Args:
        model: its folder or hub name, where it runs here.
        base_url: the endpoint that is asked instead, if one is.
        weights: folder or hub name of what the endpoint serves.

    Raises:
        ConfigError: weights are named without an endpoint, or an endpoint without its weights.
        ModelFileError: there are no weights that can be read.
    """
    if base_url is None:
        if weights is not None:
            raise ConfigError(
                "a model that runs here has its own weights", value=weights, expected="--model alone", knob="--weights"
            )
        return folder_fingerprint(model, knob="--model")
    if weights is None:
        raise ConfigError(
            "imitation targets must come from the LLM that is trained, and an endpoint does not tell its weights",
            value=base_url,
            expected="the Hugging Face folder or hub name of what it serves, whose fingerprint training compares with its LLM's",
            knob="--weights",
        )
    return folder_fingerprint(weights, knob="--weights")


def entry_of(llm_fingerprint: str) -> dict[str, Any]:
    """What an entry of `input_cfg` for the new rows says beside where they and their audio are."""
    return {"type": "imitation", "llm_fingerprint": llm_fingerprint}


def _of_task(refused: Refused, request: _Request) -> Refused:
    """The same, with what was asked, as a row has several tasks."""
    return Refused(refused.reason, f"{request.drawn.task}/{request.drawn.wording}: {refused.detail}")
