"""Readers: every format gives the conversations and the audio that its rows mean."""

from __future__ import annotations

import gzip
import json
import random

import numpy as np
import pytest
import soundfile as sf

from tests.helpers.corpus import RATE, wav_bytes, write_jsonl, write_level, write_ramp, write_tar
from vtblender_nemo.common.audio import load_samples
from vtblender_nemo.common.conversation import Audio, Conversation, Text
from vtblender_nemo.common.errors import AudioError, ConfigError, DataError
from vtblender_nemo.data.sources import make_source


def make(**entry):
    return make_source(entry, RATE, "input_cfg[0]")


def read(source, index: int = 0, seed: int = 0) -> Conversation:
    return source.conversation(index, random.Random(seed))


def shape(conversation: Conversation) -> list[tuple[str, ...]]:
    """Turns as role and parts, an audio as `*`."""
    return [
        (turn.role, *("*" if isinstance(part, Audio) else part.text for part in turn.parts))
        for turn in conversation.turns
    ]


def samples(conversation: Conversation, number: int = 0) -> np.ndarray:
    return load_samples(conversation.audios[number].cut, RATE)


def test_text_chat(tmp_path):
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello"},
    ]
    path = write_jsonl(tmp_path / "c.jsonl", [{"id": "x", "messages": messages, "task": "chat"}])
    conversation = read(make(type="text_chat", manifest_filepath=path))
    assert shape(conversation) == [("system", "Be brief."), ("user", "hi"), ("assistant", "hello")]
    assert (conversation.id, conversation.source, conversation.custom) == ("x", "text_chat", {"task": "chat"})


def test_share_gpt(tmp_path):
    turns = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]
    path = write_jsonl(tmp_path / "c.jsonl", [{"id": "x", "conversations": turns}])
    source = make(type="share_gpt", name="sft", manifest_filepath=path, tags={"task": "chat"})
    assert shape(read(source)) == [("user", "hi"), ("assistant", "hello")]
    assert (read(source).source, read(source).custom) == ("sft", {"task": "chat"})


def test_multimodal_conversation_joins_the_parts_of_a_speaker(tmp_path):
    (tmp_path / "a").mkdir()
    ramp = write_ramp(tmp_path / "a" / "r.wav")
    row = {
        "id": "m",
        "conversations": [
            {"type": "text", "from": "User", "value": "before"},
            {"type": "audio", "from": "User", "value": "a/r.wav", "offset": 0.25, "duration": 0.5},
            {"type": "text", "from": "User", "value": "after"},
            {"type": "text", "from": "Assistant", "value": "yes"},
        ],
    }
    source = make(type="multimodal_conversation", manifest_filepath=write_jsonl(tmp_path / "m.jsonl", [row]))
    assert shape(read(source)) == [("user", "before", "*", "after"), ("assistant", "yes")]
    np.testing.assert_array_equal(samples(read(source)), ramp[4000:12000])


def test_items_end_with_their_reference(tmp_path):
    write_level(tmp_path / "q.wav", 0.25)
    content = [{"type": "text", "text": "What?"}, {"type": "audio", "audio": "q.wav"}]
    row = {
        "id": "t",
        "task": "sqa",
        "messages": [{"role": "user", "content": content}],
        "reference": "that",
        "custom": {"kind": "spoken"},
    }
    conversation = read(make(type="items", manifest_filepath=write_jsonl(tmp_path / "t.jsonl", [row])))
    assert shape(conversation) == [("user", "What?", "*"), ("assistant", "that")]
    assert conversation.custom == {"task": "sqa", "kind": "spoken"}
    assert samples(conversation) == pytest.approx(np.full(8000, 0.25))


