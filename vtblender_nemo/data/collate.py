"""Conversations to one padded micro-batch; audio is decoded here.

Shapes: B conversations, L tokens of the longest one, A audio segments, S samples of the longest one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from vtblender_nemo.common.audio import load_samples
from vtblender_nemo.common.batch import Batch, pad_right
from vtblender_nemo.common.chat import PromptIds
from vtblender_nemo.common.conversation import Conversation
from vtblender_nemo.common.errors import DataError

_Decoded = tuple[Conversation, PromptIds, list[np.ndarray]]


@dataclass(frozen=True)
class Collator:
    """Decodes, pads and stacks.

    Attributes:
        audio_locator_id: the token id that stands for an audio.
        sampling_rate: Hz of the model's audio.
    """

    audio_locator_id: int
    sampling_rate: int

    def __call__(
        self, conversations: Sequence[Conversation], prompts: Sequence[PromptIds]
    ) -> tuple[Batch | None, dict[int, DataError]]:
        """Joins conversations; one whose audio cannot be decoded is left out, the others stay.

        Args:
            conversations: B conversations.
            prompts: their token ids; those with twins get them into the micro-batch.

        Returns:
            The micro-batch, or None if nothing is left, and the errors by the number of the conversation left out.
        """
        kept: list[_Decoded] = []
        errors: dict[int, DataError] = {}
        for number, (conversation, prompt) in enumerate(zip(conversations, prompts, strict=True)):
            try:
                kept.append((conversation, prompt, self._waves(conversation, prompt)))
            except DataError as error:
                errors[number] = error
        return self._stack(kept) if kept else None, errors

    def _waves(self, conversation: Conversation, prompt: PromptIds) -> list[np.ndarray]:
        places = prompt.ids.count(self.audio_locator_id)
        if places != len(conversation.audios):
            raise DataError(
                "placeholders and audios do not match", value=places, expected=f"{len(conversation.audios)}"
            )
        return [load_samples(audio.cut, self.sampling_rate) for audio in conversation.audios]

    def _stack(self, rows: Sequence[_Decoded]) -> Batch:
        ids = [np.asarray(prompt.ids) for _, prompt, _ in rows]
        masks = [np.asarray(prompt.loss_mask) for _, prompt, _ in rows]
        waves = [wave for _, _, own in rows for wave in own]
        input_ids, input_lens = pad_right(ids, dtype=np.int64)
        loss_mask, _ = pad_right(masks, dtype=np.bool_)
        audios, audio_lens = pad_right(waves)
        twins: dict[int, _Decoded] = {
            number: (conversation, prompt.twin, [])
            for number, (conversation, prompt, _) in enumerate(rows)
            if prompt.twin is not None
        }
        return Batch(
            input_ids=input_ids,
            input_lens=input_lens,
            loss_mask=loss_mask,
            audios=audios if waves else torch.zeros(0, 0),
            audio_lens=audio_lens,
            sources=[conversation.source for conversation, _, _ in rows],
            ids=[conversation.id for conversation, _, _ in rows],
            twin=self._stack(list(twins.values())) if twins else None,
            twin_rows=torch.tensor(list(twins)) if twins else None,
        )
