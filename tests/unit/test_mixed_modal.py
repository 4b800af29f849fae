"""Mixed-modal chats: what is made of a row, what is refused, and that both depend on the row alone."""

from __future__ import annotations

import importlib.util
import io
import json
import pickle
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from scipy.stats import chisquare
from typer.testing import CliRunner

from vtblender_nemo.common.audio import load_samples
from vtblender_nemo.common.conversation import Audio, Text
from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.synthesis.mixed_modal.work import MixedModalWork, clip_names, merge, read_mixed_modal
from vtblender_nemo.synthesis.tts.base import Speech, SpeechEngine
from vtblender_nemo.synthesis.work import InputRow, Made, Refused

FOUR = "First one. Second two. Third three. Fourth four."


class SilentEngine(SpeechEngine):
    """Says a text as so many equal samples as it has letters; keeps what it was asked."""

    model = "silent 1.0"

    def __init__(self, refused: str = "") -> None:
        self.asked, self._refused = [], refused

    def speak(self, requests):
        self.asked.extend(requests)
        return [self._speak(request) for request in requests]

    def _speak(self, request):
        if self._refused and self._refused in request.text:
            return Refused("not_spoken", "cannot")
        return Speech(np.full(1600 + len(request.text), 0.1, np.float32), f"voice {request.rng().randrange(10)}")


def chat(id: str, *contents: str, **more) -> InputRow:
    roles = ["user", "assistant"]
    messages = [{"role": roles[place % 2], "content": content} for place, content in enumerate(contents)]
    return InputRow(id, f"chats.jsonl:{id}", {"id": id, "messages": messages, **more})


def open_work(engine: SpeechEngine | None = None, seed: int = 0, **values):
    worker = MixedModalWork(read_mixed_modal(values), seed).open()
    if engine is not None:
        worker._engines = dict.fromkeys(worker._engines, engine)
    return worker


def user_parts(row) -> list[str]:
    """The parts of the user's turns; a speech in angle brackets."""
    parts = [part for part in row["conversations"] if part["from"] == "User"]
    return [f"<{part['text']}>" if part["type"] == "audio" else part["value"] for part in parts]


def test_a_run_of_sentences_becomes_speech_and_the_rest_stays_text():
    (outcomes,) = open_work(SilentEngine())([chat("c1", FOUR, "Thanks.", task="chat")])
    assert 1 <= len(outcomes) <= 2
    for number, made in enumerate(outcomes):
        assert isinstance(made, Made)
        parts = user_parts(made.row)
        assert " ".join(parts).replace("<", "").replace(">", "") == FOUR
        assert sum(part.startswith("<") for part in parts) == 1
        assert made.row["id"] == f"c1-speech{number}"
        assert made.row["task"] == "chat"
        assert made.row["conversations"][-1] == {"type": "text", "from": "Assistant", "value": "Thanks."}
        (audio,) = [part for part in made.row["conversations"] if part["type"] == "audio"]
        (clip,) = made.clips
        assert audio["value"] == f"{clip.name}.flac"
        assert audio["duration"] == len(clip.samples) / 16_000
        assert clip.rate == 16_000


def test_audios_tell_when_their_words_are_said_if_asked():
    """Null where the engine does not know, or where numbers were written out before they were spoken."""
    rows = [chat("c1", "Buy some red apples.", "Thanks."), chat("c2", "Buy 20 apples.", "Thanks.")]

    def audios(**values) -> list[dict]:
        made = open_work(spans={"variants": 1}, **values)(rows)
        return [part for (one,) in made for part in one.row["conversations"] if part["type"] == "audio"]

    plain = audios()
    told, numbers = audios(alignment=True)
    assert all("alignment" not in audio for audio in plain)
    assert {key: value for key, value in told.items() if key != "alignment"} == plain[0]
    assert [word for word, *_ in told["alignment"]] == ["Buy", "some", "red", "apples"]
    flat = [secs for _, *times in told["alignment"] for secs in times]
    assert flat == sorted(flat)
    assert flat[-1] <= told["duration"]
    assert numbers["alignment"] is None
    ((silent, *_),) = open_work(SilentEngine(), alignment=True)([chat("c1", FOUR, "Thanks.")])
    assert [part["alignment"] for part in silent.row["conversations"] if part["type"] == "audio"] == [None]


def test_jobs_without_alignment_go_on_as_before():
    def settings(**values):
        return MixedModalWork(read_mixed_modal(values), 0).settings()

    assert "alignment" not in settings()
    assert settings(alignment=True) == {**settings(), "alignment": True}


