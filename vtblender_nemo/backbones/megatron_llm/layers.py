"""Linear layers and the embedding, cut over a tensor group, with the names and results of the layers that they stand for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from megatron.core.model_parallel_config import ModelParallelConfig
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear, VocabParallelEmbedding
from torch import Tensor, nn

from vtblender_nemo.backbones.megatron_llm.communication import copy_to_group, gather_last
from vtblender_nemo.backbones.megatron_llm.head import VocabParallelHead
from vtblender_nemo.common.parallel import layout, tensor_rank
from vtblender_nemo.common.shards import mark
from vtblender_nemo.modules.losses import Head


def parallel_config(dtype: torch.dtype) -> ModelParallelConfig:
    """What megatron's layers want to know; weights are left as memory holds them."""
    config = ModelParallelConfig(
        tensor_model_parallel_size=layout().tensor_size,
        use_cpu_initialization=True,
        perform_initialization=False,
        params_dtype=dtype,
    )
    config.init_method = _as_it_is
    return config


def _as_it_is(weight: Tensor) -> Tensor:
    return weight


class Cut(nn.Module):
    """A layer of which every process holds a part; its parameters stay marked whatever type or device they are brought to."""

    axes: ClassVar[Mapping[str, int]]

    def mark(self) -> None:
        """Marks parameters; to be called anew when others have taken their place."""
        for name, axis in self.axes.items():
            parameter = getattr(self, name)
            if parameter is not None:
                mark(parameter, axis)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        self.mark()
        return self


class ColumnLinear(Cut, ColumnParallelLinear):
    """A linear layer of which every process computes some outputs."""

    axes = {"weight": 0, "bias": 0}

    # without, every state dict would hold an entry for it that is None
    get_extra_state = nn.Module.get_extra_state

    def __init__(
        self,
        input_size: int,
        output_size: int,
        *,
        config: ModelParallelConfig,
        bias: bool = False,
        init_method: Callable[[Tensor], Tensor] = _as_it_is,
        gather_output: bool = False,
    ) -> None:
        super().__init__(
            input_size, output_size, config=config, init_method=init_method, bias=bias, gather_output=gather_output
        )
        self.in_features, self.out_features = input_size, output_size
        self.mark()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[0]


class RowLinear(Cut, RowParallelLinear):
    """A linear layer of which every process holds the weights of some inputs, and is given these alone."""

    axes = {"weight": 1}

    get_extra_state = nn.Module.get_extra_state

    def __init__(
        self,
        input_size: int,
        output_size: int,
        *,
        config: ModelParallelConfig,
        bias: bool = False,
        init_method: Callable[[Tensor], Tensor] = _as_it_is,
        input_is_parallel: bool = True,
        skip_bias_add: bool = False,
    ) -> None:
        super().__init__(
            input_size,
            output_size,
            config=config,
            init_method=init_method,
            bias=bias,
            input_is_parallel=input_is_parallel,
            skip_bias_add=skip_bias_add,
        )
        self.in_features, self.out_features = input_size, output_size
        self.mark()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[0]


class ReplicatedLinear(nn.Linear):
    """A linear layer that every process computes all of, to go on with some outputs: keys of fewer heads than processes.

    Args:
        layer: what it stands for.
        heads: of keys and values.
        dtype: of the weights.
    """

    def __init__(self, layer: nn.Linear, heads: int, dtype: torch.dtype) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta", dtype=dtype)
        rank, size = tensor_rank()
        width, head = layer.out_features // heads, rank // (size // heads)
        self._own = slice(head * width, (head + 1) * width)

    def own(self, outputs: Tensor) -> Tensor:
        """Of all outputs those that this process goes on with; the processes' gradients are added up."""
        return copy_to_group(outputs)[..., self._own]

    def forward(self, x: Tensor) -> Tensor:
        return self.own(super().forward(x))


class ParallelEmbedding(Cut, VocabParallelEmbedding):
    """Token embeddings, of which every process holds those of some tokens.

    Args:
        embedding: what it stands for; some families scale embeddings inside.
        config: of the layers.
    """

    axes = {"weight": 0}

    def __init__(self, embedding: nn.Embedding, config: ModelParallelConfig) -> None:
        super().__init__(embedding.num_embeddings, embedding.embedding_dim, init_method=_as_it_is, config=config)
        scale = getattr(embedding, "embed_scale", None)
        self.register_buffer("embed_scale", None if scale is None else torch.as_tensor(scale), persistent=False)
        self.mark()

    def forward(self, ids: Tensor) -> Tensor:
        found = super().forward(ids)
        return found if self.embed_scale is None else found * self.embed_scale.to(found.dtype)


class ParallelHead(ColumnLinear):
    """The layer that makes logits: every process computes those of some tokens, and has all of them in the end."""

    def forward(self, rows: Tensor) -> Tensor:
        return gather_last(super().forward(rows))

    def as_head(self, scale: float, softcap: float | None) -> Head:
        """For losses, which need no process to have all logits."""
        return VocabParallelHead(self.weight, self.bias, scale, softcap)


def column(layer: nn.Linear, config: ModelParallelConfig, kind: Any = ColumnLinear) -> ColumnLinear:
    """A layer cut by outputs, its weights to be filled."""
    return kind(layer.in_features, layer.out_features, config=config, bias=layer.bias is not None)


def row(layer: nn.Linear, config: ModelParallelConfig) -> RowLinear:
    """A layer cut by inputs, its weights to be filled."""
    return RowLinear(layer.in_features, layer.out_features, config=config, bias=layer.bias is not None)
