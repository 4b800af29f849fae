"""Bad model files, evaluation sets, inputs of synthesis and requests; all kinds of bad input together."""

from __future__ import annotations

import base64
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.benchmark import bad_input_training as training
from tests.benchmark.bad_input_kind import Read, noted
from tests.fuzz import files
from tests.fuzz.manifest import CHAT, ITEM, ROW
from tests.helpers.hostile import CONFIG, write_archive
from vtblender_nemo.common.nemo_archive import WEIGHTS_FILE, check_archive
from vtblender_nemo.common.trusted_classes import RECOGNISER, VTBLENDER
from vtblender_nemo.evaluation.items import read_items
from vtblender_nemo.evaluation.scores import read_scores
from vtblender_nemo.evaluation.tasks import load_tasks
from vtblender_nemo.serving.api.schemas import ChatRequest
from vtblender_nemo.serving.config import ServerConfig
from vtblender_nemo.serving.engine.requests import Sampling
from vtblender_nemo.serving.uploads import AudioLimits, decode_upload
from vtblender_nemo.synthesis.imitation.tasks import load_bank
from vtblender_nemo.synthesis.inputs.chats import open_chats
from vtblender_nemo.synthesis.inputs.speech import open_speech
from vtblender_nemo.synthesis.speech_qa.prompts import load_prompts
from vtblender_nemo.synthesis.tts.blend import read_blend


def _archive(config: Any = None, **more: Any) -> Read:
    def read(folder: Path) -> None:
        text = (
            config
            if isinstance(config, str)
            else files.dumped(config or {"target": "vtblender_nemo.models.vtblender.VTBlenderModel"})
        )
        inside = {CONFIG: text.encode(), WEIGHTS_FILE: b"x"}
        inside = {name: content for name, content in inside.items() if name != more.get("without")}
        info = more.get("member")
        check_archive(
            write_archive(folder / "m.nemo", inside, last=[info] if info else []), more.get("trusted", VTBLENDER)
        )

    return read


def _no_tar(folder: Path) -> None:
    check_archive(files.write(folder / "m.nemo", "hello"), VTBLENDER)


def _weights(content: bytes) -> Read:
    def read(folder: Path) -> None:
        from vtblender_nemo.common.nemo_restore import load_weights

        (folder / WEIGHTS_FILE).write_bytes(content)
        load_weights(folder / WEIGHTS_FILE)

    return read


_ASR = "nemo.collections.asr.models.EncDecMultiTaskModel"
MODELS = [
    noted("missing file", ".nemo file", "place expected", lambda folder: check_archive(folder / "no.nemo", VTBLENDER)),
    noted("file that is no archive", ".nemo file", "place expected", _no_tar),
    noted("archive without weights", ".nemo file", "place expected", _archive(without=WEIGHTS_FILE)),
    noted("member outside of it", ".nemo file", "value place expected", _archive(member=tarfile.TarInfo("../x"))),
    noted("member that stands twice", ".nemo file", "value place expected", _archive(member=tarfile.TarInfo(CONFIG))),
    noted("model of another kind", ".nemo file", "value place expected knob", _archive({"target": _ASR})),
    noted(
        "class of others",
        ".nemo file",
        "value place expected knob",
        _archive({"target": _ASR, "encoder": [{"_target_": "os.system"}]}, trusted=RECOGNISER),
    ),
    noted(
        "value of the environment",
        ".nemo file",
        "value place expected knob",
        _archive({"target": _ASR, "a": "${oc.env:X}"}, trusted=RECOGNISER),
    ),
    noted("configuration that is no YAML", ".nemo file", "place expected", _archive("target: [")),
    noted("weights that are no tensors", ".nemo file", "place expected", _weights(b"cos\nsystem\n(S'true'\ntR.")),
]


def _items(*rows: Any) -> Read:
    def read(folder: Path) -> None:
        path = folder / "items.jsonl"
        path.write_text("".join(f"{files.dumped(row)}\n" for row in rows), encoding="utf-8")
        read_items(path)

    return read


def _tasks(text: str) -> Read:
    def read(folder: Path) -> None:
        files.write(folder / "items.jsonl", ITEM)
        (folder / "tasks.yaml").write_text(text.replace("FOLDER", str(folder)), encoding="utf-8")
        load_tasks(folder / "tasks.yaml")

    return read


