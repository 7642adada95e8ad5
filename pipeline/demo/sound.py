"""Sound of the demo's corpus: the hum of the room, the strokes of the action, and a voice that speaks the narration."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from pipeline.demo.topics import PACES, Scene, Topic
from pipeline.types import Caption

RATE = 16_000
"""Samples per second."""

_WORD_SECONDS = 0.28


def hum(topic: Topic, seconds: float, random: np.random.RandomState) -> np.ndarray:
    """The room: a low tone with its octave and some noise; float ``[samples]``."""
    time = np.arange(int(seconds * RATE)) / RATE
    tone = np.sin(2 * np.pi * topic.hum * time) + 0.5 * np.sin(4 * np.pi * topic.hum * time)
    return 0.04 * tone + 0.008 * random.standard_normal(len(time))


def strokes(scene: Scene, random: np.random.RandomState) -> np.ndarray:
    """What a scene's action sounds like: decaying bursts of tone and noise at its beat; float ``[samples]``."""
    if scene.step is None:
        return np.zeros(0)
    action = scene.step.action
    time = np.arange(int(scene.seconds * RATE)) / RATE
    phase = time * action.beat * PACES[scene.pace] * random.uniform(0.9, 1.1) + random.uniform()
    envelope = np.exp(-4.0 * (phase % 1.0))
    tone = np.sin(2 * np.pi * action.pitch * random.uniform(0.97, 1.03) * time)
    noise = random.standard_normal(len(time))
    return 0.25 * envelope * ((1 - action.noise) * tone + 0.5 * action.noise * noise)


def voice(captions: Sequence[Caption], seconds: float, speaker: float) -> np.ndarray:
    """A voice: each word is a short vowel whose two formants depend on the word; float ``[samples]``.

    Args:
        captions: what is said, and when.
        seconds: length of the sound.
        speaker: pitch of the voice in hertz.
    """
    sound = np.zeros(int(seconds * RATE))
    time = np.arange(int(_WORD_SECONDS * RATE)) / RATE
    window = np.hanning(len(time))
    for caption in captions:
        for index, word in enumerate(caption.text.split()):
            start = int((caption.start + index * _WORD_SECONDS) * RATE)
            if start + len(time) > len(sound):
                break
            key = zlib.crc32(word.encode())
            first, second = 300 + key % 600, 1000 + key // 600 % 1800
            vowel = np.sin(2 * np.pi * first * time) + 0.6 * np.sin(2 * np.pi * second * time)
            sound[start : start + len(time)] += 0.12 * window * vowel * (1 + 0.5 * np.sin(2 * np.pi * speaker * time))
    return sound
