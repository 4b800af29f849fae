"""Inspection of rows: every mistake is told with its file and line, by any number of processes, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.helpers.blends import spoil, write_blend
from tests.helpers.corpus import FRAME_SECS, LOCATOR, RATE, chat_rows, make_encoder, wav_bytes, write_jsonl, write_tar
from tests.helpers.tokenizer import make_tokenizer
from vtblender_nemo.common.chat import ChatFormat
from vtblender_nemo.common.errors import ConfigError, DataError
from vtblender_nemo.data.blend import Encoder, Limits
from vtblender_nemo.data.weighted import read_sources
from vtblender_nemo.inspection.checks import AUDIO_CHECKS, AudioCheck, Checker, Finding, problem_of
from vtblender_nemo.inspection.headers import read_header
from vtblender_nemo.inspection.scan import CHUNK_ROWS, Part, scan
from vtblender_nemo.inspection.tokens import EstimatedFormat, open_format


def parts_of(blend: Path, limits: Limits = Limits()) -> list[Part]:
    return [Part(entry.source, limits) for entry in read_sources(str(blend), sampling_rate=RATE)]


def findings_of(blend: Path, audio: AudioCheck) -> dict[tuple[str, int], tuple[str, str]]:
    """Level and problem of what is found in `asr` and `chats`, by file and line."""
    parts = [part for part in parts_of(blend) if part.source.name in ("asr", "chats")]
    found = [finding for result in scan(parts, Checker(make_encoder(), audio)) for finding in result.findings]
    return {(Path(finding.path).name, finding.line): (finding.level, finding.problem) for finding in found}


@pytest.mark.parametrize("audio", AUDIO_CHECKS)
def test_every_mistake_is_found_at_its_line_and_nothing_else(tmp_path, audio):
    blend = write_blend(tmp_path)
    assert findings_of(blend, audio) == {}
    expected = {}
    for name, lines in spoil(tmp_path).items():
        for line, mistake in lines.items():
            check, level, problem = mistake.split("|", 2)
            if AUDIO_CHECKS.index(check) <= AUDIO_CHECKS.index(audio):
                expected[name, line] = (level, problem)
    assert len(expected) == {"none": 10, "header": 16, "decode": 18}[audio]
    assert findings_of(blend, audio) == expected


def test_a_finding_reads_as_file_line_and_values(tmp_path):
    write_blend(tmp_path)
    (line,) = (n for n, problem in spoil(tmp_path)["speech.jsonl"].items() if "audio is shorter" in problem)
    (part,) = [part for part in parts_of(tmp_path / "blend.yaml") if part.source.name == "asr"]
    _, findings, _ = Checker(make_encoder()).check(part.source, line - 1, Limits())
    (said,) = map(str, findings)
    assert said.startswith(f"{tmp_path}/speech.jsonl:{line}: error in asr: audio is shorter than its manifest says: ")
    assert "found '0.400 s from 0.000 s on'; expected 3.000 s" in said


def test_what_is_counted_is_what_stands_there(tmp_path):
    blend = write_blend(tmp_path)
    encoder = make_encoder()
    asr, _, talk, chats = scan(parts_of(blend), Checker(encoder))
    assert [result.count for result in (asr, talk, chats)] == [12, 12, 12]
    assert asr.column("audio_secs").tolist() == pytest.approx([0.4 + 0.1 * n for n in range(12)])
    assert asr.column("frames").tolist() == [-(-round(1000 * (0.4 + 0.1 * n)) // 80) for n in range(12)]
    assert asr.column("target_tokens")[0] == len("speech number 0") + 2  # the end of the turn and a newline
    assert chats.column("frames").sum() == chats.column("audio_secs").sum() == chats.audios == 0
    assert talk.audios == 12
    assert dict(asr.rates) == dict(talk.rates) == {RATE: 12}
    assert dict(asr.channels) == {1: 12}
    for part, result in zip(parts_of(blend), (asr, None, talk, chats), strict=True):
        if result is not None:
            lengths = [encoder.encode(part.source.conversation(n, part.source.rng(0, n)))[1] for n in range(12)]
            assert (result.column("text_tokens") + result.column("frames")).tolist() == lengths


def test_limits_leave_rows_out_but_make_none_bad(tmp_path):
    blend = write_blend(tmp_path)
    limits = Limits(min_duration=0.45, max_duration=1.2)
    asr, *_ = scan(parts_of(blend, limits), Checker(make_encoder()))
    assert asr.findings == []
    assert asr.left_out == {"min_duration": 1, "max_duration": 3}
    assert asr.kept.tolist() == [False] + [True] * 8 + [False] * 3
    assert len(asr.rows) == 12


@pytest.mark.parametrize("workers", [2, 5])
def test_processes_change_nothing(tmp_path, workers):
    rows = chat_rows(3 * CHUNK_ROWS + 7, words=5)
    rows[CHUNK_ROWS + 3] = "no json"
    rows[-1] = {"messages": []}
    entries = [{"type": "text_chat", "manifest_filepath": write_jsonl(tmp_path / "c.jsonl", rows)}]
    parts = [Part(entry.source, Limits()) for entry in read_sources(entries, sampling_rate=RATE)]
    told: list[int] = []
    (alone,) = scan(parts, Checker(make_encoder()))
    (shared,) = scan(parts, Checker(make_encoder()), workers=workers, progress=told.append)
    np.testing.assert_array_equal(alone.rows, shared.rows)
    assert alone.findings == shared.findings
    assert [finding.line for finding in shared.findings] == [CHUNK_ROWS + 4, 3 * CHUNK_ROWS + 7]
    assert told == [CHUNK_ROWS] * 3 + [7]
    (few,) = scan(parts, Checker(make_encoder()), workers=workers, max_rows=5)
    assert few.count == 5


def test_headers_of_files_and_of_members_of_tars(tmp_path, monkeypatch):
    def never(_: object) -> None:
        raise AssertionError("the whole file is read only where its header alone is of no use")

    monkeypatch.setattr("vtblender_nemo.inspection.headers.info", never)
    read_header.cache_clear()
    blend = write_blend(tmp_path)
    header = read_header(str(tmp_path / "audio/3.flac"))
    assert (header.rate, header.channels, header.duration_secs) == (RATE, 1, pytest.approx(0.7))
    (talk,) = [part.source for part in parts_of(blend) if part.source.name == "talk"]
    source = talk.conversation(4, talk.rng(0, 0)).audios[0].cut.recording.sources[0]
    header = read_header(source.source, source.member)
    assert (header.rate, header.channels, header.duration_secs) == (RATE, 1, pytest.approx(0.5))


def test_a_cut_off_member_of_a_tar_is_found(tmp_path):
    blend = write_blend(tmp_path)
    rows = [{"id": "x", "conversations": [{"type": "audio", "from": "User", "value": "0.wav", "duration": 2.0}]}]
    rows[0]["conversations"].append({"type": "text", "from": "Assistant", "value": "a"})
    write_jsonl(tmp_path / "talk.jsonl", rows)
    result = scan(parts_of(blend), Checker(make_encoder()))[2]
    assert [finding.problem for finding in result.findings] == ["audio is shorter than its manifest says"]


def warnings_of(entry: dict[str, object]) -> list[str]:
    (source,) = [weighted.source for weighted in read_sources([entry], sampling_rate=RATE)]
    findings = [Checker(make_encoder()).check(source, index, Limits())[1] for index in range(len(source))]
    return [f"{finding.level} {finding.line}: {finding.detail}" for found in findings for finding in found]


def test_audio_that_a_row_cuts_off_is_told_unless_the_row_asks_for_a_part(tmp_path):
    write_blend(tmp_path)  # audio/11.flac has 1.5 s
    row = {"audio_filepath": "audio/11.flac", "text": "x"}
    spans = [
        {"duration": 0.9},
        {"duration": 1.1},
        {"duration": 0.9, "offset": 0.0},
        {"duration": 0.5, "offset": 0.2},
        {},
    ]
    manifest = write_jsonl(tmp_path / "cut_off.jsonl", [{**row, **span} for span in spans])
    (said,) = warnings_of({"type": "nemo", "manifest_filepath": manifest, "prompts": ["p"]})
    assert said.startswith("warning 1: file is longer than its row says: 1.500 s, the row without offset 0.900 s: ")
    talk = {"type": "audio", "from": "User", "value": "0.wav"}  # 0.5 s
    answer = {"type": "text", "from": "Assistant", "value": "a"}
    rows = [{"conversations": [{**talk, **span}, answer]} for span in ({"duration": 0.1}, {"duration": 0.3})]
    entry = {"type": "multimodal_conversation", "tarred_audio_filepaths": str(tmp_path / "talk.tar")}
    write_tar(tmp_path / "talk.tar", {"0.wav": wav_bytes(np.ones(round(0.7 * RATE), np.float32))})
    (said_of_member,) = warnings_of({**entry, "manifest_filepath": write_jsonl(tmp_path / "t.jsonl", rows)})
    assert said_of_member.startswith("warning 1: file is longer than its row says: 0.700 s")


def test_lengths_of_lhotse_recordings_are_those_before_their_transforms(tmp_path):
    from lhotse import CutSet, Recording, SupervisionSegment

    write_blend(tmp_path)
    cut = Recording.from_file(tmp_path / "audio/11.flac").to_cut()
    cut.supervisions = [SupervisionSegment("s", cut.recording_id, 0, cut.duration, text="x")]
    cuts = [cut, cut.perturb_speed(0.5), cut.perturb_speed(2.0), cut.truncate(duration=0.5), cut.resample(8000)]
    CutSet.from_cuts(one.with_id(str(number)) for number, one in enumerate(cuts)).to_file(tmp_path / "cuts.jsonl")
    assert warnings_of({"type": "lhotse", "cuts_path": str(tmp_path / "cuts.jsonl"), "prompts": ["p"]}) == []
    short = Recording("r", cut.recording.sources, RATE, RATE // 2, 0.5).to_cut()
    short.supervisions = [SupervisionSegment("s", "r", 0, 0.5, text="x")]
    CutSet.from_cuts([short]).to_file(tmp_path / "cuts.jsonl")
    (said,) = warnings_of({"type": "lhotse", "cuts_path": str(tmp_path / "cuts.jsonl"), "prompts": ["p"]})
    assert said.startswith("warning 1: file is longer than its row says: 1.500 s")


def test_problems_are_told_without_their_values():
    said = {
        "line is not JSON (Expecting value: line 1)": "line is not JSON",
        "audio file is missing: /a/b.wav": "audio file is missing",
        "tar cannot be read (a (b) c)": "tar cannot be read",
    }
    assert {problem: problem_of(DataError(problem)) for problem in said} == said


def test_estimates_are_near_and_say_that_they_are_none(tmp_path):
    chat_format, said = open_format(None, LOCATOR)
    assert "estimated, not counted" in said
    blend = write_blend(tmp_path)
    encoder = Encoder(chat_format, FRAME_SECS, RATE)
    for part in parts_of(blend):
        conversation = part.source.conversation(0, part.source.rng(0, 0))
        prompt, length = encoder.encode(conversation)
        assert prompt.ids.count(chat_format.audio_locator_id) == len(conversation.audios)
        assert len(prompt.ids) == len(prompt.loss_mask)
        answer = len(conversation.reference.encode())
        assert sum(prompt.loss_mask) == 4 - (-answer // 4)
        assert length > len(prompt.ids) or not conversation.audios


def test_an_estimate_counts_bytes():
    from vtblender_nemo.common.conversation import Text, Turn

    turns = (Turn("user", (Text("a" * 9),)), Turn("assistant", (Text("é" * 4),)))
    prompt = EstimatedFormat(LOCATOR).encode(turns)
    assert prompt.loss_mask == [False] * (3 + 4) + [True] * (2 + 4)
    with pytest.raises(DataError, match="the audio locator tag stands inside a text"):
        EstimatedFormat(LOCATOR).encode((Turn("user", (Text(f"a {LOCATOR}"),)), turns[1]))


def test_a_tokenizer_counts_as_training_does(tmp_path):
    make_tokenizer().save_pretrained(tmp_path / "llm")
    chat_format, said = open_format(str(tmp_path / "llm"), LOCATOR)
    assert said == str(tmp_path / "llm")
    own = ChatFormat(make_tokenizer(), LOCATOR)
    parts = parts_of(write_blend(tmp_path))
    for index in [*range(12), *range(12)]:  # the second time from the cache
        for part in parts:
            turns = part.source.conversation(index, part.source.rng(0, 0)).turns
            assert chat_format.encode(turns) == own.encode(turns)
    with pytest.raises(ConfigError, match="tokenizer cannot be opened.*'nowhere'.*--llm"):
        open_format("nowhere", LOCATOR)


def test_findings_of_a_control_token_need_the_tokenizer(tmp_path):
    messages = [{"role": "user", "content": "a<end_of_turn>"}, {"role": "assistant", "content": "b"}]
    entries = [{"type": "text_chat", "manifest_filepath": write_jsonl(tmp_path / "c.jsonl", [{"messages": messages}])}]
    parts = [Part(entry.source, Limits()) for entry in read_sources(entries, sampling_rate=RATE)]
    (counted,) = scan(parts, Checker(make_encoder()))
    assert [finding.problem for finding in counted.findings] == ["a control token stands inside a text"]
    (estimated,) = scan(parts, Checker(Encoder(EstimatedFormat(LOCATOR), FRAME_SECS, RATE)))
    assert estimated.findings == []


def test_a_finding_without_values_says_its_problem():
    assert str(Finding("warning", "a", "f.jsonl", 3, "audio is silent")) == "f.jsonl:3: warning in a: audio is silent"
