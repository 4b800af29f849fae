"""The tiny language model's tokenizer: byte-pair encoding over words, with Gemma's special tokens and chat turns.

Words never share a token with what stands before them: a text is stripped, cut at its spaces, and every word gets its
own leading mark `▁`, the first one too. So the tokens of a text are those of its sentences one after the other, with or
without spaces at the seams, and it makes no difference whether a turn is tokenised whole or in the pieces left by an
audio.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

LOCATOR = "<unused0>"  # stands in a text where an audio will be
SPECIAL_TOKENS = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>", LOCATOR)  # ids 0 to 6

# What a user may type: letters that the corpus lacks are tokens of their own, so they do not become <unk>.
_ALPHABET = [chr(code) for code in range(33, 127)] + list("äöüÄÖÜßáéíóúñÁÉÍÓÚÑ¿¡")

# Gemma's own chat template: turns alternate, there is no system role, contents are trimmed.
CHAT_TEMPLATE = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- for message in messages %}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
{%- endif %}
{%- set role = 'model' if message['role'] == 'assistant' else message['role'] %}
{{- '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"""


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Learns the tokenizer.

    Args:
        texts: what it should encode well.
        vocabulary: its largest size; special tokens, letters and the line break count.

    Returns:
        A Hugging Face tokenizer with a chat template, that pads on the left.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Strip(), normalizers.Replace(Regex(" +"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="always"), pre_tokenizers.Punctuation("contiguous")]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - 1,  # the line break is added below
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=_ALPHABET,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken("\n", normalized=False, special=False)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        unk_token="<unk>",
        extra_special_tokens=["<start_of_turn>", "<end_of_turn>", LOCATOR],
        padding_side="left",
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast
