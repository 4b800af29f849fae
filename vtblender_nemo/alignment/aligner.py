"""Forced alignment with a CTC or hybrid recogniser of NeMo, by NeMo's own Viterbi search.

Shape letters: S samples, F frames of the recogniser.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vtblender_nemo.alignment.borders import settle
from vtblender_nemo.alignment.spelling import spelling_of
from vtblender_nemo.common.audio import first_line
from vtblender_nemo.common.errors import ConfigError, ModelFileError
from vtblender_nemo.common.trusted_classes import RECOGNISER
from vtblender_nemo.data.word_times import WordTime, has_spaces, split_words
from vtblender_nemo.synthesis.devices import open_device
from vtblender_nemo.synthesis.work import Refused

SHORTEST_SECS = 0.1  # recognisers fail on less than a few frames


@dataclass(frozen=True)
class Aligned:
    """The words of a transcript, each with its times or without, and what the recogniser heard by itself."""

    words: tuple[WordTime, ...]
    heard: str


@dataclass(frozen=True)
class _Spelled:
    """A transcript's words, and those of the recogniser that each is made of; None where it has no letters for it."""

    words: list[str]
    pieces: list[list[str] | None]

    @property
    def text(self) -> str:
        return " ".join(piece for pieces in self.pieces if pieces for piece in pieces)


class ForcedAligner:
    """Finds when the words of transcripts are said.

    Args:
        model: a recogniser of NeMo with a CTC decoder, in evaluation mode.
        batch_size: most utterances at once.

    Attributes:
        sampling_rate: Hz of the speech that it wants.

    Raises:
        ConfigError: a model without a CTC decoder, or with a vocabulary that cannot be used.
    """

    def __init__(self, model: Any, batch_size: int) -> None:
        self._model, self._batch_size = _by_ctc(model), batch_size
        self._spelling = spelling_of(model)
        self.sampling_rate = int(model.cfg.preprocessor.sample_rate)
        self._frame_secs = float(model.cfg.preprocessor.window_stride) * model.encoder.subsampling_factor

    def align(self, speech: Sequence[np.ndarray], transcripts: Sequence[str]) -> list[Aligned | Refused]:
        """When every word is said.

        Args:
            speech: float32 samples (S,) at `sampling_rate`, of 0.1 s or more.
            transcripts: what is said in each.

        Returns:
            One result for each, in their order.
        """
        spelled = [self._spell(transcript) for transcript in transcripts]
        heard = self._hear(speech)
        found: list[Aligned | Refused | None] = []
        searched: list[tuple[int, _Spelled]] = []
        for place, (one, hypothesis) in enumerate(zip(spelled, heard, strict=True)):
            refused = one if isinstance(one, Refused) else self._check_room(one.text, hypothesis)
            found.append(refused)
            if isinstance(one, _Spelled) and refused is None:
                searched.append((place, one))
        if searched:
            times = self._search([heard[place] for place, _ in searched], [one.text for _, one in searched])
            for (place, one), own in zip(searched, times, strict=True):
                found[place] = self._aligned(one, own, speech[place], heard[place].text)
        return [one for one in found if one is not None]

    def _spell(self, transcript: str) -> _Spelled | Refused:
        words = split_words(transcript)
        if not words:
            return Refused("empty_transcript", repr(transcript))
        if not has_spaces(transcript):
            return Refused("no_spaces_between_words", transcript)
        spelled = _Spelled(words, [self._spelling.of(word) for word in words])
        return spelled if spelled.text else Refused("unknown_letters", transcript)

    @torch.inference_mode()
    def _hear(self, speech: Sequence[np.ndarray]) -> list[Any]:
        """A hypothesis of NeMo's for each, with log-probabilities (F, vocabulary and blank) as `y_sequence`."""
        order = sorted(range(len(speech)), key=lambda place: len(speech[place]))  # less padding
        results = self._model.transcribe(
            [np.asarray(speech[place]) for place in order],
            batch_size=self._batch_size,
            return_hypotheses=True,
            verbose=False,
        )
        if isinstance(results, tuple):
            results = results[0]
        heard: list[Any] = [None] * len(speech)
        for place, hypothesis in zip(order, results, strict=True):
            heard[place] = hypothesis
        return heard

    def _check_room(self, text: str, hypothesis: Any) -> Refused | None:
        """Why a text cannot be searched for: NeMo would leave the row out, or stop at all of them."""
        from nemo.collections.asr.parts.utils.aligner_utils import get_utt_obj

        frames = len(hypothesis.y_sequence)
        try:
            utterance = get_utt_obj(text, frames, self._model, segment_separators=None)
        except (RuntimeError, IndexError) as error:  # pieces that cannot be led back to letters
            return Refused("not_spelled", f"{text}: {error}")
        if len(utterance.segments_and_tokens) == 0:
            return Refused("too_fast", f"{frames} frames are too few for {text!r}")
        return None

    def _search(self, heard: Sequence[Any], texts: Sequence[str]) -> list[list[tuple[float, float]]]:
        """Seconds at which the recogniser's words start and end, by the best path; negative where the path leaves one out."""
        from nemo.collections.asr.parts.utils import aligner_utils

        log_probs, ids, frames, lengths, utterances, _ = aligner_utils.get_batch_variables(
            list(heard),
            self._model,
            segment_separators=None,
            gt_text_batch=list(texts),
            output_timestep_duration=self._frame_secs,
            has_hypotheses=True,
        )
        # On the CPU: the search is a loop of small steps, and its way back takes them one by one.
        paths = aligner_utils.viterbi_decoding(log_probs, ids, frames, lengths, torch.device("cpu"))
        times = []
        for utterance, path in zip(utterances, paths, strict=True):
            timed = aligner_utils.add_t_start_end_to_utt_obj(utterance, path, self._frame_secs)
            times.append([(word.t_start, word.t_end) for word in _words_of(timed)])
        return times

    def _aligned(
        self, spelled: _Spelled, times: Sequence[tuple[float, float]], samples: np.ndarray, heard: str
    ) -> Aligned | Refused:
        if len(times) != len(spelled.text.split()) or any(start < 0 or end < 0 for start, end in times):
            return Refused("not_aligned", spelled.text)
        rest = iter(times)
        spans = [[next(rest) for _ in pieces] if pieces else None for pieces in spelled.pieces]
        whole = [(span[0][0], span[-1][1]) for span in spans if span]
        settled = iter(settle(whole, samples, self.sampling_rate, self._frame_secs))
        words = [
            WordTime(word, *next(settled)) if span else WordTime(word, None, None)
            for word, span in zip(spelled.words, spans, strict=True)
        ]
        return Aligned(tuple(words), heard)