def test_nemo_manifest_draws_a_wording_and_picks_the_field(tmp_path):
    write_level(tmp_path / "a.wav", 0.5)
    row = {
        "audio_filepath": "a.wav",
        "duration": 0.5,
        "text": "good day",
        "translation": "guten Tag",
        "target_lang": "de-DE",
    }
    path = write_jsonl(tmp_path / "m.jsonl", [row])
    asr = make(type="nemo", manifest_filepath=path, prompts=["Write.", "Hear {audio} and write."], task="asr")
    seen = {tuple(shape(read(asr, seed=seed))[0]) for seed in range(30)}
    assert seen == {("user", "Write.", "*"), ("user", "Hear ", "*", " and write.")}
    assert read(asr).reference == "good day"
    assert read(asr).custom["task"] == "asr"
    ast = make(
        type="nemo",
        manifest_filepath=path,
        prompts=["In {target_language}:"],
        text_field="translation",
        audio_position="before",
    )
    assert shape(read(ast)) == [("user", "*", "In German:"), ("assistant", "guten Tag")]
    assert samples(read(ast)) == pytest.approx(np.full(8000, 0.5))


@pytest.mark.parametrize("with_rate", [False, True])
def test_segments_of_one_file_are_right_to_the_sample(tmp_path, with_rate):
    ramp = write_ramp(tmp_path / "long.wav")
    spans = [(0.0, 2.0), (0.5, 1.0), (1.25, 0.75), (0.123, 0.456)]
    rows = [{"audio_filepath": "long.wav", "offset": o, "duration": d, "text": "x"} for o, d in spans]
    if with_rate:
        rows = [{**row, "sampling_rate": RATE} for row in rows]
    source = make(type="nemo", manifest_filepath=write_jsonl(tmp_path / "m.jsonl", rows), prompts=["p"])
    for number, (offset, duration) in enumerate(spans):
        start = round(offset * RATE)
        np.testing.assert_array_equal(samples(read(source, number)), ramp[start : start + round(duration * RATE)])
        assert read(source, number).audio_secs == pytest.approx(duration)


def test_same_named_files_in_different_folders_keep_their_own_audio(tmp_path):
    for folder, level in (("dA", 0.1), ("dB", 0.7)):
        write_level(tmp_path / folder / "0001.wav", level)
    rows = [{"audio_filepath": f"{folder}/0001.wav", "duration": 0.5, "text": folder} for folder in ("dA", "dB")]
    source = make(type="nemo", manifest_filepath=write_jsonl(tmp_path / "m.jsonl", rows), prompts=["p"])
    first, second = read(source, 0), read(source, 1)
    assert samples(first)[0] == pytest.approx(0.1)
    assert samples(second)[0] == pytest.approx(0.7)
    assert first.audios[0].cut.id != second.audios[0].cut.id


def test_a_trusted_duration_leaves_the_file_unopened(tmp_path):
    row = {"audio_filepath": "nowhere.wav", "duration": 3.0, "text": "x"}
    conversation = read(make(type="nemo", manifest_filepath=write_jsonl(tmp_path / "m.jsonl", [row]), prompts=["p"]))
    assert conversation.audio_secs == 3.0
    with pytest.raises(AudioError, match=r"^[^ ]*nowhere.wav: audio file is missing;"):
        samples(conversation)


def test_tags_stand_in_place_of_a_row_s_own_fields(tmp_path):
    row = {"audio_filepath": "a.wav", "duration": 3.0, "text": "x", "target_lang": "fr"}
    entry = {
        "type": "nemo",
        "manifest_filepath": write_jsonl(tmp_path / "m.jsonl", [row]),
        "prompts": ["{target_language}"],
    }
    assert shape(read(make(**entry)))[0][1] == "French"
    assert shape(read(make(**entry, tags={"target_lang": "es"})))[0][1] == "Spanish"


def test_without_a_duration_the_header_is_read(tmp_path):
    write_level(tmp_path / "a.wav", 0.1, secs=1.5)
    rows = [{"audio_filepath": "a.wav", "text": "x"}, {"audio_filepath": "nowhere.wav", "text": "x"}]
    source = make(type="nemo", manifest_filepath=write_jsonl(tmp_path / "m.jsonl", rows), prompts=["p"])
    assert read(source).audio_secs == 1.5
    with pytest.raises(AudioError, match=r"m.jsonl:2: audio file is missing: .*nowhere.wav"):
        read(source, 1)


