"""Augmentation in a blend: every source, exact resume, lengths and limits, mistakes."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers.corpus import FRAME_SECS, RATE, chat_rows, make_encoder, write_jsonl, write_tar
from tests.helpers.waves import augmenter, band_db, heard, hiss, tone, write
from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.data.blend import Blend, Limits
from vtblender_nemo.data.loader import BlendDataModule
from vtblender_nemo.data.weighted import read_sources

ENCODER = make_encoder()


def every_speech_source(folder: Path) -> list[dict[str, Any]]:
    """The same tone of 0.5 s through every reader of speech."""
    from lhotse import CutSet, Recording, SupervisionSegment
    from lhotse.shar import SharWriter

    path = write(folder / "t.wav", tone(0.5, 1000, 6000))
    row = {"audio_filepath": "t.wav", "duration": 0.5, "text": "x", "question": "q?", "answer": "a"}
    manifest = write_jsonl(folder / "m.jsonl", [row])
    tar = write_tar(folder / "t.tar", {"t.wav": path.read_bytes()})
    talk = {
        "id": "m",
        "conversations": [
            {"type": "audio", "from": "User", "value": "t.wav", "duration": 0.5},
            {"type": "text", "from": "Assistant", "value": "yes"},
        ],
    }
    talks = write_jsonl(folder / "talk.jsonl", [talk])
    messages = [
        {"role": "user", "content": [{"type": "audio", "audio": "t.wav"}]},
        {"role": "assistant", "content": "b"},
    ]
    chats = write_jsonl(folder / "chat.jsonl", [{"id": "c", "messages": messages}])
    cut = Recording.from_file(path).to_cut()
    cut.supervisions = [SupervisionSegment("s", "t", 0, 0.5, text="x")]
    CutSet.from_cuts([cut]).to_file(folder / "cuts.jsonl")
    stereo = write(folder / "two.wav", np.stack([tone(0.5, 1000, 6000)] * 2, 1))
    pair = Recording.from_file(stereo).to_cut()
    pair.supervisions = [SupervisionSegment("s", "two", 0, 0.5, text="x")]
    padded = cut.pad(0.7)
    CutSet.from_cuts([pair, padded]).to_file(folder / "others.jsonl")
    (folder / "shar").mkdir()
    with SharWriter(str(folder / "shar"), fields={"recording": "flac"}) as writer:
        writer.write(cut)
    said = {"prompts": ["p"]}
    return [
        {"type": "nemo", "manifest_filepath": manifest, **said},
        {"type": "nemo_tarred", "manifest_filepath": manifest, "tarred_audio_filepaths": tar, **said},
        {"type": "speech_qa", "manifest_filepath": manifest},
        {"type": "lhotse", "cuts_path": str(folder / "cuts.jsonl"), **said},
        {"type": "lhotse", "name": "others", "cuts_path": str(folder / "others.jsonl"), **said},
        {"type": "lhotse_shar", "shar_path": str(folder / "shar"), **said},
        {"type": "multimodal_conversation", "manifest_filepath": talks},
        {"type": "multimodal_conversation", "name": "tar", "manifest_filepath": talks, "tarred_audio_filepaths": tar},
        {"type": "text_chat", "manifest_filepath": chats},
    ]


def test_every_speech_source_is_changed(tmp_path):
    write(tmp_path / "noise" / "n.wav", hiss(3))
    effect = augmenter(
        speed={"prob": 1.0, "factors": [1.1]},
        reverb={"prob": 1.0, "t60": [0.2, 0.2]},
        noise={"prob": 1.0, "folder": str(tmp_path / "noise"), "snr": [10, 10]},
        telephone={"prob": 1.0},
    )
    sources = [entry.source for entry in read_sources(every_speech_source(tmp_path), sampling_rate=RATE)]
    assert len(sources) == 9
    for source in sources:
        for index in range(len(source)):
            plain = source.conversation(index, random.Random(0))
            found = effect(plain, random.Random(0))
            (before,), (after,) = heard(plain), heard(found)
            assert len(after) == pytest.approx(len(before) / 1.1, abs=2), source.name
            assert band_db(before, 4000, 8000) - band_db(after, 4000, 8000) > 20, source.name
            assert band_db(after, 1090, 1110) > band_db(after, 990, 1010) + 6, source.name


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("augmented")
    rows = []
    for number in range(12):
        write(folder / f"{number}.wav", tone(0.5 + number / 40, 300 + 50 * number))
        rows.append(
            {"id": f"s{number}", "audio_filepath": f"{number}.wav", "duration": 0.5 + number / 40, "text": "so"}
        )
    write_jsonl(folder / "m.jsonl", rows)
    write_jsonl(folder / "c.jsonl", chat_rows(12))
    write(folder / "noise" / "n.wav", hiss(2))
    return folder


def train_ds(corpus: Path, **keys: Any) -> dict[str, Any]:
    effects = {
        "speed": {"prob": 0.5, "factors": [0.8, 1.25]},
        "reverb": {"prob": 0.5},
        "noise": {"prob": 0.5, "folder": str(corpus / "noise")},
        "telephone": {"prob": 0.5},
    }
    entries = [
        {"type": "nemo", "manifest_filepath": str(corpus / "m.jsonl"), "prompts": ["A", "B", "C"], "weight": 3},
        {"type": "text_chat", "manifest_filepath": str(corpus / "c.jsonl"), "weight": 1},
    ]
    return {"input_cfg": entries, "batch_size": 3, "num_buckets": 2, "buffer_size": 20, "augment": effects, **keys}


def module(train: dict[str, Any], skipped: Path | None = None, **sections: Any) -> BlendDataModule:
    return BlendDataModule({"train_ds": train, **sections}, ENCODER.chat_format, FRAME_SECS, RATE, skipped)


def take(data: BlendDataModule, count: int) -> list[tuple[Any, ...]]:
    batches = itertools.islice(data.train_dataloader(), count)
    return [(batch.ids, batch.input_ids.tolist(), batch.audios.tolist()) for batch in batches]


def test_workers_and_resume_change_nothing(corpus):
    whole = take(module(train_ds(corpus)), 12)
    assert take(module(train_ds(corpus, num_workers=2)), 12) == whole
    first = module(train_ds(corpus))
    begun = take(first, 5)
    torch.manual_seed(99)
    random.seed(99)
    second = module(train_ds(corpus, num_workers=1))
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert begun + take(second, 7) == whole


def blend(corpus: Path, limits: Limits | None = None, seed: int = 0, **effects: Any) -> Blend:
    entries = train_ds(corpus)["input_cfg"][:1]
    return Blend(
        read_sources(entries, sampling_rate=RATE),
        ENCODER,
        limits or Limits(),
        seed=seed,
        augmenter=augmenter(**effects) if effects else None,
    )


def test_another_visit_is_another_draw_with_the_same_wording(corpus):
    plain, changed = blend(corpus), blend(corpus, reverb={"prob": 1.0}, speed={"prob": 1.0, "factors": [0.9, 1.1]})
    visits: dict[str, set[str]] = {}
    for _ in range(60):
        example, other = plain.draw(), changed.draw()
        assert example.conversation.turns[0].parts[0] == other.conversation.turns[0].parts[0]
        visits.setdefault(other.conversation.id, set()).add(str(other.conversation.custom["augment"]))
    assert all(len(draws) == 5 for draws in visits.values())


def test_lengths_and_limits_are_those_of_the_changed_audio(corpus):
    changed = blend(corpus, speed={"prob": 1.0, "factors": [0.5]})
    example = changed.draw()
    secs = example.conversation.audios[0].duration_secs
    text = len(example.prompt.ids) - 1
    assert example.length == text + -(-secs // FRAME_SECS)
    assert secs >= 1.0
    limited = blend(corpus, Limits(max_duration=1.3), speed={"prob": 1.0, "factors": [0.5]})
    ids = {limited.draw().conversation.id for _ in range(40)}
    assert ids == {f"s{n}" for n in range(7)}, "0.65 s twice as slow are 1.3 s"
    assert {skip.knob for skip in limited.take_skips()} == {"max_duration"}


def test_it_is_off_by_default_and_never_in_validation(corpus):
    entries = train_ds(corpus)["input_cfg"][:1]
    plain = _validation_waves(corpus, None)
    assert _validation_waves(corpus, train_ds(corpus)["augment"]) == plain
    data = module({"input_cfg": entries, "batch_size": 1})
    for batch in itertools.islice(data.train_dataloader(), 12):
        assert batch.audios[0].tolist() == plain[batch.ids[0]]


def _validation_waves(corpus: Path, effects: Any) -> dict[str, list[float]]:
    train = train_ds(corpus, augment=effects)
    sets = {"asr": {"input_cfg": train["input_cfg"][:1]}}
    (loader,) = module(train, validation_ds={"sets": sets}).val_dataloader()
    return {c.id: heard(c)[0].tolist() for conversations in loader for c in conversations}


def test_a_broken_noise_costs_the_row_and_is_named(corpus, tmp_path):
    rows = [{"audio_filepath": "n.wav", "duration": 3.0}]
    write(tmp_path / "n.wav", hiss(3))
    path = write_jsonl(tmp_path / "noise.jsonl", rows)
    effects = {"noise": {"prob": 1.0, "manifest_filepath": path}}
    (tmp_path / "n.wav").write_bytes(b"RIFF, but not really")
    data = module(train_ds(corpus, augment=effects), skipped=tmp_path / "skipped.jsonl")
    assert all(batch[0][0].startswith("c") for batch in take(data, 8)), "the chats stay"
    listed = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert listed
    assert all(str(tmp_path / "n.wav") in entry["reason"] for entry in listed)


@pytest.mark.parametrize(
    ("effects", "message"),
    [
        (
            {"echo": {"prob": 1}},
            r"unknown effect; found 'echo'; expected one of speed, reverb, noise, telephone.*augment.echo",
        ),
        ({"speed": {"prop": 1}}, r"unknown key; found 'prop'.*augment.speed.prop"),
        ({"speed": {"prob": 1.5}}, r"out of range; found 1.5; expected 0 to 1.*augment.speed.prob"),
        ({"speed": {"prob": 1, "factors": [0.9, 3.0]}}, r"speed out of range.*augment.speed.factors"),
        ({"speed": {"prob": 1, "factors": [0.937]}}, r"steps of 0.01.*augment.speed.factors"),
        ({"speed": {"prob": 1, "factors": []}}, r"speed out of range.*augment.speed.factors"),
        ({"noise": {"prob": 1}}, r"noise without recordings.*augment.noise"),
        ({"noise": {"prob": 1, "folder": "nowhere"}}, r"nowhere: folder without audio files.*augment.noise.folder"),
        ({"noise": {"prob": 1, "manifest_filepath": "nowhere"}}, r"file is missing.*noise.manifest_filepath"),
        ({"noise": {"prob": 1, "snr": [20, 5]}}, r"no range of values; found \[20, 5\].*augment.noise.snr"),
        ({"reverb": {"prob": 1, "t60": [0.2]}}, r"no range of values.*augment.reverb.t60"),
        ({"telephone": True}, r"not a mapping.*augment.telephone"),
    ],
)
def test_mistakes_name_their_key(corpus, effects, message):
    with pytest.raises(ConfigError, match=message):
        module(train_ds(corpus, augment=effects)).train_dataloader()


def test_noises_are_opened_when_training_begins(corpus, tmp_path):
    write_jsonl(tmp_path / "n.jsonl", [{"audio_filepath": "gone.wav", "duration": 1.0}])
    effects = {"noise": {"prob": 0.1, "manifest_filepath": str(tmp_path / "n.jsonl")}}
    with pytest.raises(ConfigError, match=r"n.jsonl:1: audio file is missing: .*gone.wav.*augment.noise.manifest"):
        module(train_ds(corpus, augment=effects)).train_dataloader()
    (tmp_path / "bad.wav").write_bytes(b"nothing")
    effects = {"reverb": {"prob": 0.1, "folder": str(tmp_path)}}
    with pytest.raises(ConfigError, match=r"bad.wav: audio file cannot be opened.*augment.reverb.folder"):
        module(train_ds(corpus, augment=effects)).train_dataloader()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"audio_filepath": "n.wav", "offset": "1.0"}', r"offset is no number; found '1.0'; expected seconds"),
        ('{"audio_filepath": "n.wav", "duration": "long"}', r"duration is no number; found 'long'; expected seconds"),
        ('{"audio_filepath": "n.wav", "offset": true}', r"offset is no number; found True; expected seconds"),
        (
            '{"audio_filepath": "n.wav", "offset": -1, "duration": 1}',
            r"the part asked for is no span.*expected offset >= 0",
        ),
        (
            '{"audio_filepath": "n.wav", "offset": 9}',
            r"the part asked for does not lie in the audio.*expected a part of 3.000 s",
        ),
        ('{"audio_filepath": "n.wav", "duration": NaN}', r"the part asked for is no span.*expected offset >= 0"),
        ('{"audio_filepath": 3}', r"row without audio_filepath; found 3; expected a path"),
        ('{"audio_filepath": "n.wav", ', r"line is not JSON.*expected a JSON object"),
        ("[]", r"line is not a JSON object.*expected {...}"),
        ("", r"blank line; expected a JSON object"),
    ],
)
@pytest.mark.parametrize("effect", ["noise", "reverb"])
def test_mistakes_in_a_manifest_of_noises_name_their_line(tmp_path, effect, line, message):
    write(tmp_path / "n.wav", hiss(3))
    path = tmp_path / "n.jsonl"
    path.write_text(f'{{"audio_filepath": "n.wav", "duration": null}}\n{line}\n', encoding="utf-8")
    said = rf"n\.jsonl:2: {message}.*augment\.{effect}\.manifest_filepath"
    with pytest.raises(ConfigError, match=said):
        augmenter(**{effect: {"prob": 0.1, "manifest_filepath": str(path)}})
