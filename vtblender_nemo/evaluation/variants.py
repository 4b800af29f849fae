"""The same test items with something taken away or replaced: what does a model know without hearing, or reading?

`silence` and `shuffle` take the audio away (a model that answers as well as before did not listen); `text` puts the
transcript in its place (the gap between speech and text); `without_text` takes the written facts away (a model that
answers as well as before did not read them).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from vtblender_nemo.common.conversation import Audio, Conversation, Text, Turn
from vtblender_nemo.common.errors import ConfigError, DataError
from vtblender_nemo.evaluation.items import Item

if TYPE_CHECKING:
    from lhotse.cut import Cut

BlindMode = Literal["silence", "shuffle"]
SHUFFLE_ATTEMPTS = 20


def blind(items: Sequence[Item], mode: BlindMode, *, seed: int = 0) -> list[Item]:
    """Takes the right audio away from every item.

    Args:
        items: each with at least one audio; items with an error stay as they are.
        mode: `silence`, zeros of the same length; `shuffle`, audios of other items of the same task, and of the same place
            among an item's audios (one of another kind, as a question in a fact's place, would be told apart without
            listening to its words): never the same file or part of one, nor, where `custom.transcript` tells, the same words.
            Where a place has too few different audios for that, the task's places mix.
        seed: of the shuffle.

    Raises:
        ConfigError: unknown mode.
        DataError: an item without audio, the only item of its task, or too few different audios in a task to shuffle.
    """
    if mode not in ("silence", "shuffle"):
        raise ConfigError("unknown way to blind", value=mode, expected="silence or shuffle", knob="mode")
    audios = [(number, audio) for number, item in enumerate(items) for audio in _audios(item)]
    if mode == "silence":
        return _with_audios(items, [Audio(_silence(audio.cut)) for _, audio in audios])
    words = [text for item in items for text in _transcripts(item, required=False)]
    keys = [(number, audio.cut.id, text) for (number, audio), text in zip(audios, words, strict=True)]
    positions_by_task: dict[str, list[int]] = {}
    for position, (number, _) in enumerate(audios):
        positions_by_task.setdefault(items[number].task, []).append(position)
    order: dict[int, int] = {}
    for task, places in _places_by_task(items).items():
        _check_company([keys[position] for place in places for position in place], items, task)
        try:
            for positions in places:
                order |= _exchange(positions, keys, seed, task)
        except DataError:
            order |= _exchange([position for place in places for position in place], keys, seed, task)
    return _with_audios(items, [audios[order[position]][1] for position in range(len(audios))])


def text_twin(items: Sequence[Item]) -> list[Item]:
    """The items with their transcripts (`custom.transcript`) as text where the audios were.

    Raises:
        DataError: an item without audio, without transcript, or with not as many transcripts as audios.
    """
    return _with_audios(items, [Text(str(text)) for item in items for text in _transcripts(item, required=True)])


VARIANTS: Mapping[str, Callable[[Sequence[Item]], list[Item]]] = {
    "silence": lambda items: blind(items, "silence"),
    "shuffle": lambda items: blind(items, "shuffle"),
    "text": text_twin,
}
BLIND_VARIANTS: tuple[str, ...] = ("silence", "shuffle")


def without_text(items: Sequence[Item]) -> list[Item]:
    """The items without the facts that they give in writing; what is asked stays.

    `custom.fact_text`, a text or a list of them, says which text parts of user turns are facts; empty, that there are
    none. Items that do not say lose every text part of user turns but the last one of the last turn, which is taken for
    the question; so an item with one text and a spoken question has to say. A user turn of which nothing is left goes
    with the answer to it.

    Returns:
        Only the items that had something to lose (their ids stay), and those with an error.

    Raises:
        DataError: no item has anything to lose, `fact_text` names what no user turn says, or nothing is left to be asked.
    """
    kept = [reduced for item in items if (reduced := _less_text(item)) is not None]
    if all(item.conversation is None for item in kept):
        raise DataError(
            "no item has a fact in writing",
            value=len(items),
            expected="custom.fact_text in the items, or text beside what is asked",
            knob="variants",
        )
    return kept


def _less_text(item: Item) -> Item | None:
    """The item without its written facts; None if it has none."""
    if item.conversation is None:
        return item
    turns, facts = item.conversation.turns, _written_facts(item)
    if not facts:
        return None
    left: list[Turn] = []
    for number, turn in enumerate(turns):
        parts = tuple(part for place, part in enumerate(turn.parts) if (number, place) not in facts)
        answers_nothing = turn.role == "assistant" and (not left or left[-1].role != "user")
        if parts and not answers_nothing:
            left.append(Turn(turn.role, parts))
    if not left or left[-1].role != "user":
        raise DataError(
            f"nothing is left to ask of item {item.id!r} without its written facts",
            value=item.custom.get("fact_text"),
            expected="facts beside the question",
            knob="custom.fact_text",
        )
    return replace(item, conversation=replace(item.conversation, turns=tuple(left)))


def _written_facts(item: Item) -> set[tuple[int, int]]:
    """Turn and place in it of every text part that is a fact."""
    assert item.conversation is not None
    turns = item.conversation.turns
    texts = [
        (number, place, part.text.strip())
        for number, turn in enumerate(turns)
        if turn.role == "user"
        for place, part in enumerate(turn.parts)
        if isinstance(part, Text)
    ]
    if "fact_text" not in item.custom:
        asked = max((key for *key, _ in texts if key[0] == len(turns) - 1), default=None)
        return {(number, place) for number, place, _ in texts if [number, place] != asked}
    given = item.custom["fact_text"]
    wanted = {str(fact).strip() for fact in (given if isinstance(given, list) else [given])} - {""}
    if absent := sorted(wanted - {text for *_, text in texts}):
        raise DataError(
            f"item {item.id!r} does not say its own fact",
            value=absent,
            expected="the whole of a text part of a user turn",
            knob="custom.fact_text",
        )
    return {(number, place) for number, place, text in texts if text in wanted}


SCORED_VARIANTS: Mapping[str, Callable[[Sequence[Item]], list[Item]]] = {
    "text_twin": VARIANTS["text"],
    "no_audio_silence": VARIANTS["silence"],
    "no_audio_shuffle": VARIANTS["shuffle"],
    "no_text": without_text,
}
"""The variants by their names in `scores.json`; `report.json` has names of its own, in `VARIANTS`."""


def make_variant(name: str, items: Sequence[Item]) -> list[Item]:
    """The variant of `items` by its name in `VARIANTS`.

    Raises:
        ConfigError: unknown name.
    """
    if name not in VARIANTS:
        raise ConfigError("unknown variant", value=name, expected=f"one of {', '.join(VARIANTS)}", knob="variants")
    return VARIANTS[name](items)


def _audios(item: Item) -> tuple[Audio, ...]:
    if item.conversation is None:
        return ()
    if not item.conversation.audios:
        raise DataError(
            "item without audio", value=item.id, expected="audio in every item of a variant", knob="variants"
        )
    return item.conversation.audios


def _transcripts(item: Item, *, required: bool) -> list[str | None]:
    """One text per audio; None for each where the item has no transcript and needs none."""
    count = len(_audios(item))
    given = item.custom.get("transcript")
    if given is None and not required:
        return [None] * count
    texts = given if isinstance(given, list) else [given]
    if count and (len(texts) != count or not all(isinstance(text, str) for text in texts)):
        expected = f"{count} text(s), one per audio"
        raise DataError(
            f"wrong transcript of item {item.id!r}", value=given, expected=expected, knob="custom.transcript"
        )
    return list(texts) if count else []


def _with_audios(items: Sequence[Item], parts: Sequence[Audio | Text]) -> list[Item]:
    """Puts `parts`, in order, where the audios of the items are."""
    following = iter(parts)

    def replaced(conversation: Conversation) -> Conversation:
        turns = (
            Turn(turn.role, tuple(next(following) if isinstance(part, Audio) else part for part in turn.parts))
            for turn in conversation.turns
        )
        return replace(conversation, turns=tuple(turns))

    return [
        item if item.conversation is None else replace(item, conversation=replaced(item.conversation)) for item in items
    ]


def _silence(cut: Cut) -> Cut:
    from lhotse.cut import PaddingCut

    return PaddingCut(
        id=f"silence-of-{cut.num_samples}-samples",
        duration=cut.duration,
        sampling_rate=cut.sampling_rate,
        feat_value=0.0,
        num_samples=cut.num_samples,
    )


def _check_company(keys: Sequence[tuple[int, str, str | None]], items: Sequence[Item], task: str) -> None:
    numbers = {number for number, _, _ in keys}
    if len(numbers) == 1:
        raise DataError(
            f"item is the only one of task {task}, so no other can lend it audio",
            value=items[numbers.pop()].id,
            expected="two items with audio or more in every task",
            knob="variants",
        )


def _places_by_task(items: Sequence[Item]) -> dict[str, list[list[int]]]:
    """By task, positions among the audios of all items: of every item's first audio, of every second one, and so on."""
    found: dict[str, list[list[int]]] = {}
    position = 0
    for item in items:
        places = found.setdefault(item.task, [])
        for place in range(len(_audios(item))):
            if place == len(places):
                places.append([])
            places[place].append(position)
            position += 1
    return found


