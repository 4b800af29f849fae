"""A small tokenizer with Gemma's chat turns: one token a byte, so that expected ids can be counted by hand."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>", "<unused0>")

GEMMA_TEMPLATE = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)


def make_tokenizer(
    chat_template: str | None = GEMMA_TEMPLATE, extra_special_tokens: tuple[str, ...] = (), **kwargs: str
) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer; nothing is downloaded.

    Args:
        chat_template: Jinja text (default: Gemma's turns), or None for a tokenizer without one.
        extra_special_tokens: special tokens of other templates, as `<|im_start|>`.
        kwargs: overrides of the special roles, as `eos_token="<|im_end|>"` or `bos_token=None`.

    Returns:
        A tokenizer with ids 0 to 6 for `SPECIAL_TOKENS`, then `extra_special_tokens`, then the 256 bytes.
    """
    special = [*SPECIAL_TOKENS, *extra_special_tokens]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*special, *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(special)
    roles = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"} | kwargs
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, extra_special_tokens=special[4:], **roles)
    tokenizer.chat_template = chat_template
    return tokenizer
