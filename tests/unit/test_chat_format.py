"""Chat templates learned by rendering: pieces, masks, stops, and one prefix for training and inference."""

from __future__ import annotations

import numpy as np
import pytest

from tests.helpers.tokenizer import GEMMA_TEMPLATE, make_tokenizer
from vtblender_nemo.common.audio import cut_from_array
from vtblender_nemo.common.chat import ChatFormat
from vtblender_nemo.common.conversation import Audio, Text, Turn
from vtblender_nemo.common.errors import ConfigError, DataError

TAG = "<unused0>"

LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}"
    "{{ m.content | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
QWEN25 = (
    "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nYou are Qwen.<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# As Qwen3 does, an empty thought stands before the last answer and in the prompt, and is taken out of earlier answers.
QWEN3 = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
TEMPLATES = {
    "gemma": (GEMMA_TEMPLATE, ()),
    "llama3": (LLAMA3, ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")),
    "qwen2.5": (QWEN25, ("<|im_start|>", "<|im_end|>")),
    "qwen3": (QWEN3, ("<|im_start|>", "<|im_end|>")),
    "mistral": (MISTRAL, ()),
}


def make_format(name: str = "gemma") -> ChatFormat:
    template, special = TEMPLATES[name]
    return ChatFormat(make_tokenizer(template, special), TAG)


def user(*parts: str | Audio) -> Turn:
    return Turn("user", tuple(Text(part) if isinstance(part, str) else part for part in parts))


def model(text: str) -> Turn:
    return Turn("assistant", (Text(text),))


def audio() -> Audio:
    return Audio(cut_from_array(np.zeros(160, np.float32), 16000))


def test_gemma_ids_and_mask_are_those_written_by_hand():
    chat = make_format()
    prompt = chat.encode([user("hi"), model("yo")])
    names = chat.tokenizer.convert_ids_to_tokens(prompt.ids)
    opening = [
        "<bos>",
        "<start_of_turn>",
        *"user",
        "Ċ",
        "h",
        "i",
        "<end_of_turn>",
        "Ċ",
        "<start_of_turn>",
        *"model",
        "Ċ",
    ]
    assert names == [*opening, "y", "o", "<end_of_turn>", "Ċ"]
    assert prompt.loss_mask == [False] * len(opening) + [True] * 4


@pytest.mark.parametrize("name", TEMPLATES)
def test_inference_prompt_is_the_prefix_of_every_training_answer(name):
    chat = make_format(name)
    turns = [user("one"), model("first"), user("two", audio()), model("second"), user("three"), model("third")]
    whole = chat.encode(turns)
    for answered in (1, 3, 5):
        prompt = chat.encode(turns[:answered])
        assert whole.ids[: len(prompt.ids)] == prompt.ids
        assert whole.loss_mask[len(prompt.ids)], "the answer begins where the prompt ends"
        assert not prompt.loss_mask[-1]


@pytest.mark.parametrize("name", TEMPLATES)
def test_prompt_of_one_turn_is_what_the_template_renders(name):
    chat = make_format(name)
    rendered = chat.tokenizer.apply_chat_template(
        [{"role": "user", "content": "hello there"}], tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    assert chat.encode([user("hello there")]).ids == chat.tokenizer.encode(rendered, add_special_tokens=False)


@pytest.mark.parametrize("name", ["gemma", "llama3", "qwen2.5", "mistral"])
def test_training_ids_are_what_the_template_renders(name):
    chat = make_format(name)
    messages = [("user", "a b"), ("assistant", "c d"), ("user", "e"), ("assistant", "f")]
    rendered = chat.tokenizer.apply_chat_template(
        [{"role": role, "content": text} for role, text in messages], tokenize=False
    )
    turns = [Turn(role, (Text(text),)) for role, text in messages]
    assert chat.encode(turns).ids == chat.tokenizer.encode(rendered, add_special_tokens=False)


@pytest.mark.parametrize("name", TEMPLATES)
def test_loss_is_on_answers_and_their_ends_alone(name):
    chat = make_format(name)
    prompt = chat.encode([user("xx"), model("yy"), user("xx"), model("zz")])
    learned = chat.tokenizer.decode([i for i, on in zip(prompt.ids, prompt.loss_mask, strict=True) if on])
    assert "yy" in learned
    assert "zz" in learned
    assert "xx" not in learned
    assert "user" not in learned


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("gemma", "<end_of_turn>"),
        ("llama3", "<|eot_id|>"),
        ("qwen2.5", "<|im_end|>"),
        ("qwen3", "<|im_end|>"),
        ("mistral", "<eos>"),
    ],
)
def test_generation_stops_at_the_end_of_a_turn_and_of_a_text(name, end):
    chat = make_format(name)
    assert set(chat.stop_ids) == {chat.tokenizer.convert_tokens_to_ids(end), chat.tokenizer.eos_token_id}


def test_an_audio_is_one_locator_and_stands_where_it_was_put():
    chat = make_format()
    ids = chat.encode([user("a", audio(), "b", audio())]).ids
    places = [number for number, id in enumerate(ids) if id == chat.audio_locator_id]
    names = chat.tokenizer.convert_ids_to_tokens(ids)
    assert [names[place - 1] for place in places] == ["a", "b"]
    assert len(places) == 2


def test_a_tag_that_the_vocabulary_lacks_is_added():
    chat = ChatFormat(make_tokenizer(), "<|audio|>")
    assert chat.audio_locator_id == 263
    assert chat.encode([user(audio())]).ids.count(263) == 1


@pytest.mark.parametrize("name", ["llama3", "qwen2.5", "qwen3"])
def test_a_system_text_goes_to_the_template_s_own_place(name):
    chat = make_format(name)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
    rendered = chat.tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    turns = [Turn("system", (Text("Be brief."),)), user("hi")]
    assert chat.encode(turns).ids == chat.tokenizer.encode(rendered, add_special_tokens=False)


@pytest.mark.parametrize("name", ["gemma", "mistral"])
def test_a_template_without_system_role_gets_it_before_the_user_s_text(name):
    chat = make_format(name)
    with_system = chat.encode([Turn("system", (Text("Be brief."),)), user("hi")])
    assert with_system.ids == chat.encode([user("Be brief.\n\nhi")]).ids


def test_surrounding_space_does_not_count():
    chat = make_format()
    assert chat.encode([user("  hi \n"), model(" yo ")]).ids == chat.encode([user("hi"), model("yo")]).ids


def test_decode_leaves_special_tokens_out():
    chat = make_format()
    assert chat.decode(chat.tokenizer.encode("Grüß dich<end_of_turn>\n", add_special_tokens=False)) == "Grüß dich"


def test_the_tag_inside_a_text_is_refused():
    with pytest.raises(DataError, match=f"locator tag stands inside a text.*{TAG}.*audio_locator_tag"):
        make_format().encode([user(f"look: {TAG}")])


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "no chat template"),
        ("{% for m in messages %}{{ m.role }}{% endfor %}", "drops or repeats the content"),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "ends an answer with nothing"),
        (
            "{% for m in messages %}{{ loop.index ~ ':' ~ m.content ~ '<eos>' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ messages | length }}{% endif %}",
            "second turn otherwise than the first",
        ),
    ],
)
def test_a_tokenizer_without_usable_turns_is_refused(template, message):
    with pytest.raises(ConfigError, match=f"{message}.*pretrained_llm"):
        ChatFormat(make_tokenizer(template), TAG)


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([], "without turns"),
        ([model("a")], "wrong role"),
        ([user("a"), user("b")], "wrong role"),
        ([user("a"), Turn("system", (Text("b"),))], "wrong role"),
        ([user(" ")], "empty turn"),
        ([user("a"), Turn("assistant", (audio(),))], "audio in a turn that is not the user's"),
    ],
)
def test_turns_out_of_order_are_refused(turns, message):
    with pytest.raises(DataError, match=message):
        make_format().encode(turns)
