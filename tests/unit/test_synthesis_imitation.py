"""What the LLM is asked about transcripts, what becomes of its answers, and that training's twins are the same prompts."""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.helpers import models
from tests.helpers.corpus import LOCATOR
from tests.helpers.scripted_llm import ScriptedLLM
from tests.unit.test_import_rules import ROOT
from vtblender_nemo.common.audio import cut_from_array
from vtblender_nemo.common.chat import ChatFormat
from vtblender_nemo.common.conversation import Audio, Text, Turn
from vtblender_nemo.common.errors import ConfigError, ModelFileError
from vtblender_nemo.common.llm_fingerprint import folder_fingerprint
from vtblender_nemo.data.prompts import Wordings
from vtblender_nemo.synthesis.imitation.filters import FilterOptions
from vtblender_nemo.synthesis.imitation.tasks import Task, TaskBank, load_bank
from vtblender_nemo.synthesis.imitation.work import Imitation, ImitationOptions, fingerprint_of, read_prompt
from vtblender_nemo.synthesis.llm.clients import Decoding
from vtblender_nemo.synthesis.llm.local import LocalLLM
from vtblender_nemo.synthesis.work import InputRow, Made, Refused

SHOP = "the shop opens at nine in the morning"
BANK = TaskBank(
    "1-abc",
    (
        Task("repeat", {"order": "Repeat: {audio}", "after": "{audio} Again."}),
        Task("title", {"order": "Title: {audio}"}),
        Task("say_in_de", {"order": "In German: {audio}"}, language="de"),
    ),
)
SHIPPED = load_bank([ROOT / "conf/prompts/imitation_synthesis.yaml"])
AUDIO = Audio(cut_from_array(np.zeros(160), 16000))


def work(answer: Callable[[str], str | Refused], bank: TaskBank = BANK, **options: Any) -> Imitation:
    return Imitation(ScriptedLLM("m", answer=answer), "f1", bank, ImitationOptions(**options))


def row(text: Any, id: str = "r1", **more: Any) -> InputRow:
    return InputRow(id, f"m.jsonl:{id}", {"id": id, "audio_filepath": "a.wav", "duration": 2.5, "text": text, **more})


def test_a_row_and_its_tasks():
    asked = []
    alignment = [["the", 0.0, 0.2]]
    bank = BANK.chosen({"title": None})
    scripted = work(lambda prompt: asked.append(prompt) or f"A: {prompt}\n\n- b", bank, tasks_per_utterance=1)
    source = row(SHOP, speaker="s1", source_lang="en", alignment=alignment, provenance={"old": 1}, answer="old")
    assert scripted.open()([source]) == [
        [
            Made(
                {
                    **{"id": "r1-title", "audio_filepath": "a.wav", "duration": 2.5, "text": SHOP, "speaker": "s1"},
                    **{"source_lang": "en", "alignment": alignment, "task": "title", "prompt": "Title: {audio}"},
                    "answer": f"A: Title: {SHOP}\n\n- b",
                    "provenance": {
                        **{"source": "r1", "place": "m.jsonl:r1", "engine": "script", "model": "m"},
                        **{"prompt_version": "1-abc", "wording": "order", "seed": 0},
                    },
                }
            )
        ]
    ]
    assert asked == [f"Title: {SHOP}"]


def test_every_task_has_an_outcome_and_none_costs_another():
    replies = {"cut": Refused("reply_cut_off", "so"), "empty": " \n", "ai": "As an AI, I see.", "good": "Shop"}
    rows = [row(f"{name} one two three four", name) for name in replies]
    rows[1:1] = [row(None, "mute"), row("  ", "blank"), row("two words", "short"), row(SHOP, "lang", lang="xx")]
    bank = BANK.chosen({"title": None})
    outcomes = work(lambda prompt: replies[prompt.split()[1]], bank, tasks_per_utterance=1).open()(rows)
    assert [[getattr(one, "reason", "made") for one in found] for found in outcomes] == [
        *[["reply_cut_off"], ["no_transcript"], ["no_transcript"], ["transcript_too_short"], ["unknown_language"]],
        *[["reply_empty"], ["answer_declines"], ["made"]],
    ]
    assert outcomes[0] == [Refused("reply_cut_off", "title/order: so")]


def test_filters_are_switched_off_one_by_one():
    scripted = work(lambda _: "As an AI, I see the text.", BANK.chosen({"title": None}), tasks_per_utterance=1)
    off = FilterOptions(refusals=False)
    ((first,),) = scripted.open()([row(SHOP)])
    ((second,),) = replace(scripted, filters=off).open()([row(SHOP)])
    ((third,),) = replace(scripted, filters=replace(off, reading=False)).open()([row(SHOP)])
    assert (first.reason, second.reason, type(third)) == ("answer_declines", "answer_speaks_of_a_text", Made)


def test_what_is_drawn_follows_from_the_row_alone():
    rows = [row(f"{SHOP} number {number}", str(number)) for number in range(20)]
    forth = work(str, SHIPPED).open()(rows)
    worker = work(str, SHIPPED).open()
    assert forth == [worker([one])[0] for one in rows[::-1]][::-1]
    assert replace(work(str, SHIPPED), seed=1).open()(rows) != forth
    drawn = [one.row["task"] for found in forth for one in found]
    assert len(drawn) == 60
    assert len(set(drawn)) > 10
    ids = [one.row["id"] for found in forth for one in found]
    assert len(set(ids)) == len(ids)


def test_nobody_translates_into_the_language_that_is_spoken():
    found = work(str).open()([row(SHOP, "e"), row(SHOP, "g", source_lang="de-DE")])
    assert [{one.row["task"] for one in outcomes} for outcomes in found] == [
        {"repeat", "title", "say_in_de"},
        {"repeat", "title"},
    ]
    ((first, second),) = work(str, language="German").open()([row(SHOP)])
    assert {first.row["task"], second.row["task"]} == {"repeat", "title"}


