"""The joint forward: text-only, one-segment and many-segment conversations in one LLM pass.

Shapes: B conversations, P packed positions, T positions of the longest conversation, H hidden, N target positions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vtblender_nemo.backbones.transformers_llm import TransformersLLM
from vtblender_nemo.common.batch import Batch
from vtblender_nemo.models.target_loss import Imitation, TargetLoss, Targets, imitation_loss
from vtblender_nemo.modules.perception import Perception
from vtblender_nemo.modules.splice import IGNORE, SplicePlan, gather_embeds, pad_behind, pad_packed, plan_splice


class SpeechLLM(nn.Module):
    """Perception and LLM joined at the locators.

    Args:
        perception: waveforms -> frames.
        llm: embeddings -> hidden states -> logits.
        audio_locator_id: the token id whose place the frames take.
        packing: the LLM computes conversations behind each other, without padding.
        pad_positions_to: P, or without packing T, is rounded up to a multiple of this; few distinct shapes keep kernels
            warm.
        imitation: how conversations with a twin are learned.
    """

    def __init__(
        self,
        perception: Perception,
        llm: TransformersLLM,
        audio_locator_id: int,
        *,
        packing: bool = True,
        pad_positions_to: int = 1,
        imitation: Imitation | None = None,
    ) -> None:
        super().__init__()
        self.perception = perception
        self.llm = llm
        self.audio_locator_id = audio_locator_id
        self.packing = packing
        self.pad_positions_to = pad_positions_to
        self.imitation = imitation or Imitation()

    def forward(self, batch: Batch) -> TargetLoss:
        """Loss of every target token of the batch; of conversations whose twins it holds, that of imitation."""
        if batch.twin is None or batch.twin_rows is None:
            return self._targets(batch).nll(self.llm.head)
        # first, so that the memory of one pass is free again before the other keeps what its backward pass needs
        teacher = self._teacher(batch.twin) if self.imitation.kl_weight > 0 else None
        return imitation_loss(self._targets(batch), teacher, batch.twin_rows, self.llm.head, self.imitation)

    def _teacher(self, twin: Batch) -> Targets:
        with self.llm.pretrained():
            return self._targets(twin)

    def _targets(self, batch: Batch) -> Targets:
        embeds, plan = self.splice(batch)
        is_target = (plan.target != IGNORE).nonzero()[:, 0]
        return Targets(self._hidden(embeds, plan, is_target), plan.target[is_target], plan.conversation[is_target])

    def _hidden(self, embeds: Tensor, plan: SplicePlan, wanted: Tensor) -> Tensor:
        """The LLM's last hidden states (N, H) at the wanted ones of P packed positions."""
        if self.packing:
            packed, lens = pad_behind(embeds, plan.lens.tolist(), self.pad_positions_to)
            return self.llm.hidden_packed(packed, lens, wanted)
        index, _ = plan.padded_index(multiple_of=self.pad_positions_to)
        padded, mask = pad_packed(embeds, plan, multiple_of=self.pad_positions_to)
        return self.llm.hidden(padded, mask, wanted=index[wanted])

    def splice(self, batch: Batch) -> tuple[Tensor, SplicePlan]:
        """Packed embeddings (P, H) and what stands where. Without audio the perception is not called."""
        is_locator = batch.input_ids == self.audio_locator_id
        token_embeds = self.llm.embed(batch.input_ids.masked_fill(is_locator, 0))
        frames: Tensor | None = None
        frame_lens = batch.audio_lens.new_zeros(0)
        if len(batch.audio_lens):
            frames, frame_lens = self.hear(batch.audios, batch.audio_lens)
        plan = plan_splice(batch, frame_lens, self.audio_locator_id)
        return gather_embeds(plan, token_embeds, frames), plan

    def hear(self, audios: Tensor, audio_lens: Tensor) -> tuple[Tensor, Tensor]:
        """What the LLM is given of waveforms, frames or soft tokens; see `Perception.encode`."""
        frames, frame_lens = self.perception.encode(audios, audio_lens)
        if self.perception.token_ctc is None:
            return frames, frame_lens
        return self.perception.token_ctc.soft_tokens(frames, frame_lens, self.llm.token_table())

    @torch.no_grad()
    def prompt_embeds(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Prompts ready for generation: embeddings (B, T, H) and mask (B, T), padded on the left."""
        embeds, plan = self.splice(batch)
        return pad_packed(embeds, plan, left=True)
