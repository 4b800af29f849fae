"""The tiny language model: a Gemma of a few million weights, trained here on text alone.

Shape letters: B conversations, T positions, V vocabulary.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch

from vtblender_nemo.common.chat import ChatFormat, PromptIds
from vtblender_nemo.common.conversation import Role, Text, Turn
from vtblender_nemo.tiny.chats import Chat
from vtblender_nemo.tiny.config import LanguageModelConfig
from vtblender_nemo.tiny.tokenizer import LOCATOR, train_tokenizer

if TYPE_CHECKING:
    from transformers import GemmaForCausalLM, PreTrainedTokenizerBase

_TOKENIZER_CHATS = 6000
_CHUNK_CHATS = 1024  # chats that are sorted into lengths at a time
_LENGTH_STEP = 32  # few, fixed shapes: varied ones ran four times slower


def make_tokenizer(chats: Iterable[Chat], vocabulary: int) -> PreTrainedTokenizerBase:
    """A tokenizer learned from the first few thousand chats."""
    messages = (message["content"] for chat in islice(chats, _TOKENIZER_CHATS) for message in chat.messages())
    return train_tokenizer((text for content in messages for text in (content, "user", "model")), vocabulary)


def make_model(config: LanguageModelConfig, tokenizer: PreTrainedTokenizerBase) -> GemmaForCausalLM:
    """An untrained model, of the tokenizer's size."""
    from transformers import GemmaConfig, GemmaForCausalLM

    end_of_turn = tokenizer.convert_tokens_to_ids("<end_of_turn>")
    model = GemmaForCausalLM(
        GemmaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden,
            intermediate_size=config.feed_forward,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.heads,
            head_dim=config.hidden // config.heads,
            max_position_embeddings=2048,
            initializer_range=config.init_std,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=tokenizer.bos_token_id,
            tie_word_embeddings=True,
            attn_implementation="eager",  # on a CPU 18% faster in training than the fused one
        )
    )
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, end_of_turn]
    return model


def turns_of(messages: Sequence[dict[str, str]]) -> list[Turn]:
    """Messages of text as the turns of `common.chat`."""
    return [Turn(cast("Role", message["role"]), (Text(message["content"]),)) for message in messages]


def text_batches(
    chats: Iterator[Chat], chat_format: ChatFormat, tokens_per_batch: int, prompt_weight: float, seed: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches without end, each of chats of about one length.

    Yields:
        ids (B, T), padded on the right, and weights of their losses (B, T), as `loss_weights` has them; 0 for padding.
    """
    rng = random.Random(f"text-batches-{seed}")
    waiting: dict[int, list[PromptIds]] = {}
    while True:
        ready = []
        for chat in islice(chats, _CHUNK_CHATS):
            prompt = chat_format.encode(turns_of(chat.messages()))
            length = -(-len(prompt.ids) // _LENGTH_STEP) * _LENGTH_STEP
            waiting.setdefault(length, []).append(prompt)
            if len(waiting[length]) == max(1, tokens_per_batch // length):
                ready.append(_collate(waiting.pop(length), length, prompt_weight))
        rng.shuffle(ready)
        yield from ready


def loss_weights(loss_mask: Sequence[bool], prompt_weight: float) -> list[float]:
    """Weights of the tokens of a chat: `prompt_weight` outside answers, and 1/sqrt(n) in an answer of n tokens.

    With equal weights the long answers (translations, 15 tokens) would drown the short ones (to questions, 3 tokens).
    """
    weights: list[float] = []
    for answered, run in groupby(loss_mask):
        length = len(list(run))
        weights += [length**-0.5 if answered else prompt_weight] * length
    return weights


def _collate(prompts: list[PromptIds], length: int, prompt_weight: float) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.zeros(len(prompts), length, dtype=torch.long)
    weights = torch.zeros(len(prompts), length)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt.ids)] = torch.tensor(prompt.ids)
        weights[row, : len(prompt.ids)] = torch.tensor(loss_weights(prompt.loss_mask, prompt_weight))
    return ids, weights


def text_loss(model: GemmaForCausalLM, ids: torch.Tensor, weights: torch.Tensor, bf16: bool) -> torch.Tensor:
    """Weighted mean of the next tokens' cross-entropy; ids and weights are (B, T).

    Padding stands on the right, where a causal model cannot see it from before, so no attention mask is needed.
    """
    targets, weights = ids[:, 1:], weights[:, 1:]
    counted = weights > 0
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        hidden = model.model(input_ids=ids).last_hidden_state[:, :-1]
        logits = model.lm_head(hidden[counted])
    losses = torch.nn.functional.cross_entropy(logits.float(), targets[counted], reduction="none")
    return (losses * weights[counted]).sum() / weights.sum()


@torch.no_grad()
def answer(
    model: GemmaForCausalLM, chat_format: ChatFormat, prompts: Sequence[Sequence[Turn]], max_new_tokens: int = 80
) -> list[str]:
    """Greedy answers to prompts, in their order.

    Args:
        model: in eval mode.
        chat_format: of the model's tokenizer.
        prompts: turns that end with the user.
        max_new_tokens: longest answer.
    """
    encoded = [chat_format.encode(turns).ids for turns in prompts]
    order = sorted(range(len(prompts)), key=lambda index: len(encoded[index]))
    answers = [""] * len(prompts)
    for start in range(0, len(order), 100):
        chosen = order[start : start + 100]
        longest = max(len(encoded[index]) for index in chosen)
        padding = [longest - len(encoded[index]) for index in chosen]
        ids = torch.tensor([[0] * pad + encoded[index] for pad, index in zip(padding, chosen, strict=True)])
        mask = torch.tensor([[0] * pad + [1] * (longest - pad) for pad in padding])
        made = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=list(chat_format.stop_ids),
        )
        for index, row in zip(chosen, made[:, longest:].tolist(), strict=True):
            answers[index] = chat_format.decode(row)
    return answers


def save_model(model: GemmaForCausalLM, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Writes an ordinary Hugging Face folder."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def chat_format_of(tokenizer: PreTrainedTokenizerBase) -> ChatFormat:
    """How conversations become ids, here and in the joint stage."""
    return ChatFormat(tokenizer, LOCATOR)
