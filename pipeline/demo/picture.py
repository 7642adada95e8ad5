"""Moving pictures of the demo's corpus: a thing with its colour, moved as its action asks, in its topic's room."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from pipeline.demo.topics import COLOURS, PACES, SIDES, Scene, Topic

WIDTH, HEIGHT = 256, 144
RATE = 15
"""Frames per second."""

_SMOOTH = 4  # sprites are drawn this much larger and reduced, which softens their edges


def path(motion: str, phase: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where a thing is as its stroke goes on.

    Args:
        motion: name of the path, one for each action.
        phase: strokes done so far, ``[frames]``.

    Returns:
        x and y in units of the thing's reach, and its tilt in degrees, each ``[frames]``.
    """
    turn = 2 * np.pi * phase
    saw = phase % 1.0
    zero = np.zeros_like(phase)
    paths = {
        "fall": (zero, 2 * saw - 1, zero),
        "circle": (np.cos(turn), np.sin(turn), zero),
        "chop": (0.3 * np.sin(turn / 5), -np.abs(np.sin(turn / 2)), zero),
        "sweep": (np.sin(turn), 0.15 * np.cos(turn * 2), 10 * np.cos(turn)),
        "push": (zero, 0.5 * np.maximum(np.sin(turn), 0), zero),
        "rock": (zero, zero, 45 * np.sin(turn)),
        "rise": (0.1 * np.sin(turn), 1 - 2 * saw, zero),
        "shiver": (0.25 * np.sin(turn * 1.3), 0.25 * np.cos(turn * 1.7), 14 * np.sin(turn)),
        "settle": (1 - np.minimum(saw * 2, 1), -0.4 * (1 - np.minimum(saw * 2, 1)), zero),
        "flip": (zero, -np.abs(np.sin(turn / 2)), 180 * saw),
        "zigzag": (2 * np.abs(2 * (phase / 4 % 1.0) - 1) - 1, 0.6 * np.sin(turn), zero),
        "strike": (0.2 * np.cos(turn), np.abs(np.cos(turn / 2)) - 0.8, -35 * np.cos(turn / 2)),
    }
    return paths[motion]


@lru_cache(maxsize=2048)
def sprite(shape: str, colour: tuple[int, int, int], size: int, tilt: int) -> Image.Image:
    """A thing as an RGBA picture ``[size, size]``, turned by ``tilt`` degrees."""
    large = size * _SMOOTH
    image = Image.new("RGBA", (large, large), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    low, high, middle = large * 0.12, large * 0.88, large / 2
    shade = tuple(int(channel * 0.62) for channel in colour)
    line = max(large // 28, 1)
    if shape == "disc":
        draw.ellipse((low, low, high, high), fill=colour, outline=shade, width=line)
    elif shape == "ring":
        draw.ellipse((low, low, high, high), outline=colour, width=large // 7)
    elif shape == "square":
        draw.rectangle((low, low, high, high), fill=colour, outline=shade, width=line)
    elif shape == "bar":
        draw.rectangle((low, large * 0.38, high, large * 0.62), fill=colour, outline=shade, width=line)
    elif shape == "triangle":
        draw.polygon([(middle, low), (high, high), (low, high)], fill=colour, outline=shade)
    elif shape == "diamond":
        draw.polygon([(middle, low), (high, middle), (middle, high), (low, middle)], fill=colour, outline=shade)
    elif shape == "drop":
        draw.polygon([(middle, low), (large * 0.74, middle), (large * 0.26, middle)], fill=colour)
        draw.ellipse((large * 0.24, large * 0.38, large * 0.76, high), fill=colour)
    else:  # dots
        for row, column in ((0.3, 0.3), (0.3, 0.68), (0.52, 0.49), (0.72, 0.3), (0.72, 0.7)):
            centre, middle_y, radius = large * column, large * row, large * 0.12
            draw.ellipse((centre - radius, middle_y - radius, centre + radius, middle_y + radius), fill=colour)
    return image.resize((size, size), Image.Resampling.BOX).rotate(tilt, Image.Resampling.BILINEAR)


def room(topic: Topic, random: np.random.RandomState) -> np.ndarray:
    """The place of a video: wall and table in the topic's colour, lit in the video's own way; uint8 ``[H, W, 3]``."""
    base = np.array(COLOURS[topic.place], float) * 0.55 + 70
    rows = np.linspace(0, 1, HEIGHT)[:, None]
    columns = np.linspace(-1, 1, WIDTH)[None]
    light = 1.0 + 0.25 * random.uniform(-1, 1) * columns - 0.25 * rows + 0.1 * random.uniform(-1, 1)
    picture = base * light[..., None]
    table = int(HEIGHT * random.uniform(0.66, 0.76))
    picture[table:] = picture[table:] * 0.6 + np.array(COLOURS["brown"]) * 0.3
    stripe = WIDTH // (4 + int(topic.hum) % 7)  # each room has its own wallpaper
    picture[:table, ::stripe] *= 0.82
    return np.clip(picture, 0, 255).astype(np.uint8)


def frames(scene: Scene, background: np.ndarray, random: np.random.RandomState) -> Iterator[np.ndarray]:
    """Frames of one scene, uint8 ``[H, W, 3]`` each; without a step, the empty room."""
    count, step = round(scene.seconds * RATE), scene.step
    base = Image.fromarray(background)
    grain = random.randint(-5, 6, (4, HEIGHT, WIDTH, 1), dtype=np.int8)
    if step is not None:
        size = int(HEIGHT * random.uniform(0.36, 0.46))
        centre = np.array(
            [WIDTH * (SIDES[scene.side] + random.uniform(-0.06, 0.06)), HEIGHT * random.uniform(0.48, 0.58)]
        )
        speed = step.action.beat * PACES[scene.pace] * random.uniform(0.9, 1.1)
        x, y, tilt = path(step.action.motion, np.arange(count) / RATE * speed + random.uniform())
        positions = np.stack([centre[0] + x * WIDTH * 0.17, centre[1] + y * HEIGHT * 0.22], 1) - size / 2
    for index in range(count):
        image = base.copy()
        if step is not None:
            turned = sprite(step.shape, COLOURS[scene.colour], size, round(tilt[index] / 6) * 6)
            image.paste(turned, (int(positions[index, 0]), int(positions[index, 1])), turned)
        noisy = np.asarray(image, np.int16) + grain[index % len(grain)]
        yield np.clip(noisy, 0, 255).astype(np.uint8)
