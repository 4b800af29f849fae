"""An LLM as judge, behind any server that speaks OpenAI's chat API: grades of answers, kept as they come.

Shapes: I cases.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from vtblender_nemo.common.errors import ConfigError, MissingDependencyError, VTBlenderError
from vtblender_nemo.common.progress import progress_bar
from vtblender_nemo.evaluation.journal import Journal

PROMPTS = Path(__file__).with_name("judge.yaml")
WORST, BEST = 1, 5
"""Grades that the prompts ask for; scores are 0 for the worst, 100 for the best."""

_BAD_REQUEST = (400, 413, 422)  # this case's fault; the next may be right
_PLACES = re.compile(r"\{(question|reference|answer)\}")


class JudgeError(VTBlenderError):
    """The judge cannot be asked, or not any more; what is graded is kept, and the same command goes on from there."""


@dataclass(frozen=True)
class Case:
    """An answer to be graded."""

    question: str
    reference: str
    answer: str


@dataclass(frozen=True)
class Verdict:
    """What the judge found.

    Attributes:
        score: 0 to 100; None where there is no grade.
        reason: the judge's own words.
        error: why there is no grade.
    """

    score: float | None
    reason: str = ""
    error: str = ""


@dataclass(frozen=True)
class Judge:
    """Which LLM grades, and how it is asked.

    Attributes:
        base_url: as `http://localhost:8000/v1`.
        model: the judge's name at that server.
        prompt: a name in `judge.yaml`.
        prompts: another file of prompts than `judge.yaml`.
        api_key_env: the environment variable that holds the key; the key itself stands in no file.
        max_tokens: of a verdict.
        temperature: 0 takes the likeliest verdict.
        replies: how often a case is put to the judge while its replies are no verdicts.
        concurrency: requests under way at once.
        retries: of a request that the server did not answer, with pauses that double or that the server asks for.
        timeout_secs: of one request.
        extra_body: fields of the request that are added or replaced, as `{"reasoning_effort": "low"}`.
    """

    base_url: str
    model: str
    prompt: str = "answer"
    prompts: Path = PROMPTS
    api_key_env: str = "OPENAI_API_KEY"
    max_tokens: int = 256
    temperature: float = 0.0
    replies: int = 2
    concurrency: int = 8
    retries: int = 5
    timeout_secs: float = 120.0
    extra_body: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not str(self.base_url).startswith(("http://", "https://")):
            expected = "an address such as http://localhost:8000/v1"
            raise ConfigError("judge without address", value=self.base_url, expected=expected, knob="judge.base_url")
        if not self.model or not isinstance(self.model, str):
            raise ConfigError("judge without a name", value=self.model, expected="a model", knob="judge.model")
        for name, least in (("max_tokens", 1), ("replies", 1), ("concurrency", 1), ("retries", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                expected = f"a whole number from {least}"
                raise ConfigError("wrong number", value=value, expected=expected, knob=f"judge.{name}")
        if not 0 < self.timeout_secs < math.inf:
            raise ConfigError("no such time", value=self.timeout_secs, expected="seconds", knob="judge.timeout_secs")
        self.template  # noqa: B018 (a missing prompt must show now)

    @property
    def template(self) -> Mapping[str, str]:
        """The prompt's `system` and `user` texts."""
        prompts = _read_prompts(self.prompts)
        if self.prompt not in prompts:
            raise ConfigError(
                "unknown prompt of the judge",
                path=self.prompts,
                value=self.prompt,
                expected=f"one of {', '.join(prompts)}",
                knob="judge.prompt",
            )
        return prompts[self.prompt]

    @property
    def signature(self) -> str:
        """Judge and prompt, as a reader needs them to grade again."""
        digest = hashlib.sha256(json.dumps(self.template, sort_keys=True).encode()).hexdigest()[:8]
        return f"judge:{self.model}|prompt:{self.prompt}-{digest}|temperature:{self.temperature:g}"

    def messages(self, case: Case) -> list[dict[str, str]]:
        """The chat that asks about a case; what is put in is not searched for places again."""
        parts = {"question": case.question, "reference": case.reference, "answer": case.answer}
        text = _PLACES.sub(lambda found: parts[found[1]], self.template["user"])
        return [{"role": "system", "content": self.template["system"]}, {"role": "user", "content": text}]

    def key(self, case: Case) -> str:
        """A name for the verdict that changes with all that decides it."""
        described = [self.model, self.max_tokens, self.temperature, dict(self.extra_body), self.messages(case)]
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:32]


