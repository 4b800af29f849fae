"""Any server that speaks OpenAI's chat API (vLLM, llama.cpp, Ollama, OpenAI itself), asked with many requests at once."""

from __future__ import annotations

import json
import logging
import math
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from vtblender_nemo.common.errors import ConfigError, MissingDependencyError, VTBlenderError
from vtblender_nemo.synthesis.llm.clients import LLM, Messages
from vtblender_nemo.synthesis.work import Refused

if TYPE_CHECKING:
    from openai import APIStatusError

_log = logging.getLogger(__name__)

_FIRST_WAIT_SECS, _LONGEST_WAIT_SECS = 1.0, 60.0  # of the back-off, which doubles
_BAD_PROMPT = (400, 413, 422)  # this request is wrong; the next may be right
_TRY_AGAIN = (408, 409, 425, 429)  # and all from 500
_OUT_OF_MONEY = "insufficient_quota"
_TELL_SECS = 60.0  # between two words about retries
_MOST_REFUSALS = 16
"""So many bad requests before the first good one are the settings' fault and not the prompts'."""


class EndpointError(VTBlenderError):
    """The endpoint cannot be used, or not any more; what is done is kept, and the same command goes on from there."""


@dataclass(frozen=True)
class EndpointLLM(LLM):
    """An LLM behind an OpenAI-compatible endpoint.

    Attributes:
        base_url: as `http://localhost:8000/v1`.
        api_key_env: the environment variable that holds the key; the key itself stands in no file. Servers that want none
            may have none.
        concurrency: most requests under way at once.
        requests_per_minute: most requests sent, retries included; None for no limit.
        max_attempts: at one prompt, until the job stops.
        timeout_secs: of one request.
        longest_wait_secs: a server that asks for a longer pause than this stops the job.
        extra_body: fields of the request that are added, replaced, or with None taken out: `{"max_tokens": None,
            "max_completion_tokens": 512}`.
    """

    base_url: str = ""
    api_key_env: str = "OPENAI_API_KEY"
    concurrency: int = 16
    requests_per_minute: float | None = None
    max_attempts: int = 6
    timeout_secs: float = 120.0
    longest_wait_secs: float = 300.0
    extra_body: Mapping[str, Any] = field(default_factory=dict)

    engine = "openai"

    def __post_init__(self) -> None:
        if not self.base_url.startswith(("http://", "https://")):
            expected = "an address such as http://localhost:8000/v1"
            raise ConfigError("endpoint without address", value=self.base_url, expected=expected, knob="--base-url")
        for name, least in (("concurrency", 1), ("max_attempts", 1)):
            if getattr(self, name) < least:
                knob = f"--{name.replace('_', '-')}"
                raise ConfigError(
                    f"{name} is too small", value=getattr(self, name), expected=f"at least {least}", knob=knob
                )
        limits = (
            ("--timeout", self.timeout_secs, "seconds"),
            ("--requests-per-minute", self.requests_per_minute, "requests"),
        )
        for knob, value, unit in limits:
            if value is not None and not 0 < value < math.inf:
                raise ConfigError("no request can be made so", value=value, expected=f"more than 0 {unit}", knob=knob)
        if own := sorted({"model", "messages", "stream", "response_format"} & set(self.extra_body)):
            raise ConfigError("fields of the request that are set here", value=own, knob="--request-json")

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "extra_body": dict(self.extra_body)}

    def open(
        self, *, now: Callable[[], float] = time.monotonic, sleep: Callable[[float], Any] | None = None
    ) -> EndpointClient:
        """
        Args:
            now: the time in seconds.
            sleep: waits so many seconds.

        Raises:
            MissingDependencyError: without the package `openai`.
        """
        try:
            from openai import OpenAI
        except ImportError as error:
            raise MissingDependencyError(
                "endpoints are asked by the package openai", knob='pip install "vtblender_nemo[synthesis]"'
            ) from error
        key = os.environ.get(self.api_key_env) or "none"  # the client wants one even where the server does not
        # Retries are made here: the client's own wait a minute at most, and know nothing of the rate limit.
        client = OpenAI(base_url=self.base_url, api_key=key, timeout=self.timeout_secs, max_retries=0)
        return EndpointClient(self, client, now, sleep)


def read_extra_body(text: str) -> dict[str, Any]:
    """`EndpointLLM.extra_body` from JSON.

    Raises:
        ConfigError: it is no JSON object.
    """
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"no JSON ({error})", value=text, expected="{...}", knob="--request-json") from error
    if not isinstance(fields, dict):
        raise ConfigError("no JSON object", value=text, expected="{...}", knob="--request-json")
    return fields


