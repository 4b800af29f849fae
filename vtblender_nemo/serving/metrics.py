"""What a server counts, for Prometheus."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from vtblender_nemo.serving.engine.engine import Engine
from vtblender_nemo.serving.engine.requests import Usage

_SECS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Metrics:
    """Counters of one server, in a registry of its own.

    Args:
        engine: whose state the gauges show.
    """

    def __init__(self, engine: Engine) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self.requests = Counter("vtblender_requests", "Requests.", ("route", "status"), registry=registry)
        self.first_token_secs = Histogram(
            "vtblender_first_token_seconds", "From a request to its first text.", buckets=_SECS, registry=registry
        )
        self.answer_secs = Histogram(
            "vtblender_answer_seconds", "From a request to its whole answer.", buckets=_SECS, registry=registry
        )
        self.answer_tokens = Counter("vtblender_answer_tokens", "Tokens generated.", registry=registry)
        self.prompt_positions = Counter(
            "vtblender_prompt_positions", "Tokens and speech frames of prompts.", registry=registry
        )
        self.cached_positions = Counter(
            "vtblender_cached_positions", "Those of them that a kept chat had.", registry=registry
        )
        self.audio_secs = Counter("vtblender_audio_seconds", "Speech heard.", registry=registry)
        for name, text, read in (
            ("vtblender_waiting_requests", "Requests in the queue.", lambda: engine.waiting),
            ("vtblender_running_requests", "Answers in the making.", lambda: engine.running),
            ("vtblender_prefix_bytes", "Memory of kept chats.", lambda: engine.prefix_bytes),
        ):
            Gauge(name, text, registry=registry).set_function(read)

    def text(self) -> bytes:
        """All of it, in Prometheus's format."""
        return generate_latest(self._registry)

    def watch(self) -> Watch:
        """Times one answer from now on."""
        return Watch(self)


@dataclass
class Watch:
    """The times of one answer.

    Attributes:
        metrics: that get them.
    """

    metrics: Metrics
    _started: float = field(default_factory=time.monotonic)
    _has_begun: bool = False

    def piece(self) -> None:
        """Some text has come."""
        if not self._has_begun:
            self._has_begun = True
            self.metrics.first_token_secs.observe(time.monotonic() - self._started)

    def done(self, usage: Usage) -> None:
        """The answer is whole."""
        self.metrics.answer_secs.observe(time.monotonic() - self._started)
        self.metrics.answer_tokens.inc(usage.answer_tokens)
        self.metrics.prompt_positions.inc(usage.prompt_positions)
        self.metrics.cached_positions.inc(usage.cached_positions)
        self.metrics.audio_secs.inc(usage.audio_secs)
