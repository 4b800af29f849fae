"""Interleaving in every reader of speech: rows in, interleaved conversations out, lengths and limits by what is heard."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from lhotse import AudioSource, MonoCut, Recording, SupervisionSegment
from lhotse.shar import SharWriter
from lhotse.supervision import AlignmentItem

from tests.helpers.corpus import FRAME_SECS, RATE, make_encoder, wav_bytes, write_jsonl, write_ramp, write_tar
from vtblender_nemo.common.audio import load_samples
from vtblender_nemo.common.conversation import Audio, Conversation, Text
from vtblender_nemo.common.errors import ConfigError, DataError
from vtblender_nemo.data.blend import Blend, Limits
from vtblender_nemo.data.sources import make_source
from vtblender_nemo.data.weighted import read_sources

WORDS = "zero one two three"
TIMES = [[word, 0.5 * number + 0.05, 0.5 * number + 0.45] for number, word in enumerate(WORDS.split())]
ALWAYS = {"prob": 1.0, "words": [1, 2], "switches": [1, 3], "margin_secs": 1.0}
PROMPTS = ["Repeat: {audio} Now!", "{audio} What was said?"]
EVERY_CUT = [0, 8000, 16000, 24000, 32000]


def make(**entry):
    return make_source({"interleave": ALWAYS, **entry}, RATE, "input_cfg[0]")


def reads(source, count: int = 30) -> list[Conversation]:
    return [source.conversation(0, random.Random(seed)) for seed in range(count)]


def check(conversation: Conversation, offset: int = 0) -> None:
    """Text and audio of the user's turn are the transcript; an audio holds the samples of its words and no other."""
    transcripts = iter(conversation.custom["transcript"])
    said = []
    for part in conversation.turns[0].parts:
        if isinstance(part, Text):
            said += part.text.split()
            continue
        words = next(transcripts).split()
        said += words
        numbers = np.rint(load_samples(part.cut, RATE) * 100_000).astype(int) - offset
        first, last = WORDS.split().index(words[0]), WORDS.split().index(words[-1])
        assert numbers.tolist() == list(range(EVERY_CUT[first], EVERY_CUT[last + 1]))
    assert " ".join(said) in {prompt.format(audio=WORDS) for prompt in PROMPTS}
    assert next(transcripts, None) is None


def row(**more) -> dict:
    return {"id": "r", "audio_filepath": "r.wav", "duration": 2.0, "text": WORDS, "alignment": TIMES, **more}


def test_a_manifest_is_interleaved_otherwise_at_every_visit(tmp_path):
    write_ramp(tmp_path / "r.wav")
    path = write_jsonl(tmp_path / "m.jsonl", [row()])
    found = reads(make(type="nemo", manifest_filepath=path, prompts=PROMPTS))
    for conversation in found:
        check(conversation)
        assert conversation.reference == WORDS
        assert "alignment" not in conversation.custom
    shapes = {tuple(getattr(p, "text", "*") for p in c.turns[0].parts) for c in found}
    assert len(shapes) > 15
    assert {sum(isinstance(p, Audio) for p in c.turns[0].parts) for c in found} == {1, 2}


def test_times_count_from_the_rows_own_audio(tmp_path):
    write_ramp(tmp_path / "r.wav", secs=4.0)
    path = write_jsonl(tmp_path / "m.jsonl", [row(offset=1.5)])
    for conversation in reads(make(type="nemo", manifest_filepath=path, prompts=PROMPTS), 10):
        check(conversation, offset=24000)


def test_a_row_gets_the_same_wording_with_and_without_interleaving(tmp_path):
    write_ramp(tmp_path / "r.wav")
    path = write_jsonl(tmp_path / "m.jsonl", [row()])
    plain = make_source({"type": "nemo", "manifest_filepath": path, "prompts": PROMPTS}, RATE, "input_cfg[0]")
    source = make(type="nemo", manifest_filepath=path, prompts=PROMPTS)
    for with_it, without in zip(reads(source), reads(plain), strict=True):
        wordings = [prompt.split("{audio}") for prompt in PROMPTS]
        (wording,) = [
            w for w in wordings if all(any(Text(text) == p for p in without.turns[0].parts) for text in w if text)
        ]
        assert all(Text(text) in with_it.turns[0].parts for text in wording if text)
        assert "transcript" not in without.custom
        assert "alignment" not in without.custom


