"""The corpora by name: how each is read, what it teaches, and its licence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.corpora.recipes import CommonVoice, LibriSpeech
from vtblender_nemo.corpora.recipes_multilingual import Fleurs, Mls, VoxPopuli
from vtblender_nemo.corpora.spoken_squad import read_spoken_squad
from vtblender_nemo.corpora.translation import read_covost2, read_europarl_st
from vtblender_nemo.corpora.utterance import Found, Selection


@dataclass(frozen=True)
class Task:
    """What rows teach.

    Attributes:
        name: of the task, which is also the key of its wordings.
        text_field: the field of a row that is the answer.
        prompts: the file of wordings in `conf/prompts`, without its end.
    """

    name: str
    text_field: str
    prompts: str


@dataclass(frozen=True)
class Corpus:
    """A corpus that can be prepared.

    Attributes:
        name: as it is asked for.
        title: as it is written.
        read: gives its utterances.
        tasks: what its rows may teach.
        licence: its name, with what has to be said about it.
        stated_at: where the licence is stated.
        changes: what is changed of it beside the audio's format.
    """

    name: str
    title: str
    read: Callable[[Selection], Found]
    tasks: tuple[Task, ...]
    licence: str
    stated_at: str
    changes: str = ""


ASR = Task("asr", "text", "asr")
AST = Task("ast", "translation", "ast")
SQA = Task("sqa", "answer", "sqa")

_BY = "CC BY 4.0: name the corpus and its authors, link the licence, and say what was changed"
_CORPORA = (
    Corpus(
        "librispeech",
        "LibriSpeech",
        LibriSpeech().read,
        (ASR,),
        _BY,
        "https://www.openslr.org/12",
        "transcripts were put in lower case",
    ),
    Corpus(
        "common_voice",
        "Common Voice",
        CommonVoice().read,
        (ASR,),
        "CC0 1.0; whoever downloads the corpus also agrees not to try to identify its speakers",
        "https://commonvoice.mozilla.org/en/datasets",
    ),
    Corpus("mls", "Multilingual LibriSpeech (MLS)", Mls().read, (ASR,), _BY, "https://www.openslr.org/94"),
    Corpus(
        "voxpopuli",
        "VoxPopuli",
        VoxPopuli().read,
        (ASR,),
        "CC0 1.0 for the data; the recordings are the European Parliament's, whose legal notice also holds",
        "https://github.com/facebookresearch/voxpopuli#license",
    ),
    Corpus("fleurs", "FLEURS", Fleurs().read, (ASR,), _BY, "https://huggingface.co/datasets/google/fleurs"),
    Corpus(
        "covost2",
        "CoVoST 2",
        read_covost2,
        (AST, ASR),
        "CC0 1.0 for the translations, as for Common Voice's clips that they belong to",
        "https://github.com/facebookresearch/covost#license",
    ),
    Corpus(
        "europarl_st",
        "Europarl-ST",
        read_europarl_st,
        (AST, ASR),
        "CC BY-NC 4.0: no commercial use; name the corpus and its authors, link the licence, and say what was changed",
        "https://www.mllp.upv.es/europarl-st",
    ),
    Corpus(
        "spoken_squad",
        "Spoken-SQuAD",
        read_spoken_squad,
        (SQA,),
        "to be checked by you: the file LICENSE.md of its repository names CC BY-SA 4.0; the speech was made by Google's "
        "text-to-speech, whose terms may add to that",
        "https://github.com/Chia-Hsuan-Lee/Spoken-SQuAD",
    ),
)


def known_corpora() -> list[str]:
    """The names that corpora may be asked for by."""
    return [corpus.name for corpus in _CORPORA]


def corpus_of(name: str) -> Corpus:
    """
    Raises:
        ConfigError: no corpus has that name.
    """
    for corpus in _CORPORA:
        if corpus.name == name:
            return corpus
    raise ConfigError("unknown corpus", value=name, expected=f"one of {', '.join(known_corpora())}", knob="--corpus")
