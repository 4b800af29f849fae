"""The small parts of exports: tables with a separator's row, folders written whole, prompt formats, the card."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.helpers.exports import FOREIGN_TEMPLATE, QWEN_TEMPLATE, QWEN_TOKENS
from tests.helpers.models import llm_folder
from tests.helpers.tokenizer import make_tokenizer
from vtblender_nemo.backbones.llm_loading import llm_config, load_llm
from vtblender_nemo.backbones.transformers_llm import TransformersLLM
from vtblender_nemo.common.chat import ChatFormat
from vtblender_nemo.common.errors import ConfigError, DataError
from vtblender_nemo.evaluation.scores import Measure, ScoreSheet, write_scores
from vtblender_nemo.export.about import About, read_about
from vtblender_nemo.export.card import write_card
from vtblender_nemo.export.chat_templates import fit_template
from vtblender_nemo.export.folders import check_free, new_folder, write_weights
from vtblender_nemo.export.formats import find_writer
from vtblender_nemo.export.markers import (
    SEPARATOR_TOKEN,
    Markers,
    add_markers,
    with_row,
    with_unlikely_rows,
)
from vtblender_nemo.export.options import ExportOptions, Written
from vtblender_nemo.export.prompts import PROBES, find_format, our_ids

# Markers --------------------------------------------------------------------------------------------------------------


def test_a_row_is_put_into_a_table_or_behind_its_end() -> None:
    table = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    values = torch.tensor([9.0, 8.0])
    assert with_row(table, 1, values).tolist() == [[1, 2], [9, 8]]
    assert with_row(table, 3, values).tolist() == [[1, 2], [3, 4], [0, 0], [9, 8]]
    assert table.tolist() == [[1, 2], [3, 4]], "the model's own table is not touched"


def test_further_rows_of_a_head_never_win() -> None:
    head = torch.tensor([[-1.0, 0.0], [0.0, -1.0]])
    longer = with_unlikely_rows(head, 4)
    assert longer.tolist() == [[-1, 0], [0, -1], [-1, 0], [-1, 0]]
    for hidden in (torch.tensor([2.0, 1.0]), torch.tensor([1.0, 2.0])):  # all logits are negative
        assert int((longer @ hidden).argmax()) == int((head @ hidden).argmax())
    assert with_unlikely_rows(torch.tensor([5.0, 6.0]), 3).tolist() == [5, 6, 5]


def test_markers_are_tokens_of_the_tokenizer() -> None:
    tokenizer = make_tokenizer()
    size = len(tokenizer)
    assert add_markers(tokenizer, "<unused0>", separator=False) == Markers("<unused0>", 6)
    assert len(tokenizer) == size
    markers = add_markers(tokenizer, "<|audio|>", separator=True)
    assert markers == Markers("<|audio|>", size, SEPARATOR_TOKEN, size + 1)
    text = f"a{markers.audio}b"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert ids[1:-1] == markers.audio_ids == [size, size + 1]
    with pytest.raises(ConfigError, match=r"model\.perception\.separator"):
        add_markers(tokenizer, "<|audio|>", separator=True)


@pytest.mark.parametrize(("family", "scale"), [("gemma", 32**0.5), ("gemma3", 32**0.5), ("llama", 1.0)])
def test_the_factor_on_embeddings_is_the_familys(family: str, scale: float, tmp_path: Path) -> None:
    folder = str(llm_folder(tmp_path, family))
    llm = TransformersLLM(load_llm(folder, llm_config(folder), "float32"), lora=None)
    assert llm.embed_scale() == pytest.approx(scale, rel=1e-6)


# Folders --------------------------------------------------------------------------------------------------------------


def test_a_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    target = tmp_path / "deep/out"
    with pytest.raises(FileNotFoundError), new_folder(target) as folder:
        (folder / "half").write_text(Path("nothing").read_text())
    assert list((tmp_path / "deep").iterdir()) == []
    target.mkdir()
    with new_folder(target) as folder:
        (folder / "a").write_text("whole")
        assert list(target.iterdir()) == []
    assert (target / "a").read_text() == "whole"
    for taken in (target, target / "a"):
        with pytest.raises(ConfigError, match=r"holds something else.*--output-dir"):
            check_free(taken)
    assert (target / "a").read_text() == "whole"


def test_weights_that_share_memory_are_written_apart(tmp_path: Path) -> None:
    table = torch.arange(6.0).view(2, 3)
    write_weights({"a": table, "b": table, "c": table.t()}, tmp_path / "w.safetensors")
    found = load_file(tmp_path / "w.safetensors")
    assert found["a"].tolist() == found["b"].tolist() == table.tolist()
    assert found["c"].tolist() == table.t().tolist()


def test_unknown_formats_and_bits_are_told() -> None:
    with pytest.raises(ConfigError, match=r"'onnx'.*salm, vllm, merged, peft, encoder, quantized.*--format"):
        find_writer("onnx")
    with pytest.raises(ConfigError, match=r"found 3; expected 8 or 4.*--bits"):
        ExportOptions(Path("out"), bits=3)


# Prompts --------------------------------------------------------------------------------------------------------------

THINKING_TEMPLATE = QWEN_TEMPLATE.replace(
    "'<|im_start|>assistant\n'", "'<|im_start|>assistant\n<think>\n\n</think>\n\n'"
)
SPACED_TEMPLATE = FOREIGN_TEMPLATE.replace(" | trim", " | trim | replace('this,', 'that,')")
UNEVEN_TEMPLATE = FOREIGN_TEMPLATE.replace("'<|im_start|>ASSISTANT\n'", "'<|im_start|>model\n'")


@pytest.mark.parametrize(
    ("template", "name", "how", "options", "in_chats"),
    [
        (None, "gemma", "format", {}, True),
        (QWEN_TEMPLATE, "qwen", "format", {}, True),
        (THINKING_TEMPLATE, "qwen3", "format", {"enable_thinking": False}, False),
        (FOREIGN_TEMPLATE, "plain", "template", {}, True),
        (UNEVEN_TEMPLATE, "plain", "template", {}, False),
        (SPACED_TEMPLATE, "plain", "ids", {}, True),
    ],
)
def test_the_prompt_format_that_writes_our_ids_is_found(
    template: str | None, name: str, how: str, options: dict[str, Any], in_chats: bool, tmp_path: Path
) -> None:
    tokenizer = make_tokenizer(template, **QWEN_TOKENS) if template else make_tokenizer()
    chat_format = ChatFormat(tokenizer, "<unused0>")
    tokenizer.save_pretrained(tmp_path)
    found = find_format(chat_format, tmp_path, Markers("<unused0>", 6))
    assert (found.name, found.how, dict(found.options), found.in_chats) == (name, how, options, in_chats)


def test_ids_have_the_markers_in_place_of_the_locator() -> None:
    chat_format = ChatFormat(make_tokenizer(), "<unused0>")
    plain = our_ids(chat_format, PROBES[0], Markers("<unused0>", 6))
    marked = our_ids(chat_format, PROBES[0], Markers("x", 300, "y", 301))
    assert marked == [new for token in plain for new in ([300, 301] if token == 6 else [token])]
    assert 300 in marked


@pytest.mark.parametrize("name", ["gemma", "qwen", "llama3"])
def test_a_format_of_nemo_becomes_the_chat_template(name: str, tmp_path: Path) -> None:
    extra = (
        "<|im_start|>",
        "<|im_end|>",
        "<|begin_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
    )
    tokenizer = make_tokenizer(FOREIGN_TEMPLATE, extra_special_tokens=extra)
    fit_template(tokenizer, name, "<|sound|>", tmp_path)
    assert tokenizer.chat_template != FOREIGN_TEMPLATE
    found = find_format(ChatFormat(tokenizer, "<|sound|>"), tmp_path, Markers("<|sound|>", len(tokenizer) - 1))
    assert (found.name, found.how) == (name, "format")


def test_a_template_that_fits_already_stays_and_an_unknown_format_is_told(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    kept = tokenizer.chat_template
    fit_template(tokenizer, "gemma", "<unused0>", tmp_path)
    assert tokenizer.chat_template == kept
    with pytest.raises(ConfigError, match=r"no such prompt format.*'nothing'"):
        fit_template(tokenizer, "nothing", "<unused0>", tmp_path)
    with pytest.raises(ConfigError, match=r"no chat template writes.*'plain'"):
        fit_template(tokenizer, "plain", "<unused0>", tmp_path)


# Card -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def known(tmp_path: Path) -> Path:
    """A model file beside the facts of its training, and an evaluation of it."""
    model = tmp_path / "run/model.nemo"
    model.parent.mkdir()
    model.write_bytes(b"weights")
    sources = {"asr": {"weight": 0.6, "seen": 0.61}, "text": {"weight": 0.4, "seen": 0.39}}
    (model.parent / "facts.json").write_text(json.dumps({"sources": sources, "trained_parameters": {}}))
    measures = [
        Measure("asr", "asr", "wer_percent", 2.61, 2.0, 3.2, 500, better="lower"),
        Measure("asr", "asr", "wer_percent", 90.0, 90.0, 90.0, 500, variant="no_audio_silence", better="lower"),
        Measure("asr", "asr", "cer_percent", 1.5, 1.0, 2.0, 500, better="lower"),
        Measure("sqa", "sqa", "exact_match_percent", 94.4, 92.2, 96.2, 400, better="higher"),
    ]
    about = {"path": str(model), "sha256": hashlib.sha256(b"weights").hexdigest()}
    write_scores(ScoreSheet(measures, about, config="tiny"), tmp_path / "evaluation/scores.json")
    return model


def test_what_is_known_is_read_and_what_is_wrong_is_told(known: Path, tmp_path: Path) -> None:
    (licenses := tmp_path / "licenses.yaml").write_text("asr: cc-by-4.0\n")
    about = read_about(known, evaluation=tmp_path / "evaluation", license="apache-2.0", data_licenses=licenses)
    assert about.shares == {"asr": (0.6, 0.61), "text": (0.4, 0.39)}
    assert about.data_licenses == {"asr": "cc-by-4.0"}
    assert about.scores is not None
    assert read_about(tmp_path / "elsewhere.nemo").shares is None
    with pytest.raises(DataError, match=r"file is missing.*--run"):
        read_about(known, run=tmp_path)
    (licenses).write_text("other: mit\n")
    with pytest.raises(ConfigError, match=r"'other'.*asr, text.*--data-licenses"):
        read_about(known, data_licenses=licenses)
    known.write_bytes(b"other weights")
    with pytest.raises(DataError, match=r"another model's.*--evaluation"):
        read_about(known, evaluation=tmp_path / "evaluation")
    (known.parent / "facts.json").write_text('{"sources": [1]}')
    with pytest.raises(DataError, match="no facts of a training"):
        read_about(known)


WRITTEN = Written("The text LLM.", 'load("FOLDER")', "transformers", "text-generation", notes=["It cannot hear."])


def test_the_card_tells_what_is_known(known: Path, tmp_path: Path, vtblender: Any) -> None:
    about = read_about(known, evaluation=tmp_path / "evaluation", license="apache-2.0")
    write_card(vtblender, WRITTEN, replace(about, data_licenses={"asr": "cc-by-4.0"}), tmp_path, name="mine")
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    _, header, body = text.split("---\n", 2)
    assert yaml.safe_load(header) == {
        "license": "apache-2.0",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["voicetextblender", "speech", "nemo"],
    }
    lines = body.splitlines()
    for wanted in (
        "# mine",
        'load("mine")',
        "- It cannot hear.",
        "| asr | 60.0% | 61.0% | cc-by-4.0 |",
        "| text | 40.0% | 39.0% | unknown |",
        "| asr | wer_percent | 2.6 | 2.0 to 3.2 | 500 | lower |",
        "| sqa | exact_match_percent | 94.4 | 92.2 to 96.2 | 400 | higher |",
        f"| encoder | {vtblender.trained_parameters()['encoder']:,} |",
    ):
        assert wanted in lines, wanted
    assert "cer_percent" not in body
    assert "90.0" not in body, "scores of variants are no scores of the model"


def test_the_card_makes_nothing_up(tmp_path: Path, vtblender: Any) -> None:
    write_card(vtblender, WRITTEN, About(tmp_path / "model.nemo"), tmp_path, name="mine")
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "license: unknown" in text
    assert "Unknown: the training left no facts beside the model." in text
    assert "Unknown: no evaluation was given." in text
    assert "base_model" not in text, "a folder of this machine is no name of the hub"
