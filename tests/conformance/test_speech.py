"""The speech of test calls: the same on every run, at a talker's level, and G.711 as the standard has it."""

import numpy as np
import pytest

from conformance import speech
from conformance.g711 import SILENCE, decode, encode, level_dbov


def test_the_same_text_gives_the_same_samples():
    first = speech.utterance(speech.CALLER, speech.CALLER_LINES[0])
    speech._utterance.cache_clear()
    assert np.array_equal(first, speech.utterance(speech.CALLER, speech.CALLER_LINES[0]))


@pytest.mark.parametrize("voice", [speech.CALLER, speech.AGENT])
def test_an_utterance_has_a_talkers_level_and_no_silence_at_its_ends(voice):
    samples = speech.utterance(voice, "Ten o'clock is fine.")
    assert level_dbov(samples) == pytest.approx(speech.SPEECH_LEVEL, abs=0.1)
    assert level_dbov(samples[:800]) > -60
    assert 0.5 < samples.size / 8000 < 4


def test_without_espeak_a_synthesiser_speaks(monkeypatch):
    monkeypatch.setattr(speech, "_espeak", lambda voice, text: None)
    speech._utterance.cache_clear()
    try:
        one, other = (speech.utterance(speech.CALLER, text, seed=3) for text in speech.CALLER_LINES[:2])
    finally:
        speech._utterance.cache_clear()
    assert level_dbov(one) == pytest.approx(speech.SPEECH_LEVEL, abs=0.1)
    size = min(one.size, other.size)
    assert not np.array_equal(one[:size], other[:size])


def test_speech_stays_in_the_telephone_band():
    samples = speech.utterance(speech.AGENT, speech.AGENT_LINES[0]).astype(float)
    power = np.abs(np.fft.rfft(samples)) ** 2
    frequency = np.fft.rfftfreq(samples.size, 1 / 8000)
    assert power[(frequency < 180) | (frequency > 3520)].sum() < 0.01 * power.sum()


@pytest.mark.parametrize("payload_type", [0, 8])
def test_g711_survives_decoding_and_encoding(payload_type):
    octets = bytes(range(256))
    again = encode(decode(octets, payload_type), payload_type)
    # µ-law has two zeros: 0x7f is read as 0 and written as 0xff.
    assert all(a == b or (payload_type == 0 and a == 0x7F and b == 0xFF) for a, b in zip(octets, again, strict=True))


def test_known_g711_values():
    # ITU-T G.711 tables 1a to 2b: the ends and the smallest steps.
    assert list(decode(bytes([0x80, 0x00, 0xFF, 0xFE]), 0)) == [32124, -32124, 0, 8]
    assert list(decode(bytes([0xAA, 0x2A, 0xD5, 0x55]), 8)) == [32256, -32256, 8, -8]
    assert level_dbov(decode(SILENCE[0], 0)) == -127.0