def test_speech_qa_is_interleaved_by_its_transcript(tmp_path):
    write_ramp(tmp_path / "r.wav")
    path = write_jsonl(tmp_path / "m.jsonl", [row(question="What was said?", answer="numbers")])
    for conversation in reads(make(type="speech_qa", manifest_filepath=path, prompts=["{audio} {question}"]), 10):
        check(conversation)
        assert conversation.reference == "numbers"


def test_a_translation_is_interleaved_by_its_transcript(tmp_path):
    write_ramp(tmp_path / "r.wav")
    path = write_jsonl(tmp_path / "m.jsonl", [row(translation="null eins zwei drei")])
    source = make(type="nemo", manifest_filepath=path, prompts=PROMPTS, text_field="translation")
    for conversation in reads(source, 10):
        check(conversation)
        assert conversation.reference == "null eins zwei drei"


def test_tars_are_interleaved(tmp_path):
    ramp = write_ramp(tmp_path / "r.wav")
    tar = write_tar(tmp_path / "a.tar", {"r.wav": wav_bytes(ramp)})
    path = write_jsonl(tmp_path / "m.jsonl", [row()])
    source = make(type="nemo_tarred", manifest_filepath=path, tarred_audio_filepaths=tar, prompts=PROMPTS)
    for conversation in reads(source, 10):
        check(conversation)


def lhotse_cut(path, *, aligned: bool = True) -> MonoCut:
    """A cut of seconds 1 to 3 of a recording, in two supervisions."""
    sources = [AudioSource("file", [0], str(path))]
    recording = Recording("r", sources, RATE, 4 * RATE, 4.0)

    def supervision(number: int, start: float, first: int, last: int) -> SupervisionSegment:
        items = [AlignmentItem(word, begin, round(end - begin, 3)) for word, begin, end in TIMES[first:last]]
        text = " ".join(WORDS.split()[first:last])
        return SupervisionSegment(
            f"s{number}", "r", start, 1.0, text=text, alignment={"word": items} if aligned else None
        )

    supervisions = [supervision(0, 0.0, 0, 2), supervision(1, 1.0, 2, 4)]
    return MonoCut("c", 1.0, 2.0, 0, supervisions=supervisions, recording=recording)


def test_lhotse_cuts_bring_their_own_alignment(tmp_path):
    write_ramp(tmp_path / "r.wav", secs=4.0)
    path = write_jsonl(tmp_path / "cuts.jsonl", [lhotse_cut("r.wav").to_dict()])
    for conversation in reads(make(type="lhotse", cuts_path=path, prompts=PROMPTS), 10):
        check(conversation, offset=16000)


def test_lhotse_shar_is_interleaved(tmp_path):
    write_ramp(tmp_path / "r.wav", secs=4.0)
    (tmp_path / "shar").mkdir()
    with SharWriter(str(tmp_path / "shar"), fields={"recording": "wav"}, shard_size=4) as writer:
        writer.write(lhotse_cut(tmp_path / "r.wav"))
    source = make(type="lhotse_shar", shar_path=str(tmp_path / "shar"), prompts=PROMPTS)
    for conversation in reads(source, 3):
        assert conversation.custom["transcript"]
        lengths = [len(load_samples(audio.cut, RATE)) for audio in conversation.audios]
        wanted = [8000 * len(text.split()) for text in conversation.custom["transcript"]]
        assert lengths == wanted


def test_a_cut_whose_supervisions_are_not_all_aligned_is_refused(tmp_path):
    write_ramp(tmp_path / "r.wav", secs=4.0)
    cut = lhotse_cut("r.wav").to_dict()
    del cut["supervisions"][1]["alignment"]
    path = write_jsonl(tmp_path / "cuts.jsonl", [cut])
    with pytest.raises(DataError, match="without alignment"):
        make(type="lhotse", cuts_path=path, prompts=PROMPTS).conversation(0, random.Random(0))


def test_every_audio_of_a_mixed_conversation_is_interleaved_apart(tmp_path):
    write_ramp(tmp_path / "r.wav")
    audio = {"type": "audio", "from": "User", "value": "r.wav", "duration": 2.0, "text": WORDS, "alignment": TIMES}
    parts = [
        {"type": "text", "from": "User", "value": "first"},
        audio,
        {"type": "text", "from": "User", "value": "then"},
        {**audio, "alignment": None},
        {"type": "text", "from": "Assistant", "value": "yes"},
    ]
    path = write_jsonl(tmp_path / "m.jsonl", [{"id": "m", "conversations": parts}])
    for conversation in reads(make(type="multimodal_conversation", manifest_filepath=path)):
        transcripts = iter(conversation.custom["transcript"])
        said = " ".join(
            part.text if isinstance(part, Text) else next(transcripts) for part in conversation.turns[0].parts
        )
        assert said == f"first {WORDS} then {WORDS}"
        assert conversation.audios[-1].duration_secs == 2.0
        assert len(conversation.audios) in (2, 3)
        assert next(transcripts, None) is None