class Pace:
    """Holds requests of several threads to a rate, and all of them back for as long as the server asks.

    Args:
        per_minute: most requests; None for no limit.
        now: the time in seconds.
        sleep: waits so many seconds.
    """

    def __init__(self, per_minute: float | None, now: Callable[[], float], sleep: Callable[[float], Any]) -> None:
        self._interval_secs = 60.0 / per_minute if per_minute else 0.0
        self._now, self._sleep = now, sleep
        self._next = now()
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Returns when the next request may be sent."""
        with self._lock:
            start = max(self._now(), self._next)
            self._next = start + self._interval_secs
            pause = start - self._now()
        if pause > 0:
            self._sleep(pause)

    def hold(self, secs: float) -> None:
        """No request before so many seconds have passed."""
        with self._lock:
            self._next = max(self._next, self._now() + secs)


class Retries:
    """Counts failures by kind, and tells of the first at once and of more at most once a minute.

    Args:
        now: the time in seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now, self._told_at = now, -math.inf
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, kind: str) -> None:
        """A request failed so and is made again."""
        with self._lock:
            self._counts[kind] += 1
            if self._now() - self._told_at < _TELL_SECS:
                return
            self._told_at = self._now()
            kinds = ", ".join(f"{kind}: {count}" for kind, count in self._counts.most_common())
            _log.warning("requests that failed and are made again: %d (%s)", self._counts.total(), kinds)


class _Stopped(Exception):
    """Another request has failed for good."""


