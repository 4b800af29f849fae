"""The model classes for lmms-eval, with that harness's own base classes, registry, tasks and evaluator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers import models
from vtblender_nemo.common.errors import ConfigError, DataError

pytest.importorskip(
    "lmms_eval",
    reason='needs lmms-eval: pip install "vtblender_nemo[lmms]", or without its many own requirements '
    'pip install --no-deps "lmms_eval>=0.7,<0.8" loguru tenacity jsonlines',
)

from lmms_eval.api.instance import Instance
from lmms_eval.models.registry_v2 import ModelRegistryV2

from vtblender_nemo.evaluation.lmms import VTBlender, VTBlenderChat, audio_part, manifests

RATE = models.SAMPLING_RATE


class Heard:
    """A model that answers with what it was asked, and how long the audios are, in milliseconds."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[Any], dict[str, Any]]] = []

    def generate(self, chats: list[Any], **settings: Any) -> list[str]:
        self.calls.append((chats, settings))
        if any(
            part.get("audio") == "broken.wav"
            for chat in chats
            for part in self.parts(chat)
            if "sampling_rate" not in part
        ):
            raise DataError("broken")
        return [" | ".join(self.name(part) for part in self.parts(chat)) for chat in chats]

    @staticmethod
    def parts(chat: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [
            part
            for message in chat
            for part in (
                [{"type": "text", "text": message["content"]}]
                if isinstance(message["content"], str)
                else message["content"]
            )
        ]

    @staticmethod
    def name(part: dict[str, Any]) -> str:
        if part["type"] == "text":
            return part["text"]
        audio = part["audio"]
        return audio if isinstance(audio, str) else f"{1000 * audio.size // part['sampling_rate']} ms"


@pytest.fixture
def heard(monkeypatch) -> Heard:
    heard = Heard()
    monkeypatch.setattr(VTBlender, "_load", lambda *_: heard)
    return heard


def sound(secs: float) -> dict[str, Any]:
    return {"path": "gone.wav", "array": models.speech(secs).astype(np.float64), "sampling_rate": RATE}


def request(number: int, context: str, to_audio: Any, settings: dict[str, Any]) -> Instance:
    arguments = (context, settings, to_audio, number, "task", "test")
    return Instance("generate_until", arguments, 0, metadata={"task": "task", "doc_id": number, "repeats": 1})


def messages_request(number: int, to_messages: Any, settings: dict[str, Any]) -> Instance:
    arguments = ("", to_messages, settings, number, "task", "test")
    return Instance("generate_until", arguments, 0, metadata={"task": "task", "doc_id": number, "repeats": 1})


def answer(lm: Any, docs: list[Any], requests: list[Instance]) -> list[str]:
    lm.task_dict = {"task": {"test": docs}}
    return lm.generate_until(requests)


GREEDY = {"max_new_tokens": 64, "temperature": 0, "top_p": 1.0, "num_beams": 1, "do_sample": False}


def test_the_registry_finds_the_classes() -> None:
    registry = ModelRegistryV2()
    for manifest in manifests():
        registry.register_manifest(manifest)
    assert registry.get_model_class("vtblender") is VTBlender
    assert registry.get_model_class("vtblender_chat") is VTBlenderChat


def test_answers_come_in_order_though_the_longest_audio_is_first(heard) -> None:
    lm = VTBlender.create_from_arg_string(
        "pretrained=x.nemo", {"batch_size": 2, "device": "cpu", "max_batch_size": None}
    )
    docs = [sound(secs) for secs in (0.1, 0.3, 0.2)]
    found = answer(lm, docs, [request(n, f"Ask {n}", lambda doc: [doc], GREEDY) for n in range(3)])
    assert found == ["100 ms | Ask 0", "300 ms | Ask 1", "200 ms | Ask 2"]
    assert [len(chats) for chats, _ in heard.calls] == [2, 1]
    assert heard.calls[0][1] == {"max_new_tokens": 64, "part_secs": None}
    assert heard.calls[0][0][0][0]["content"][0]["audio"].dtype == np.float32


def test_items_without_words_are_asked_the_prompt(heard) -> None:
    plain = answer(VTBlender("x.nemo"), [sound(0.1)], [request(0, "", lambda doc: [doc], GREEDY)])
    told = VTBlender("x.nemo", prompt="Write down what you hear.", system="Be brief.")
    assert plain == ["100 ms |  | Transcribe:"]
    found = answer(told, [sound(0.1)], [request(0, "", lambda doc: [doc], GREEDY)])
    assert found == ["Be brief. | 100 ms |  | Write down what you hear."]


def test_requests_of_other_settings_are_batches_of_their_own(heard) -> None:
    lm = VTBlender("x.nemo", batch_size=8, max_new_tokens=100)
    drawn = {"max_new_tokens": 4096, "temperature": 0.7, "top_p": 0.9, "until": ["|"]}
    docs = [sound(0.1)] * 3
    found = answer(lm, docs, [request(n, "Ask", lambda doc: [doc], drawn if n else {}) for n in range(3)])
    assert found == ["100 ms | Ask", "100 ms ", "100 ms "]  # cut at `until`
    assert [settings for _, settings in heard.calls] == [
        {"max_new_tokens": 100, "part_secs": None},
        {"max_new_tokens": 100, "part_secs": None, "temperature": 0.7, "top_p": 0.9, "do_sample": True},
    ]


def test_an_item_with_broken_audio_fails_alone(heard) -> None:
    docs = [sound(0.1), "broken.wav", sound(0.2)]
    requests = [request(n, "Ask", lambda doc: [doc], GREEDY) for n in range(3)]
    assert answer(VTBlender("x.nemo", batch_size=3), docs, requests) == ["100 ms | Ask", "", "200 ms | Ask"]


def test_messages_keep_every_audio_in_its_place(heard) -> None:
    def to_messages(doc: Any) -> list[dict[str, Any]]:
        content = [
            {"type": "text", "text": "First:"},
            {"type": "audio", "url": doc[0]},
            {"type": "text", "text": "then"},
            {"type": "video", "url": doc[1]},
        ]
        return [
            {"role": "user", "content": content},
            {"role": "assistant", "content": [{"type": "text", "text": "Yes."}]},
            {"role": "user", "content": [{"type": "audio", "url": "c.wav"}]},
        ]

    found = answer(VTBlenderChat("x.nemo"), [(sound(0.1), sound(0.2))], [messages_request(0, to_messages, GREEDY)])
    assert found == ["First: | 100 ms | then | 200 ms | Yes. | c.wav"]
    assert [message["role"] for message in heard.calls[0][0][0]] == ["user", "assistant", "user"]


@pytest.mark.parametrize("part", [{"type": "image", "url": "a.png"}, {"type": "video", "url": "a.mp4"}])
def test_pictures_are_refused(heard, part) -> None:
    def to_messages(doc: Any) -> list[dict[str, Any]]:
        return [{"role": "user", "content": [part, {"type": "text", "text": "What is it?"}]}]

    with pytest.raises(ConfigError, match="audio and text only"):
        answer(VTBlenderChat("x.nemo"), [None], [messages_request(0, to_messages, GREEDY)])


def test_audio_of_datasets_decoder_is_read() -> None:
    class Samples:
        data, sample_rate = np.zeros((1, 160), dtype=np.float32), 8000

    class Decoder:
        def get_all_samples(self) -> Samples:
            return Samples()

    part = audio_part(Decoder())
    assert (part["audio"].shape, part["sampling_rate"]) == ((1, 160), 8000)
    assert audio_part({"path": "a.wav", "array": None}) == {"type": "audio", "audio": "a.wav"}
    with pytest.raises(DataError, match="int"):
        audio_part(3)


def test_a_real_model_hears(vtblender, monkeypatch) -> None:
    monkeypatch.setattr(VTBlender, "_load", lambda *_: vtblender)
    found = answer(
        VTBlender("x.nemo", max_new_tokens=4, batch_size=2),
        [sound(0.3), sound(0.5)],
        [request(n, "hello", lambda doc: [doc], GREEDY) for n in range(2)],
    )
    chats = [[models.user(models.audio_part(secs), "hello")] for secs in (0.3, 0.5)]
    assert found == vtblender.generate(chats, max_new_tokens=4)


def test_a_task_runs_through_the_evaluator(heard, tmp_path, monkeypatch) -> None:
    """A task file in lmms-eval's format, of the shape that its audio tasks have."""
    evaluator = pytest.importorskip("lmms_eval.evaluator")
    tasks = pytest.importorskip("lmms_eval.tasks")
    rows = [{"secs": 0.1, "said": "100 ms | Ask"}, {"secs": 0.2, "said": "something else"}]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "utils.py").write_text(
        "import numpy as np\n"
        "def audio(doc):\n"
        f"    return [{{'array': np.zeros(int(doc['secs'] * {RATE})), 'sampling_rate': {RATE}}}]\n"
        "def text(doc, lmms_eval_specific_kwargs=None):\n"
        "    return 'Ask'\n"
        "def process(doc, results):\n"
        "    return {'hit': float(results[0] == doc['said'])}\n"
        "def mean(values):\n"
        "    return sum(values) / len(values)\n"
    )
    (tmp_path / "tasks" / "heard.yaml").write_text(
        "task: heard\n"
        "dataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {data}}}}}\n"
        "test_split: test\n"
        "output_type: generate_until\n"
        "doc_to_visual: !function utils.audio\n"
        "doc_to_text: !function utils.text\n"
        "doc_to_target: said\n"
        "process_results: !function utils.process\n"
        "generation_kwargs: {max_new_tokens: 16, temperature: 0, do_sample: false}\n"
        "metric_list:\n"
        "  - {metric: hit, aggregation: !function utils.mean, higher_is_better: true}\n"
    )
    manager = tasks.TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False)
    results = evaluator.simple_evaluate(
        model=VTBlender("x.nemo", batch_size=2), tasks=["heard"], task_manager=manager, bootstrap_iters=0
    )
    assert results["results"]["heard"]["hit,none"] == 0.5


def test_wrong_settings_are_named(heard) -> None:
    with pytest.raises(ConfigError, match=r"batch_size"):
        VTBlender("x.nemo", batch_size="auto")
    with pytest.raises(ConfigError, match=r"generate_until"):
        VTBlender("x.nemo").loglikelihood([])
    with pytest.raises(ConfigError, match=r"generate_until"):
        VTBlender("x.nemo").generate_until_multi_round([])


def test_arguments_come_as_text_or_numbers(heard) -> None:
    lm = VTBlender.create_from_arg_string("pretrained=x.nemo,part_secs=30,max_new_tokens=7,prompt=Hear")
    assert answer(lm, [sound(0.1)], [request(0, "", lambda doc: [doc], {})]) == ["100 ms |  | Hear"]
    assert heard.calls[0][1] == {"max_new_tokens": 7, "part_secs": 30}


def test_the_path_of_a_manifest_is_this_module() -> None:
    assert Path(__import__("vtblender_nemo.evaluation.lmms", fromlist=["x"]).__file__).name == "lmms.py"