def test_lengths_count_what_is_heard(tmp_path):
    """Positions for buckets and limits are those of the parts: the frames of each, rounded up, and the text."""
    write_ramp(tmp_path / "r.wav")
    path = write_jsonl(tmp_path / "m.jsonl", [row()])
    encoder = make_encoder()
    for conversation in reads(make(type="nemo", manifest_filepath=path, prompts=PROMPTS)):
        prompt, length = encoder.encode(conversation)
        frames = sum(math.ceil(audio.duration_secs / FRAME_SECS) for audio in conversation.audios)
        assert length == len(prompt.ids) - len(conversation.audios) + frames
        assert conversation.audio_secs < 2.0


def test_a_blend_draws_anew_at_every_visit_and_the_same_after_a_rebuild(tmp_path):
    write_ramp(tmp_path / "r.wav")
    path = write_jsonl(tmp_path / "m.jsonl", [row()])
    entry = {"type": "nemo", "manifest_filepath": path, "prompts": PROMPTS, "interleave": ALWAYS}
    blend = Blend(read_sources([entry], sampling_rate=RATE), make_encoder(), Limits())
    drawn = [blend.draw() for _ in range(12)]
    lengths = [example.length for example in drawn]
    assert len(set(lengths)) > 4
    assert [blend.rebuild(example.source, example.position).length for example in drawn] == lengths


def test_a_group_is_interleaved_as_it_says_but_for_sources_that_say_otherwise(tmp_path):
    write_ramp(tmp_path / "r.wav")
    path = write_jsonl(tmp_path / "m.jsonl", [row()])
    entries = [{"type": "nemo", "name": name, "manifest_filepath": path, "prompts": PROMPTS} for name in "abc"]
    inner = {"type": "group", "input_cfg": entries[1:2]}
    never = {**entries[2], "interleave": {"prob": 0.0}}
    groups = [{"type": "group", "interleave": ALWAYS, "input_cfg": [entries[0], inner, never]}]
    opened = {one.source.name: one.source for one in read_sources(groups, sampling_rate=RATE)}
    shares = {
        name: sum(one.custom["transcript"] != [WORDS] for one in reads(source)) / 30 for name, source in opened.items()
    }
    assert shares == {"a": 1.0, "b": 1.0, "c": 0.0}
    (whole,) = read_sources([{"type": "group", "input_cfg": entries[:1]}], sampling_rate=RATE)
    assert whole.source.config.interleave is None


def test_rows_that_cannot_be_interleaved_are_counted_and_listed(tmp_path):
    write_ramp(tmp_path / "r.wav")
    path = write_jsonl(tmp_path / "m.jsonl", [row(), row(id="b", alignment=TIMES[:2]), row(id="c", text="zero one")])
    entry = {"type": "nemo", "manifest_filepath": path, "prompts": PROMPTS, "interleave": {"prob": 0.1}}
    blend = Blend(read_sources([entry], sampling_rate=RATE), make_encoder(), Limits())
    assert {blend.draw().conversation.id for _ in range(10)} == {"r"}
    assert {(skip.line, skip.knob) for skip in blend.take_skips()} == {(2, "on_bad_row"), (3, "on_bad_row")}


def test_settings_are_read_when_the_source_is_opened(tmp_path):
    write_ramp(tmp_path / "r.wav")
    path = write_jsonl(tmp_path / "m.jsonl", [row()])
    with pytest.raises(ConfigError, match=r"input_cfg\[0\]\.interleave\.prob"):
        make(type="nemo", manifest_filepath=path, prompts=PROMPTS, interleave={"prob": 2})
    with pytest.raises(ConfigError, match=r"input_cfg\[0\]\.interleave\.often"):
        make(type="nemo", manifest_filepath=path, prompts=PROMPTS, interleave={"often": True})


@pytest.mark.parametrize("kind", ["text_chat", "share_gpt", "items"])
def test_sources_without_transcribed_speech_take_no_interleaving(tmp_path, kind):
    path = write_jsonl(tmp_path / "c.jsonl", [{"id": "x"}])
    with pytest.raises(ConfigError, match="has no such key"):
        make(type=kind, manifest_filepath=path)