def read_judge(cfg: Mapping[str, Any]) -> Judge:
    """A judge from its settings by name; see `Judge`.

    Raises:
        ConfigError: a missing or unknown setting, or a wrong value.
    """
    known = {one.name for one in fields(Judge)}
    missing, unknown = sorted({"base_url", "model"} - cfg.keys()), sorted(cfg.keys() - known)
    for problem, names in (("missing", missing), ("unknown", unknown)):
        if names:
            expected = f"base_url and model, and if wanted some of {', '.join(sorted(known - {'base_url', 'model'}))}"
            raise ConfigError(f"{problem} setting of the judge", value=names, expected=expected, knob="judge")
    return Judge(**cfg)


def grade(judge: Judge, cases: Sequence[Case], *, journal: Journal | None = None) -> list[Verdict]:
    """Has every case graded.

    Args:
        judge: see `Judge`.
        cases: I cases.
        journal: keeps verdicts as they come; cases found in it are not asked about again. A case without a verdict is.

    Returns:
        I verdicts. One whose reply is no verdict, or whose request the server refuses, has an error and no score.

    Raises:
        JudgeError: the server does not answer, or refuses the key, the model or every request. The journal holds all that
            was graded until then.
        MissingDependencyError: without the package `openai`.
    """
    journal = journal or Journal(None)
    found: dict[int, Verdict] = {}
    for number, case in enumerate(cases):
        if (reply := journal.get(judge.key(case))) is not None:
            found[number] = parse_verdict(reply)
    waiting = [number for number in range(len(cases)) if number not in found]
    if not waiting:
        return [found[number] for number in range(len(cases))]
    client = _client(judge)
    with (
        progress_bar(len(cases), done=len(found), unit="case", label="judge") as bar,
        ThreadPoolExecutor(judge.concurrency) as pool,
    ):
        stop = threading.Event()
        asked = {pool.submit(_grade_or_stop, judge, client, cases[number], stop): number for number in waiting}

        def keep(future: Future[tuple[Verdict, str]]) -> None:
            number = asked[future]
            verdict, reply = future.result()
            if number not in found and verdict.score is not None:
                journal.add({judge.key(cases[number]): reply})
            found[number] = verdict

        try:
            for future in as_completed(asked):
                keep(future)
                bar.update()
        except BaseException as error:
            pool.shutdown(cancel_futures=True)  # waits for those under way, whose grades are not to be lost
            for future in asked:
                if not future.cancelled() and future.exception() is None:
                    keep(future)
            if not isinstance(error, _Stopped):
                raise
            failures = (future.exception() for future in asked if not future.cancelled())
            raise next(one for one in failures if one is not None and not isinstance(one, _Stopped)) from None
    if all(verdict.score is None for verdict in found.values()):
        raise JudgeError(
            f"the judge graded none of {len(cases)} cases; the first: {found[0].error}",
            value=judge.base_url,
            expected="replies that are verdicts",
            knob="judge.model, judge.max_tokens or judge.extra_body",
        )
    return [found[number] for number in range(len(cases))]


def parse_verdict(reply: str) -> Verdict:
    """The verdict that a reply is: one JSON object with a `grade` that is a whole number from 1 to 5, and a `reason`.

    A fence of code around the object is taken away; anything else beside it makes the reply none.
    """
    text = reply.strip()
    if fenced := re.fullmatch(r"```(?:json)?\s*(.*?)\s*```", text, flags=re.DOTALL):
        text = fenced[1]
    try:
        read = json.loads(text)
    except ValueError:
        return _no_verdict(reply, "no JSON")
    if not isinstance(read, dict) or set(read) - {"reason", "grade"} or "grade" not in read:
        return _no_verdict(reply, "not the fields reason and grade")
    number, reason = read["grade"], read.get("reason", "")
    if not isinstance(number, int) or isinstance(number, bool) or not WORST <= number <= BEST:
        return _no_verdict(reply, f"no grade from {WORST} to {BEST}")
    return Verdict(100.0 * (number - WORST) / (BEST - WORST), reason if isinstance(reason, str) else json.dumps(reason))


