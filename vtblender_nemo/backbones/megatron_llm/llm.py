"""`MegatronLLM`: as `TransformersLLM`, over several processes, all of which have to make every call together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from vtblender_nemo.backbones.megatron_llm.building import CUT_LAYERS
from vtblender_nemo.backbones.megatron_llm.layers import ColumnLinear, Cut, ReplicatedLinear, RowLinear
from vtblender_nemo.backbones.megatron_llm.lora import ParallelLora, ReplicatedLora
from vtblender_nemo.backbones.transformers_llm import TransformersLLM
from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.common.llm_fingerprint import fingerprint
from vtblender_nemo.common.shards import axes, whole
from vtblender_nemo.modules.recompute import Degree


class MegatronLLM(TransformersLLM):
    """A causal LM of `load_parallel_llm` or `build_parallel_llm`, frozen, with or without LoRA beside it.

    Args:
        causal_lm: this process's part.
        lora: arguments of `peft.LoraConfig`, or None for no adapters.
        packing: `hidden_packed` will be called.
        recompute: as in `TransformersLLM`.

    Raises:
        ConfigError: LoRA on embeddings or head.
    """

    lora_layers = {ColumnLinear: ParallelLora, RowLinear: ParallelLora, ReplicatedLinear: ReplicatedLora}

    def __init__(
        self,
        causal_lm: PreTrainedModel,
        *,
        lora: Mapping[str, Any] | None,
        packing: bool = True,
        recompute: Degree = "none",
    ) -> None:
        super().__init__(causal_lm, lora=lora, packing=packing, recompute=recompute)
        for module in self.model.modules():
            if isinstance(module, Cut):
                module.mark()  # peft brings LoRA to float32 by parameters of its own
            if isinstance(module, (ParallelLora, ReplicatedLora)):
                for adapter in module.lora_A:
                    module.draw_xavier(adapter)

    def _add_lora(self, causal_lm: PreTrainedModel, lora: dict[str, Any]) -> nn.Module:
        if lora.get("target_modules") == "all-linear":  # of which peft knows torch's own alone
            lora = {**lora, "target_modules": [name.rpartition(".")[2] for name in CUT_LAYERS]}
        wrapped = super()._add_lora(causal_lm, lora)
        for layer in (causal_lm.get_input_embeddings(), causal_lm.get_output_embeddings()):
            if isinstance(layer, BaseTunerLayer):
                raise ConfigError(
                    "LoRA on embeddings or head does not go with tensor parallelism",
                    value=lora.get("target_modules"),
                    expected="linear layers of attention and MLP",
                    knob="model.lora.target_modules, or model.tensor_parallel=1",
                )
        return wrapped

    def fingerprint(self) -> str:
        parted = axes(self)

        def weights() -> Iterator[Tensor]:
            for name, weight in self.base_weights().items():
                yield whole(weight, parted[name]) if name in parted else weight

        return fingerprint(weights())

    def adapter_weights(self) -> dict[str, Tensor]:
        """LoRA's weights, whole, by the names in peft's files."""
        own = axes(self.model)
        cut = {name.replace(".default.", "."): axis for name, axis in own.items()}
        weights = get_peft_model_state_dict(self.model, save_embedding_layers=False)
        return {name: whole(weight, cut[name]) if name in cut else weight for name, weight in weights.items()}

    def save_adapter(self, folder: Path) -> None:
        """Writes LoRA in peft's format, as of a whole LLM; the first process does.

        Raises:
            ConfigError: there is no LoRA.
        """
        if not isinstance(self.model, PeftModel):
            raise ConfigError("the model has no LoRA", knob="model.lora")
        weights = {name: weight.cpu().contiguous() for name, weight in self.adapter_weights().items()}
        if dist.get_rank() == 0:
            self.model.peft_config["default"].save_pretrained(folder)
            save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        dist.barrier()
