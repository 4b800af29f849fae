"""Which classes a model's file may name: NeMo makes whatever a configuration's `_target_` says, with arguments from the file.

NeMo's own list is by package, and lets functions in that write files; here every class that a model of a kind consists of is
named. Nothing of NeMo is imported.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vtblender_nemo.common.errors import ModelFileError

_MOST_VALUES, _DEEPEST = 1_000_000, 64  # of a configuration: YAML's aliases can make a few bytes endless
_CLASS_KEYS = frozenset({"_target_", "target", "cls", "type", "class", "class_path", "class_name"})
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
_ARTIFACT = "nemo:"
_FILE_KEYS = frozenset({"model_path", "vocab_path", "spe_tokenizer_vocab", "vocab_file", "merges_file"})


@dataclass(frozen=True)
class Family:
    """Classes of one package, wherever in it they stand.

    Attributes:
        package: with its final dot.
        names: of the classes; without any, all whose names are in camel case.
        without: packages inside it that do not count.
    """

    package: str
    names: frozenset[str] = frozenset()
    without: tuple[str, ...] = ()

    def has(self, target: str) -> bool:
        if not target.startswith(self.package) or target.startswith(self.without):
            return False
        name = target.rpartition(".")[2]
        return name in self.names if self.names else bool(re.fullmatch(r"[A-Z]\w*", name))


@dataclass(frozen=True)
class Trusted:
    """What files of one kind of model may name.

    Attributes:
        what: such a file, in words.
        models: classes of the model itself.
        parts: classes inside it.
    """

    what: str
    models: tuple[Family, ...]
    parts: tuple[Family, ...]


def _family(package: str, names: str) -> Family:
    return Family(f"{package}.", frozenset(names.split()))


_SPEECH_MODULES = "nemo.collections.asr.modules"
_FRONT = _family(
    _SPEECH_MODULES,
    "AudioToMelSpectrogramPreprocessor AudioToMFCCPreprocessor SpectrogramAugmentation MaskedPatchAugmentation "
    "CropOrPadSpectrogramAugmentation ConformerEncoder ConformerEncoderAdapter",
)
_RECOGNISER_PARTS = (
    _FRONT,
    _family(
        _SPEECH_MODULES,
        "ConvASREncoder ConvASREncoderAdapter ConvASRDecoder RNNEncoder LSTMDecoder RNNTDecoder StatelessTransducerDecoder "
        "RNNTJoint SampledRNNTJoint HATJoint TransformerEncoder TransformerDecoder get_nemo_transformer RandomBlockMasking "
        "RandomProjectionVectorQuantizer MultiSoftmaxDecoder ConvFeatureMaksingWrapper ConformerMultiLayerFeaturePreprocessor",
    ),
    _family("nemo.collections.asr.parts.submodules.token_classifier", "TokenClassifier"),
    _family("nemo.collections.common.parts", "LinearAdapter MultiLayerPerceptron"),
    _family(
        "nemo.collections.asr.parts.submodules.adapters",
        "MHAResidualAddAdapterStrategy RelPositionMultiHeadAttentionAdapter",
    ),
    _family("nemo.core.classes.mixins.adapter_mixin_strategies", "ResidualAddAdapterStrategy"),
    _family("nemo.collections.common.losses", "SmoothedCrossEntropyLoss SmoothedNLLLoss"),
    _family("nemo.collections.asr.losses", "CTCLoss RNNTLoss MultiMLMLoss MLMLoss"),
    _family("nemo.collections.asr.metrics", "WER BLEU CER"),
    _family("nemo.collections.common.tokenizers", "CanaryTokenizer CanaryBPETokenizer CanaryMultilingualTokenizer"),
    _family("torch.optim", "Adam AdamW SGD"),
)

RECOGNISER = Trusted(
    "a NeMo ASR model",
    (
        _family(
            "nemo.collections.asr.models",
            "EncDecMultiTaskModel EncDecCTCModel EncDecCTCModelBPE EncDecRNNTModel EncDecRNNTBPEModel "
            "EncDecRNNTBPEModelWithPrompt EncDecHybridRNNTCTCModel EncDecHybridRNNTCTCBPEModel "
            "EncDecHybridRNNTCTCBPEModelWithPrompt SpeechEncDecSelfSupervisedModel EncDecDenoiseMaskedTokenPredModel",
        ),
    ),
    _RECOGNISER_PARTS,
)

VOICE = Trusted(
    "a FastPitch or HiFi-GAN model of NeMo",
    (_family("nemo.collections.tts.models", "FastPitchModel HifiGanModel"),),
    (
        _FRONT,
        Family("nemo.collections.tts.", without=("nemo.collections.tts.models.",)),
        Family("nemo.collections.common.tokenizers.text_to_speech."),
        _family("nemo.collections.asr.parts.preprocessing.features", "FilterbankFeatures"),
        _family("nemo_text_processing.text_normalization.normalize", "Normalizer"),
        _family("nemo.core.optim.lr_scheduler", "CosineAnnealing NoamAnnealing"),
        _family("torch.optim", "Adam AdamW"),
    ),
)

VTBLENDER = Trusted(
    "a VTBlenderModel",
    (_family("vtblender_nemo.models.vtblender", "VTBlenderModel"),),
    (_FRONT, _family("nemo.collections.speechlm2.modules", "IdentityConnector AudioPerceptionModule")),
)


def check_classes(config: Mapping[str, Any], trusted: Trusted, path: str | Path) -> None:
    """Holds a configuration out of a file to the classes that its kind of model consists of, however deep they stand.

    Args:
        config: as YAML gives it, before anything in it is resolved.
        trusted: what it may name.
        path: the file, for errors.

    Raises:
        ModelFileError: the model or a part is of another class; code of others is asked for; a value that is taken from
            elsewhere (interpolations that call something, files of this machine); a configuration without end.
    """
    if isinstance(config.get("model"), Mapping):  # NeMo would take it in place of all that was checked
        raise ModelFileError("a configuration inside the configuration", path=path, expected=trusted.what, knob="model")
    target = config.get("target")
    if not isinstance(target, str) or not any(family.has(target) for family in trusted.models):
        raise ModelFileError(
            "the file holds another model", path=path, value=target, expected=trusted.what, knob="target"
        )
    check_parts({key: value for key, value in config.items() if key != "target"}, trusted, path)


def check_parts(config: Any, trusted: Trusted, path: str | Path) -> None:
    """As `check_classes`, for a part of a configuration."""
    for place, value in _values(config, path):
        _check_value(place, value, trusted, path)


def _values(config: Any, path: str | Path) -> Iterator[tuple[str, Any]]:
    """Every value that is no container, with its key as `a.b[0].c`."""
    waiting: list[tuple[str, int, Any]] = [("", 0, config)]
    count = 0
    while waiting:
        place, depth, value = waiting.pop()
        count += 1
        if count > _MOST_VALUES or depth > _DEEPEST:
            raise ModelFileError(
                "the configuration is too large",
                path=path,
                value=place[:80],
                expected=f"at most {_MOST_VALUES} values in at most {_DEEPEST} levels",
            )
        if isinstance(value, Mapping):
            for key, inner in value.items():
                if isinstance(inner, Mapping | list) and key in ("_target_",):
                    raise ModelFileError(
                        "a class that is no name", path=path, value=inner, knob=f"{place}.{key}".strip(".")
                    )
                waiting.append((f"{place}.{key}".strip("."), depth + 1, inner))
        elif isinstance(value, list | tuple):
            waiting += [(f"{place}[{number}]", depth + 1, inner) for number, inner in enumerate(value)]
        else:
            yield place, value


def _check_value(place: str, value: Any, trusted: Trusted, path: str | Path) -> None:
    key = place.rpartition(".")[2]
    if key == "trust_remote_code" and value:
        raise ModelFileError("the file asks for code of others", path=path, value=value, expected="false", knob=place)
    if not isinstance(value, str):
        if key == "_target_" and value is not None:
            raise ModelFileError("a class that is no name", path=path, value=value, knob=place)
        return
    named = key in _CLASS_KEYS and _DOTTED.fullmatch(value)
    if (key == "_target_" or named) and not any(family.has(value) for family in trusted.parts):
        raise ModelFileError(
            "the file names a class that such models do not have",
            path=path,
            value=value,
            expected=f"a class that {trusted.what} consists of",
            knob=place,
        )
    if "${" in value and (":" in value.partition("${")[2] or key in _CLASS_KEYS):
        raise ModelFileError(
            "the file asks for a value from elsewhere", path=path, value=value, expected="plain values", knob=place
        )
    inside = value.removeprefix(_ARTIFACT)
    if value.startswith(_ARTIFACT) and (Path(inside).name != inside or inside == ".."):
        raise ModelFileError(
            "unsafe file name in the configuration",
            path=path,
            value=value,
            expected="nemo: and a plain name",
            knob=place,
        )
    if key in _FILE_KEYS and value and not value.startswith(_ARTIFACT) and _is_here(value):
        raise ModelFileError(
            "the configuration names a file of this machine",
            path=path,
            value=value,
            expected="a file in the archive",
            knob=place,
        )


def _is_here(name: str) -> bool:
    try:
        return Path(name).exists()
    except (OSError, ValueError):  # no name of a file
        return False
