"""Validation while training: loss per set, and greedy answers scored by the set's metric."""

from __future__ import annotations

import logging
from collections import defaultdict

import torch
from omegaconf import DictConfig

from vtblender_nemo.common.chat import ChatFormat
from vtblender_nemo.common.conversation import Conversation
from vtblender_nemo.common.parallel import data_rank, layout
from vtblender_nemo.evaluation.metrics import LOWER_IS_BETTER, compute
from vtblender_nemo.models.generation import answer, collate_usable
from vtblender_nemo.models.speech_llm import SpeechLLM

logger = logging.getLogger(__name__)


class ValidationRun:
    """What one pass over the validation sets has seen so far.

    Args:
        cfg: `model.validation`: `max_new_tokens`, `default_metric`, `metrics` (set -> name of its metric) and `metric_options`
            (set -> options of its metric, as `normalizer`).
    """

    def __init__(self, cfg: DictConfig) -> None:
        self._cfg = cfg
        self._nll: dict[str, float] = defaultdict(float)
        self._targets: dict[str, int] = defaultdict(int)
        self._answers: dict[str, list[tuple[str, str]]] = defaultdict(list)

    @torch.inference_mode()
    def add(self, name: str, model: SpeechLLM, chat_format: ChatFormat, conversations: list[Conversation]) -> None:
        """Scores conversations of the set `name`, which end with the reference answer; broken audio is left out and told."""
        batch, errors = collate_usable(conversations, chat_format, model.perception.sampling_rate)
        for error in errors.values():
            logger.warning("validation set %s: left out: %s", name, error)
        if batch is None:
            return
        conversations = [one for number, one in enumerate(conversations) if number not in errors]
        loss = model(batch.to(model.llm.device))
        self._nll[name] += float(loss.sum)
        self._targets[name] += loss.targets
        prompts = [Conversation(c.id, c.turns[:-1], c.source) for c in conversations]
        answers = answer(model, chat_format, prompts, max_new_tokens=self._cfg.max_new_tokens)
        for conversation, text in zip(conversations, answers, strict=True):
            self._answers[name].append((text, conversation.reference))

    def scores(self) -> dict[str, float]:
        """`val_loss`, `val_loss/SET`, `val/SET.METRIC` over all ranks, and `val_score`: the mean over sets, higher is better."""
        nll, targets, answers = _over_ranks((dict(self._nll), dict(self._targets), dict(self._answers)))
        found = {f"val_loss/{name}": nll[name] / targets[name] for name in sorted(nll)}
        if found:
            found = {"val_loss": sum(nll.values()) / sum(targets.values()), **found}
        better: list[float] = []
        for name in sorted(answers):
            metric = self._cfg.metrics.get(name, self._cfg.default_metric)
            predictions, references = zip(*answers[name], strict=True)
            options = self._cfg.metric_options.get(name, {})
            value = compute(metric, predictions, references, **options).value
            found[f"val/{name}.{metric}"] = value
            better.append(max(0.0, 100.0 - value) if metric in LOWER_IS_BETTER else value)
        if better:
            found["val_score"] = sum(better) / len(better)
        return found


Seen = tuple[dict[str, float], dict[str, int], dict[str, list[tuple[str, str]]]]


def _over_ranks(seen: Seen) -> Seen:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return seen
    _, ranks = data_rank()
    gathered: list[Seen] = [seen] * ranks
    torch.distributed.all_gather_object(gathered, seen, group=layout().data_group)
    nll: dict[str, float] = defaultdict(float)
    targets: dict[str, int] = defaultdict(int)
    answers: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for rank_nll, rank_targets, rank_answers in gathered:
        for name in rank_nll:
            nll[name] += rank_nll[name]
            targets[name] += rank_targets[name]
            answers[name] += rank_answers[name]
    return nll, targets, answers
