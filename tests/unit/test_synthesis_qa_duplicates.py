from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers.synthesis_works import tree
from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.common.files import write_text
from vtblender_nemo.synthesis.engine.synthesize import LastPass, Summary, SynthesisOptions, synthesize
from vtblender_nemo.synthesis.inputs import open_speech
from vtblender_nemo.synthesis.speech_qa import duplicates
from vtblender_nemo.synthesis.speech_qa.duplicates import DuplicateLimits, drop_duplicates
from vtblender_nemo.synthesis.work import Made, Refused, Work


@dataclass(frozen=True)
class Given(Work):
    """Makes of every row the questions that stand in it."""

    def settings(self) -> dict[str, Any]:
        return {}

    def open(self) -> Any:
        return lambda rows: [[self._made(row, n) for n in range(len(row.data["qa"]))] for row in rows]

    def _made(self, row: Any, number: int) -> Made | Refused:
        pair = row.data["qa"][number]
        if pair is None:
            return Refused("given", "")
        audio = {name: row.data[name] for name in ("audio_filepath", "offset", "duration") if name in row.data}
        new = {"id": f"{row.id}-{number}", **audio, "text": "x", "question": pair[0], "answer": pair[1]}
        return Made({**new, "provenance": {}})


def job(
    folder: Path,
    *rows: tuple[str | dict[str, Any], list[Any]],
    last_pass: LastPass | None = None,
    rows_per_shard: int = 2,
) -> Summary:
    path = folder / "m.jsonl"
    lines = [json.dumps({"duration": 1.0, "qa": qa, **_audio(audio)}) for audio, qa in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    options = SynthesisOptions(rows_per_shard=rows_per_shard)
    return synthesize(Given(), open_speech([path]), folder / "out", options, last_pass)


def _audio(audio: str | dict[str, Any]) -> dict[str, Any]:
    return {"audio_filepath": audio} if isinstance(audio, str) else audio


def unique(**limits: Any) -> LastPass:
    return partial(drop_duplicates, limits=DuplicateLimits(**limits))


def kept(folder: Path) -> list[tuple[str, str, str]]:
    lines = [
        line
        for shard in sorted((folder / "out").glob("shard_*"))
        for line in (shard / "unique.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    ]
    return [(one["audio_filepath"], one["question"], one["answer"]) for one in map(json.loads, lines)]


def test_same_words_about_one_utterance_are_one_question(tmp_path):
    left = job(
        tmp_path,
        ("a.wav", [("Who is it?", "Anna."), ("who is it", "anna"), ("Who is it?", "Bob.")]),
        ("b.wav", [("Who is it?", "Anna.")]),
        ("a.wav", [("WHO is it?!", "Anna"), None]),
        last_pass=unique(),
    )
    assert kept(tmp_path) == [("a.wav", "Who is it?", "Anna."), ("b.wav", "Who is it?", "Anna.")]
    assert (left.made, left.refused_by_reason) == (2, {"duplicate": 3, "given": 1})
    rejected = [json.loads(line) for line in (tmp_path / "out/rejected.jsonl").read_text().splitlines()]
    assert [(one["id"], one["reason"], one["detail"]) for one in rejected] == [
        ("m-3", "given", ""),
        ("m-1", "duplicate", "who is it anna"),
        ("m-1", "duplicate", "Who is it? Bob."),
        ("m-3", "duplicate", "WHO is it?! Anna"),
    ]
    assert rejected[3]["place"] == f"{tmp_path / 'm.jsonl'}:3"
    assert json.loads((tmp_path / "out/summary.json").read_text())["made"] == 2
    (entry,) = yaml.safe_load((tmp_path / "out/input_cfg.yaml").read_text())
    assert entry == left.entry
    assert entry["manifest_filepath"] == "shard__OP_000000..000001_CL_/unique.jsonl"


@pytest.mark.parametrize(
    ("first", "second", "made"),
    [
        ({"offset": 0.0}, {"offset": 5.0}, 2),
        ({"offset": 2.5}, {"offset": 2.5}, 1),
        ({"offset": 2.5}, {"offset": 2.5000001}, 1),
        ({"offset": 2.5}, {"offset": 2.5, "duration": 4.0}, 2),
        ({}, {"offset": 0.0}, 1),
        ({"audio_filepath": "a-sub1.wav", "offset": 2.5}, {"offset": 2.5}, 1),
        ({"audio_filepath": "a-sub1.wav"}, {"audio_filepath": "a-sub2.wav"}, 2),
        ({}, {"audio_filepath": "b.wav"}, 2),
    ],
)
@pytest.mark.parametrize("answers", [("Anna", "Anna"), ("Anna", "Bob")])
def test_an_utterance_is_a_span_of_a_file(tmp_path, first, second, made, answers):
    rows = [
        ({"audio_filepath": "a.wav", **audio}, [("Who?", answer)])
        for audio, answer in zip((first, second), answers, strict=True)
    ]
    assert job(tmp_path, *rows, last_pass=unique()).made == made


def test_frequent_questions_are_kept_so_often(tmp_path):
    rows = [(f"{number}.wav", [("What is it about?", str(number)), (f"Who is {number}?", "x")]) for number in range(5)]
    left = job(tmp_path, *rows, last_pass=unique(overall=2))
    assert [question for _, question, _ in kept(tmp_path)] == [
        *("What is it about?", "Who is 0?", "What is it about?", "Who is 1?"),
        *("Who is 2?", "Who is 3?", "Who is 4?"),
    ]
    assert left.refused_by_reason == {"question_too_frequent": 3}
    again = job(tmp_path, *rows, last_pass=unique(overall=None))
    assert again.made == 10


def files(folder: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    counts = json.loads((folder / "out/summary.json").read_text()) | {"rows_per_sec": None}
    return counts, tree(folder / "out")


REPEATED = [
    ("a.wav", [("Who?", "Anna\u2028"), ("Who?", "Anna\u2028")]),
    ("a.wav", [("Who?", "Anna\u2028")]),
    ("b.wav", [None]),
]


def test_done_again_it_gives_the_same_files(tmp_path):
    job(tmp_path, *REPEATED, last_pass=unique())
    before = files(tmp_path)
    job(tmp_path, *REPEATED, last_pass=unique())
    assert files(tmp_path) == before
    assert len(kept(tmp_path)) == 1


def test_stopped_in_the_pass_nothing_is_published_and_the_job_goes_on(tmp_path, monkeypatch):
    (tmp_path / "calm").mkdir()  # as long a name as the other: rejected rows tell their place, and shards their size
    job(tmp_path / "calm", *REPEATED, last_pass=unique())
    written = []

    def stops(text: str, path: Path) -> None:
        with pytest.raises(ConfigError, match="another process is at work"):
            job(path.parents[2], *REPEATED)
        if written:
            path.with_name(f".{path.name}.1").write_text("half")  # as a kill leaves it
            raise KeyboardInterrupt
        written.append(path)
        write_text(text, path)

    (tmp_path / "halt").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(duplicates, "write_text", stops)
        with pytest.raises(KeyboardInterrupt):
            job(tmp_path / "halt", *REPEATED, last_pass=unique())
    assert not [name for name in ("input_cfg.yaml", "summary.json") if (tmp_path / "halt/out" / name).exists()]
    job(tmp_path / "halt", *REPEATED, last_pass=unique())
    (counts, calm), (again, stopped) = files(tmp_path / "calm"), files(tmp_path / "halt")
    assert again == counts
    assert {name: content.replace(b"/halt/", b"/calm/") for name, content in stopped.items()} == calm


def test_members_of_two_tars_with_one_name_are_two_recordings(tmp_path):
    summary = job(tmp_path, ("a.wav", [("Who?", "Anna")]), ("a.wav", [("Who?", "Anna")]), rows_per_shard=1)
    tarred = replace(summary, entry={**summary.entry, "tarred_audio_filepaths": ["0.tar", "1.tar"]})
    assert unique()(tmp_path / "out", tarred)[0].made == 2
    assert unique()(tmp_path / "out", summary)[0].made == 1


def test_nothing_made_leaves_nothing_to_compare(tmp_path):
    summary = job(tmp_path, ("a.wav", [None]), last_pass=unique())
    assert (summary.made, summary.entry) == (0, None)
    assert not (tmp_path / "out/shard_000000/unique.jsonl").exists()


@pytest.mark.parametrize("limits", [{"per_utterance": 0}, {"overall": 0}])
def test_limits_that_keep_nothing(limits):
    with pytest.raises(ConfigError, match="keeps nothing"):
        DuplicateLimits(**limits)