def _words_of(utterance: Any) -> list[Any]:
    from nemo.collections.asr.parts.utils.aligner_utils import Segment, Word

    segments = [one for one in utterance.segments_and_tokens if isinstance(one, Segment)]
    return [word for segment in segments for word in segment.words_and_tokens if isinstance(word, Word)]


def _by_ctc(model: Any) -> Any:
    """The model, told to decode by its CTC decoder.

    Raises:
        ConfigError: it has none.
    """
    if getattr(model, "ctc_decoder", None) is not None:
        model.change_decoding_strategy(decoder_type="ctc", verbose=False)
    elif "CTC" not in type(model).__name__:
        raise ConfigError(
            "the recogniser has no CTC decoder",
            value=type(model).__name__,
            expected="a CTC model, or a hybrid one, of NeMo's ASR collection",
            knob="--model",
        )
    return model


def open_aligner(name_or_path: str, batch_size: int, device: str) -> ForcedAligner:
    """Loads a recogniser for alignment.

    Args:
        name_or_path: a `.nemo` file, or a public name that NeMo downloads.
        batch_size: most utterances at once.
        device: see `open_device`.

    Raises:
        ModelFileError: no such file, or nothing that NeMo can restore.
        ConfigError: a model that cannot align, or a device that is not there.
    """
    from nemo.collections.asr.models import ASRModel

    from vtblender_nemo.common.nemo_restore import pretrained_nemo, restore_nemo

    where = open_device(device, "the recogniser", "--device")
    load = restore_nemo if Path(name_or_path).is_file() else pretrained_nemo
    try:
        model = load(ASRModel, name_or_path, RECOGNISER, map_location=where).eval()
    except Exception as error:  # NeMo, tarfile and the hub raise errors of many kinds
        raise ModelFileError(
            f"the recogniser cannot be loaded ({type(error).__name__}: {first_line(error)})",
            value=name_or_path,
            expected="a .nemo file of NeMo's ASR collection, or a public name",
            knob="--model",
        ) from error
    return ForcedAligner(model, batch_size)