def test_a_file_shorter_than_its_manifest_says_is_an_error(tmp_path):
    write_level(tmp_path / "a.wav", 0.1, secs=1.0)
    rows = [{"audio_filepath": "a.wav", "duration": secs, "text": "x"} for secs in (1.05, 1.5)]
    source = make(type="nemo", manifest_filepath=write_jsonl(tmp_path / "m.jsonl", rows), prompts=["p"])
    assert len(samples(read(source))) == 16800, "rounded durations are made good with silence"
    with pytest.raises(AudioError, match="shorter than its manifest says.*1.000 s.*expected 1.500 s"):
        samples(read(source, 1))


def test_other_rates_and_channels_become_the_model_s(tmp_path):
    time = np.arange(48000) / 48000
    wave = np.sin(2 * np.pi * 440 * time)
    sf.write(tmp_path / "s.wav", np.stack([wave, np.zeros_like(wave)], 1), 48000, subtype="FLOAT")
    row = {"audio_filepath": "s.wav", "duration": 0.5, "offset": 0.25, "text": "x"}
    source = make(type="nemo", manifest_filepath=write_jsonl(tmp_path / "m.jsonl", [row]), prompts=["p"])
    expected = 0.5 * np.sin(2 * np.pi * 440 * (0.25 + np.arange(8000) / RATE))
    found = samples(read(source))
    assert found.shape == (8000,)
    np.testing.assert_allclose(found[100:-100], expected[100:-100], atol=2e-3)


def test_speech_qa(tmp_path):
    row = {
        "audio_filepath": "a.wav",
        "duration": 0.5,
        "text": "it is late",
        "question": "Is {it} late?",
        "answer": "Yes.",
    }
    path = write_jsonl(tmp_path / "q.jsonl", [row])
    plain = make(type="speech_qa", manifest_filepath=path)
    assert shape(read(plain)) == [("user", "Is {it} late?", "*"), ("assistant", "Yes.")]
    worded = make(type="speech_qa", name="b", manifest_filepath=path, prompts=["{audio} Say: {question}"])
    assert shape(read(worded))[0] == ("user", "*", " Say: Is {it} late?")


def test_nemo_tarred_reads_each_shard_s_own_members(tmp_path):
    for shard in range(2):
        files = {f"{n}.wav": wav_bytes(np.full(8000, 0.1 * (1 + 2 * shard + n), np.float32)) for n in range(2)}
        write_tar(tmp_path / f"audio_{shard}.tar", files)
        rows = [{"audio_filepath": f"{n}.wav", "duration": 0.5, "text": f"{shard}{n}"} for n in range(2)]
        write_jsonl(tmp_path / f"manifest_{shard}.json", rows)
    source = make(
        type="nemo_tarred",
        manifest_filepath=str(tmp_path / "manifest__OP_0..1_CL_.json"),
        tarred_audio_filepaths=str(tmp_path / "audio__OP_0..1_CL_.tar"),
        prompts=["p"],
    )
    assert source.shard_sizes == [2, 2]
    conversations = [read(source, index) for index in range(4)]
    assert [c.reference for c in conversations] == ["00", "01", "10", "11"]
    assert [samples(c)[0] for c in conversations] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert len({c.audios[0].cut.id for c in conversations}) == 4


def test_nemo_tarred_with_one_manifest_and_segments(tmp_path):
    ramp = (np.arange(32000) / 100_000).astype(np.float32)
    tars = [write_tar(tmp_path / f"{n}.tar", {"long.wav": wav_bytes(ramp * (1 - 2 * n))}) for n in range(2)]
    rows = [
        {"audio_filepath": "long-sub1.wav", "offset": 0.5, "duration": 0.5, "text": "x", "shard_id": 1},
        {"audio_filepath": "long-sub2.wav", "offset": 1.0, "text": "x", "shard_id": 0},
        {"audio_filepath": "other.wav", "duration": 1.0, "text": "x", "shard_id": 0},
        {"audio_filepath": "long.wav", "duration": 1.0, "text": "x", "shard_id": 2},
    ]
    source = make(
        type="nemo_tarred",
        manifest_filepath=write_jsonl(tmp_path / "m.json", rows),
        tarred_audio_filepaths=tars,
        prompts=["p"],
    )
    np.testing.assert_array_equal(samples(read(source, 0)), -ramp[8000:16000])
    np.testing.assert_array_equal(samples(read(source, 1)), ramp[16000:])
    with pytest.raises(DataError, match=r"m.json:3: tar has no such file.*0.tar.*other.wav"):
        read(source, 2)
    with pytest.raises(DataError, match=r"m.json:4: row without its shard.*found 2"):
        read(source, 3)


