"""Spoken-SQuAD: questions about paragraphs of Wikipedia that a synthesiser speaks sentence by sentence."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vtblender_nemo.common.errors import ConfigError, DataError
from vtblender_nemo.corpora.utterance import Found, Refusal, Selection, Utterance, chosen, existing_folder, limited

# Lists and folders of audio of the splits: SQuAD's development set is this corpus's test set.
_FILES = {"train": ("spoken_train-v1.1.json", "train_wav"), "test": ("spoken_test-v1.1.json", "dev_wav")}
_LANGUAGE = "en"


def read_spoken_squad(selection: Selection) -> Found:
    """Spoken-SQuAD: JSON files of SQuAD's shape, and `<topic>_<paragraph>_<sentence>.wav` in `train_wav` and `dev_wav`.

    A row asks one question about a whole paragraph, whose sentences follow each other in one clip; all questions about a
    paragraph share it. The text is the corpus's own, recognised speech with its errors; the answer is the first that
    the corpus gives.

    Raises:
        ConfigError: no lists, no folder of audio, or splits and languages that are not there.
        DataError: a list is not of SQuAD's shape.
    """
    root = existing_folder(selection.folder)
    chosen(selection.languages, [_LANGUAGE], what="languages", folder=root)
    there = [split for split, (listing, _) in _FILES.items() if (root / listing).is_file()]
    for split in chosen(selection.splits, there, what="splits", folder=root):
        listing, audio = _FILES[split]
        sentences = _sentences(_audio_folder(root, audio))
        yield from limited(_questions(root / listing, sentences, split), selection.limit)


def _audio_folder(root: Path, name: str) -> Path:
    folders = [root / name, root / "Spoken-SQuAD_audio" / name]
    for folder in folders:
        if folder.is_dir():
            nested = folder / name  # what unpacking the archive in a folder of its own name gives
            return nested if nested.is_dir() else folder
    raise ConfigError("folder of audio is missing", path=folders[0], expected=f"{name} or {folders[1]}", knob="--input")


def _sentences(folder: Path) -> dict[tuple[int, int], list[Path]]:
    """Files of every paragraph, by topic and paragraph, in the order of their sentences."""
    found: dict[tuple[int, int], list[tuple[int, Path]]] = {}
    for path in folder.glob("*_*_*.wav"):
        numbers = path.stem.split("_")
        if len(numbers) == 3 and all(number.isdigit() for number in numbers):
            topic, paragraph, sentence = map(int, numbers)
            found.setdefault((topic, paragraph), []).append((sentence, path))
    return {key: [path for _, path in sorted(files)] for key, files in found.items()}


def _questions(listing: Path, sentences: Mapping[tuple[int, int], list[Path]], split: str) -> Found:
    for topic, paragraph, context, question in _squad(listing):
        name = f"{topic}_{paragraph}"
        place, id = f"{listing}:{name}", f"{name}-{question['id']}"
        answers = [answer["text"] for answer in question["answers"] if answer["text"].strip()]
        files = sentences.get((topic, paragraph))
        if files is None:
            yield Refusal(id, place, "audio_missing", f"{name}_*.wav")
        elif not answers:
            yield Refusal(id, place, "empty_answer", question["question"])
        else:
            yield Utterance(
                id=id,
                audio=tuple(map(str, files)),
                text=context,
                split=split,
                language=_LANGUAGE,
                place=place,
                clip=name,
                fields={"question": question["question"].strip(), "answer": answers[0], "source_lang": _LANGUAGE},
            )


def _squad(listing: Path) -> Iterator[tuple[int, int, str, dict[str, Any]]]:
    """Topic, paragraph, its text and a question, for every question of a list."""
    try:
        topics = json.loads(listing.read_text(encoding="utf-8"))["data"]
        for number, topic in enumerate(topics):
            for place, paragraph in enumerate(topic["paragraphs"]):
                for question in paragraph["qas"]:
                    yield number, place, paragraph["context"], question
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"list is not of SQuAD's shape ({type(error).__name__}: {error})",
            path=listing,
            expected='{"data": [{"paragraphs": [{"context", "qas": [{"id", "question", "answers"}]}]}]}',
            knob="--input",
        ) from error
