"""The command: what it prints, the page and the JSON that it writes, and how it ends."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from examples.inspect_blend import app
from tests.helpers.blends import spoil, write_blend
from tests.helpers.tokenizer import make_tokenizer


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


class Page(HTMLParser):
    """What a page refers to, and its visible text."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(content)

    def handle_starttag(self, tag, attrs):
        self.references += [value for name, value in attrs if name in ("src", "href", "srcset", "data")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, "tags are closed in order"

    def handle_data(self, data):
        self.text += data if "style" not in self.open else ""


def test_a_clean_blend(tmp_path):
    blend = write_blend(tmp_path)
    report, out = tmp_path / "out" / "r.html", tmp_path / "out" / "r.json"
    result = run("--input", blend, "--report", report, "--json", out, "--draws", 300, "--samples", 5)
    assert result.exit_code == 0, result.output
    assert "48 rows, 0 of them bad; 0 warnings." in result.output
    found = json.loads(out.read_text())
    assert (found["rows"], found["errors"], found["warnings"], found["findings"]) == (48, 0, 0, [])
    assert {source["name"]: source["rows"] for source in found["sources"]} == dict.fromkeys(
        ("asr", "speech_qa", "talk", "chats"), 12
    )
    asr = found["sources"][0]
    assert asr["hours"] == pytest.approx(sum(0.4 + 0.1 * n for n in range(12)) / 3600)
    assert asr["rates"] == {"16000": 12}
    assert sum(found["histograms"]["asr"]["audio_secs"]["counts"]) == 12
    assert found["blend"]["batches_assumed"] is True
    assert found["blend"]["padding"]["buckets"]["positions"] <= found["blend"]["padding"]["fixed_size"]["positions"]
    assert found["token_counts"].startswith("estimated")


def test_the_page_needs_no_other_file_and_escapes_what_rows_say(tmp_path):
    blend = write_blend(tmp_path)
    run("--input", blend, "--report", tmp_path / "r.html", "--draws", 200, "--samples", 8)
    content = (tmp_path / "r.html").read_text()
    page = Page(content)
    assert page.open == []
    assert page.references
    assert all(reference.startswith("data:") for reference in page.references)
    assert sum(reference.startswith("data:image/svg+xml") for reference in page.references) == 6
    assert sum(reference.startswith("data:audio/flac") for reference in page.references) == 6
    assert "<b>what</b>" not in content
    assert "Listen & answer: <b>what</b> was said?" in page.text
    assert 'font: 15px/1.5 system-ui, "Segoe UI"' in content
    assert not re.search(r"\{\{|\{%|None|nan%", page.text)


def test_bad_rows_are_told_and_end_with_1(tmp_path):
    blend = write_blend(tmp_path)
    lines = spoil(tmp_path)
    paths = [tmp_path / "r.html", tmp_path / "r.json", tmp_path / "bad.jsonl"]
    flags = [flag for pair in zip(("--report", "--json", "--findings"), paths, strict=True) for flag in pair]
    result = run("--input", blend, *flags, "--draws", 100, "--audio", "decode", "--workers", 2)
    assert result.exit_code == 1
    findings = [json.loads(line) for line in paths[2].read_text().splitlines()]
    of_asr = {(Path(f["path"]).name, f["line"]) for f in findings if f["source"] in ("asr", "chats")}
    assert of_asr == {(name, line) for name, own in lines.items() for line in own}
    found = json.loads(paths[1].read_text())
    errors = sum(f["level"] == "error" for f in findings)
    assert (found["errors"], found["warnings"]) == (errors, len(findings) - errors)
    assert f"{errors} of them bad" in result.output
    assert "error: line is not JSON (rows: 2)" in result.output
    assert f"{tmp_path}/chats.jsonl:13: error in chats: conversation has no final answer" in result.output
    page = Page(paths[0].read_text())
    assert "audio file is missing" in page.text
    assert f"{tmp_path}/speech.jsonl:" in page.text


def test_warnings_alone_end_with_0(tmp_path):
    blend = write_blend(tmp_path)
    rows = [{"messages": [{"role": "user", "content": "<audio>"}, {"role": "assistant", "content": "b"}]}]
    (tmp_path / "chats.jsonl").write_text(json.dumps(rows[0]) + "\n")
    result = run("--input", blend, "--draws", 100)
    assert result.exit_code == 0
    assert (
        f"{tmp_path}/chats.jsonl:1: warning in chats: text holds another model's placeholder for audio: <audio>"
        in result.output
    )


def test_a_tokenizer_counts(tmp_path):
    blend = write_blend(tmp_path)
    make_tokenizer().save_pretrained(tmp_path / "llm")
    run("--input", blend, "--draws", 100, "--llm", tmp_path / "llm", "--json", tmp_path / "r.json")
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["token_counts"] == str(tmp_path / "llm")
    answers = [
        len(f"speech number {n} " * (1 + n % 3)) - 1 + 2 for n in range(12)
    ]  # a byte a token, trimmed, and its end
    assert found["sources"][0]["target_tokens"] == sum(answers)


def test_mistakes_end_with_2_and_no_traceback(tmp_path):
    result = run("--input", tmp_path / "nowhere.yaml")
    assert result.exit_code == 2
    assert "error: " in result.stderr
    assert "nowhere.yaml: file is missing; expected a path that is there (change it with: --input)" in result.stderr
    (tmp_path / "b.yaml").write_text("[{type: text_chat, manifest_filepath: nowhere.jsonl}]")
    result = run("--input", tmp_path / "b.yaml")
    assert result.exit_code == 2
    assert "nowhere.jsonl: file is missing" in result.stderr


@pytest.mark.parametrize("kind", ["missing", "folder"])
def test_what_is_no_file_is_told_before_anything_heavy_is_loaded(tmp_path, kind):
    (tmp_path / "input_cfg.dev.yaml").write_text("[]")
    path = tmp_path / "input_cfg.yaml" if kind == "missing" else tmp_path
    code = (
        "import sys; from typer.testing import CliRunner; from examples.inspect_blend import app\n"
        f"print(CliRunner().invoke(app, ['--input', {str(path)!r}]).output, 'lhotse' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.stdout.rstrip().endswith("False"), done.stdout + done.stderr
    assert "input_cfg.dev.yaml" in done.stdout
    assert ("is missing" if kind == "missing" else "is a folder") in done.stdout


def test_mistakes_in_one_of_several_files_name_it(tmp_path):
    write_blend(tmp_path)
    chats = {"type": "text_chat", "manifest_filepath": "chats.jsonl"}
    for name, entries in (("a", [{**chats, "weight": 1}]), ("b", [{**chats, "weight": 1}, chats])):
        (tmp_path / f"{name}.yaml").write_text(json.dumps(entries))
    a, b = tmp_path / "a.yaml", tmp_path / "b.yaml"
    result = run("--input", a, "--input", b)
    assert result.exit_code == 2
    assert f"(change it with: [1].weight in {b})" in result.stderr
    (tmp_path / "b.yaml").write_text(json.dumps([{**chats, "weight": 1}]))
    assert f"(change it with: [].name in {a}, {b})" in run("--input", a, "--input", b).stderr
    (tmp_path / "c.yaml").write_text(json.dumps({"train_ds": {"batch_size": 2, "input_cfg": [{"type": "text_cat"}]}}))
    assert f"data.train_ds.input_cfg[0].type in {tmp_path}/c.yaml" in run("--input", tmp_path / "c.yaml").stderr


def test_the_same_command_finds_the_same(tmp_path):
    blend = write_blend(tmp_path)
    for name, workers in (("a", 1), ("b", 2)):
        run("--input", blend, "--draws", 200, "--json", tmp_path / f"{name}.json", "--workers", workers)
    assert (tmp_path / "a.json").read_text() == (tmp_path / "b.json").read_text()
    run("--input", blend, "--draws", 200, "--json", tmp_path / "c.json", "--seed", 5)
    one, other = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("a", "c"))
    assert one["sources"] == other["sources"]
    assert one["blend"]["shares"] != other["blend"]["shares"]


def test_the_help_shows_an_example():
    result = run("--help")
    assert result.exit_code == 0
    assert "--report blend.html" in result.output
    assert "<unused0>" in result.output
