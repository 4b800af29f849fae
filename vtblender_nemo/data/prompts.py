"""Many wordings of one task, read from a file and drawn row by row."""

from __future__ import annotations

import random
import string
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from vtblender_nemo.common.conversation import Audio, Text
from vtblender_nemo.common.errors import ConfigError, DataError
from vtblender_nemo.common.files import is_file
from vtblender_nemo.data.typed import read_yaml

AUDIO_POSITIONS = ("before", "after", "random")
_AUDIO_FIELD = "audio"


class Wordings:
    """The user turns of a speech source: one of several wordings, with the row's fields filled in, and the audio in its
    place.

    Args:
        wordings: texts with `{field}` for a field of the row, `{source_language}` and `{target_language}` for the names
            of its language codes, and at most one `{audio}` where the audio stands; braces that are meant are doubled.
        audio_position: where the audio stands in wordings without `{audio}`: `before`, `after`, or `random` (drawn).
        place: the file or key that the wordings come from, for errors.

    Raises:
        ConfigError: no wording, or one that is no format string.
    """

    def __init__(self, wordings: Sequence[str], *, audio_position: str = "after", place: str = "prompts") -> None:
        if audio_position not in AUDIO_POSITIONS:
            raise ConfigError(
                "unknown place for the audio",
                value=audio_position,
                expected=f"one of {', '.join(AUDIO_POSITIONS)}",
                knob="audio_position",
            )
        listed = isinstance(wordings, Sequence) and not isinstance(wordings, str)
        if not listed or not wordings or not all(isinstance(wording, str) for wording in wordings):
            raise ConfigError(
                "wordings are no list of texts", path=place, value=wordings, expected='["...", ...]', knob="prompts"
            )
        self._place, self._audio_position = place, audio_position
        self._wordings = [_split(wording, place) for wording in wordings]
        self._asked = sorted({field for wording in wordings for field in _fields_of(wording)} - {_AUDIO_FIELD})

    def user_parts(self, rng: random.Random, fields: Mapping[str, Any], audio: Audio) -> tuple[Text | Audio, ...]:
        """Draws a wording and fills it.

        Raises:
            DataError: the wording names a field that the row lacks, or a language code that is unknown.
        """
        wording = self._wordings[int(rng.random() * len(self._wordings))]
        texts = [_fill(text, fields, self._place) for text in wording]
        if len(texts) == 2:
            parts = (Text(texts[0]), audio, Text(texts[1]))
            return tuple(part for part in parts if isinstance(part, Audio) or part.text.strip())
        first = self._audio_position == "before" or (self._audio_position == "random" and rng.random() < 0.5)
        return (audio, Text(texts[0])) if first else (Text(texts[0]), audio)

    def missing(self, fields: Mapping[str, Any]) -> list[str]:
        """What some of the wordings ask for and a row cannot give, whichever of them is drawn for it."""
        given = _Fields(fields, self._place)
        return [name for name in self._asked if not given.can_give(name)]


def load_wordings(prompts: str | Path | Sequence[str], task: str | None, *, audio_position: str = "after") -> Wordings:
    """Wordings from a YAML file of `task: [wording, ...]`, or a list of them.

    Args:
        prompts: the file's path, or the wordings themselves.
        task: which of the file's tasks; may be left out if the file has one.
        audio_position: see `Wordings`.

    Raises:
        ConfigError: the file is missing, not YAML or of another shape, or has no such task.
    """
    if not isinstance(prompts, str | Path):
        return Wordings(prompts, audio_position=audio_position)
    path = Path(prompts)
    if not is_file(path):
        raise ConfigError(
            "file of wordings is missing", path=path, expected="a YAML file that is there", knob="prompts"
        )
    tasks = read_yaml(path, "prompts")
    if not isinstance(tasks, dict) or not tasks:
        raise ConfigError(
            "file of wordings has the wrong shape", path=path, expected="task: [wording, ...]", knob="prompts"
        )
    if task is None and len(tasks) == 1:
        task = next(iter(tasks))
    if task not in tasks:
        raise ConfigError(
            "no wordings for the task",
            path=path,
            value=task,
            expected=f"one of {', '.join(map(str, tasks))}",
            knob="task",
        )
    return Wordings(tasks[task], audio_position=audio_position, place=str(path))


def language_name(code: str) -> str:
    """The English name of a language: `de`, `de-DE` and `German` are German.

    Raises:
        DataError: the code is unknown.
    """
    name = _language_names().get(code.lower().replace("_", "-").split("-")[0])
    if name is None:
        raise DataError(
            "unknown language code",
            value=code,
            expected="an ISO 639-1 code, as de or de-DE",
            knob="source_lang, target_lang",
        )
    return name


@cache
def _language_names() -> dict[str, str]:
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    names = {code: name.title() for code, name in LANGUAGES.items()}
    return names | {name.lower(): name for name in names.values()}


def _split(wording: str, place: str) -> list[str]:
    """A wording cut at its `{audio}`; every piece is a format string."""
    try:
        fields = _fields_of(wording)
    except ValueError as error:
        raise ConfigError(
            f"wording is no format string ({error})",
            path=place,
            value=wording,
            expected="{{ and }} for braces",
            knob="prompts",
        ) from error
    if fields.count(_AUDIO_FIELD) > 1:
        raise ConfigError(
            "wording with more than one {audio}", path=place, value=wording, expected="at most one", knob="prompts"
        )
    if not all(field.isidentifier() for field in fields):
        raise ConfigError(
            "wording with a field that is no name", path=place, value=wording, expected="{name}", knob="prompts"
        )
    return wording.split("{audio}")


def _fields_of(wording: str) -> list[str]:
    return [field for _, field, _, _ in string.Formatter().parse(wording) if field is not None]


def _fill(text: str, fields: Mapping[str, Any], place: str) -> str:
    if "{" not in text and "}" not in text:
        return text
    return text.format_map(_Fields(fields, place))


class _Fields(dict):
    """The fields of a row, with its languages by name."""

    def __init__(self, fields: Mapping[str, Any], place: str) -> None:
        super().__init__(fields)
        self._place = place

    def can_give(self, name: str) -> bool:
        try:
            return self[name] is not None
        except DataError:
            return False

    def __missing__(self, name: str) -> str:
        code = self.get({"source_language": "source_lang", "target_language": "target_lang"}.get(name, ""))
        if isinstance(code, str):
            return language_name(code)
        raise DataError(
            "a wording asks for a field that the row lacks",
            value=name,
            expected=f"one of {', '.join(map(str, self))}",
            knob=f"prompts ({self._place})",
        )