def test_a_compressed_or_cut_off_tar_is_an_error(tmp_path):
    content = {"a.wav": wav_bytes(np.zeros(8000, np.float32))}
    manifest = write_jsonl(tmp_path / "m.json", [{"audio_filepath": "a.wav", "duration": 0.5, "text": "x"}])
    packed = write_tar(tmp_path / "a.tar.gz", content, "w:gz")
    source = make(type="nemo_tarred", manifest_filepath=manifest, tarred_audio_filepaths=packed, prompts=["p"])
    with pytest.raises(DataError, match="tar cannot be read.*uncompressed"):
        read(source)


@pytest.mark.parametrize("packed", [False, True])
def test_lhotse_cuts_with_relative_paths(tmp_path, packed):
    from lhotse import CutSet, Recording, SupervisionSegment

    ramp = write_ramp(tmp_path / "r.wav")
    recording = Recording.from_file(tmp_path / "r.wav")
    recording.sources[0].source = "r.wav"
    cut = recording.to_cut().truncate(offset=0.5, duration=0.5)
    cut.supervisions = [
        SupervisionSegment("s", "r", 0, 0.5, text="said so", language="en", custom={"translation": "sagte so"})
    ]
    cut.target_lang = "de"
    path = tmp_path / "cuts.jsonl"
    CutSet.from_cuts([cut]).to_file(path)
    if packed:
        path = tmp_path / "cuts.jsonl.gz"
        path.write_bytes(gzip.compress((tmp_path / "cuts.jsonl").read_bytes()))
    source = make(
        type="lhotse",
        cuts_path=str(path),
        prompts=["From {source_language} to {target_language}"],
        text_field="translation",
    )
    conversation = read(source)
    assert shape(conversation) == [("user", "From English to German", "*"), ("assistant", "sagte so")]
    np.testing.assert_array_equal(samples(conversation), ramp[8000:16000])


def test_lhotse_cuts_that_run_commands_are_refused(tmp_path):
    from lhotse import AudioSource, CutSet, Recording, SupervisionSegment

    recording = Recording("r", [AudioSource("command", [0], f"touch {tmp_path}/ran")], RATE, RATE, 1.0, [0])
    cut = recording.to_cut()
    cut.supervisions = [SupervisionSegment("s", "r", 0, 1.0, text="x")]
    CutSet.from_cuts([cut]).to_file(tmp_path / "cuts.jsonl")
    source = make(type="lhotse", cuts_path=str(tmp_path / "cuts.jsonl"), prompts=["p"])
    with pytest.raises(AudioError, match=r"cuts.jsonl:1: .*command"):
        read(source)
    assert not (tmp_path / "ran").exists()


def test_lhotse_shar(tmp_path):
    from lhotse import Recording, SupervisionSegment
    from lhotse.shar import SharWriter

    (tmp_path / "shar").mkdir()
    with SharWriter(str(tmp_path / "shar"), fields={"recording": "flac"}, shard_size=2) as writer:
        for number in range(3):
            write_level(tmp_path / f"{number}" / "same.wav", 0.25 * (1 + number), secs=0.5 + 0.1 * number)
            cut = Recording.from_file(tmp_path / f"{number}" / "same.wav").to_cut().with_id(f"cut{number}")
            cut.supervisions = [SupervisionSegment(f"s{number}", "same", 0, cut.duration, text=f"text {number}")]
            writer.write(cut.truncate(offset=0.1, preserve_id=True) if number == 1 else cut)
    source = make(type="lhotse_shar", shar_path=str(tmp_path / "shar"), prompts=["p"])
    assert source.shard_sizes == [2, 1]
    conversations = [read(source, index) for index in range(3)]
    assert [c.reference for c in conversations] == ["text 0", "text 1", "text 2"]
    assert [c.audio_secs for c in conversations] == pytest.approx([0.5, 0.5, 0.7])
    assert [len(samples(c)) for c in conversations] == [8000, 8000, 11200]
    assert [samples(c).mean() for c in conversations] == pytest.approx([0.25, 0.5, 0.75], abs=1e-3)


