"""The tokenizer of an LLM, from where it was pretrained."""

from __future__ import annotations

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from vtblender_nemo.common.errors import ModelFileError


def pretrained_tokenizer(name_or_path: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a Hugging Face folder or hub name.

    Raises:
        ModelFileError: there is none.
    """
    try:
        return AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelFileError(
            f"the LLM's tokenizer cannot be loaded ({error})",
            value=name_or_path,
            expected="a Hugging Face folder or hub name of a causal LM",
            knob="model.pretrained_llm",
        ) from error
