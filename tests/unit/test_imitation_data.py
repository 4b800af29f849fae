"""Twins from rows to micro-batches: read, encoded, counted, stacked and copied with their conversations."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.corpus import RATE, make_encoder, write_jsonl, write_tar
from tests.helpers.data_modules import module, take, train_ds, write_corpus
from tests.helpers.imitation import TRANSCRIPT, imitation_entry, imitation_rows
from vtblender_nemo.common.audio import load_samples
from vtblender_nemo.common.batch import Batch
from vtblender_nemo.common.conversation import Audio, Conversation, Text, Turn
from vtblender_nemo.common.errors import ConfigError, DataError
from vtblender_nemo.data.blend import Encoder, Limits
from vtblender_nemo.data.collate import Collator
from vtblender_nemo.data.sources import Source, make_source

ENCODER = replace(make_encoder(), twins=True)
FORMAT = ENCODER.chat_format


def source_of(folder: Path, *rows: dict[str, Any], **keys: Any) -> Source:
    entry = {"type": "imitation", "manifest_filepath": write_jsonl(folder / "rows.jsonl", rows), **keys}
    return make_source(entry, RATE, "input_cfg[0]")


def read(folder: Path, secs: float = 0.5, **fields: Any) -> Conversation:
    return source_of(folder, *imitation_rows(folder, [secs], **fields)).conversation(0, random.Random(0))


def answers(batch: Batch) -> list[int]:
    return batch.input_ids[batch.loss_mask].tolist()


def test_a_row_is_heard_and_its_twin_is_read(tmp_path: Path) -> None:
    found = read(tmp_path)
    before, audio, after = found.turns[0].parts
    assert isinstance(audio, Audio)
    assert audio.duration_secs == 0.5
    assert (before, after) == (Text("Give this a title: "), Text(" Be brief."))
    answer = Turn("assistant", (Text("Opening 0"),))
    assert found.turns[1:] == (answer,)
    assert found.twin == (Turn("user", (before, Text(TRANSCRIPT), after)), answer)
    assert (found.id, found.source, found.custom["task"]) == ("i0", "imitation", "title")


def test_a_twins_ids_are_those_of_the_text_that_the_llm_answered(tmp_path: Path) -> None:
    twin = ENCODER.encode(read(tmp_path, prompt="{audio} Which {thing}?"))[0].twin
    asked = Turn("user", (Text(f"{TRANSCRIPT} Which {{thing}}?"),))
    assert twin == FORMAT.encode([asked, Turn("assistant", (Text("Opening 0"),))])


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"prompt": "Sum it up."}, "without a prompt about its audio; found 'Sum it up.'; expected text with {audio}"),
        ({"prompt": "{audio} and {audio}"}, "without a prompt about its audio"),
        ({"prompt": None}, "without a prompt about its audio"),
        ({"text": " "}, "without the transcript of its audio"),
        ({"answer": ""}, "row with an empty answer"),
        ({"_skipme": True}, "marked to be skipped"),
    ],
)
def test_rows_that_cannot_be_imitated_are_told_with_their_line(
    tmp_path: Path, fields: dict[str, Any], told: str
) -> None:
    with pytest.raises(DataError) as error:
        read(tmp_path, **fields)
    assert told in str(error.value)
    assert "rows.jsonl:1" in str(error.value)


def test_audio_may_stand_in_tars(tmp_path: Path) -> None:
    """As the rows that are made from tarred speech name it: members, and the number of their tar."""
    rows = imitation_rows(tmp_path, [0.3, 0.5])
    tars = [
        write_tar(tmp_path / f"{number}.tar", {row["audio_filepath"]: (tmp_path / row["audio_filepath"]).read_bytes()})
        for number, row in enumerate(rows)
    ]
    rows = [{**row, "shard_id": number} for number, row in enumerate(rows)]
    for file in tmp_path.glob("*.wav"):
        file.unlink()
    source = source_of(tmp_path, *rows, tarred_audio_filepaths=tars)
    heard = source.conversation(1, random.Random(0))
    assert load_samples(heard.audios[0].cut, RATE).shape == (8000,)
    assert heard.twin is not None
    assert source.shard_sizes == [2]


@pytest.mark.parametrize("key", ["prompts", "text_field", "task"])
def test_what_the_row_says_itself_cannot_be_set_for_the_source(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError, match=f"type imitation has no such key.*{key}"):
        source_of(tmp_path, *imitation_rows(tmp_path, [0.5]), **{key: "x"})


def test_other_types_do_not_name_an_llm(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="type nemo has no such key.*llm_fingerprint"):
        make_source({"type": "nemo", "manifest_filepath": "x", "prompts": ["x"], "llm_fingerprint": "ab"}, RATE, "here")


def test_a_length_is_that_of_the_longer_one_and_not_the_sum(tmp_path: Path) -> None:
    """Frames of 0.08 s take the locator's place, and the transcript's bytes are its tokens."""
    heard = len("Give this a title:  Be brief.")  # the locator takes the place of a space in the twin
    for secs, transcript in ((4.0, "short"), (0.08, "x" * 90)):
        conversation = read(tmp_path, secs, text=transcript)
        prompt, length = ENCODER.encode(conversation)
        plain, of_speech = replace(ENCODER, twins=False).encode(conversation)
        assert prompt.twin is not None
        of_text = len(prompt.twin.ids)
        assert plain == replace(prompt, twin=None)
        assert of_speech - of_text == (50 if secs == 4.0 else 1) - len(transcript) - 1
        assert length == max(of_speech, of_text)
        assert of_text > heard


def test_a_twin_longer_than_the_budget_is_left_out() -> None:
    """Else a row with a wrong transcript would take more memory than any budget says."""
    turns = (Turn("user", (Text("a"),)), Turn("assistant", (Text("b"),)))
    long = (Turn("user", (Text("a" * 500),)), turns[1])
    conversation = Conversation("x", turns, twin=long)
    _, length = ENCODER.encode(conversation)
    assert Limits(batch_tokens=400).broken(conversation, length) == (
        "batch_tokens",
        f"{length} positions alone do not fit a budget of 400",
    )
    assert length < 600


@pytest.mark.parametrize(
    ("twin", "told"),
    [
        ((Turn("user", (Text("a"),)), Turn("assistant", (Text("c"),))), "a twin with other answers"),
        ((Turn("user", (Text("a"),)),), "a twin with other answers"),
    ],
)
def test_a_twin_that_does_not_fit_is_refused(twin: tuple[Turn, ...], told: str) -> None:
    turns = (Turn("user", (Text("a"),)), Turn("assistant", (Text("b"),)))
    with pytest.raises(DataError, match=f"{told}.*'x'"):
        ENCODER.encode(Conversation("x", turns, twin=twin))


def test_a_twin_with_audio_is_refused(tmp_path: Path) -> None:
    heard = read(tmp_path)
    with pytest.raises(DataError, match="a twin with audio"):
        ENCODER.encode(replace(heard, twin=heard.turns))


def collated(conversations: list[Conversation], encoder: Encoder = ENCODER) -> Batch:
    prompts = [encoder.encode(conversation)[0] for conversation in conversations]
    batch, _ = Collator(FORMAT.audio_locator_id, RATE)(conversations, prompts)
    assert batch is not None
    return batch


def test_twins_stand_in_a_batch_of_their_own(tmp_path: Path) -> None:
    """Of a plain conversation, a twin, one whose audio is broken, and another twin, the first three rows are left."""
    rows = imitation_rows(tmp_path, [0.3, 0.4, 0.5])
    (tmp_path / "i1.wav").write_bytes(b"RIFF, but not really")
    source = source_of(tmp_path, *rows)
    first, broken, last = (source.conversation(number, random.Random(0)) for number in range(3))
    plain = replace(first, id="plain", twin=None)
    batch = collated([plain, first, broken, last])
    assert batch.ids == ["plain", "i0", "i2"]
    assert batch.twin_rows is not None
    assert batch.twin_rows.tolist() == [1, 2]
    twin = batch.twin
    assert twin is not None
    assert (twin.ids, twin.sources) == (["i0", "i2"], ["imitation"] * 2)
    assert twin.audios.shape == (0, 0)
    assert twin.twin is None
    own = ENCODER.encode(last)[0].twin
    assert own is not None
    assert twin.input_ids[1].tolist() == own.ids
    assert answers(twin) == answers(batch)[len(answers(batch)) // 3 :]
    assert batch.audio_lens.tolist() == [4800, 4800, 8000]


def test_nobody_pays_for_twins_that_are_not_asked_for(tmp_path: Path) -> None:
    batch = collated([read(tmp_path)], replace(ENCODER, twins=False))
    assert batch.twin is None
    assert batch.twin_rows is None


def test_twins_are_pinned_and_copied_with_their_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = collated([read(tmp_path)])
    there = batch.to("meta")
    assert there.twin is not None
    assert there.twin_rows is not None
    assert there.twin_rows.is_meta
    assert all(value.is_meta for value in vars(there.twin).values() if isinstance(value, torch.Tensor))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor + 1)
    pinned = batch.pin_memory().twin
    assert pinned is not None
    assert batch.twin is not None
    assert torch.equal(pinned.input_ids, batch.twin.input_ids + 1)


@pytest.fixture(scope="module")
def blend(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    corpus = write_corpus(tmp_path_factory.mktemp("corpus"))
    return corpus, imitation_entry(corpus, name="imitated", weight=3)


def ids_of(batches: list[Batch]) -> list[Any]:
    return [(batch.ids, batch.input_ids.tolist(), batch.twin and batch.twin.input_ids.tolist()) for batch in batches]


def fused(corpus: Path, entry: dict[str, Any], **keys: Any) -> dict[str, Any]:
    """The paper's fusion: micro-batches of imitation, and of all else."""
    settings = train_ds(corpus, **keys)
    others = settings.pop("input_cfg")
    samplers = {"imitation": {"input_cfg": [entry]}, "others": {"input_cfg": others}}
    weights = {"imitation": 0.5, "others": 0.5}
    return {**settings, "fusion": "randomized_round_robin", "samplers": samplers, "sampler_weights": weights}