def test_provenance_names_source_engine_model_voice_and_seed():
    ((made, *_),) = open_work(SilentEngine(), seed=3)([chat("c1", FOUR, "Thanks.")])
    provenance = made.row["provenance"]
    assert provenance.pop("voice").startswith("voice ")
    assert provenance == {
        "source": "c1",
        "place": "chats.jsonl:c1",
        "engine": "espeak",
        "model": "silent 1.0",
        "seed": 3,
        "normalizer": "num2words",
    }


def test_runs_of_sentences_follow_the_papers_distribution():
    worker = open_work(SilentEngine(), spans={"variants": 1})
    sentences = ["First one.", "Second two.", "Third three."]
    made = worker([chat(f"c{number}", " ".join(sentences), "Thanks.") for number in range(6000)])
    seen = Counter(part[1:-1] for (one,) in made for part in user_parts(one.row) if part.startswith("<"))
    # Begin uniform over three sentences, end uniform after it, in 18ths.
    shares = {(0, 1): 2, (0, 2): 2, (0, 3): 2, (1, 2): 3, (1, 3): 3, (2, 3): 6}
    texts = {" ".join(sentences[begin:end]): share for (begin, end), share in shares.items()}
    assert set(seen) == set(texts)
    assert chisquare([seen[text] for text in texts], [6000 * share / 18 for share in texts.values()]).pvalue > 1e-3


def test_variants_of_a_row_differ_and_equal_draws_are_one():
    worker = open_work(SilentEngine(), spans={"variants": 3})
    many = worker([chat(f"c{number}", FOUR, "Thanks.") for number in range(50)])
    assert {len(outcomes) for outcomes in many} == {1, 2, 3} or {len(outcomes) for outcomes in many} == {2, 3}
    for outcomes in many:
        spoken = [tuple(user_parts(made.row)) for made in outcomes]
        assert len(set(spoken)) == len(spoken)
    ((single,),) = worker([chat("c", "Only one sentence.", "Thanks.")])
    assert user_parts(single.row) == ["<Only one sentence.>"]


def test_one_voice_speaks_all_segments_of_a_row_and_rows_differ():
    engine = SilentEngine()
    worker = open_work(engine, spans={"max_spans": 3, "variants": 1, "turns": "every"})
    outcomes = worker([chat(f"c{number}", FOUR, "And?", FOUR, "Bye.") for number in range(20)])
    voices = [made.row["provenance"]["voice"] for (made,) in outcomes]
    assert all("/" not in voice for voice in voices)
    assert len(set(voices)) > 4
    assert any(len(made.clips) > 2 for (made,) in outcomes)


def test_later_turns_get_speech():
    every = open_work(SilentEngine(), spans={"turns": "every", "whole_turn": 1.0, "variants": 1})
    ((made,),) = every([chat("c", "One.", "Two.", "Three.", "Four.")])
    values = [(part["from"], part["type"], part.get("text") or part["value"]) for part in made.row["conversations"]]
    assert values == [
        ("User", "audio", "One."),
        ("Assistant", "text", "Two."),
        ("User", "audio", "Three."),
        ("Assistant", "text", "Four."),
    ]
    assert len({clip.name for clip in made.clips}) == 2


def test_what_is_made_of_a_row_depends_on_the_row_and_the_seed_alone():
    rows = [chat(f"c{number}", FOUR, "Thanks.") for number in range(6)]
    together = open_work(SilentEngine())(rows)
    backwards = open_work(SilentEngine())(rows[::-1])[::-1]
    alone = [open_work(SilentEngine())([row])[0] for row in rows]
    assert described(together) == described(backwards) == described(alone)
    assert described(open_work(SilentEngine(), seed=1)(rows)) != described(together)


def described(outcomes) -> str:
    return json.dumps(
        [
            [(made.row, [(clip.name, clip.samples.tobytes().hex()) for clip in made.clips]) for made in row]
            for row in outcomes
        ]
    )


def test_speech_of_espeak_does_not_depend_on_what_was_said_before():
    rows = [chat(f"c{number}", FOUR, "Thanks.") for number in range(4)]
    assert described(open_work()(rows)) == described([open_work()([row])[0] for row in rows[::-1]][::-1])


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (chat("c", "What does `print` do?", "Prints."), "code"),
        (chat("c", "See https://example.com now.", "Yes."), "url"),
        (chat("c", "Solve x = 3.", "Yes."), "maths"),
        (chat("c", "I am 😀.", "Fine."), "unknown_symbols"),
        (chat("c", "?!", "What?"), "empty_text"),
        (chat("c", "Wie backt man Brot? Ich habe noch nie gebacken.", "So."), "other_language"),
        (chat("c", "word " * 60, "What?"), "long_prompt"),
        (chat("c", "Hello."), "bad_chat"),
        (chat("c", "Say the magic word.", "No."), "not_spoken"),
    ],
)
def test_what_cannot_be_made_is_refused_with_its_reason(row, reason):
    worker = open_work(SilentEngine(refused="magic"), filters={"prompt_tokens_under": 50})
    (outcomes,) = worker([row])
    assert {outcome.reason for outcome in outcomes} == {reason}
    assert all(outcome.detail for outcome in outcomes)