def _exchange(
    positions: Sequence[int], keys: Sequence[tuple[int, str, str | None]], seed: int, task: str
) -> dict[int, int]:
    """For each position, the one whose audio it gets."""
    order = _derange([keys[position] for position in positions], seed, task)
    return {position: positions[other] for position, other in zip(positions, order, strict=True)}


def _derange(keys: Sequence[tuple[int, str, str | None]], seed: int, task: str) -> list[int]:
    """A permutation that gives no position a key with a member in common with its own.

    A position in conflict swaps with a random one, such that both are right afterwards: positions already seen stay
    right.
    """
    generator = np.random.default_rng(seed)
    for _ in range(SHUFFLE_ATTEMPTS):
        order = generator.permutation(len(keys)).tolist()
        if all(_repair(position, order, keys, generator) for position in range(len(keys))):
            return order
    raise DataError(
        f"too few different audios in task {task} to give every item another's",
        value=len({key[1] for key in keys}),
        expected="no audio or transcript in half of the items or more",
        knob="mode",
    )


def _repair(
    position: int, order: list[int], keys: Sequence[tuple[int, str, str | None]], generator: np.random.Generator
) -> bool:
    def clash(place: int, taken: int) -> bool:
        return any(a is not None and a == b for a, b in zip(keys[place], keys[taken], strict=True))

    if not clash(position, order[position]):
        return True
    for other in generator.permutation(len(keys)).tolist():
        if not clash(position, order[other]) and not clash(other, order[position]):
            order[position], order[other] = order[other], order[position]
            return True
    return False