@pytest.mark.parametrize("fusion", ["rows", "randomized_round_robin"])
def test_twins_come_through_workers_and_a_resume(blend: tuple[Path, dict[str, Any]], fusion: str) -> None:
    corpus, entry = blend
    if fusion == "rows":
        settings = train_ds(corpus)
        settings["input_cfg"] = [*settings["input_cfg"], entry]
    else:
        settings = fused(corpus, entry)
    whole = take(module(settings, twins=True), 20)
    of_twins = [batch for batch in whole if batch.twin is not None]
    assert of_twins
    for batch in whole:
        rows = [number for number, source in enumerate(batch.sources) if source == "imitated"]
        assert (batch.twin_rows is None) == (not rows)
        assert batch.twin is None or batch.twin.ids == [batch.ids[row] for row in rows]
    with_workers = module({**settings, "num_workers": 2}, twins=True)
    begun = take(with_workers, 7)
    resumed = module(settings, twins=True)
    resumed.load_state_dict(with_workers.state_dict())
    assert ids_of(begun + take(resumed, 13)) == ids_of(whole)
    assert all(batch.twin is None for batch in take(module(settings), 20))


def test_augmentation_changes_what_is_heard_and_keeps_the_twin(blend: tuple[Path, dict[str, Any]]) -> None:
    corpus, entry = blend
    augment = {"speed": {"prob": 1.0, "factors": [0.5]}}
    settings = {**train_ds(corpus), "input_cfg": [entry], "shuffle": False}
    (plain,) = take(module(settings, twins=True), 1)
    (slow,) = take(module({**settings, "augment": augment}, twins=True), 1)
    assert plain.twin is not None
    assert slow.twin is not None
    assert slow.audio_lens[0] == 2 * plain.audio_lens[0]
    assert torch.equal(slow.twin.input_ids[0], plain.twin.input_ids[0])