def test_one_sentence_that_cannot_be_spoken_is_refused_once():
    worker = open_work(SilentEngine(), spans={"variants": 5})
    (once,) = worker([chat("c", "What does `print` do?", "Prints.")])
    assert [outcome.reason for outcome in once] == ["code"]
    (mixed,) = worker([chat("c", "Good morning. What does `print` do?", "Prints.")])
    assert sorted(type(outcome).__name__ for outcome in mixed) == ["Made", "Refused", "Refused"]


def test_one_bad_row_costs_the_others_nothing():
    good, bad = chat("good", FOUR, "Thanks."), chat("bad", "`code`", "No.")
    made, refused, again = open_work(SilentEngine())([good, bad, chat("more", FOUR, "Thanks.")])
    assert all(isinstance(outcome, Made) for outcome in (*made, *again))
    assert all(isinstance(outcome, Refused) for outcome in refused)


def test_engines_are_drawn_for_every_row_by_weight():
    engines = [{"type": "espeak", "weight": 0.7}, {"type": "espeak", "name": "other", "weight": 0.3}]
    worker = open_work(SilentEngine(), engines=engines, spans={"variants": 1})
    outcomes = worker([chat(f"c{number}", FOUR, "Thanks.") for number in range(4000)])
    seen = Counter(made.row["provenance"]["engine"] for (made,) in outcomes)
    assert chisquare([seen["espeak"], seen["other"]], [2800, 1200]).pvalue > 1e-3


def test_real_speech_takes_the_place_of_what_was_recorded(tmp_path):
    sf.write(tmp_path / "a.wav", np.full(8000, 0.25, np.float32), 16_000, subtype="FLOAT")
    (tmp_path / "asr.jsonl").write_text(
        '{"audio_filepath": "a.wav", "duration": 0.5, "text": "third three fourth four"}\n'
    )
    engines = [{"type": "recordings", "manifests": [str(tmp_path / "asr.jsonl")]}]
    found, missing = open_work(engines=engines)([chat("c", FOUR, "Thanks."), chat("d", "Nobody said this.", "No.")])
    ((made),) = found
    assert user_parts(made.row) == ["First one. Second two.", "<Third three. Fourth four.>"]
    assert made.clips[0].samples == pytest.approx(np.full(8000, 0.25, np.float32))
    assert made.row["provenance"]["recordings"] == [{"audio_filepath": "a.wav", "duration": 0.5}]
    assert {outcome.reason for outcome in missing} == {"no_recording"}


class Recogniser:
    """Hears every text right but those that are about the second sentence."""

    def __init__(self, texts) -> None:
        self.texts = texts

    def transcribe(self, audio, batch_size, verbose, **prompt):
        return ["something else entirely" if "Second" in text else text for text in self.texts()]


def test_what_the_gate_hears_otherwise_is_refused():
    from vtblender_nemo.synthesis.mixed_modal.asr_gate import AsrGate, GateConfig

    engine = SilentEngine()
    worker = open_work(engine, spans={"variants": 1})
    recogniser = Recogniser(lambda: [request.text for request in engine.asked])
    worker._gate = AsrGate(recogniser, GateConfig(max_wer=0.3), "en")
    outcomes = [one for (one,) in worker([chat(f"c{number}", FOUR, "Thanks.") for number in range(30)])]
    refused = [one for one in outcomes if isinstance(one, Refused)]
    made = [one for one in outcomes if isinstance(one, Made)]
    assert refused
    assert made
    assert {one.reason for one in refused} == {"asr_wer"}
    assert all("Second" in one.detail for one in refused)
    assert all(one.row["provenance"]["wer"] == 0.0 for one in made)
    assert not any("Second" in " ".join(part for part in user_parts(one.row) if "<" in part) for one in made)