class EndpointClient:
    """Answers prompts over HTTP; made by `EndpointLLM.open`."""

    def __init__(
        self, llm: EndpointLLM, client: Any, now: Callable[[], float], sleep: Callable[[float], Any] | None
    ) -> None:
        self._llm, self._client = llm, client
        self._stop = threading.Event()
        self._sleep = sleep or self._stop.wait
        self._pace = Pace(llm.requests_per_minute, now, self._sleep)
        self._retries = Retries(now)
        self._structured: bool | None = None  # whether the server holds answers to a schema; None: not tried yet
        self._answered, self._refused = False, 0
        self._jitter = random.Random()

    def complete(
        self, prompts: Sequence[Messages], *, json_schema: Mapping[str, Any] | None = None
    ) -> list[str | Refused]:
        """See `LLMClient`.

        Raises:
            EndpointError: the server fails again and again, refuses the key or the model, or asks for too long a pause.
        """
        replies: list[str | Refused] = []
        while json_schema is not None and self._structured is None and len(replies) < len(prompts):
            replies.append(self._try_schema(prompts[len(replies)], json_schema))
        schema = json_schema if self._structured else None
        with ThreadPoolExecutor(self._llm.concurrency) as pool:
            futures = [pool.submit(self._ask_or_stop, messages, schema) for messages in prompts[len(replies) :]]
            try:
                return replies + [future.result() for future in futures]
            except BaseException as error:
                self._stop.set()
                pool.shutdown(cancel_futures=True)
                failed = [future.exception() for future in futures if not future.cancelled()]
                raise next((one for one in failed if one and not isinstance(one, _Stopped)), error) from None
            finally:
                self._stop.clear()

    def _ask_or_stop(self, messages: Messages, schema: Mapping[str, Any] | None) -> str | Refused:
        """`_ask` in a thread: a failure also ends the others, which may be waiting for another try."""
        try:
            return self._ask(messages, schema)
        except BaseException:
            self._stop.set()
            raise

    def _try_schema(self, messages: Messages, schema: Mapping[str, Any]) -> str | Refused:
        """The first prompts, one by one: a refusal with the schema that an answer follows without it is the schema's."""
        reply = self._ask(messages, schema)
        if not _is_bad_request(reply):
            self._structured = True
            return reply
        plain = self._ask(messages, None)
        if not _is_bad_request(plain):
            self._structured = False
            assert isinstance(reply, Refused), "told above"
            _log.warning("the endpoint takes no response_format (%s); answers are asked for in words", reply.detail)
        return plain

    def _ask(self, messages: Messages, schema: Mapping[str, Any] | None) -> str | Refused:
        """One prompt, tried until it is answered or refused."""
        import openai

        for attempt in range(1, self._llm.max_attempts + 1):
            self._pace.wait()
            if self._stop.is_set():
                raise _Stopped
            try:
                reply = _reply_of(self._client.chat.completions.create(**self._request(messages, schema)))
            except openai.APIStatusError as error:
                if error.status_code in _BAD_PROMPT:
                    return self._bad_request(error)
                self._check_worth_a_retry(error)
                failure: Exception = error
                asked_secs = _retry_after_secs(error.response.headers)
            except (openai.APIError, ValueError) as error:  # no connection, too slow, or no JSON
                failure, asked_secs = error, None
            else:
                self._answered = True
                return reply
            if attempt < self._llm.max_attempts:
                self._retries.add(_kind_of(failure))
                self._wait(attempt, asked_secs, failure)
        raise EndpointError(
            f"the endpoint failed {self._llm.max_attempts} times ({failure}); the same command goes on from here",
            value=self._llm.base_url,
            expected="a server that answers there",
            knob="--base-url, --max-attempts, --concurrency, --requests-per-minute or --timeout",
        )

    def _request(self, messages: Messages, schema: Mapping[str, Any] | None) -> dict[str, Any]:
        decoding = self._llm.decoding
        body: dict[str, Any] = {
            "model": self._llm.model,
            "messages": [dict(message) for message in messages],
            "max_tokens": decoding.max_new_tokens,
            "temperature": decoding.temperature,
            "top_p": decoding.top_p,
            "seed": decoding.seed_of(messages),
        }
        if schema is not None:
            held = {"name": "answer", "strict": True, "schema": dict(schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": held}
        known = {name: value for name, value in body.items() if name not in self._llm.extra_body}
        extra = {name: value for name, value in self._llm.extra_body.items() if value is not None}
        return {**known, "extra_body": extra}

    def _bad_request(self, error: APIStatusError) -> Refused:
        self._refused += 1
        if not self._answered and self._refused >= _MOST_REFUSALS:
            raise EndpointError(
                f"the endpoint refuses every request ({error})",
                value=self._llm.base_url,
                expected="a request that it understands",
                knob="--model or --request-json",
            )
        return Refused("request_refused", str(error))

    def _check_worth_a_retry(self, error: APIStatusError) -> None:
        status = error.status_code
        if getattr(error, "code", None) != _OUT_OF_MONEY and (status in _TRY_AGAIN or status >= 500):
            return
        knob = "--model or --base-url"
        if status in (401, 403):
            knob = f"the environment variable {self._llm.api_key_env} (--api-key-env)"
        raise EndpointError(f"the endpoint refuses to work ({error})", value=self._llm.base_url, knob=knob)

    def _wait(self, attempt: int, asked_secs: float | None, failure: Exception) -> None:
        """Until the next attempt: as long as the server asks, which holds for all requests, or longer each time."""
        if asked_secs is None:
            backoff_secs = min(_FIRST_WAIT_SECS * 2 ** (attempt - 1), _LONGEST_WAIT_SECS)
            self._sleep(backoff_secs * self._jitter.uniform(0.5, 1.0))
            return
        if asked_secs > self._llm.longest_wait_secs:
            raise EndpointError(
                f"the endpoint asks for a pause ({failure}); the same command goes on from here",
                value=f"{asked_secs:.0f} s",
                expected=f"at most {self._llm.longest_wait_secs:.0f} s",
                knob="--requests-per-minute, or a later start",
            ) from failure
        self._pace.hold(asked_secs)


def _kind_of(failure: Exception) -> str:
    """The status of an answer, or what came in place of one."""
    import openai

    if isinstance(failure, openai.APIStatusError):
        return str(failure.status_code)
    if isinstance(failure, openai.APITimeoutError):
        return "time-out"
    return "no connection" if isinstance(failure, openai.APIConnectionError) else "no answer of the chat API"


def _is_bad_request(reply: str | Refused) -> bool:
    return isinstance(reply, Refused) and reply.reason == "request_refused"


def _reply_of(completion: Any) -> str | Refused:
    """The text of an answer that is whole.

    Raises:
        ValueError: the server's answer is none of the chat API.
    """
    choices = getattr(completion, "choices", None)
    if not choices:
        raise ValueError(f"answer without choices: {str(completion)[:200]!r}")
    message, ending = choices[0].message, choices[0].finish_reason
    text = message.content if message is not None else None
    if ending == "length":
        return Refused("reply_cut_off", text or "")
    if ending == "content_filter" or getattr(message, "refusal", None):
        return Refused("reply_withheld", getattr(message, "refusal", None) or "content filter")
    return text if text else Refused("reply_empty")


def _retry_after_secs(headers: Mapping[str, str]) -> float | None:
    """The pause that a server asks for, in seconds or until a date (RFC 9110, 10.2.3); None if it names none."""
    value = headers.get("retry-after", "")
    try:
        secs = float(value)
    except ValueError:
        try:
            secs = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError):
            return None
    return max(0.0, secs) if secs == secs else None
