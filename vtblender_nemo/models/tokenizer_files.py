"""Tokenizer files of an LLM, from where it was pretrained or out of a model file."""

from __future__ import annotations

from pathlib import Path

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


def check_artifact(name: str, packed: str) -> None:
    """A restored configuration names files to copy: they may come only out of the archive, and go only into our folder.

    Raises:
        ModelFileError: others.
    """
    inside = packed.removeprefix("nemo:")
    if not packed.startswith("nemo:") or Path(inside).name != inside or Path(name).name != name or name in ("", ".."):
        raise ModelFileError(
            "unsafe file name in the model's configuration",
            value={name: packed},
            expected="plain names of files inside the archive",
        )
