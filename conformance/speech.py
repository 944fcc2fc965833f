"""Speech for test calls, made on the spot: espeak-ng where it is installed, else a formant synthesiser.

Nothing here is recorded or random: the same voice, text and seed give the same samples on every run.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import wave
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from conformance.g711 import RATE, Samples, level_dbov

SPEECH_LEVEL = -24.0
"""Level of an utterance in dBov, pauses included: what a telephone talker has on a trunk."""

_BAND = (300.0, 3400.0)


@dataclass(frozen=True, slots=True)
class Voice:
    """Name an espeak-ng voice, and the pitch in Hz that the synthesiser uses in its place."""

    espeak: str
    espeak_pitch: int
    words_per_minute: int
    pitch: float


CALLER = Voice("en-us", 35, 165, 112.0)
AGENT = Voice("en-us+f3", 60, 175, 205.0)

CALLER_LINES = (
    "Hello, I would like to move my appointment to Thursday.",
    "Ten o'clock is fine. Please send me the address.",
    "The number ends in four four one seven.",
    "Great, thank you. Have a pleasant day.",
)
AGENT_LINES = (
    "Thank you for calling. How can I help you?",
    "I found a free slot on Thursday at ten. Shall I book it?",
    "Done. The address is on its way to your phone.",
    "Is there anything else that I can do for you?",
)


def utterance(voice: Voice, text: str, seed: int = 0) -> Samples:
    """Return ``text`` spoken by ``voice``: 8 kHz samples of the telephone band, no silence at the ends."""
    return _utterance(voice, text, seed).copy()


@lru_cache(maxsize=128)
def _utterance(voice: Voice, text: str, seed: int) -> Samples:
    spoken = _espeak(voice, text)
    if spoken is None:
        spoken = formant_speech(text, voice.pitch, seed)
    return _at_level(_trimmed(spoken), SPEECH_LEVEL)


def has_espeak() -> bool:
    """Tell whether espeak-ng is installed."""
    return shutil.which("espeak-ng") is not None


def _espeak(voice: Voice, text: str) -> npt.NDArray[np.float64] | None:
    command = [
        "espeak-ng",
        "-v",
        voice.espeak,
        "-p",
        str(voice.espeak_pitch),
        "-s",
        str(voice.words_per_minute),
    ]
    try:
        done = subprocess.run([*command, "--stdout", text], capture_output=True, timeout=20, check=True)
        with wave.open(io.BytesIO(done.stdout)) as sound:
            rate = sound.getframerate()
            raw = sound.readframes(sound.getnframes())
    except (OSError, subprocess.SubprocessError, wave.Error, EOFError):
        return None
    samples = np.frombuffer(raw[: len(raw) // 2 * 2], dtype="<i2").astype(np.float64)
    return resampled(samples, rate) if samples.size else None


def resampled(samples: npt.NDArray[np.float64], rate: int) -> npt.NDArray[np.float64]:
    """Convert to 8 kHz and the telephone band in one step, in the frequency domain."""
    wanted = round(samples.size * RATE / rate)
    spectrum = np.fft.rfft(samples)
    frequency = np.fft.rfftfreq(samples.size, 1 / rate)
    # Raised-cosine edges of 100 Hz keep the filter from ringing.
    low, high = _BAND
    gain = np.clip((frequency - low + 100) / 100, 0, 1) * np.clip((high + 100 - frequency) / 100, 0, 1)
    kept = np.zeros(wanted // 2 + 1, dtype=np.complex128)
    count = min(kept.size, spectrum.size)
    kept[:count] = (spectrum * np.sin(gain * np.pi / 2) ** 2)[:count]
    return np.fft.irfft(kept, wanted) * (wanted / samples.size)


# Formant frequencies in Hz of ten vowels (Peterson and Barney 1952, men's averages).
_VOWELS = (
    (270, 2290, 3010), (390, 1990, 2550), (530, 1840, 2480), (660, 1720, 2410), (730, 1090, 2440),
    (570, 840, 2410), (440, 1020, 2240), (300, 870, 2240), (640, 1190, 2390), (490, 1350, 1690),
)  # fmt: skip


def formant_speech(text: str, pitch: float, seed: int = 0) -> npt.NDArray[np.float64]:
    """Synthesise something that behaves like speech: syllables, voiced and unvoiced sounds, pauses.

    Each vowel of the text is a syllable, each consonant run before it a noise burst, each stop a pause;
    nobody will understand it, but level, rhythm and spectrum are those of a talker.
    """
    # Not for secrets: the same seed must give the same voice on every run.
    random = np.random.default_rng([seed, *text.encode()])
    parts: list[npt.NDArray[np.float64]] = []
    for word in text.split():
        syllables = max(1, sum(letter in "aeiouy" for letter in word.lower()))
        for _ in range(syllables):
            parts.append(_fricative(random, random.uniform(0.03, 0.09)))
            parts.append(_vowel(random, random.uniform(0.09, 0.18), pitch * random.uniform(0.9, 1.15)))
        parts.append(np.zeros(round(RATE * (0.28 if word[-1] in ".,?!" else 0.05))))
    return np.concatenate(parts)


def _vowel(random: np.random.Generator, length: float, pitch: float) -> npt.NDArray[np.float64]:
    count = round(length * RATE)
    time = np.arange(count) / RATE
    phase = 2 * np.pi * np.cumsum(pitch * (1 + 0.03 * np.sin(2 * np.pi * 5 * time)) / RATE)
    source = np.zeros(count)
    for harmonic in range(1, int(3600 / pitch) + 1):
        source += np.sin(harmonic * phase) / harmonic
    spectrum = np.fft.rfft(source)
    frequency = np.fft.rfftfreq(count, 1 / RATE)
    formants = _VOWELS[random.integers(len(_VOWELS))]
    gain = sum(1.0 / (1.0 + ((frequency - formant) / 90.0) ** 2) for formant in formants)
    return np.asarray(np.fft.irfft(spectrum * gain, count) * np.hanning(count) * 4)


def _fricative(random: np.random.Generator, length: float) -> npt.NDArray[np.float64]:
    count = round(length * RATE)
    noise = random.standard_normal(count)
    # Differencing lifts the high band, where consonants live.
    return np.diff(noise, prepend=0.0) * np.hanning(count) * 0.15


def _trimmed(samples: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    loud = np.flatnonzero(np.abs(samples) > np.max(np.abs(samples)) * 0.02)
    return samples[loud[0] : loud[-1] + 1] if loud.size else samples


def _at_level(samples: npt.NDArray[np.float64], level: float) -> Samples:
    gain = 10 ** ((level - level_dbov(samples)) / 20)
    return np.clip(np.round(samples * gain), -32000, 32000).astype(np.int16)
