"""The tiny tokenizer: seams make no difference, and chats are Gemma's."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vtblender_nemo.tiny.chats import ChatMaker
from vtblender_nemo.tiny.llm import chat_format_of, make_tokenizer, turns_of
from vtblender_nemo.tiny.splits import hold_out
from vtblender_nemo.tiny.tokenizer import LOCATOR, SPECIAL_TOKENS

_CHATS = list(islice(ChatMaker(hold_out(10, 2, seed=0), seed=0).chats(), 800))
_TOKENIZER = make_tokenizer(iter(_CHATS), 1700)

TEXTS = st.text(alphabet="abcAZ .:?,'ä9", max_size=12)


def ids_of(text):
    return _TOKENIZER.encode(text, add_special_tokens=False)


@settings(max_examples=300, deadline=None)
@given(TEXTS, TEXTS, st.sampled_from(["", " "]), st.sampled_from(["", " "]))
def test_a_text_has_the_tokens_of_its_parts(one, other, after, before):
    """However a turn is cut at a space, and whoever keeps that space."""
    assert ids_of(f"{one} {other}") == ids_of(one + after) + ids_of(before + other)


def test_the_empty_text_has_no_tokens():
    assert ids_of("") == ids_of(" ") == []


def test_special_tokens_have_gemmas_ids():
    assert _TOKENIZER.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == list(range(7))
    assert (_TOKENIZER.pad_token_id, _TOKENIZER.eos_token_id, _TOKENIZER.bos_token_id) == (0, 1, 2)
    assert LOCATOR == "<unused0>"


def test_a_prompt_in_tokens():
    text = _TOKENIZER.apply_chat_template(
        [{"role": "user", "content": " Repeat: Anna. "}], tokenize=False, add_generation_prompt=True
    )
    assert text == "<bos><start_of_turn>user\nRepeat: Anna.<end_of_turn>\n<start_of_turn>model\n"
    assert _TOKENIZER.convert_ids_to_tokens(ids_of(text)) == [
        "<bos>", "<start_of_turn>", "▁user", "\n", "▁Repeat", ":", "▁Anna", ".", "<end_of_turn>", "\n",
        "<start_of_turn>", "▁model", "\n",
    ]  # fmt: skip


def test_the_template_refuses_what_gemmas_refuses():
    for messages in ([{"role": "system", "content": "x"}], [{"role": "assistant", "content": "x"}]):
        with pytest.raises(Exception, match="not supported|must alternate"):
            _TOKENIZER.apply_chat_template(messages, tokenize=False)


def test_training_ids_are_those_of_the_rendered_template():
    """The pieces that conversations are composed of add up to the template's own text."""
    chat_format = chat_format_of(_TOKENIZER)
    for chat in _CHATS[:50]:
        rendered = _TOKENIZER.apply_chat_template(chat.messages(), tokenize=False)
        prompt = chat_format.encode(turns_of(chat.messages()))
        assert prompt.ids == ids_of(rendered)
        answers = [e.answer + "<end_of_turn>\n" for e in chat.exchanges]
        masked = [token for token, answered in zip(prompt.ids, prompt.loss_mask, strict=True) if answered]
        assert masked == [token for answer in answers for token in ids_of(answer)]


def test_answers_survive_decoding():
    for chat in _CHATS:
        for exchange in chat.exchanges:
            ids = ids_of(exchange.answer + "<end_of_turn>\n")
            assert _TOKENIZER.unk_token_id not in ids
            assert _TOKENIZER.decode(ids, skip_special_tokens=True).strip() == exchange.answer


def test_what_a_user_may_type_is_never_unknown():
    assert _TOKENIZER.unk_token_id not in ids_of("Où? No: ¿Qué! Straße #5 @home (x+y)=z".replace("ù", "u"))


def test_a_saved_tokenizer_is_the_same(tmp_path):
    from transformers import AutoTokenizer

    _TOKENIZER.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for chat in _CHATS[:50]:
        rendered = loaded.apply_chat_template(chat.messages(), tokenize=False)
        assert loaded.encode(rendered, add_special_tokens=False) == ids_of(rendered)
    assert loaded.padding_side == "left"
