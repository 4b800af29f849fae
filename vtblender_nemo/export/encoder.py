"""The speech encoder back in a model like the one that it was taken from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from vtblender_nemo.common.errors import ConfigError, ModelFileError
from vtblender_nemo.export.options import ExportOptions, Written, shown
from vtblender_nemo.modules.perception import load_speech_model

if TYPE_CHECKING:
    from vtblender_nemo.models.vtblender import VTBlenderModel

FILE = "encoder.nemo"


def write_encoder(model: VTBlenderModel, folder: Path, options: ExportOptions) -> Written:
    """A `.nemo` of the speech model that the encoder came from, with the encoder as it is now.

    Raises:
        ModelFileError: the speech model is not there, or not the one.
        ConfigError: its encoder is of another shape.
    """
    name = options.asr or str(model.cfg.pretrained_asr)
    speech_model = _load(name)
    for part in ("preprocessor", "encoder"):
        _check_same(part, model.perception.cfg[part], speech_model.cfg[part], name)
    speech_model.preprocessor.load_state_dict(model.perception.preprocessor.state_dict())
    speech_model.encoder.load_state_dict(model.perception.encoder.state_dict())
    speech_model.save_to(str(folder / FILE))
    kind = type(speech_model).__name__
    notes = [f"All but preprocessor and encoder, the decoder among it, is that of {shown(name)}, unchanged."]
    if not model.perception.cfg.get("freeze_encoder", False):
        notes.append("The encoder was trained on without that decoder: transcripts by it are not those of the model.")
    usage = (
        f"from nemo.collections.asr.models import {kind}\n\n"
        f'speech_model = {kind}.restore_from("FOLDER/{FILE}")\n'
        "features, lens = speech_model.preprocessor(input_signal=waveforms, length=samples)\n"
        "encoded, lens = speech_model.encoder(audio_signal=features, length=lens)"
    )
    return Written(
        what=f"The speech encoder of the model, inside a NeMo `{kind}`.",
        usage=usage,
        library="nemo",
        task="automatic-speech-recognition",
        notes=notes,
    )


def _load(name: str) -> Any:
    try:
        return load_speech_model(name)
    except ModelFileError as error:
        raise ModelFileError(
            f"the encoder needs the speech model that it came from, for its decoder: {error.problem}",
            path=error.path,
            value=error.value,
            expected="the .nemo or public name of that model",
            knob="--asr",
        ) from error


def _check_same(part: str, ours: Any, theirs: Any, name: str) -> None:
    ours, theirs = OmegaConf.to_container(ours, resolve=True), OmegaConf.to_container(theirs, resolve=True)
    assert isinstance(ours, dict)
    assert isinstance(theirs, dict)
    keys = sorted(key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key))
    if keys:
        raise ConfigError(
            f"the speech model {name} has another {part}",
            value={key: theirs.get(key) for key in keys[:3]},
            expected=f"{ ({key: ours.get(key) for key in keys[:3]}) }, as the model's has",
            knob="--asr",
        )
