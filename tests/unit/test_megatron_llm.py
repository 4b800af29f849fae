"""What cannot be held by several processes is refused before they are asked to do it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

pytest.importorskip("megatron.core")

from tests.helpers.models import FAMILIES
from vtblender_nemo.backbones.megatron_llm.building import check_family, load_parallel_llm
from vtblender_nemo.backbones.megatron_llm.groups import join
from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.export.formats import export
from vtblender_nemo.training.fit import resolve_precision

SIZES = {
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "hidden_size": 32,
    "intermediate_size": 48,
    "vocab_size": 264,
}


@pytest.mark.parametrize("family", ["gemma", "gemma2", "gemma3", "llama", "qwen2", "qwen3"])
def test_families_that_can_be_cut(family: str) -> None:
    config = FAMILIES[family](
        **{name: value for name, value in SIZES.items() if family != "llama" or name != "head_dim"}
    )
    for size in (2, 4):
        check_family(config, size)


@pytest.mark.parametrize(
    ("family", "size", "changes", "told"),
    [
        ("cohere", 2, {}, "cannot be cut over several processes; found 'cohere'; expected one of gemma, gemma2"),
        ("gemma", 3, {}, "num_attention_heads is no multiple .* found 3; expected a divisor of 4"),
        ("gemma", 2, {"vocab_size": 263}, "vocab_size is no multiple .* expected a divisor of 263"),
        ("gemma", 4, {"intermediate_size": 50}, "intermediate_size is no multiple"),
        ("gemma", 2, {"num_attention_heads": 6, "num_key_value_heads": 3}, "a multiple or a divisor of 3"),
    ],
)
def test_what_cannot_be_cut_is_told(family: str, size: int, changes: dict[str, int], told: str) -> None:
    config = FAMILIES[family](**{**SIZES, **changes})
    with pytest.raises(ConfigError, match=told + r".*model\.tensor_parallel"):
        check_family(config, size)


def test_a_process_that_was_started_alone_is_told_how_to_start_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vtblender_nemo.backbones.megatron_llm.groups.launcher", lambda: None)
    with pytest.raises(ConfigError, match="torchrun --nproc-per-node"):
        join(2)
    with pytest.raises(ConfigError, match="torchrun --nproc-per-node"):
        load_parallel_llm("unread", FAMILIES["gemma"](**SIZES), "float32", 2, attention=None)


def test_a_part_is_not_exported_for_the_whole() -> None:
    model = SimpleNamespace(cfg=OmegaConf.create({"tensor_parallel": 2}))
    with pytest.raises(ConfigError, match="restored in one process"):
        export(model, "peft", None, None)  # type: ignore[arg-type]


def test_precision_on_a_cpu_is_one_that_the_layers_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vtblender_nemo.training.fit.bf16_is_fast", lambda accelerator: True)
    assert resolve_precision("auto", "cpu") == "bf16-mixed"
    assert resolve_precision("auto", "cpu", tensor_parallel=2) == "32-true"
