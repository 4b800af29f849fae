"""Writes a planned world as the files that data sources and evaluation read; audio paths are relative to each file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from vtblender_nemo.data.word_times import FIELD as ALIGNMENT
from vtblender_nemo.tiny.items import Item
from vtblender_nemo.tiny.skills import INSTRUCTIONS, WORDINGS
from vtblender_nemo.tiny.sources import WorldPlan
from vtblender_nemo.tiny.speech import Alignments, Spoken

SOURCES = {
    "text": "sources/text.jsonl",
    "asr": "sources/asr.jsonl",
    "ast_de": "sources/ast_de.jsonl",
    "ast_es": "sources/ast_es.jsonl",
    "speech_qa": "sources/speech_qa.jsonl",
    "mixed": "sources/mixed.jsonl",
    "mixed_questions": "sources/mixed_questions.jsonl",  # those of `mixed` that ask, without those that instruct
    "voices": "sources/voices.jsonl",
}
PROMPTS = "prompts.yaml"
_PROMPT_SKILLS = {"asr": "repeat", "ast_de": "translate_de", "ast_es": "translate_es"}
_QUESTION_WORDINGS = ["{audio} {question}", "{audio} {question}", "{question} {audio}"]


def audio_fields(
    spoken: Spoken, durations: Mapping[str, float], alignments: Alignments | None = None
) -> dict[str, Any]:
    """What a row of a source says of its audio."""
    fields = {"audio_filepath": f"../{spoken.file}", "duration": round(durations[spoken.name], 4)}
    return fields if alignments is None else {**fields, ALIGNMENT: alignments[spoken.name]}


def write_world(
    plan: WorldPlan, durations: Mapping[str, float], folder: Path, alignments: Alignments | None = None
) -> None:
    """Writes sources, prompts, tests and validations.

    Args:
        plan: the rows.
        durations: seconds of every utterance by name.
        folder: the world's folder, where `speech/` is.
        alignments: when the words of every utterance are said, by name; None leaves them out.
    """

    def audio(spoken: Spoken) -> dict[str, Any]:
        return audio_fields(spoken, durations, alignments)

    _write(folder / SOURCES["text"], _text_rows(plan))
    _write(folder / SOURCES["asr"], ({**audio(one.speech), "text": one.speech.text} for one in plan.spoken_facts))
    for language in ("de", "es"):
        _write(folder / SOURCES[f"ast_{language}"], _translation_rows(plan, language, audio))
    _write(folder / SOURCES["speech_qa"], _speech_qa_rows(plan, audio))
    _write(folder / SOURCES["mixed"], (_conversation_row(item, audio) for item in plan.mixed))
    questions = (item for item in plan.mixed if item.skill not in INSTRUCTIONS)
    _write(folder / SOURCES["mixed_questions"], (_conversation_row(item, audio) for item in questions))
    _write(folder / SOURCES["voices"], (_conversation_row(item, audio) for item in plan.voice_rows))
    for task, items in plan.tests.items():
        _write(folder / "tests" / f"{task}.jsonl", (_item_row(item, item.custom) for item in items))
    for task, items in plan.validations.items():
        _write(folder / "validation" / f"{task}.jsonl", (_item_row(item, {}) for item in items))
    (folder / PROMPTS).write_text(yaml.safe_dump(_wordings(), sort_keys=False), encoding="utf-8")


def _wordings() -> dict[str, list[str]]:
    """The wordings of every speech task, with `{audio}` where the speech stands."""
    by_task = {
        task: [f"{word.text} {{audio}}" if word.leads else f"{{audio}} {word.text}" for word in WORDINGS[skill]]
        for task, skill in _PROMPT_SKILLS.items()
    }
    return {**by_task, "speech_qa": _QUESTION_WORDINGS}


def _text_rows(plan: WorldPlan) -> Iterable[dict[str, Any]]:
    for index, chat in enumerate(plan.text_chats):
        skills = "+".join(dict.fromkeys(exchange.skill for exchange in chat.exchanges))
        yield {"id": f"text_{index:05d}", "task": skills, "messages": chat.messages()}


def _translation_rows(
    plan: WorldPlan, language: str, audio: Callable[[Spoken], dict[str, Any]]
) -> Iterable[dict[str, Any]]:
    for one in plan.spoken_facts:
        translation = getattr(one.fact.sentence(), language)
        yield {
            **audio(one.speech),
            "text": one.speech.text,
            "translation": translation,
            "source_lang": "en",
            "target_lang": language,
        }


def _speech_qa_rows(plan: WorldPlan, audio: Callable[[Spoken], dict[str, Any]]) -> Iterable[dict[str, Any]]:
    for row in plan.speech_questions:
        yield {
            **audio(row.speech),
            "text": row.speech.text,
            "question": row.question.text,
            "answer": row.question.answer,
        }


def _conversation_row(item: Item, audio: Callable[[Spoken], dict[str, Any]]) -> dict[str, Any]:
    turns: list[dict[str, Any]] = []
    for part in item.parts:
        if isinstance(part, Spoken):
            row = audio(part)
            turns.append(
                {
                    "type": "audio",
                    "from": "User",
                    "value": row["audio_filepath"],
                    "duration": row["duration"],
                    "text": part.text,
                    **({ALIGNMENT: row[ALIGNMENT]} if ALIGNMENT in row else {}),
                }
            )
        else:
            turns.append({"type": "text", "from": "User", "value": part})
    turns.append({"type": "text", "from": "Assistant", "value": item.answer})
    return {"id": item.id, "task": item.skill, "conversations": turns}


def _item_row(item: Item, more: Mapping[str, Any]) -> dict[str, Any]:
    messages: list[dict[str, Any]] = []
    for turn in item.earlier:
        messages.append({"role": "user", "content": _content(turn.parts)})
        messages.append({"role": "assistant", "content": turn.answer})
    messages.append({"role": "user", "content": _content(item.parts)})
    custom: dict[str, Any] = {"skill": item.skill, "kind": item.skill if item.task == "text" else item.task}
    if item.spoken:
        custom["transcript"] = [spoken.text for spoken in item.spoken]
        custom["voices"] = [spoken.voice.name for spoken in item.spoken]
    return {
        "id": item.id,
        "task": item.task,
        "messages": messages,
        "reference": item.answer,
        "custom": {**custom, **more},
    }


def _content(parts: Sequence[str | Spoken]) -> str | list[dict[str, str]]:
    """A text where all is typed and one part; else a list of parts."""
    if len(parts) == 1 and isinstance(parts[0], str):
        return parts[0]
    return [
        {"type": "audio", "audio": f"../{part.file}"} if isinstance(part, Spoken) else {"type": "text", "text": part}
        for part in parts
    ]


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
