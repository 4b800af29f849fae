"""Bad rows, audio and settings of training, and the entry point that each is given to."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from omegaconf import OmegaConf

from tests.benchmark.bad_input_kind import Read, noted
from tests.fuzz import files
from tests.fuzz.manifest import GPT, ITEM, ROW
from vtblender_nemo.common.audio import load_samples
from vtblender_nemo.data.config import TrainConfig, read_input_cfg
from vtblender_nemo.data.sources import make_source
from vtblender_nemo.data.typed import read_config
from vtblender_nemo.data.weighted import read_sources
from vtblender_nemo.training.optim import check_schedule


def _row(kind: str, value: Any, **entry: Any) -> Read:
    """A row of a source of training, its audio decoded."""

    def read(folder: Path) -> None:
        path = files.write(folder / "rows.jsonl", value)
        where = {"cuts_path" if kind == "lhotse" else "manifest_filepath": str(path)}
        source = make_source({"type": kind, **where, **entry}, files.RATE, "data.train_ds.input_cfg[0]")
        for audio in source.conversation(0, random.Random(0)).audios:
            load_samples(audio.cut, files.RATE)

    return read


def _nemo(**changed: Any) -> Read:
    return _row("nemo", {**ROW, **changed}, prompts=["Say:"])


def _audio(content: bytes, secs: float = 0.5) -> Read:
    def read(folder: Path) -> None:
        (folder / "bad.wav").write_bytes(content)
        _nemo(audio_filepath="bad.wav", duration=secs)(folder)

    return read


def _encoded(samples: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, files.RATE, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


ROWS = [
    noted("line that is no JSON", "manifest row", "value place expected", _row("nemo", '{"a": 1', prompts=["p"])),
    noted("blank line", "manifest row", "place expected", _row("nemo", "\n{}\n", prompts=["p"])),
    noted("line that is no object", "manifest row", "value place expected", _row("text_chat", [1, 2])),
    noted("nested without end", "manifest row", "value place expected", _row("text_chat", "[" * 90_000)),
    noted("no path of its audio", "manifest row", "value place expected", _nemo(audio_filepath=3)),
    noted("duration that is no number", "manifest row", "value place expected knob", _nemo(duration="long")),
    noted("negative offset", "manifest row", "value place expected knob", _nemo(offset=-1)),
    noted("duration without end", "manifest row", "value place expected knob", _nemo(duration=10**400)),
    noted("empty transcript", "manifest row", "value place expected knob", _nemo(text=" ")),
    noted("row that is marked", "manifest row", "value place knob", _nemo(_skipme=True)),
    noted(
        "field that the wording wants",
        "manifest row",
        "value place expected knob",
        _row("nemo", ROW, prompts=["{topic}"]),
    ),
    noted(
        "unknown language",
        "manifest row",
        "value place expected knob",
        _row("nemo", {**ROW, "target_lang": "qq"}, prompts=["To {target_language}"]),
    ),
    noted(
        "unknown role",
        "chat row",
        "value place expected",
        _row("text_chat", {"messages": [{"role": "boss", "content": ""}]}),
    ),
    noted(
        "message without content",
        "chat row",
        "value place expected",
        _row("text_chat", {"messages": [{"role": "user"}]}),
    ),
    noted(
        "unknown speaker",
        "ShareGPT row",
        "value place expected",
        _row("share_gpt", {"conversations": [{"from": "x", "value": ""}]}),
    ),
    noted(
        "turns that are no list",
        "ShareGPT row",
        "value place expected",
        _row("share_gpt", {**GPT, "conversations": "hi"}),
    ),
    noted(
        "unknown type of turn",
        "mixed-modal row",
        "value place expected",
        _row("multimodal_conversation", {"conversations": [{"type": "video", "from": "user", "value": "x"}]}),
    ),
    noted(
        "alignment of other words",
        "manifest row",
        "value place expected knob",
        _row("nemo", {**ROW, "text": "other words"}, prompts=["p"], interleave={"prob": 1.0, "words": [1, 1]}),
    ),
    noted(
        "prompt without a place for audio",
        "imitation row",
        "value place expected",
        _row("imitation", {**ROW, "prompt": "Say!"}),
    ),
    noted(
        "reference that is no text",
        "test item as a source",
        "value place expected",
        _row("items", {**ITEM, "reference": 3}),
    ),
    noted(
        "cut that is a command",
        "Lhotse cut",
        "value place expected knob",
        _row("lhotse", files.cut("command", "true"), prompts=["p"]),
    ),
    noted(
        "row that is no cut", "Lhotse cut", "value place expected", _row("lhotse", files.supervision(), prompts=["p"])
    ),
]

AUDIO = [
    noted("missing file", "audio", "place expected knob", _nemo(audio_filepath="no.wav")),
    noted("file that is no audio", "audio", "place expected", _audio(b"hello")),
    noted("empty file", "audio", "place expected", _audio(b"")),
    noted("shorter than its row says", "audio", "value place expected knob", _nemo(duration=5.0)),
    noted(
        "samples that are not finite",
        "audio",
        "value place expected",
        _audio(_encoded(np.full(8000, np.nan, np.float32))),
    ),
    noted(
        "part outside of the file",
        "audio",
        "value place expected knob",
        _row(
            "items",
            {**ITEM, "messages": [{"role": "user", "content": [{"type": "audio", "audio": "a.wav", "offset": 9.0}]}]},
        ),
    ),
    noted("name that a shell would run", "audio", "value place expected knob", _nemo(audio_filepath="$(id).sph")),
]


def _tarred(**changed: Any) -> Read:
    def read(folder: Path) -> None:
        tars = changed.get("tars") or str(folder / "audio.tar")
        _row("nemo_tarred", {**ROW, **changed.get("row", {})}, prompts=["p"], tarred_audio_filepaths=tars)(folder)

    return read


def _cut_off(folder: Path) -> None:
    whole = (folder / "audio.tar").read_bytes()
    (folder / "audio.tar").write_bytes(whole[:20_000])
    _tarred()(folder)


def _missing_shard(folder: Path) -> None:
    _tarred(row={"shard_id": 7}, tars=[str(folder / "audio.tar")] * 3)(folder)


ARCHIVES = [
    noted("tar without the file", "tarred audio", "value place expected", _tarred(row={"audio_filepath": "no.wav"})),
    noted("tar that is cut off", "tarred audio", "place expected", _cut_off),
    noted("row without its shard", "tarred audio", "value place expected", _missing_shard),
    noted("missing tar", "tarred audio", "place expected knob", _tarred(tars="no.tar")),
]


def _input_cfg(text: str) -> Read:
    def read(folder: Path) -> None:
        path = folder / "input_cfg.yaml"
        path.write_text(text.replace("FOLDER", str(folder)), encoding="utf-8")
        files.write(folder / "rows.jsonl", ROW)
        read_sources(str(path), sampling_rate=files.RATE, temperature=1.0, place="data.train_ds.input_cfg")

    return read


def _train(**values: Any) -> Read:
    return lambda folder: read_config(TrainConfig, values, "data.train_ds").check("data.train_ds")


_ENTRY = "{type: nemo, manifest_filepath: FOLDER/rows.jsonl, prompts: [p]"
SETTINGS = [
    noted("file that is no YAML", "input_cfg", "place knob", _input_cfg("- {type: nemo")),
    noted("no list of sources", "input_cfg", "value place expected knob", _input_cfg("a: b")),
    noted(
        "missing file of sources",
        "input_cfg",
        "place knob",
        lambda folder: read_input_cfg(str(folder / "no.yaml"), "input_cfg"),
    ),
    noted("unknown type of source", "input_cfg", "value place expected knob", _input_cfg("- {type: nemmo}")),
    noted(
        "key that a type does not have",
        "input_cfg",
        "value place expected knob",
        _input_cfg(f"- {_ENTRY}, cuts_path: x}}"),
    ),
    noted(
        "missing manifest", "input_cfg", "place knob", _input_cfg("- {type: text_chat, manifest_filepath: no.jsonl}")
    ),
    noted(
        "weights for some only",
        "input_cfg",
        "value place expected knob",
        _input_cfg(f"- {_ENTRY}, weight: 1.0}}\n- {_ENTRY}, name: b}}"),
    ),
    noted(
        "two sources of one name", "input_cfg", "value place expected knob", _input_cfg(f"- {_ENTRY}}}\n- {_ENTRY}}}")
    ),
    noted(
        "pattern of too many files",
        "input_cfg",
        "value place expected knob",
        _input_cfg("- {type: text_chat, manifest_filepath: 'a_{0..99999999}.json'}"),
    ),
    noted("unknown key", "training data", "value place expected knob", _train(batch_size=1, shufle=True)),
    noted("value of another type", "training data", "value place expected knob", _train(batch_size="many")),
    noted("micro-batches without a bound", "training data", "place expected knob", _train()),
    noted("number out of range", "training data", "value place expected knob", _train(batch_size=1, max_duration=-1.0)),
    noted("unknown choice", "training data", "value place expected knob", _train(batch_size=1, on_bad_row="ignore")),
    noted(
        "bins and sizes that do not match",
        "training data",
        "value place expected knob",
        _train(bucket_batch_size=[1], bucket_bins=[5.0]),
    ),
    noted("unknown effect", "training data", "value place expected knob", _train(batch_size=1, augment={"echo": {}})),
    noted(
        "warm-up longer than the training",
        "optimiser",
        "value place expected knob",
        lambda folder: check_schedule(OmegaConf.create({"warmup_steps": 50, "min_lr": 0.0}), 10),
    ),
]
