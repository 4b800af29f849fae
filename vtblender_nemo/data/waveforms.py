"""Effects on waveforms that Lhotse lacks, or has only with torchaudio, which NeMo does not install.

Lhotse's own generator of impulse responses (FRA-RIR) also draws from torch's global generator in spite of its seeds, so
that a resumed run would hear other rooms. Shapes: C channels, S samples, N samples of an impulse response.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from lhotse.augmentation import AudioTransform, ReverbWithImpulseResponse

LINE_RATE = 8000
"""Hz; as of the telephone networks' G.711."""
LINE_BAND = (300, 3400)
"""Hz; what a telephone channel passes (ITU-T G.712)."""
MU = 255
"""Of the mu-law (ITU-T G.711)."""
FIRST_ECHO_SECS = 0.0025
"""When a generated room's echo begins after the direct sound."""


@dataclass
class TelephoneLine(AudioTransform):
    """Passes 300 to 3400 Hz at 8 kHz, and rounds to 8 bits in mu-law; rate and length stay."""

    def __call__(self, samples: np.ndarray, sampling_rate: int) -> np.ndarray:
        """(C, S) float32 to the same."""
        from scipy.signal import butter, resample_poly, sosfiltfilt

        common = int(np.gcd(int(sampling_rate), LINE_RATE))
        up, down = LINE_RATE // common, int(sampling_rate) // common
        band = butter(4, LINE_BAND, btype="bandpass", fs=LINE_RATE, output="sos")
        narrow = resample_poly(samples, up, down, axis=-1)
        narrow = sosfiltfilt(band, narrow, axis=-1, padlen=min(100, narrow.shape[-1] - 1))
        wide = resample_poly(_mu_law(narrow), down, up, axis=-1)[..., : samples.shape[-1]]
        missing = samples.shape[-1] - wide.shape[-1]
        return np.pad(wide, [(0, 0)] * (wide.ndim - 1) + [(0, missing)]).astype(np.float32)

    def reverse_timestamps(
        self, offset: float, duration: float | None, sampling_rate: int
    ) -> tuple[float, float | None]:
        """Times stay."""
        return offset, duration


@dataclass
class LowerRate(AudioTransform):
    """What is left of audio that was recorded at a lower rate; rate and length stay.

    Attributes:
        rate: Hz of the recording.
    """

    rate: int

    def __call__(self, samples: np.ndarray, sampling_rate: int) -> np.ndarray:
        """(C, S) float32 to the same."""
        from scipy.signal import resample_poly

        if self.rate >= sampling_rate:
            return samples
        common = int(np.gcd(int(sampling_rate), self.rate))
        up, down = self.rate // common, int(sampling_rate) // common
        wide = resample_poly(resample_poly(samples, up, down, axis=-1), down, up, axis=-1)[..., : samples.shape[-1]]
        missing = samples.shape[-1] - wide.shape[-1]
        return np.pad(wide, [(0, 0)] * (wide.ndim - 1) + [(0, missing)]).astype(np.float32)

    def reverse_timestamps(
        self, offset: float, duration: float | None, sampling_rate: int
    ) -> tuple[float, float | None]:
        """Times stay."""
        return offset, duration


def _mu_law(samples: np.ndarray) -> np.ndarray:
    """Rounds samples in -1..1 (others are clipped) to 8 bits on the mu-law's scale."""
    clipped = np.clip(samples, -1, 1)
    level = np.sign(clipped) * np.log1p(MU * np.abs(clipped)) / np.log1p(MU)
    rounded = np.round(level * 127) / 127
    return np.sign(rounded) * np.expm1(np.abs(rounded) * np.log1p(MU)) / MU


@dataclass(frozen=True)
class RandomRoom:
    """An impulse response: the direct sound, then Gaussian noise that decays exponentially (Polack 1988).

    Attributes:
        seed: of the noise.
        t60_secs: time in which the echo falls by 60 dB.
        direct_to_echo_db: energy of the direct sound against that of the echo.
        rate: Hz.
    """

    seed: int
    t60_secs: float
    direct_to_echo_db: float
    rate: int

    def __call__(self, nsource: int = 1) -> np.ndarray:
        """(nsource, N) float32; the direct sound is the first sample, of height 1."""
        first, length = round(FIRST_ECHO_SECS * self.rate), round(self.t60_secs * self.rate)
        time = np.arange(length) / self.rate
        noise = np.random.default_rng(self.seed).standard_normal((nsource, length))
        echo = noise * 10 ** (-3 * time / self.t60_secs)
        echo[:, :first] = 0
        echo *= np.sqrt(10 ** (-self.direct_to_echo_db / 10) / np.sum(echo**2, axis=1, keepdims=True))
        # The loudest sample is taken for the direct sound's place by who convolves with this.
        echo = np.clip(echo, -0.99, 0.99)
        echo[:, 0] = 1.0
        return echo.astype(np.float32)

    def to_dict(self) -> dict[str, Any]:
        """As Lhotse writes generators down."""
        return asdict(self)


def generated_room(*, seed: int, t60_secs: float, direct_to_echo_db: float, rate: int) -> ReverbWithImpulseResponse:
    """Lhotse's convolution with a random room's impulse response; the speech's energy stays."""
    return ReverbWithImpulseResponse(rir_generator=RandomRoom(seed, t60_secs, direct_to_echo_db, rate))
