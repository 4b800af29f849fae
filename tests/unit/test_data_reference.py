"""The reference page of formats: its rows are read by their readers, its configurations by theirs."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.helpers.corpus import RATE, write_jsonl
from vtblender_nemo.common.audio import cut_from_array
from vtblender_nemo.common.conversation import Audio
from vtblender_nemo.data.config import TrainConfig, ValidationConfig
from vtblender_nemo.data.prompts import load_wordings
from vtblender_nemo.data.sources import known_types, make_source
from vtblender_nemo.data.typed import read_config

CONF = Path(__file__).parents[2] / "conf"
PAGE = (CONF / "data" / "README.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"\*\*`(\w+)`\*\*(.*?)(?=\n\*\*`|\Z)", PAGE, re.DOTALL))
AUDIO = Audio(cut_from_array(np.zeros(160), RATE))
PROMPTED = {"nemo", "lhotse"}
# Files of another kind lie beside the wordings: what an LLM is asked in synthesis.
BANKS = ("imitation_synthesis", "imitation_tiny", "sqa_synthesis")  # what LLMs are asked when rows are made
WORDINGS = [path for path in sorted((CONF / "prompts").glob("*.yaml")) if path.stem not in BANKS]


def test_every_type_has_its_place_on_the_page():
    assert set(known_types()) == set(SECTIONS)


@pytest.mark.parametrize(
    "kind", ["text_chat", "share_gpt", "nemo", "lhotse", "speech_qa", "imitation", "multimodal_conversation", "items"]
)
def test_the_row_of_a_format_is_read(tmp_path, kind):
    (row,) = re.findall(r"```json\n(.*?)\n```", SECTIONS[kind].split("\n## ")[0], re.DOTALL)
    key = "cuts_path" if kind == "lhotse" else "manifest_filepath"
    entry = {"type": kind, key: write_jsonl(tmp_path / "rows.jsonl", [json.loads(row)])}
    source = make_source(entry | ({"prompts": ["Write."]} if kind in PROMPTED else {}), RATE, "input_cfg[0]")
    conversation = source.conversation(0, random.Random(0))
    assert conversation.reference
    assert len(conversation.audios) == (0 if kind in ("text_chat", "share_gpt") else 1)


def test_the_configurations_are_ones():
    blocks = [yaml.safe_load(block)["data"] for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]
    assert len(blocks) == 4
    for block in blocks:
        read_config(TrainConfig, block["train_ds"], "data.train_ds").check("data.train_ds")
    read_config(ValidationConfig, blocks[0]["validation_ds"], "data.validation_ds")


@pytest.mark.parametrize("path", WORDINGS, ids=lambda path: path.stem)
def test_wordings_that_come_with_the_package_can_be_filled(path):
    wordings = load_wordings(path, None)
    fields = {"question": "Why?", "source_lang": "en", "target_lang": "es"}
    seen = {str(wordings.user_parts(random.Random(seed), fields, AUDIO)) for seed in range(300)}
    ((_, written),) = yaml.safe_load(path.read_text(encoding="utf-8")).items()
    assert len(seen) == len(written)
    assert not any("{" in text.replace(str(AUDIO), "") for text in seen)