def test_settings_tell_jobs_apart_and_are_json():
    base = work(str)
    assert json.loads(json.dumps(base.settings())) == base.settings()
    others = [
        replace(base, seed=1),
        replace(base, llm=ScriptedLLM("n")),
        replace(base, llm_fingerprint="f2"),
        replace(base, options=ImitationOptions(tasks_per_utterance=2)),
        replace(base, filters=FilterOptions(loops=False)),
        replace(base, bank=replace(BANK, version="2-0")),
        replace(base, bank=BANK.without(["*/after"])),
        replace(base, bank=BANK.chosen({"*": None, "title": 2.0})),
    ]
    assert all(other.settings() != base.settings() for other in others)
    assert pickle.loads(pickle.dumps(base)).settings() == base.settings()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks_per_utterance": 0}, "found 0; expected at least 1.*--tasks-per-utterance"),
        ({"tasks_per_utterance": 4}, "found 4; expected at most 3: repeat, title.*--tasks-per-utterance, --tasks"),
        ({"language": "xx"}, "'xx'.*--language"),
        ({"min_transcript_words": 20, "max_transcript_words": 10}, "20 to 10 words.*--min-transcript-words"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(ConfigError, match=message):
        work(str, **options)


def test_the_llm_that_answers_is_told_by_its_weights(gemma, tmp_path):
    own = folder_fingerprint(gemma, knob="--model")
    assert fingerprint_of(str(gemma), None, None) == fingerprint_of("served", "http://h/v1", str(gemma)) == own
    with pytest.raises(ConfigError, match=r"must come from the LLM that is trained.*found 'http://h/v1'.*--weights"):
        fingerprint_of("served", "http://h/v1", None)
    with pytest.raises(ConfigError, match=r"--model alone.*--weights"):
        fingerprint_of(str(gemma), None, str(gemma))
    with pytest.raises(ModelFileError, match=r"none.*safetensors.*--weights"):
        fingerprint_of("served", "http://h/v1", str(tmp_path / "none"))


def twin_turn(prompt: str, transcript: str) -> Turn:
    """The user's turn of a conversation that asks `prompt`, with the transcript in place of the speech."""
    parts = Wordings([prompt]).user_parts(random.Random(0), {}, AUDIO)
    return Turn("user", tuple(Text(transcript) if isinstance(part, Audio) else part for part in parts))


@pytest.mark.parametrize("transcript", [SHOP, " Well, said he - 'why not?' ", "早上九点开门", "two\n\nlines"])
def test_the_prompt_is_that_of_the_twin(gemma, transcript):
    chat = ChatFormat(AutoTokenizer.from_pretrained(gemma), LOCATOR)
    wordings = [text for task in SHIPPED.tasks for text in task.wordings.values()]
    odd = ["Say\n{audio}\nnow", '"{audio}"', "  {audio}  ", "({audio}, again)"]
    for prompt in [*wordings, *odd]:
        (message,) = read_prompt(prompt, transcript)
        read = chat.encode([Turn(message["role"], (Text(message["content"]),))])
        assert read == chat.encode([twin_turn(prompt, transcript)]), prompt


@pytest.mark.parametrize("family", ["gemma", "qwen3"])
def test_the_local_llm_reads_the_ids_of_the_twin(tmp_path, family, monkeypatch):
    folder = models.llm_folder(tmp_path, family)
    worker = replace(work(str), llm=LocalLLM(str(folder), Decoding(4), "float32", "cpu")).open()
    fed: list[list[int]] = []

    def generate(**inputs: Any) -> torch.Tensor:
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        fed.extend(one[seen.bool()].tolist() for one, seen in zip(ids, mask, strict=True))
        return torch.cat([ids, torch.full((len(ids), 1), 5)], dim=1)  # <end_of_turn>

    monkeypatch.setattr(worker._client._model, "generate", generate)
    worker([row(SHOP)])
    chat = ChatFormat(AutoTokenizer.from_pretrained(folder), LOCATOR)
    prompts = [next(iter(one.wordings.values())) for one in BANK.tasks] + ["{audio} Again."]
    twins = [chat.encode([twin_turn(prompt, SHOP)]).ids for prompt in prompts]
    assert len(fed) == 3
    assert all(ids in twins for ids in fed)


def test_the_teacher_that_reads_the_twin_says_every_token_of_the_answer(tmp_path):
    """The twin with the answer behind it, in one forward pass: what is likeliest at each place is what was generated."""
    folder = models.talking_llm_folder(tmp_path)
    llm = LocalLLM(str(folder), Decoding(24), "float32", "cpu")
    worker = replace(work(str, SHIPPED, tasks_per_utterance=12), llm=llm).open()
    found = worker([row(f"{SHOP} number {number}", str(number)) for number in range(4)])
    made = [one.row for outcomes in found for one in outcomes if isinstance(one, Made)]
    assert len(made) >= 5
    chat = ChatFormat(AutoTokenizer.from_pretrained(folder), LOCATOR)
    teacher = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for one in made:
        answer = Turn("assistant", (Text(one["answer"]),))
        encoded = chat.encode([twin_turn(one["prompt"], one["text"]), answer])
        places = [place for place, is_target in enumerate(encoded.loss_mask) if is_target]
        ends = next(n for n, place in enumerate(places) if encoded.ids[place] in chat.stop_ids)
        targets = places[: ends + 1]
        with torch.no_grad():
            likeliest = teacher(input_ids=torch.tensor([encoded.ids])).logits[0].argmax(-1)
        assert [int(likeliest[place - 1]) for place in targets] == [encoded.ids[place] for place in targets]
