"""The MLP of the last layer, computed at those positions alone whose hidden states are read.

All that follows attention in the last layer works position by position, and training reads hidden states where targets
stand, answering the last one of a prompt. What an MLP would compute elsewhere is left at zero, and nobody sees it.

Shapes: P positions of all rows together, N wanted positions, H hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


class LastLayer:
    """Tells the last layer where it is read; an LLM whose layers are built otherwise is left as it is.

    Args:
        causal_lm: with weights.
    """

    def __init__(self, causal_lm: PreTrainedModel) -> None:
        self._wanted: Tensor | None = None
        self.found = False
        layers = getattr(causal_lm.base_model, "layers", None)
        last = layers[-1] if isinstance(layers, nn.ModuleList) and len(layers) else None
        mlp = getattr(last, "mlp", None)
        if mlp is None or causal_lm.get_input_embeddings().weight.is_meta:
            return
        forward = mlp.forward
        mlp.forward = partial(self._forward, forward)
        self.found = self._changes_nothing(causal_lm)
        if not self.found:
            mlp.forward = forward
        elif last is not None and hasattr(last, "gradient_checkpointing"):
            # the backward pass begins with this layer, so that computing it again would save nothing
            last.gradient_checkpointing = False

    @contextmanager
    def at(self, wanted: Tensor) -> Iterator[None]:
        """As long as the context lasts, hidden states are right at the wanted (N,) of P positions alone."""
        self._wanted = wanted
        try:
            yield
        finally:
            self._wanted = None

    def _forward(self, forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        if self._wanted is None:
            return forward(x)
        rows = x.flatten(0, -2)
        found = forward(rows.index_select(0, self._wanted)[None])[0]
        return found.new_zeros(rows.shape).index_copy(0, self._wanted, found).view(x.shape)

    @torch.no_grad()
    def _changes_nothing(self, causal_lm: PreTrainedModel) -> bool:
        was_training = causal_lm.training
        causal_lm.eval()
        embedding = causal_lm.get_input_embeddings()
        embeds = embedding(torch.arange(1, 9, device=embedding.weight.device)[None])
        wanted = torch.tensor([0, 3, 7], device=embeds.device)

        def hidden() -> Tensor:
            return causal_lm.base_model(inputs_embeds=embeds, use_cache=False).last_hidden_state[0, wanted].float()

        everywhere = hidden()
        try:
            with self.at(wanted):
                there = hidden()
        except (AttributeError, TypeError, IndexError, RuntimeError):  # an MLP of other arguments or results
            return False
        finally:
            causal_lm.train(was_training)
        return torch.allclose(there, everywhere, rtol=1e-2, atol=1e-2)