def test_rows_are_read_by_the_reader_of_mixed_modal_conversations(tmp_path):
    from vtblender_nemo.data.sources import make_source

    ((made, *_),) = open_work(SilentEngine())([chat("c1", FOUR, "Thanks.")])
    for clip in made.clips:
        sf.write(tmp_path / f"{clip.name}.flac", clip.samples, clip.rate)
    (tmp_path / "rows.jsonl").write_text(json.dumps(made.row) + "\n")
    entry = {"type": "multimodal_conversation", "manifest_filepath": str(tmp_path / "rows.jsonl")}
    (conversation,) = make_source(entry, 16_000, "input_cfg[0]").cutset()
    kinds = [[type(part) for part in turn.parts] for turn in conversation.turns]
    assert Audio in kinds[0]
    assert kinds[1] == [Text]
    assert load_samples(conversation.audios[0].cut, 16_000) == pytest.approx(made.clips[0].samples, abs=1e-4)


def test_clips_have_plain_and_different_names():
    assert clip_names("c1-speech0", 2) == ["c1-speech0-0", "c1-speech0-1"]
    odd = [clip_names(id, 1)[0] for id in ("a/b c.d", "a/b_c.d", "ä", "ö", "x" * 300)]
    assert len(set(odd)) == 5
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,119}", name) for name in odd)


def test_settings_are_json_and_hold_what_decides():
    work = pickle.loads(pickle.dumps(MixedModalWork(read_mixed_modal({"gate": {"device": "cpu"}}), 7)))
    settings = json.loads(json.dumps(work.settings()))
    assert settings["seed"] == 7
    assert settings["spans"]["variants"] == 2
    assert settings["speech"]["normalizer"] == "num2words"
    assert "device" not in settings["gate"]


def test_flags_go_before_the_file():
    values = merge(
        {"language": "de", "spans": {"variants": 5, "turns": "every"}}, {"spans": {"variants": 1, "turns": None}}
    )
    assert values == {"language": "de", "spans": {"variants": 1, "turns": "every"}}
    assert merge(None, {"language": "en", "gate": {"model": None}}) == {"language": "en"}
    with pytest.raises(ConfigError, match="spans"):
        merge({"spans": 3}, {"spans": {"variants": 1}})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"spans": {"variant": 1}}, "spans.variant"),
        ({"spans": {"turns": "odd"}}, "spans.turns"),
        ({"filters": {"prompt_tokens_under": "few"}}, "filters.prompt_tokens_under"),
        ({"speech": {"normalizer": "magic"}}, "num2words"),
        ({"gate": {"model": "/none.nemo"}}, "gate.model"),
        ({"voices": []}, "voices"),
        ({"language": 3}, "language"),
        (["spans"], "not a mapping"),
    ],
)
def test_a_wrong_configuration_is_refused_by_its_key(values, message):
    with pytest.raises(ConfigError, match=message):
        read_mixed_modal(values)


@pytest.mark.skipif(shutil.which("flite") is None, reason="apt install flite")
def test_a_blend_of_two_synthesisers_speaks():
    worker = open_work(engines=[{"type": "espeak"}, {"type": "flite"}], spans={"variants": 1})
    outcomes = worker([chat(f"c{number}", "Good morning to you.", "Thanks.") for number in range(8)])
    assert {made.row["provenance"]["engine"] for (made,) in outcomes} == {"espeak", "flite"}
    for (made,) in outcomes:
        assert np.abs(made.clips[0].samples).max() > 0.01
        sf.write(io.BytesIO(), made.clips[0].samples, 16_000, format="FLAC")


def test_the_example_reads_its_blend_from_flags():
    from vtblender_nemo.synthesis.tts.blend import read_shares

    assert read_shares(["espeak=0.7", "flite"]) == [{"type": "espeak", "weight": 0.7}, {"type": "flite", "weight": 1.0}]
    with pytest.raises(ConfigError, match="--tts"):
        read_shares(["espeak=much"])


def test_the_command_counts_other_languages_and_names_its_flags(tmp_path):
    path = Path(__file__).parents[2] / "examples/synthesize_mixed_modal.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    german = chat("c", "Wie backt man Brot? Ich habe noch nie gebacken.", "So.").data
    (tmp_path / "chats.jsonl").write_text(json.dumps(german) + "\n")

    def called(folder, *more):
        common = ["--input", str(tmp_path / "chats.jsonl"), "--output-dir", str(tmp_path / folder)]
        result = CliRunner().invoke(script.app, [*common, *more])
        return result.exit_code, result.output.replace("\n", " ")

    assert called("out")[0] == 1
    assert "other_language" in json.loads((tmp_path / "out/summary.json").read_text())["refused_by_reason"]
    code, said = called("out", "--no-check-language")
    assert code == 2
    assert "(change it with: --check-language (work.speech.check_language), or --output-dir)" in said
    assert called("spoken", "--no-check-language")[0] == 0
    code, said = called("other", "--language", "xx")
    assert code == 2
    assert "--language (language), or --normalizer (speech.normalizer)" in said
