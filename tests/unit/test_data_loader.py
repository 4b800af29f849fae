"""The data module: collation, exact resume, workers, skips, validation, Lightning."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.corpus import RATE, chat_rows, write_jsonl, write_level
from tests.helpers.data_modules import ENCODER, module, take, train_ds, write_corpus
from vtblender_nemo.common.batch import Batch
from vtblender_nemo.common.chat import PromptIds
from vtblender_nemo.common.errors import AudioError, ConfigError, DataError
from vtblender_nemo.data.collate import Collator
from vtblender_nemo.data.loader import BlendDataModule
from vtblender_nemo.data.weighted import read_sources


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def same(left: list[Batch], right: list[Batch]) -> bool:
    def key(batch: Batch) -> tuple[Any, ...]:
        return batch.ids, batch.sources, batch.input_ids.tolist(), batch.loss_mask.tolist(), batch.audios.tolist()

    return [key(batch) for batch in left] == [key(batch) for batch in right]


def test_collation_is_what_was_written_by_hand(tmp_path):
    write_level(tmp_path / "a.wav", 0.5, secs=3 / RATE * 100)
    rows = [
        {"audio_filepath": "a.wav", "duration": 300 / RATE, "text": "ab", "id": "x"},
    ]
    speech = {"type": "nemo", "manifest_filepath": write_jsonl(tmp_path / "m.jsonl", rows), "prompts": ["P"]}
    chat = {"type": "text_chat", "manifest_filepath": write_jsonl(tmp_path / "c.jsonl", chat_rows(1))}
    sources = read_sources([chat, speech], sampling_rate=RATE)
    conversations = [entry.source.conversation(0, entry.source.rng(0, 0)) for entry in sources]
    prompts = [ENCODER.chat_format.encode(conversation.turns) for conversation in conversations]
    batch, errors = Collator(6, RATE)(conversations, prompts)
    assert batch is not None
    assert errors == {}
    lengths = [len(prompt.ids) for prompt in prompts]
    assert batch.input_lens.tolist() == lengths
    longest = max(lengths)
    assert batch.input_ids.shape == (2, longest)
    assert lengths[0] != lengths[1]
    for row, prompt in zip(batch.input_ids.tolist(), prompts, strict=True):
        assert row == prompt.ids + [0] * (longest - len(prompt.ids))
    assert batch.loss_mask.dtype == torch.bool
    assert batch.loss_mask.sum(1).tolist() == [3, 4]  # "0" or "ab", <end_of_turn> and a newline
    assert (batch.input_ids == 6).sum(1).tolist() == [0, 1]
    assert batch.audios.shape == (1, 300)
    assert batch.audio_lens.tolist() == [300]
    assert batch.audios[0].tolist() == [0.5] * 300
    assert (batch.sources, batch.ids) == (["text_chat", "nemo"], ["c0", "x"])


def test_a_batch_without_audio_has_none(corpus):
    entry = {"type": "text_chat", "manifest_filepath": str(corpus / "chats.jsonl")}
    (batch,) = take(module({"input_cfg": [entry], "batch_size": 2}), 1)
    assert batch.audios.shape == (0, 0)
    assert batch.audio_lens.shape == (0,)


def test_an_undecodable_audio_drops_its_own_conversation_alone(corpus):
    speech = {"type": "nemo", "manifest_filepath": str(corpus / "speech.jsonl"), "prompts": ["P"]}
    source = read_sources([speech], sampling_rate=RATE)[0].source
    conversations = [source.conversation(index, source.rng(0, 0)) for index in (2, 3, 7, 8)]
    prompts = [ENCODER.chat_format.encode(conversation.turns) for conversation in conversations]
    batch, errors = Collator(6, RATE)(conversations, prompts)
    assert batch is not None
    assert batch.ids == ["s2", "s8"]
    assert {number: type(error) for number, error in errors.items()} == {1: AudioError, 2: AudioError}
    assert Collator(6, RATE)(conversations[1:3], prompts[1:3])[0] is None


def test_placeholders_and_audios_must_match(corpus):
    speech = {"type": "nemo", "manifest_filepath": str(corpus / "good.jsonl"), "prompts": ["P"]}
    source = read_sources([speech], sampling_rate=RATE)[0].source
    batch, errors = Collator(6, RATE)([source.conversation(0, source.rng(0, 0))], [PromptIds([6, 6], [True, True])])
    assert batch is None
    assert "placeholders and audios do not match; found 2; expected 1" in str(errors[0])


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_is_exact_at_any_point(corpus, tmp_path, workers):
    whole = take(module(train_ds(corpus)), 25)
    for stop in (0, 1, 14):
        first = module(train_ds(corpus, num_workers=workers))
        begun = take(first, stop)
        state = json.loads(json.dumps(first.state_dict()))
        second = module(train_ds(corpus, num_workers=2 - workers))
        second.load_state_dict(state)
        assert same(begun + take(second, 25 - stop), whole), f"stopped after {stop}"


def test_the_state_is_that_of_the_last_batch_in_spite_of_prefetching(corpus):
    data = module(train_ds(corpus, num_workers=2))
    iterator = iter(data.train_dataloader())
    states = []
    for _ in range(6):
        next(iterator)
        states.append(data.state_dict())
    alone = module(train_ds(corpus))
    iterator = iter(alone.train_dataloader())
    for state in states:
        next(iterator)
        assert alone.state_dict() == state


def test_iterating_anew_goes_on_after_the_last_batch(corpus):
    whole = take(module(train_ds(corpus)), 10)
    data = module(train_ds(corpus, num_workers=2))
    assert same(take(data, 4) + take(data, 6), whole)


def test_a_state_is_small_and_safe_to_load(corpus, tmp_path):
    data = module(train_ds(corpus))
    take(data, 30)
    torch.save(data.state_dict(), tmp_path / "state.pt")
    assert torch.load(tmp_path / "state.pt", weights_only=True) == data.state_dict()
    assert len(pickle.dumps(data.state_dict())) < 5000


def test_skipped_rows_are_counted_and_each_listed_once(corpus, tmp_path):
    path = tmp_path / "out" / "skipped.jsonl"
    data = module(train_ds(corpus), path)
    take(data, 60)
    listed = [json.loads(line) for line in path.read_text().splitlines()]
    assert sorted(entry["line"] for entry in listed) == [4, 8, 11]
    by_line = {entry["line"]: entry for entry in listed}
    assert set(by_line[4]) == {"source", "path", "line", "knob", "reason"}
    assert by_line[4]["path"] == str(corpus / "speech.jsonl")
    assert "0003.wav" in by_line[4]["reason"]
    assert "cannot be decoded" in by_line[8]["reason"]
    assert "not JSON" in by_line[11]["reason"]
    assert data.skipped()["asr/on_bad_row"] > 3, "later passes are counted"


def test_resume_leaves_the_list_of_skipped_rows_as_if_never_stopped(corpus, tmp_path):
    take(module(train_ds(corpus), tmp_path / "whole.jsonl"), 40)
    first = module(train_ds(corpus), tmp_path / "parts.jsonl")
    take(first, 1)
    state = first.state_dict()
    take(first, 30)  # lost: the run was killed here
    assert state["ranks"][0]["skips"]["bytes"] < (tmp_path / "parts.jsonl").stat().st_size
    second = module(train_ds(corpus), tmp_path / "parts.jsonl")
    second.load_state_dict(state)
    take(second, 39)
    assert (tmp_path / "parts.jsonl").read_text() == (tmp_path / "whole.jsonl").read_text()
    take(module(train_ds(corpus), tmp_path / "parts.jsonl"), 1)
    listed = (tmp_path / "parts.jsonl").read_text() if (tmp_path / "parts.jsonl").exists() else ""
    assert len(listed) < len((tmp_path / "whole.jsonl").read_text()), "a new run starts a new list"


def test_bad_audio_stops_the_run_if_asked(corpus):
    entry = {"type": "nemo", "manifest_filepath": str(corpus / "speech.jsonl"), "prompts": ["P"]}
    data = module({"input_cfg": [entry], "batch_size": 1, "on_bad_row": "error", "shuffle": False, "num_buckets": 1})
    with pytest.raises(AudioError, match=r"0003.wav"):
        take(data, 10)


def test_a_source_without_any_audio_stops_the_run(tmp_path):
    rows = [{"audio_filepath": f"{n}.wav", "duration": 1.0, "text": "x"} for n in range(7)]
    path = write_jsonl(tmp_path / "m.jsonl", rows)
    entries = [
        {"type": "nemo", "manifest_filepath": path, "prompts": ["P"], "weight": 1},
        {"type": "text_chat", "manifest_filepath": write_jsonl(tmp_path / "c.jsonl", chat_rows(5)), "weight": 1},
    ]
    data = module({"input_cfg": entries, "batch_size": 2, "num_buckets": 1, "max_bad_share": None})
    with pytest.raises(AudioError, match="source nemo gave nothing but audio that cannot be decoded.*200 in a row"):
        take(data, 1000)


def test_shares_are_reported_against_the_weights(corpus):
    data = module(train_ds(corpus))
    assert data.shares() == {}
    batches = take(data, 150)
    shares = data.shares()
    counted = sum(batch.sources.count("asr") for batch in batches)
    total = sum(len(batch) for batch in batches)
    assert shares["asr"]["rows_seen"] == counted
    assert shares["asr"]["share"] == shares["asr"]["seen"] == counted / total
    assert shares["asr"]["weight"] == pytest.approx(2 / 3)
    assert sum(entry["share"] for entry in shares.values()) == pytest.approx(1)


def test_round_robin_draws_micro_batches(corpus):
    base = train_ds(corpus)["input_cfg"]
    samplers = {
        "audio": {"input_cfg": [{**base[1], "weight": 1}], "batch_size": 4, "num_buckets": 2},
        "text": {"input_cfg": [{**base[0], "weight": 1}], "batch_size": 1, "num_buckets": 1},
    }
    cfg = {
        "fusion": "randomized_round_robin",
        "samplers": samplers,
        "sampler_weights": {"audio": 0.85, "text": 0.15},
        "buffer_size": 20,
    }
    data = module(cfg)
    batches = take(data, 600)
    assert all(len(set(batch.sources)) == 1 for batch in batches)
    assert {len(batch) for batch in batches if batch.sources[0] == "text_chat"} == {1}
    assert max(len(batch) for batch in batches) == 4
    shares = data.shares()
    assert shares["asr"]["batch_share"] == pytest.approx(0.85, abs=0.05)
    assert shares["asr"]["seen"] == shares["asr"]["batch_share"] != shares["asr"]["share"]
    assert shares["asr"]["weight"] == pytest.approx(0.85)
    again = module(cfg)
    again.load_state_dict(_state_after(module(cfg), 9))
    assert same(take(again, 40), batches[9:49])


def _state_after(data: BlendDataModule, count: int) -> dict[str, Any]:
    take(data, count)
    return data.state_dict()


def test_every_rank_goes_on_with_its_own_state(corpus, monkeypatch):
    states, wholes = [], []
    for rank in range(2):
        monkeypatch.setattr("vtblender_nemo.data.loader._rank", lambda rank=rank: (rank, 2))
        wholes.append(take(module(train_ds(corpus)), 12))
        data = module(train_ds(corpus))
        take(data, 5)
        states.append(data.train_dataloader().state_dict_after_last_batch())
    assert not same(*wholes)
    for rank in range(2):
        monkeypatch.setattr("vtblender_nemo.data.loader._rank", lambda rank=rank: (rank, 2))
        data = module(train_ds(corpus))
        data.load_state_dict({"ranks": states})
        assert same(take(data, 7), wholes[rank][5:])


@pytest.mark.parametrize("ranks", [1, 3])
def test_validation_is_ordered_finite_and_split_over_ranks(corpus, tmp_path, monkeypatch, ranks):
    sets = {
        "asr": {
            "input_cfg": [{"type": "nemo", "manifest_filepath": str(corpus / "speech.jsonl"), "prompts": ["a", "b"]}]
        },
        "chat": {"input_cfg": [{"type": "text_chat", "manifest_filepath": str(corpus / "chats.jsonl")}]},
    }
    seen = {"asr": [], "chat": []}
    for rank in range(ranks):
        monkeypatch.setattr("vtblender_nemo.data.loader._rank", lambda rank=rank: (rank, ranks))
        data = module(skipped=tmp_path / "skipped.jsonl", validation_ds={"sets": sets, "batch_size": 4})
        assert data.validation_names == ["asr", "chat"]
        for name, loader in zip(data.validation_names, data.val_dataloader(), strict=True):
            batches = list(loader)
            assert all(conversation.reference for batch in batches for conversation in batch)
            assert len(batches) <= len(loader)
            again = [[c.turns for c in batch] for batch in loader]
            assert again == [[c.turns for c in batch] for batch in batches]
            seen[name] += [conversation.id for batch in batches for conversation in batch]
    assert sorted(seen["chat"]) == sorted(f"c{n}" for n in range(30))
    assert sorted(seen["asr"]) == sorted(f"s{n}" for n in range(20)), "the bad line is left out"
    if ranks == 1:
        assert seen["chat"] == [f"c{n}" for n in range(30)]
    (listed,) = [line for path in tmp_path.glob("skipped.asr*.jsonl") for line in path.read_text().splitlines()]
    assert json.loads(listed)["line"] == 11


def test_validation_limits(corpus):
    entry = {"input_cfg": [{"type": "text_chat", "manifest_filepath": str(corpus / "chats.jsonl")}]}
    data = module(validation_ds={"sets": {"chat": entry}, "batch_size": 4, "max_rows": 6})
    (loader,) = data.val_dataloader()
    assert [[c.id for c in batch] for batch in loader] == [["c0", "c1", "c2", "c3"], ["c4", "c5"]]
    assert len(loader) == 2
    with pytest.raises(ConfigError, match=r"wrong shape.*sets.chat"):
        module(validation_ds={"sets": {"chat": []}}).val_dataloader()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"batch_token": 5},
            "unknown key; found 'batch_token'; expected one of batch_tokens, .*data.train_ds.batch_token",
        ),
        ({"batch_tokens": None}, "no bound.*data.train_ds.batch_tokens or data.train_ds.batch_size"),
        ({"batch_size": 0}, "out of range.*batch_size"),
        ({"fusion": "zip"}, "unknown choice; found 'zip'; expected one of rows, randomized_round_robin"),
        ({"on_bad_row": "ignore"}, "unknown choice.*skip, error"),
        ({"min_duration": 50.0}, "out of range; found 50.0; expected at most max_duration, 40.0.*min_duration"),
        ({"max_tokens": 0}, "out of range; found 0.*data.train_ds.max_tokens"),
        (
            {"fusion": "randomized_round_robin", "input_cfg": None, "samplers": {"a": {}}},
            "do not match.*sampler_weights",
        ),
        ({"fusion": "randomized_round_robin"}, "input_cfg beside samplers.*fusion: rows.*data.train_ds.fusion"),
        ({"batch_tokens": None, "batch_size": 2, "quadratic_length": 9}, "no effect.*quadratic_length"),
        ({"input_cfg": "???"}, "no sources; found '...'.*data.train_ds.input_cfg"),
        ({"input_cfg": None}, "no sources.*data.train_ds.input_cfg"),
    ],
)
def test_configuration_mistakes_name_their_key(corpus, keys, message):
    with pytest.raises(ConfigError, match=message):
        module(train_ds(corpus, **keys)).train_dataloader()


def test_configuration_mistakes_of_validation_are_found(corpus):
    with pytest.raises(ConfigError, match=r"out of range.*data.validation_ds.batch_size"):
        module(train_ds(corpus), validation_ds={"sets": {}, "batch_size": 0})


def test_loading_leaves_the_random_numbers_of_training_alone(corpus):
    before = torch.get_rng_state()
    take(module(train_ds(corpus, num_workers=2)), 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_missing_sections(corpus):
    with pytest.raises(ConfigError, match="unknown key; found 'test_ds'; expected one of train_ds, validation_ds"):
        module(test_ds={})
    with pytest.raises(ConfigError, match=r"no training data.*data.train_ds"):
        module().train_dataloader()
    assert module(train_ds(corpus)).val_dataloader() == []


def test_errors_cross_from_worker_processes(tmp_path):
    rows = [{"audio_filepath": "nowhere.wav", "duration": 1.0, "text": "x"}]
    entry = {"type": "nemo", "manifest_filepath": write_jsonl(tmp_path / "m.jsonl", rows), "prompts": ["P"]}
    data = module({"input_cfg": [entry], "batch_size": 1, "num_buckets": 1, "num_workers": 1, "on_bad_row": "error"})
    with pytest.raises(DataError, match=r"nowhere.wav: audio file is missing") as caught:
        take(data, 1)
    assert caught.value.path.endswith("nowhere.wav")


def test_a_lightning_checkpoint_holds_the_data_state(corpus, tmp_path):
    from lightning.pytorch import LightningModule, Trainer

    class Model(LightningModule):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))
            self.seen: list[list[str]] = []

        def training_step(self, batch: Batch, _: int):
            self.seen.append(batch.ids)
            return (self.weight * batch.input_ids.float().mean()).sum()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.0)

    def run(steps: int, ckpt: str | None = None, workers: int = 0) -> list[list[str]]:
        model = Model()
        quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
        trainer = Trainer(max_steps=steps, accelerator="cpu", use_distributed_sampler=False, **quiet)
        trainer.fit(model, datamodule=module(train_ds(corpus, num_workers=workers)), ckpt_path=ckpt)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        return model.seen

    whole = [batch.ids for batch in take(module(train_ds(corpus)), 9)]
    assert run(4, workers=2) == whole[:4]
    assert run(9, str(tmp_path / "last.ckpt")) == whole[4:]
