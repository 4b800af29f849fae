"""What a server may be asked, and how much of it."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.common.wordings import TRANSCRIPTION_PROMPT, TRANSLATION_PROMPT
from vtblender_nemo.serving.uploads import AudioLimits

API_KEY_VARIABLE = "VTBLENDER_API_KEY"


@dataclass(frozen=True)
class ServerConfig:
    """Limits and wordings of a server.

    Attributes:
        model_name: that clients see.
        host: address to listen at.
        port: of it.
        api_key: that clients have to show; None for no key, on loopback addresses only.
        max_body_bytes: of a request.
        body_secs: in which a further part of it has to come.
        max_turns: of a chat.
        max_new_tokens: of an answer; what requests get that do not say.
        timeout_secs: until an answer has to be whole.
        part_secs: longer audio is transcribed and translated part by part, cut at pauses.
        subtitle_secs: the same where times are asked for, as in SRT.
        audio: limits of every audio.
        transcription_prompt: what is asked about audio to be transcribed; the audio follows it.
        translation_prompt: likewise, for English translations.
        bias_prompt: stands before it where a client names words that may occur, in place of {words}.
        report: the page of an evaluation (`report.html`), shown at /report; None for none.
    """

    model_name: str
    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = None
    max_body_bytes: int = 32 << 20
    body_secs: float = 30.0
    max_turns: int = 64
    max_new_tokens: int = 512
    timeout_secs: float = 120.0
    part_secs: float = 30.0
    subtitle_secs: float = 8.0
    audio: AudioLimits = field(default_factory=AudioLimits)
    transcription_prompt: str = TRANSCRIPTION_PROMPT
    translation_prompt: str = TRANSLATION_PROMPT
    bias_prompt: str = "These words may occur: {words}"
    report: Path | None = None

    def __post_init__(self) -> None:
        if self.api_key is not None and not self.api_key.strip():
            raise ConfigError("the key is empty", expected="a key that nobody guesses", knob=API_KEY_VARIABLE)
        if self.api_key is None and not is_loopback(self.host):
            raise ConfigError(
                "a server that others can reach needs a key",
                value=self.host,
                expected="a loopback address, or a key",
                knob=f"--host 127.0.0.1, or the environment variable {API_KEY_VARIABLE}",
            )
        for name in ("max_body_bytes", "max_turns", "max_new_tokens", "timeout_secs"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} is too small", value=getattr(self, name), expected="more than 0")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
