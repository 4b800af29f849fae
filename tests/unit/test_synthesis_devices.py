from __future__ import annotations

import logging

import pytest
import torch

from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.synthesis.devices import check_gpus, open_device


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


def test_falling_to_the_cpu_is_said(no_gpu: None, caplog: pytest.LogCaptureFixture) -> None:
    assert open_device("auto", "the recogniser", "gate.device") == torch.device("cpu")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert (
        record.getMessage() == "no GPU is visible: the recogniser runs on the CPU (gate.device cpu says that it shall)"
    )


def test_cpu_that_was_asked_for_is_not_said(no_gpu: None, caplog: pytest.LogCaptureFixture) -> None:
    assert open_device("cpu", "the recogniser", "gate.device") == torch.device("cpu")
    assert not caplog.records


def test_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert open_device("auto", "x", "device") == torch.device("cuda")
    assert open_device("cuda:1", "x", "device") == torch.device("cuda", 1)
    with pytest.raises(ConfigError, match=r"no such GPU for x; found 'cuda:2'; expected one of 2 .*device"):
        open_device("cuda:2", "x", "device")
    check_gpus(2, 1)
    with pytest.raises(ConfigError, match="at most 2 GPUs together"):
        check_gpus(3, 1)
    assert not caplog.records


@pytest.mark.parametrize(("wanted", "said"), [("cuda", "expected one of 0"), ("gpu", "auto, cpu, cuda or cuda:N")])
def test_device_that_is_not_there(no_gpu: None, wanted: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        open_device(wanted, "x", "device")
    check_gpus(100, 0)
