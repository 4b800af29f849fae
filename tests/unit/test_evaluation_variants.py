from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from lhotse import Recording
from lhotse.cut import Cut

from vtblender_nemo.common.audio import load_samples
from vtblender_nemo.common.conversation import Audio, Conversation, Text, Turn
from vtblender_nemo.common.errors import ConfigError, DataError
from vtblender_nemo.evaluation.items import Item
from vtblender_nemo.evaluation.variants import VARIANTS, blind, make_variant, text_twin


def cut(name: str, samples: int = 1600, rate: int = 16000) -> Cut:
    recording = Recording(name, sources=[], sampling_rate=rate, num_samples=samples, duration=samples / rate)
    return recording.to_cut().with_id(name)


def item(number: int, names: Sequence[str], transcript: Sequence[str] | str | None = None) -> Item:
    parts = [part for name in names for part in (Text("Listen:"), Audio(cut(name)))]
    custom = {} if transcript is None else {"transcript": transcript}
    return Item(f"{number}", "sqa", Conversation(f"{number}", (Turn("user", tuple(parts)),)), "yes", custom)


def heard(items: Sequence[Item]) -> list[list[str]]:
    return [[audio.cut.id for audio in one.conversation.audios] for one in items]


def test_silence_has_the_length_of_the_audio_and_nothing_in_it():
    audio = Audio(cut("a", samples=12345, rate=24000))
    original = Item("1", "asr", Conversation("1", (Turn("user", (Text("Write:"), audio, Text("now"))),)), "hello")
    (silent,) = blind([original], "silence")
    before, after, last = silent.conversation.turns[0].parts
    assert (before, last) == (Text("Write:"), Text("now"))
    samples = load_samples(after.cut, 24000)
    assert samples.shape == (12345,)
    assert not samples.any()
    assert load_samples(after.cut, 16000).shape == (12345 * 16 // 24,)
    assert (silent.reference, original.conversation.audios[0].cut.id) == ("hello", "a")


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=3), min_size=4, max_size=25), st.integers(0, 3))
def test_shuffle_gives_every_item_audios_of_others(names, seed):
    flat = [name for group in names for name in group]
    assume(max(flat.count(name) for name in flat) + max(len(group) for group in names) <= len(flat) // 3)
    items = [item(number, [f"{name}.wav" for name in group]) for number, group in enumerate(names)]
    shuffled = blind(items, "shuffle", seed=seed)
    before, after = heard(items), heard(shuffled)
    assert sorted(chain(*before)) == sorted(chain(*after))
    for own, others in zip(before, after, strict=True):
        assert len(own) == len(others)
        assert all(a != b for a, b in zip(own, others, strict=True))


def test_shuffle_never_gives_an_item_its_own_other_audio():
    items = [item(number, [f"{number}a", f"{number}b"]) for number in range(6)]
    for seed in range(20):
        for number, names in enumerate(heard(blind(items, "shuffle", seed=seed))):
            assert not any(name.startswith(str(number)) for name in names)


def test_shuffle_keeps_questions_in_the_places_of_questions():
    items = [item(number, [f"fact{number}", f"question{number}"]) for number in range(6)]
    for seed in range(5):
        for fact, question in heard(blind(items, "shuffle", seed=seed)):
            assert fact.startswith("fact")
            assert question.startswith("question")


def test_shuffle_mixes_places_where_one_place_has_too_few_audios():
    items = [item(0, ["a", "b", "c"]), item(1, ["d"]), item(2, ["e"]), item(3, ["f"])]
    for own, others in zip(heard(items), heard(blind(items, "shuffle")), strict=True):
        assert not set(own) & set(others)


def test_shuffle_passes_over_the_same_words_in_another_voice():
    words = ["anna", "anna", "ben", "ben", "carl", "carl"]
    items = [item(number, [f"{number}"], [word]) for number, word in enumerate(words)]
    for seed in range(20):
        for number, (name,) in enumerate(heard(blind(items, "shuffle", seed=seed))):
            assert words[int(name)] != words[number]


def test_shuffle_repeats_with_its_seed_only():
    items = [item(number, [f"{number}"]) for number in range(20)]
    assert heard(blind(items, "shuffle", seed=1)) == heard(blind(items, "shuffle", seed=1))
    assert heard(blind(items, "shuffle", seed=1)) != heard(blind(items, "shuffle", seed=2))


def test_shuffle_stays_within_the_task():
    kinds = ["question", "fact", "question", "fact", "fact", "question"]
    items = [replace(item(number, [f"{kind} {number}"]), task=kind) for number, kind in enumerate(kinds)]
    for seed in range(20):
        for number, (name,) in enumerate(heard(blind(items, "shuffle", seed=seed))):
            assert name.startswith(kinds[number])
            assert name != f"{kinds[number]} {number}"


def test_shuffle_names_the_only_item_of_a_task():
    items = [item(1, ["a"]), item(2, ["b"]), replace(item(3, ["c", "d"]), task="mixed")]
    with pytest.raises(DataError, match="only one of task mixed.*found '3'.*two items"):
        blind(items, "shuffle")


@pytest.mark.parametrize("names", [["a", "a"], ["a", "a", "a"], ["a", "a", "a", "b"]])
def test_shuffle_of_too_few_audios_is_an_error(names):
    with pytest.raises(DataError, match="too few different audios in task sqa"):
        blind([item(number, [name]) for number, name in enumerate(names)], "shuffle")


def test_text_twin_puts_the_transcripts_where_the_audios_were():
    (twin,) = text_twin([item(1, ["a", "b"], ["Anna is here.", "Where is she?"])])
    texts = [part.text for part in twin.conversation.turns[0].parts]
    assert texts == ["Listen:", "Anna is here.", "Listen:", "Where is she?"]
    (single,) = text_twin([item(1, ["a"], "Anna is here.")])
    assert single.conversation.turns[0].parts[1] == Text("Anna is here.")


@pytest.mark.parametrize("transcript", [None, [], ["one"], ["one", 2], "one"])
def test_text_twin_wants_a_text_per_audio(transcript):
    with pytest.raises(DataError, match=r"item '7'.*expected 2 text\(s\).*custom\.transcript"):
        text_twin([item(7, ["a", "b"], transcript)])


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_item_that_failed_stays_and_one_without_audio_is_refused(variant):
    failed = Item("0", "sqa", None, error="missing")
    items = [failed, *(item(number, [f"{number}"], f"word {number}") for number in range(1, 5))]
    assert make_variant(variant, items)[0] is failed
    with pytest.raises(DataError, match="item without audio; found '9'"):
        make_variant(variant, [*items, item(9, [])])


def test_unknown_names():
    with pytest.raises(ConfigError, match="one of silence, shuffle, text"):
        make_variant("deaf", [])
    with pytest.raises(ConfigError, match="silence or shuffle"):
        blind([], "deaf")


def test_the_items_themselves_stay_as_they_are():
    items = [item(number, [f"{number}"]) for number in range(4)]
    before = heard(items)
    blind(items, "shuffle")
    assert heard(items) == before