EVALUATION = [
    noted(
        "missing field",
        "test item",
        "value place expected",
        _items({key: ITEM[key] for key in ITEM if key != "reference"}),
    ),
    noted("unknown field", "test item", "value place expected", _items({**ITEM, "refs": []})),
    noted("field of another type", "test item", "value place expected", _items({**ITEM, "id": 3})),
    noted("repeated id", "test item", "value place expected", _items(ITEM, ITEM)),
    noted(
        "item that ends with its answer",
        "test item",
        "value place expected",
        _items({**ITEM, "messages": CHAT["messages"]}),
    ),
    noted("file without rows", "test set", "place expected", _items()),
    noted("unknown kind of task", "task file", "value place expected knob", _tasks("tasks: {a: {kind: asrr}}")),
    noted(
        "unknown key of a task", "task file", "value place expected knob", _tasks("tasks: {a: {kind: asr, item: []}}")
    ),
    noted(
        "unknown measure",
        "task file",
        "value place expected knob",
        _tasks("tasks: {a: {kind: sqa, items: [FOLDER/items.jsonl], measures: [werr]}}"),
    ),
    noted(
        "variable that is not set",
        "task file",
        "place expected knob",
        _tasks("variables: {x: '???'}\ntasks: {a: {kind: sqa, items: ['${variables.x}']}}"),
    ),
    noted("folder without scores", "report", "place expected", lambda folder: read_scores(folder)),
]


def _speech(value: Any) -> Read:
    return lambda folder: open_speech([files.write(folder / "in.jsonl", value)])[0]


def _chats(value: Any, name: str = "in.jsonl") -> Read:
    return lambda folder: open_chats([str(files.write(folder / name, value))])[0]


def _yaml(read: Callable[[Path], Any], value: Any) -> Read:
    return lambda folder: read(files.write(folder / "in.yaml", value))


SYNTHESIS = [
    noted("rows of no known format", "speech to synthesise from", "value place expected knob", _speech({"a": 1})),
    noted(
        "duration of another type",
        "speech to synthesise from",
        "value place expected knob",
        _speech({**ROW, "duration": {}}),
    ),
    noted("row without a chat", "chats to speak", "value place expected", _chats({"a": 1})),
    noted("list that is no JSON", "chats to speak", "place expected knob", _chats("[1, ", "in.json")),
    noted("file of an unknown kind", "chats to speak", "place expected knob", _chats("x", "in.doc")),
    noted("parquet that is none", "chats to speak", "place expected knob", _chats("PAR1", "in.parquet")),
    noted(
        "prompts with other keys", "prompts of speech QA", "value place expected knob", _yaml(load_prompts, {"a": 1})
    ),
    noted(
        "tasks of another shape",
        "tasks of imitation",
        "value place expected knob",
        _yaml(lambda path: load_bank([path]), {"a": 1}),
    ),
    noted("unknown engine", "voices", "value place expected knob", lambda folder: read_blend([{"type": "parrot"}])),
]

_CONFIG = ServerConfig(model_name="m", max_turns=2)


def _request(**body: Any) -> Read:
    def read(folder: Path) -> None:
        request = ChatRequest.model_validate({"messages": [{"role": "user", "content": "hi"}], **body})
        request.check()
        request.sampling(_CONFIG)
        request.turns(_CONFIG, files.RATE)

    return read


def _spoken(data: str) -> Read:
    part = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
    return _request(messages=[{"role": "user", "content": [part]}])


def _upload(content: bytes) -> Read:
    return lambda folder: decode_upload(content, AudioLimits(max_secs=1.0), files.RATE)


SERVER = [
    noted("field that is not supported", "request", "value expected knob", _request(tools=[{"type": "function"}])),
    noted(
        "too many messages",
        "request",
        "value expected knob",
        _request(messages=[{"role": "user", "content": "hi"}] * 3),
    ),
    noted("audio that is no base64", "request", "value expected knob", _spoken("???")),
    noted("audio of no known format", "request", "value expected", _spoken(base64.b64encode(b"hello").decode())),
    noted("too many stop texts", "request", "value expected knob", _request(stop=["a"] * 9)),
    noted("audio that is too long", "upload", "value expected", _upload(files.wave(3.0))),
    noted("audio that is too short", "upload", "value expected", _upload(files.wave(0.001))),
    noted("temperature out of range", "engine", "value expected knob", lambda folder: Sampling(temperature=3.0)),
    noted(
        "no key for others",
        "server",
        "value expected knob",
        lambda folder: ServerConfig(model_name="m", host="0.0.0.0"),
    ),
]

KINDS = [
    *training.ROWS,
    *training.AUDIO,
    *training.ARCHIVES,
    *training.SETTINGS,
    *MODELS,
    *EVALUATION,
    *SYNTHESIS,
    *SERVER,
]