class _Stopped(Exception):
    """Another request has failed for good."""


def _grade_or_stop(judge: Judge, client: Any, case: Case, stop: threading.Event) -> tuple[Verdict, str]:
    """`_grade` in a thread: after a failure nothing more is asked."""
    if stop.is_set():
        raise _Stopped
    try:
        return _grade(judge, client, case)
    except BaseException:
        stop.set()
        raise


def _grade(judge: Judge, client: Any, case: Case) -> tuple[Verdict, str]:
    """A case's verdict and the reply that it was read from."""
    verdict, reply = Verdict(None, error="not asked"), ""
    for attempt in range(judge.replies):
        answered = _ask(judge, client, case, seed=attempt)
        if isinstance(answered, Verdict):
            return answered, ""
        reply = answered
        verdict = parse_verdict(reply)
        if verdict.score is not None:
            break
    return verdict, reply


def _ask(judge: Judge, client: Any, case: Case, *, seed: int) -> str | Verdict:
    """The judge's reply; a verdict without a score where the server refuses this very case."""
    import openai

    body: dict[str, Any] = {"max_tokens": judge.max_tokens, "temperature": judge.temperature, "seed": seed}
    known = {name: value for name, value in body.items() if name not in judge.extra_body}
    try:
        completion = client.chat.completions.create(
            model=judge.model, messages=judge.messages(case), **known, extra_body=dict(judge.extra_body)
        )
        return _text_of(completion)
    except openai.APIStatusError as error:
        if error.status_code in _BAD_REQUEST:
            return Verdict(None, error=f"the server refused the request ({error})")
        knob = "judge.base_url or judge.model"
        if error.status_code in (401, 403):
            knob = f"the environment variable {judge.api_key_env} (judge.api_key_env)"
        elif error.status_code == 429 or error.status_code >= 500:
            knob = "judge.base_url, judge.concurrency or judge.retries"
        raise _down(judge, error, knob) from error
    except (openai.APIError, ValueError) as error:  # no connection, too slow, or no answer of the chat API
        raise _down(judge, error, "judge.base_url, judge.retries or judge.timeout_secs") from error


def _down(judge: Judge, error: Exception, knob: str) -> JudgeError:
    return JudgeError(
        f"the judge does not answer ({error}); what is graded is kept, the same command goes on from here",
        value=f"{judge.model} at {judge.base_url}",
        expected="a server that answers there",
        knob=knob,
    )


def _text_of(completion: Any) -> str:
    choices = getattr(completion, "choices", None)
    if not choices:
        raise ValueError(f"answer without choices: {str(completion)[:200]!r}")
    message = choices[0].message
    return (message.content if message is not None else None) or ""


def _no_verdict(reply: str, why: str) -> Verdict:
    return Verdict(None, error=f"the judge's reply is no verdict ({why}): {reply.strip()[:200]!r}")


def _client(judge: Judge) -> Any:
    try:
        from openai import OpenAI
    except ImportError as error:
        raise MissingDependencyError(
            "judges are asked by the package openai", knob='pip install "vtblender_nemo[eval]"'
        ) from error
    key = os.environ.get(judge.api_key_env) or "none"  # the client wants one even where the server does not
    return OpenAI(base_url=judge.base_url, api_key=key, timeout=judge.timeout_secs, max_retries=judge.retries)


@lru_cache
def _read_prompts(path: Path) -> Mapping[str, Mapping[str, str]]:
    import yaml

    try:
        prompts = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"prompts of the judge cannot be read ({error})", path=path, knob="judge.prompts") from error
    for name, prompt in prompts.items() if isinstance(prompts, dict) else [("", None)]:
        if not isinstance(prompt, dict) or set(prompt) != {"system", "user"}:
            expected = "a text at system and at user, under the prompt's name"
            raise ConfigError("wrong prompt of the judge", path=path, value=name, expected=expected)
        absent = [place for place in ("question", "reference", "answer") if f"{{{place}}}" not in prompt["user"]]
        if absent:
            raise ConfigError(
                f"prompt {name} of the judge has no place for", path=path, value=absent, knob="judge.prompts"
            )
    return prompts
