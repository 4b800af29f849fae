"""Conversation -> token ids: the one function behind training targets and inference prompts.

The tokenizer's own chat template is rendered a few times, when `ChatFormat` is made, to learn what stands around a system text,
a user text and an answer. Conversations are then composed of these pieces, each tokenised alone: the ids of a training
conversation up to an answer equal the ids of the inference prompt of the same turns, whatever the template does elsewhere
(Qwen3's, for one, writes the last answer otherwise than earlier ones).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vtblender_nemo.common.conversation import Audio, Turn, check_turns
from vtblender_nemo.common.errors import ConfigError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEMPLATE_DATE = "26 Jul 2024"
"""What templates that state the date (Llama 3's) are given: ids must not change from one day to the next."""

_HALF_CHARACTER = re.compile("[\ud800-\udfff]")  # JSON can hold one; no tokenizer can

# What stands in place of contents while the template is learned; words, as templates trim and some escape.
_SYSTEM, _USER, _ANSWER, _NEXT_USER = "SYSTEMCONTENT", "USERCONTENT", "ANSWERCONTENT", "NEXTCONTENT"


@dataclass(frozen=True)
class PromptIds:
    """A conversation as token ids.

    Attributes:
        ids: one id a token; an audio is one `audio_locator_id`, to be replaced by its frames.
        loss_mask: True where the token belongs to an assistant's answer, its end-of-turn included.
        twin: the ids of the conversation's twin, where it is asked for; its targets are the same, one by one.
    """

    ids: list[int]
    loss_mask: list[bool]
    twin: PromptIds | None = None


class ChatFormat:
    """The pieces of a chat template, and the locator token.

    Args:
        tokenizer: a Hugging Face tokenizer with a chat template.
        audio_locator_tag: the token that marks the place of an audio. It is added to the tokenizer when its vocabulary lacks
            it; its embedding is never used.

    Attributes:
        audio_locator_id: the tag's token id.
        stop_ids: ids that end an answer.

    Raises:
        ConfigError: the tokenizer has no chat template, or the template drops what turns contain or ends answers with nothing.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, audio_locator_tag: str) -> None:
        if not tokenizer.chat_template:
            raise ConfigError(
                "the tokenizer has no chat template",
                value=tokenizer.name_or_path,
                expected="the tokenizer of an instruction-tuned LLM",
                knob="model.pretrained_llm",
            )
        self.tokenizer = tokenizer
        self.audio_locator_tag = audio_locator_tag
        if audio_locator_tag not in tokenizer.get_vocab():
            tokenizer.add_tokens([audio_locator_tag], special_tokens=True)
        self.audio_locator_id: int = tokenizer.convert_tokens_to_ids(audio_locator_tag)
        # As text they would open and close turns, or stand for audio.
        controls = sorted({audio_locator_tag, *tokenizer.all_special_tokens}, key=len, reverse=True)
        self._control_tokens = re.compile("|".join(map(re.escape, controls)))
        self._learn_template()
        self.stop_ids = self._find_stop_ids()

    def encode(self, turns: Sequence[Turn]) -> PromptIds:
        """Token ids of a conversation: a training example if it ends with the assistant, else a prompt to be answered.

        Raises:
            DataError: turns in a wrong order, or a text that holds a control token or is no Unicode.
        """
        check_turns(turns, answered=bool(turns) and turns[-1].role == "assistant")
        system, dialogue = ("", turns) if turns[0].role != "system" else (self._content(turns[0]), turns[1:])
        texts: list[tuple[str, bool]] = []
        for position, turn in enumerate(dialogue):
            content = self._content(turn)
            if turn.role == "assistant":
                texts.append((self._answer_start + content + self._answer_end, True))
            elif position == 0:
                texts.append((self._open(system, content), False))
            else:
                texts.append((self._before_next_user + content + self._after_user, False))
        return self._tokenize(texts)

    @property
    def answer_end_ids(self) -> list[int]:
        """The ids that close an answer."""
        return self.tokenizer.encode(self._answer_end, add_special_tokens=False)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of generated ids, without special tokens and surrounding space."""
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()

    def _tokenize(self, texts: list[tuple[str, bool]]) -> PromptIds:
        """Ids of texts and whether each is an answer; every stretch between audios is tokenised alone."""
        pieces = [text.split(self.audio_locator_tag) for text, _ in texts]
        flat = [piece for row in pieces for piece in row if piece]
        # In one call, as most of its cost is fixed.
        ids_of = iter(self.tokenizer(flat, add_special_tokens=False)["input_ids"])
        ids: list[int] = []
        loss_mask: list[bool] = []
        for row, (_, is_answer) in zip(pieces, texts, strict=True):
            for position, piece in enumerate(row):
                if position:
                    ids.append(self.audio_locator_id)
                if piece:
                    ids += next(ids_of)
            loss_mask += [is_answer] * (len(ids) - len(loss_mask))
        return PromptIds(ids, loss_mask)

    def _open(self, system: str, content: str) -> str:
        """The text up to the first answer; a template without system role gets it at the head of the user's text."""
        if not system:
            return self._before_user + content + self._after_user
        if self._around_system is None:
            return f"{self._before_user}{system}\n\n{content}{self._after_user}"
        before, between = self._around_system
        return before + system + between + content + self._after_user

    def _content(self, turn: Turn) -> str:
        """A turn's parts as one text: a locator tag for an audio, a space before a text that follows another part."""
        content = ""
        for part in turn.parts:
            if isinstance(part, Audio):
                content += self.audio_locator_tag
            elif (control := self._control_tokens.search(part.text)) is not None:
                is_locator = control[0] == self.audio_locator_tag
                raise DataError(
                    f"{'the audio locator tag' if is_locator else 'a control token'} stands inside a text",
                    value=part.text,
                    expected=f"text without {control[0]}",
                    knob="model.audio_locator_tag" if is_locator else None,
                )
            elif _HALF_CHARACTER.search(part.text):
                raise DataError("text with half of a character", value=ascii(part.text), expected="Unicode text")
            else:
                content = joined((content, part.text))
        return content

    def _learn_template(self) -> None:
        user = {"role": "user", "content": _USER}
        answer = {"role": "assistant", "content": _ANSWER}
        next_user = {"role": "user", "content": _NEXT_USER}
        self._before_user, self._after_user = self._split(self._render([user]), _USER)
        before_answer, self._answer_end = self._split(self._render([user, answer], prompt=False), _ANSWER)
        prompt = self._before_user + _USER + self._after_user
        # Mistral's has a space here: an answer's first token is learned with it, as the LLM has learned it.
        self._answer_start = before_answer.removeprefix(prompt) if before_answer.startswith(prompt) else ""
        if not self._answer_end.strip():
            raise self._unusable("ends an answer with nothing")
        _, rest = self._split(self._render([user, answer, next_user]), _ANSWER)
        between, after = self._split(rest, _NEXT_USER)
        if not between.startswith(self._answer_end) or after != self._after_user:
            raise self._unusable("renders a second turn otherwise than the first")
        self._before_next_user = between.removeprefix(self._answer_end)
        self._around_system = self._learn_system(user)

    def _learn_system(self, user: dict[str, str]) -> tuple[str, str] | None:
        from jinja2.exceptions import TemplateError

        try:
            text = self._render([{"role": "system", "content": _SYSTEM}, user])
        except TemplateError:  # how templates without a system role refuse it
            return None
        if _SYSTEM not in text:
            return None
        before, rest = self._split(text, _SYSTEM)
        return before, self._split(rest, _USER)[0]

    def _render(self, messages: list[dict[str, str]], *, prompt: bool = True) -> str:
        return self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=prompt, enable_thinking=False, date_string=TEMPLATE_DATE
        )

    def _split(self, text: str, mark: str) -> tuple[str, str]:
        if text.count(mark) != 1:
            raise self._unusable("drops or repeats the content of a turn")
        before, after = text.split(mark)
        return before, after

    def _unusable(self, what: str) -> ConfigError:
        return ConfigError(
            f"the chat template {what}",
            value=self.tokenizer.name_or_path,
            expected="a template with user and assistant turns, each with an end",
            knob="model.pretrained_llm",
        )

    def _find_stop_ids(self) -> tuple[int, ...]:
        end = self.tokenizer.encode(self._answer_end.strip(), add_special_tokens=False)[:1]
        eos = [] if self.tokenizer.eos_token_id is None else [self.tokenizer.eos_token_id]
        return tuple(dict.fromkeys(end + eos))


def joined(texts: Iterable[str]) -> str:
    """Texts of one turn as prompts have them: without the space around each, and a space between them."""
    return " ".join(filter(None, map(str.strip, texts)))
