"""Speech QA: an LLM reads the transcript of a recording, and writes questions about it with their answers.

With one question a row, no kinds and no unanswerable ones this is what the paper does (arXiv 2410.17485): one question and one
answer for a transcript, or none where its sentences mean nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.synthesis.inputs.speech import SpeechRows
from vtblender_nemo.synthesis.inputs.utterance_groups import SOURCES, UTTERANCES
from vtblender_nemo.synthesis.languages import language_code
from vtblender_nemo.synthesis.llm.clients import LLM, LLMClient, Messages
from vtblender_nemo.synthesis.speech_qa.filters import Candidate, FilterOptions, make_filters
from vtblender_nemo.synthesis.speech_qa.prompts import QaPrompts
from vtblender_nemo.synthesis.speech_qa.replies import PAIRS_SCHEMA, Pair, clean, parse_pairs
from vtblender_nemo.synthesis.transcripts import TranscriptOptions
from vtblender_nemo.synthesis.work import InputRow, Made, Outcome, Refused, Work


@dataclass(frozen=True)
class QaOptions(TranscriptOptions):
    """What is asked about a row; questions are in its transcript's language.

    Attributes:
        questions: asked for a row; the LLM may find fewer.
        kinds: weights of the kinds of questions, drawn for each question; empty leaves the kind to the LLM.
        unanswerable: the share of questions that the recording does not answer, as in SQuAD 2.0; drawn for each question.
        unanswerable_answer: what is answered then, in all languages; None takes the wording of the row's language from the
            prompts' file, and asks nothing unanswerable of rows in other languages.
    """

    questions: int = 1
    kinds: Mapping[str, float] = field(default_factory=dict)
    unanswerable: float = 0.0
    unanswerable_answer: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.questions < 1:
            raise ConfigError("nothing is asked", value=self.questions, expected="at least 1", knob="--questions")
        if not 0 <= self.unanswerable <= 1:
            knob = "--unanswerable"
            raise ConfigError("no share of questions", value=self.unanswerable, expected="0 to 1", knob=knob)
        if self.unanswerable_answer is not None and not self.unanswerable_answer.strip():
            raise ConfigError("unanswerable questions need an answer", knob="--unanswerable-answer")
        if not all(0 < weight < math.inf for weight in self.kinds.values()):
            expected = "weights of more than 0"
            raise ConfigError(
                "a kind of question without weight", value=dict(self.kinds), expected=expected, knob="--kinds"
            )


@dataclass(frozen=True)
class SpeechQa(Work):
    """Questions and answers about transcribed speech; the rows that come of it are `speech_qa` rows.

    Attributes:
        llm: who asks.
        prompts: in what words it is told to.
        options: what it is told to ask.
        filters: what of it is kept.
        seed: of what is drawn for a row.
    """

    llm: LLM
    prompts: QaPrompts
    options: QaOptions = field(default_factory=QaOptions)
    filters: FilterOptions = field(default_factory=FilterOptions)
    seed: int = 0

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.options.kinds) - set(self.prompts.kinds)):
            expected = f"some of {', '.join(self.prompts.kinds)}"
            raise ConfigError("unknown kind of question", value=unknown, expected=expected, knob="--kinds")
        if self.options.unanswerable and self.no_answer(language_code(self.options.language)) is None:
            raise ConfigError(
                "unanswerable questions have no answer in this language",
                value=self.options.language,
                expected=f"one of {', '.join(self.prompts.no_answer)}",
                knob="no_answer in the file of --prompts, --unanswerable-answer or --language",
            )

    def no_answer(self, language: str) -> str | None:
        """What is answered where the recording does not say; None if nobody has told it for the language (a code)."""
        return self.options.unanswerable_answer or self.prompts.no_answer.get(language)

    def settings(self) -> dict[str, Any]:
        return {
            "work": "speech_qa",
            "llm": self.llm.settings(),
            "prompts": self.prompts.version,
            "options": asdict(self.options),
            "filters": asdict(self.filters),
            "seed": self.seed,
        }

    def open(self) -> SpeechQaWorker:
        return SpeechQaWorker(self, self.llm.open())


@dataclass(frozen=True)
class _Request:
    """One prompt: questions of one sort about one row.

    Attributes:
        row: the row's number in its batch.
        kinds: one for every question; None leaves it to the LLM.
    """

    row: int
    prompt: Messages
    kinds: tuple[str | None, ...]
    transcript: str
    language: str
    answerable: bool


@dataclass(frozen=True)
class _Draft:
    """A pair that came of a request, and its number among those of its row."""

    request: _Request
    number: int
    pair: Pair
    kind: str | None
    candidate: Candidate


class SpeechQaWorker:
    """Makes questions of rows, all prompts of a batch at once; made by `SpeechQa.open`."""

    def __init__(self, work: SpeechQa, client: LLMClient) -> None:
        self._work, self._client = work, client
        self._filters = make_filters(work.filters, client, work.prompts)

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
        for draft in self._filtered(self._drafts(requests, outcomes), outcomes):
            row = rows[draft.request.row]
            outcomes[draft.request.row].append(Made(self._new_row(row, draft)))
        return outcomes

    def _plan(self, number: int, row: InputRow) -> Iterator[_Request | Refused]:
        """What is asked about a row, or why nothing is."""
        options = self._work.options
        read = options.read(row)
        if isinstance(read, Refused):
            yield read
            return
        utterances = [clean(part) for part in row.data.get(UTTERANCES, [read.text])]
        transcript = "\n".join(utterances)
        for answerable, kinds in self._draw(row):
            if not answerable and self._work.no_answer(read.language) is None:
                yield Refused(
                    "no_wording_of_no_answer", f"{read.language}: no_answer in the file of --prompts lacks it"
                )
                continue
            prompt = self._work.prompts.ask(
                transcript, kinds, read.language, answerable=answerable, across=len(utterances) > 1
            )
            yield _Request(number, prompt, kinds, transcript, read.language, answerable)

    def _draw(self, row: InputRow) -> Iterator[tuple[bool, tuple[str | None, ...]]]:
        """The kinds of a row's answerable questions, and of its unanswerable ones, where there are any."""
        options = self._work.options
        rng = row.rng(self._work.seed, "questions")
        drawn: dict[bool, list[str | None]] = {True: [], False: []}
        for _ in range(options.questions):
            answerable = rng.random() >= options.unanswerable
            kind = rng.choices(list(options.kinds), list(options.kinds.values()))[0] if options.kinds else None
            drawn[answerable].append(kind)
        yield from ((answerable, tuple(kinds)) for answerable, kinds in drawn.items() if kinds)

    def _drafts(self, requests: Sequence[_Request], outcomes: list[list[Outcome]]) -> list[_Draft]:
        replies = self._client.complete([request.prompt for request in requests], json_schema=PAIRS_SCHEMA)
        drafts: list[_Draft] = []
        numbers = [0] * len(outcomes)
        for request, reply in zip(requests, replies, strict=True):
            found = [reply] if isinstance(reply, Refused) else parse_pairs(reply, len(request.kinds))
            pairs = [pair for pair in found if isinstance(pair, Pair)]
            outcomes[request.row].extend(pair for pair in found if isinstance(pair, Refused))
            # A reply with fewer pairs does not tell which kinds it has left out.
            kinds = request.kinds if len(pairs) == len(request.kinds) else (None,) * len(pairs)
            for pair, kind in zip(pairs, kinds, strict=True):
                drafts.append(_Draft(request, numbers[request.row], pair, kind, self._candidate(request, pair)))
                numbers[request.row] += 1
        return drafts

    def _candidate(self, request: _Request, pair: Pair) -> Candidate:
        answer = pair.answer if request.answerable else self._work.no_answer(request.language)
        assert answer is not None, "planned otherwise"
        return Candidate(pair.question, answer, request.transcript, request.language, request.answerable)

    def _filtered(self, drafts: list[_Draft], outcomes: list[list[Outcome]]) -> list[_Draft]:
        """What all filters keep; a filter sees only what those before it have kept."""
        for judge in self._filters:
            verdicts = judge.judge([draft.candidate for draft in drafts])
            for draft, verdict in zip(drafts, verdicts, strict=True):
                if verdict is not None:
                    outcomes[draft.request.row].append(verdict)
            drafts = [draft for draft, verdict in zip(drafts, verdicts, strict=True) if verdict is None]
        return drafts

    def _new_row(self, row: InputRow, draft: _Draft) -> dict[str, Any]:
        kept = {name: value for name, value in row.data.items() if name not in (UTTERANCES, SOURCES, "provenance")}
        llm = self._work.llm
        provenance = {
            "source": row.id,
            "place": row.place,
            "engine": llm.engine,
            "model": llm.model,
            "prompt_version": self._work.prompts.version,
            "seed": self._work.seed,
            **({"sources": row.data[SOURCES]} if SOURCES in row.data else {}),
        }
        return {
            **kept,
            "id": f"{row.id}-q{draft.number}",
            "question": draft.candidate.question,
            "answer": draft.candidate.answer,
            "answerable": draft.candidate.answerable,
            **({} if draft.candidate.answerable else {"plausible_answer": draft.pair.answer}),
            **({} if draft.kind is None else {"question_kind": draft.kind}),
            "provenance": provenance,
        }


def entry_of(rows: SpeechRows, wordings: Path) -> dict[str, Any]:
    """What an entry of `input_cfg` for the new rows says beside where they and their audio are.

    Args:
        rows: the input.
        wordings: a file as `conf/prompts/sqa.yaml`; its texts go into the entry, which then needs no file.
    """
    texts = yaml.safe_load(wordings.read_text(encoding="utf-8"))["sqa"]
    if rows.shard_sizes is None:
        return {"type": "speech_qa", "prompts": texts}
    return {"text_field": "answer", "prompts": texts}  # a type that reads tars
