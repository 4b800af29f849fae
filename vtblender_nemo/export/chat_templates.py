"""NeMo's prompt formats as chat templates, so that a model that was trained on one is asked in the same words here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtblender_nemo.common.chat import ChatFormat
from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.export.markers import Markers
from vtblender_nemo.export.prompts import PROBES, as_turns, our_ids, stock_ids, stock_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MESSAGE = "|message|"
_ROLES = ("system", "user", "assistant")
_ELSE = "{% else %}{{ raise_exception('no such role') }}{% endif %}{% endfor %}"


def fit_template(tokenizer: PreTrainedTokenizerBase, prompt_format: str, tag: str, folder: Path) -> None:
    """Makes sure that the chat template writes what NeMo's format does; where the tokenizer's own does not, it is replaced.

    Args:
        tokenizer: it is changed.
        prompt_format: NeMo's name.
        tag: the locator of audio.
        folder: for the tokenizer's files; they are there afterwards.

    Raises:
        ConfigError: an unknown format, or one whose ids no chat template can write.
    """
    from nemo.collections.common.prompts import PromptFormatter

    knob = "prompt_format in config.json"
    try:
        kind = PromptFormatter.resolve(prompt_format)
    except RuntimeError as error:
        raise ConfigError(f"NeMo has no such prompt format ({error})", value=prompt_format, knob=knob) from error
    tokenizer.save_pretrained(folder)
    formatter = kind(stock_tokenizer(folder, tag))
    templates = [tokenizer.chat_template] if tokenizer.chat_template else []
    for template in (*templates, _template(kind, tokenizer)):
        tokenizer.chat_template = template
        if template and _same_ids(tokenizer, formatter, tag):
            tokenizer.save_pretrained(folder)
            return
    raise ConfigError(
        "no chat template writes what this prompt format does",
        value=prompt_format,
        expected="a format with turns of user and assistant, each with an end",
        knob=knob,
    )


def _same_ids(tokenizer: PreTrainedTokenizerBase, formatter: Any, tag: str) -> bool:
    try:
        chat_format = ChatFormat(tokenizer, tag)
    except ConfigError:
        return False
    markers = Markers(tag, chat_format.audio_locator_id)
    return all(
        our_ids(chat_format, chat, markers) == stock_ids(formatter, as_turns(chat, markers), {}) for chat in PROBES
    )


def _template(kind: Any, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The format as Jinja; None where a turn is more than a text between two fixed ones."""
    turns = kind.TEMPLATE
    if any(str(turns.get(role, {}).get("template", "")).count(_MESSAGE) != 1 for role in ("user", "assistant")):
        return None
    names = {"|bos|": tokenizer.bos_token or "", "|eos|": tokenizer.eos_token or ""}
    start = ("|bos|" if kind.INSERT_BOS else "") + str(turns.get("preamble", {}).get("template", ""))
    prefix = kind.INFERENCE_PREFIX or ""
    return "".join(
        [
            _text(start, names),
            "{% for message in messages %}",
            *_branches(turns, names),
            _ELSE,
            "{% if add_generation_prompt %}" + _text(prefix, names) + "{% endif %}",
        ]
    )


def _branches(turns: Any, names: dict[str, str]) -> Iterator[str]:
    keyword = "if"
    for role in _ROLES:
        template = str(turns.get(role, {}).get("template", ""))
        if template.count(_MESSAGE) == 1:
            before, after = template.split(_MESSAGE)
            content = "{{ message['content'] | trim }}"
            yield f"{{% {keyword} message['role'] == '{role}' %}}{_text(before, names)}{content}{_text(after, names)}"
            keyword = "elif"


def _text(text: str, names: dict[str, str]) -> str:
    for slot, token in names.items():
        text = text.replace(slot, token)
    return "{{ " + json.dumps(text, ensure_ascii=False) + " }}" if text else ""
