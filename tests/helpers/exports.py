"""Models whose every part has been trained, as far as one can tell, and what they and their exports answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import soundfile as sf
import torch

from tests.helpers.models import SAMPLING_RATE, assistant, canary_file, llm_folder, model_config, speech, user
from tests.helpers.tokenizer import make_tokenizer
from vtblender_nemo.common.conversation import Conversation
from vtblender_nemo.models.generation import as_conversations, collate, until_stop

NEW, SPARE_ROWS = 12, 16
QWEN_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] | trim + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QWEN_TOKENS = {"extra_special_tokens": ("<|im_start|>", "<|im_end|>"), "eos_token": "<|im_end|>"}
FOREIGN_TEMPLATE = QWEN_TEMPLATE.replace("message['role']", "message['role'] | upper").replace("assistant", "ASSISTANT")
"""A chat template that no format of NeMo writes."""


def trained_model(
    folder: Path, family: str = "gemma", template: str | None = None, canary: Path | None = None, **overrides: Any
) -> Any:
    """A small model with random LoRA and separator; with Qwen's tokens its tables have rows to spare, as Qwen's have.

    Args:
        folder: for the LLM and the Canary that it is made of.
        family: of the LLM.
        template: its chat template, with Qwen's tokens; None for Gemma's.
        canary: the Canary; made anew if None.
        overrides: of the `model` section.
    """
    from vtblender_nemo import VTBlenderModel

    folder.mkdir(parents=True, exist_ok=True)
    llm = folder / family
    if template is None:
        llm_folder(folder, family)
    else:
        tokenizer = make_tokenizer(template, **QWEN_TOKENS)
        llm_folder(folder, family, vocab_size=len(tokenizer) + SPARE_ROWS)
        tokenizer.save_pretrained(llm)
    model = VTBlenderModel(model_config(llm, canary or canary_file(folder), **overrides)).eval()
    randomize(model)
    if template is not None:
        head = model.llm.causal_lm.get_output_embeddings().weight
        with torch.no_grad():
            head[-SPARE_ROWS:] = head[0]  # which is never said, as no trained LLM says tokens that it has none for
    return model


def randomize(model: Any) -> None:
    """Draws what training starts at zero, or leaves alone."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".lora_B" in name or name.endswith("separator"):
                weight.normal_(std=1.0 if name.endswith("separator") else 0.2, generator=generator)
        model.perception.proj.weight.mul_(5)  # so that answers depend on what is heard


def wave(folder: Path, secs: float, seed: int) -> Path:
    """An audio file, in floats, so that both sides read the same samples."""
    path = folder / f"{secs}_{seed}.wav"
    sf.write(path, speech(secs, seed), SAMPLING_RATE, subtype="FLOAT")
    return path


def chats(folder: Path) -> list[list[dict[str, Any]]]:
    """Chats that end with a request: one audio, text around it, and one in an earlier turn beside a second one."""
    first, second, third = (wave(folder, secs, seed) for seed, secs in enumerate((1.3, 0.9, 1.1)))
    audio = [{"type": "audio", "audio": str(path)} for path in (first, second, third)]
    return [
        [user("Transcribe:", audio[0])],
        [user("what", audio[1], "and")],
        [user(audio[2], "who?"), assistant("Anna"), user("where", audio[0])],
    ]


def stock_turns(chat: Sequence[dict[str, Any]], audio: str) -> tuple[list[dict[str, str]], list[str]]:
    """A chat as text with `audio` in place of audios, written as the cards say, and the audios' paths."""
    turns, paths = [], []
    for turn in chat:
        parts = turn["content"] if isinstance(turn["content"], list) else [{"type": "text", "text": turn["content"]}]
        text = ""
        for part in parts:
            if part["type"] == "audio":
                text += audio
                paths.append(part["audio"])
            else:
                text += (" " if text else "") + part["text"]
        turns.append({"role": turn["role"], "content": text})
    return turns, paths


@torch.inference_mode()
def our_answers(model: Any, some: Sequence[Any]) -> list[list[int]]:
    """Token ids of greedy answers, each by itself."""
    return [_answer(model, chat) for chat in as_conversations(some)]


def _answer(model: Any, chat: Conversation) -> list[int]:
    batch = collate([chat], model.chat_format, model.sampling_rate)
    embeds, mask = model.speech_llm.prompt_embeds(batch)
    stops = model.chat_format.stop_ids
    ids = model.llm.generate(embeds, mask, max_new_tokens=NEW, stop_ids=stops)
    return until_stop(ids[0].tolist(), stops)


@torch.inference_mode()
def text_logits(llm: Any, ids: torch.Tensor) -> torch.Tensor:
    """Logits of a Hugging Face LLM."""
    return llm(input_ids=ids).logits


@torch.inference_mode()
def our_text_logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Logits of our LLM, LoRA beside its weights."""
    hidden = model.llm.hidden(model.llm.embed(ids), torch.ones_like(ids))
    return model.llm.logits(hidden)