def test_shar_tars_in_another_order_are_an_error(tmp_path):
    row = {
        "id": "c1",
        "start": 0,
        "duration": 0.5,
        "channel": 0,
        "supervisions": [],
        "recording": {
            "id": "r",
            "sources": [{"type": "shar", "channels": [0], "source": ""}],
            "sampling_rate": RATE,
            "num_samples": 8000,
            "duration": 0.5,
        },
        "type": "MonoCut",
    }
    (tmp_path / "cuts.000000.jsonl.gz").write_bytes(gzip.compress(json.dumps(row).encode() + b"\n"))
    write_tar(tmp_path / "recording.000000.tar", {"c2.flac": b"x", "c2.json": b"{}"})
    source = make(type="lhotse_shar", shar_path=str(tmp_path), prompts=["p"])
    with pytest.raises(AudioError, match=r"cuts.000000.jsonl.gz:1: .*not in its cuts' order.*c2.flac.*expected c1"):
        read(source)


def test_conversations_are_the_same_for_the_same_random_numbers(tmp_path):
    rows = [{"audio_filepath": f"{n}.wav", "duration": 0.5, "text": "x"} for n in range(5)]
    source = make(
        type="nemo",
        manifest_filepath=write_jsonl(tmp_path / "m.jsonl", rows),
        prompts=["a", "b", "c", "d"],
        audio_position="random",
    )
    for index in range(5):
        assert shape(read(source, index, seed=9)) == shape(read(source, index, seed=9))
    assert len({str(shape(read(source, 0, seed=seed))) for seed in range(100)}) == 8


def test_a_source_is_a_lazy_cutset_of_conversations(tmp_path):
    from lhotse import CutSet

    path = write_jsonl(
        tmp_path / "c.jsonl",
        [
            {"id": str(n), "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}
            for n in range(4)
        ],
    )
    cuts = make(type="share_gpt", manifest_filepath=path).cutset()
    assert isinstance(cuts, CutSet)
    assert [c.id for c in cuts.filter(lambda c: c.id != "2")] == ["0", "1", "3"]
    muxed = CutSet.mux(cuts.repeat(), cuts.map(lambda c: c).repeat(), weights=[0.5, 0.5], seed=0)
    assert len([c.id for c, _ in zip(muxed, range(20), strict=False)]) == 20


def test_wordings_by_task_from_a_file(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text("asr: [Write.]\nast: ['Into {target_language}.']\n")
    rows = [{"audio_filepath": "a.wav", "duration": 1.0, "text": "x", "target_lang": "es"}]
    entry = {"type": "nemo", "manifest_filepath": write_jsonl(tmp_path / "m.jsonl", rows), "prompts": str(path)}
    assert shape(read(make(**entry, task="ast")))[0][1] == "Into Spanish."
    with pytest.raises(ConfigError, match="no wordings for the task.*expected one of asr, ast.*task"):
        make(**entry)


def test_a_last_line_without_newline_is_a_row_and_lines_are_counted_from_one(tmp_path):
    path = tmp_path / "c.jsonl"
    good = '{"id": "%s", "conversations": [{"from": "human", "value": "é"}, {"from": "gpt", "value": "b"}]}'
    path.write_text(good % "a" + "\r\n" + good % "b", encoding="utf-8")
    source = make(type="share_gpt", manifest_filepath=str(path))
    assert len(source) == 2
    assert [read(source, index).id for index in range(2)] == ["a", "b"]
    assert source.place(1) == (path, 2)
    assert isinstance(read(source).turns[0].parts[0], Text)
