"""The training loop of the tiny world, its optimiser and its batches."""

from __future__ import annotations

import itertools
from itertools import islice

import pytest
import torch
from torch import nn

from vtblender_nemo.tiny.chats import ChatMaker
from vtblender_nemo.tiny.config import LanguageModelConfig
from vtblender_nemo.tiny.llm import (
    answer,
    chat_format_of,
    loss_weights,
    make_model,
    make_tokenizer,
    text_batches,
    text_loss,
    turns_of,
)
from vtblender_nemo.tiny.optim import learning_rate_share, muon_and_adamw
from vtblender_nemo.tiny.splits import hold_out
from vtblender_nemo.tiny.training import minutes, train_steps

SMALL = LanguageModelConfig(vocabulary=1000, layers=2, hidden=32, heads=2, feed_forward=48)


def chats():
    return ChatMaker(hold_out(10, 2, seed=0), seed=0).chats()


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(islice(chats(), 500), SMALL.vocabulary)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.head = nn.Linear(4, 1)

    def forward(self, x):
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return self.head(nn.functional.dropout(x, 0.5))


def run(path, steps, said, stop_after=None):
    torch.manual_seed(1)
    model = Net()
    batches = [torch.randn(3, 4, generator=torch.Generator().manual_seed(n)) for n in range(20)]
    feed = iter(batches) if stop_after is None else islice(batches, stop_after)
    train_steps(
        model,
        muon_and_adamw(model, 0.01, 0.01, 0.0),
        feed,
        lambda batch: (model(batch) - 1).square().mean(),
        steps=steps,
        decay_share=0.5,
        checkpoint=path,
        checkpoint_secs=-1.0,
        say=said.append,
    )
    return model.state_dict()


def test_a_stopped_training_ends_where_an_unbroken_one_does(tmp_path):
    whole = run(tmp_path / "whole.pt", 12, [])
    said = []
    run(tmp_path / "broken.pt", 12, [], stop_after=5)
    continued = run(tmp_path / "broken.pt", 12, said)
    assert said[0] == "continues from step 5 of 12"
    assert all(torch.equal(whole[name], continued[name]) for name in whole)


def test_progress_ends_with_no_time_left(tmp_path):
    said = []
    run(tmp_path / "x.pt", 3, said)
    assert said[-1].startswith("step 3 of 3, loss ")
    assert said[-1].endswith("0:00 left")
    assert minutes(125.9) == "2:05"


def test_matrices_of_layers_go_to_muon():
    model = Net()
    muon, adamw = muon_and_adamw(model, 0.01, 0.01, 0.0).optimizers
    assert [id(p) for p in muon.param_groups[0]["params"]] == [id(layer.weight) for layer in model.layers]
    assert len(adamw.param_groups[0]["params"]) == 4


def test_the_learning_rate_warms_up_and_decays():
    shares = [learning_rate_share(step, 100, 10, 0.5) for step in range(100)]
    assert shares[:3] == pytest.approx([0.1, 0.2, 0.3])
    assert shares[10:51] == pytest.approx([1.0] * 41)
    assert shares[75] == pytest.approx(0.02 + 0.98 * 0.5)
    assert shares[99] == pytest.approx(0.02 + 0.98 * 0.02)


def test_tokens_of_long_answers_weigh_less():
    mask = [False, False, True, True, True, True, False, True]
    assert loss_weights(mask, 0.1) == pytest.approx([0.1, 0.1, 0.5, 0.5, 0.5, 0.5, 0.1, 1.0])


def test_batches_hold_chats_with_answers_weighed(tokenizer):
    for ids, weights in islice(text_batches(chats(), chat_format_of(tokenizer), 600, 0.05, seed=0), 20):
        assert ids.shape == weights.shape
        assert ids.shape[1] % 32 == 0
        assert ids.numel() <= 600
        assert ((weights == 0) == (ids == 0)).all()
        for row, weight in zip(ids, weights, strict=True):
            text = tokenizer.decode(row[weight > 0])
            assert text.startswith("<bos><start_of_turn>")
            answers = tokenizer.decode(row[weight > 0.06])
            assert answers.count("<end_of_turn>") == text.count("<start_of_turn> model")
            assert "<start_of_turn>" not in answers


def test_batches_come_in_the_same_order_every_time(tokenizer):
    def first(count):
        return [ids for ids, _ in islice(text_batches(chats(), chat_format_of(tokenizer), 600, 0.05, seed=3), count)]

    assert all(torch.equal(one, other) for one, other in zip(first(30), first(30), strict=True))


def test_the_loss_is_the_weighted_mean_over_what_is_no_padding(tokenizer):
    torch.manual_seed(0)
    model = make_model(SMALL, tokenizer).eval()
    ids, weights = next(text_batches(chats(), chat_format_of(tokenizer), 600, 0.25, seed=0))
    logits = model(input_ids=ids, attention_mask=(ids != 0).long()).logits.float().log_softmax(-1)
    total = 0.0
    for row, position in itertools.product(range(ids.shape[0]), range(1, ids.shape[1])):
        total -= (weights[row, position] * logits[row, position - 1, ids[row, position]]).item()
    expected = total / weights[:, 1:].sum().item()
    assert text_loss(model, ids, weights, bf16=False).item() == pytest.approx(expected, rel=1e-4)


def test_answers_come_in_the_order_of_the_prompts(tokenizer):
    """A batch of prompts of many lengths is answered as each is alone."""
    torch.manual_seed(0)
    model = make_model(SMALL, tokenizer).eval()
    chat_format = chat_format_of(tokenizer)
    prompts = [turns_of(chat.messages()[:1]) for chat in islice(chats(), 6)]
    together = answer(model, chat_format, prompts, max_new_tokens=5)
    alone = [answer(model, chat_format, [prompt], max_new_tokens=5)[0] for prompt in prompts]
    assert together == alone


def test_a_few_steps_lower_the_loss(tokenizer, tmp_path):
    torch.manual_seed(0)
    model = make_model(SMALL, tokenizer).train()
    batch = next(text_batches(chats(), chat_format_of(tokenizer), 600, 0.05, seed=0))
    first = text_loss(model, *batch, bf16=False).item()
    train_steps(
        model,
        muon_and_adamw(model, 0.01, 0.01, 0.01),
        itertools.repeat(batch),
        lambda one: text_loss(model, *one, bf16=False),
        steps=60,
        decay_share=0.5,
        checkpoint=tmp_path / "x.pt",
        checkpoint_secs=1e9,
        say=lambda _: None,
    )
    assert text_loss(model, *batch, bf16=False).item() < 0.8 * first
