"""The prompts by which questions are asked for, read from a versioned YAML file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.data.prompts import language_name
from vtblender_nemo.synthesis.llm.clients import Messages
from vtblender_nemo.synthesis.weights import parse_weights

_FIELDS: dict[str, frozenset[str]] = {
    "ask": frozenset({"count", "kinds", "language", "transcript"}),
    "ask_unanswerable": frozenset({"count", "kinds", "language", "transcript"}),
    "ask_across": frozenset({"count", "kinds", "language", "transcript"}),
    "blind": frozenset({"language", "question"}),
    "reread": frozenset({"language", "question", "transcript"}),
}
_KEYS = {"version", "kinds", "no_answer", *_FIELDS}


@dataclass(frozen=True)
class QaPrompts:
    """Prompts with `$names` to be filled in.

    Attributes:
        version: as `1-3f2a9c01`, the file's own version and a digest of its content, for provenance.
        texts: the prompts by name.
        kinds: what a kind of question asks, by name.
        no_answer: what is answered where the recording does not say, by code of the language.
    """

    version: str
    texts: Mapping[str, str]
    kinds: Mapping[str, str]
    no_answer: Mapping[str, str]

    def ask(
        self, transcript: str, kinds: Sequence[str | None], language: str, *, answerable: bool, across: bool
    ) -> Messages:
        """Asks for questions.

        Args:
            transcript: what is said; of several utterances, a line each.
            kinds: one for every question that is wanted; None leaves it open.
            language: the code of the questions' language.
            answerable: whether the transcript answers them.
            across: whether they are to need several utterances.
        """
        name = "ask_unanswerable" if not answerable else "ask_across" if across else "ask"
        count = "one question" if len(kinds) == 1 else f"{len(kinds)} different questions"
        return self._fill(
            name, transcript=transcript, count=count, kinds=self._wish(kinds), language=language_name(language)
        )

    def blind(self, question: str, language: str) -> Messages:
        """Asks a question without the recording."""
        return self._fill("blind", question=question, language=language_name(language))

    def reread(self, transcript: str, question: str, language: str) -> Messages:
        """Asks a question with the transcript."""
        return self._fill("reread", transcript=transcript, question=question, language=language_name(language))

    def _fill(self, name: str, **values: str) -> Messages:
        return [{"role": "user", "content": Template(self.texts[name]).substitute(values).strip()}]

    def _wish(self, kinds: Sequence[str | None]) -> str:
        if not any(kinds):
            return ""
        if len(kinds) == 1:
            return f"- The question {self.kinds[str(kinds[0])]}"
        lines = [f"  {n}. {self.kinds[kind]}" for n, kind in enumerate(kinds, start=1) if kind]
        return "\n".join(["- In this order, the questions are of these kinds:", *lines])


def load_prompts(path: Path) -> QaPrompts:
    """Reads a file as `conf/prompts/sqa_synthesis.yaml`.

    Raises:
        ConfigError: the file is missing, not YAML, lacks a prompt, or has one without a `$name` that it needs.
    """
    import yaml

    knob = "--prompts"
    try:
        content = path.read_text(encoding="utf-8")
        values = yaml.safe_load(content)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"prompts cannot be read ({error})", path=path, knob=knob) from error
    if not isinstance(values, Mapping) or set(values) != _KEYS:
        found = sorted(map(str, values)) if isinstance(values, Mapping) else values
        raise ConfigError("not a file of prompts", path=path, value=found, expected=", ".join(sorted(_KEYS)), knob=knob)
    for name, fields in _FIELDS.items():
        _check_template(path, name, values[name], fields)
    kinds, no_answer = (_texts_by_name(path, name, values[name]) for name in ("kinds", "no_answer"))
    digest = hashlib.sha256(content.encode()).hexdigest()[:8]
    texts = {name: values[name] for name in _FIELDS}
    return QaPrompts(f"{values['version']}-{digest}", texts, kinds, no_answer)


def _texts_by_name(path: Path, key: str, values: Any) -> dict[str, str]:
    if isinstance(values, Mapping) and all(isinstance(text, str) and text.strip() for text in values.values()):
        return {str(name): text for name, text in values.items()}
    knob = f"{key} in the file of prompts"
    raise ConfigError(f"{key} are no texts by name", path=path, value=values, expected="name: text", knob=knob)


def _check_template(path: Path, name: str, text: Any, fields: frozenset[str]) -> None:
    knob = f"{name} in the file of prompts"
    if not isinstance(text, str):
        raise ConfigError("prompt is no text", path=path, value=text, knob=knob)
    found = {match["named"] or match["braced"] for match in Template.pattern.finditer(text) if not match["escaped"]}
    if None in found:
        raise ConfigError("a $ without a name in a prompt", path=path, expected="$$ for a dollar sign", knob=knob)
    if found != fields:
        expected = ", ".join(f"${field}" for field in sorted(fields))
        raise ConfigError("prompt with other fields", path=path, value=sorted(found), expected=expected, knob=knob)


def parse_kinds(text: str, prompts: QaPrompts) -> dict[str, float]:
    """Weights by name of `person,yes_no=2`, of `all`, or of nothing.

    Raises:
        ConfigError: a weight that is no number.
    """
    if text.strip() == "all":
        return dict.fromkeys(prompts.kinds, 1.0)
    return {name: 1.0 if weight is None else weight for name, weight in parse_weights(text, "--kinds").items()}
