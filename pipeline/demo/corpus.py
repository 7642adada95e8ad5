"""Generates the demo's corpus: narrated how-to videos, their list and their captions, always the same."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import wave
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import ffmpeg
import numpy as np

from pipeline.demo import picture, sound
from pipeline.demo.processes import end_with_parent
from pipeline.demo.topics import NAMED, PACES, SIDES, TOPICS, Scene, Topic
from pipeline.errors import InputError
from pipeline.media.ffmpeg import ffmpeg_binary
from pipeline.replacing import replace_file
from pipeline.types import Caption, Video

VIDEOS_PER_TOPIC = 7
HELD_OUT_PER_TOPIC = 2
"""Videos of each topic that training never sees."""

_GREETINGS = ("hello and welcome back", "thanks for watching today", "so let us get started")
_OPENINGS = ("", "now ", "then ", "next ", "okay ")


@dataclass(frozen=True)
class Script:
    """All that is decided before a video is drawn."""

    video: Video
    topic: Topic
    scenes: tuple[Scene, ...]
    spoken: tuple[Caption, ...]
    """What is said. In held-out videos the manifest's captions are the annotated steps instead."""

    @property
    def seconds(self) -> float:
        """Length of the video."""
        return self.scenes[-1].end


def scripts() -> list[Script]:
    """The corpus before it is drawn: ``len(TOPICS) * VIDEOS_PER_TOPIC`` videos."""
    return [_write_script(topic, number) for number in range(VIDEOS_PER_TOPIC) for topic in TOPICS]


def build_corpus(folder: Path, processes: int | None = None) -> Iterator[Video]:
    """Draws what is not drawn yet into ``folder/videos`` and writes the list ``folder/videos.jsonl``.

    Yields:
        each video once it is there.
    """
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    todo = scripts()
    with ProcessPoolExecutor(processes or min(os.cpu_count() or 1, 8), initializer=end_with_parent) as pool:
        for script in pool.map(_draw, todo, [folder / "videos"] * len(todo)):
            yield script.video
    lines = [json.dumps(_as_row(script.video)) for script in todo]
    replace_file(folder / "videos.jsonl", lambda part: part.write_text("\n".join(lines) + "\n"))


def _as_row(video: Video) -> dict[str, object]:
    row = asdict(video)
    row["captions"] = [caption._asdict() for caption in video.captions or []]
    return row


def _write_script(topic: Topic, number: int) -> Script:
    name = f"{topic.title} {number}".encode()
    video_id = base64.urlsafe_b64encode(hashlib.sha256(name).digest())[:11].decode()
    random = np.random.RandomState(int.from_bytes(hashlib.sha256(name).digest()[:4], "little"))
    scenes = [Scene(None, "", "", "", 0.0, round(random.uniform(1.5, 2.5), 2))]
    spoken = [Caption(0.2, scenes[0].end, str(random.choice(_GREETINGS)))]
    annotated = []
    colour = str(random.choice(NAMED))
    for step in topic.steps:
        start = scenes[-1].end
        seconds = round(random.uniform(4.2, 6.4), 2)
        scene = Scene(
            step,
            colour if step.colour == "any" else step.colour,
            str(random.choice(list(PACES))),
            str(random.choice(list(SIDES))),
            start,
            round(start + seconds, 2),
        )
        scenes.append(scene)
        phrase = f"{scene.pace} {step.action.verb} the {scene.colour} {step.thing} on the {scene.side}"
        annotated.append(Caption(scene.start, scene.end, f"{phrase} {step.remark}"))
        # people speak a little before or after they act
        says = max(0.0, start + random.uniform(-0.6, 0.9))
        half = says + seconds * random.uniform(0.4, 0.55)
        spoken.append(Caption(round(says, 2), round(half, 2), f"{random.choice(_OPENINGS)}{phrase}"))
        if random.uniform() < 0.8:
            spoken.append(Caption(round(half, 2), round(min(half + seconds * 0.4, scene.end), 2), step.remark))
    held_out = number >= VIDEOS_PER_TOPIC - HELD_OUT_PER_TOPIC
    video = Video(
        video_id=video_id,
        split="test" if held_out else "train",
        category_1=topic.category,
        category_2=topic.title,
        task_id=str(TOPICS.index(topic)),
        rank=number + 1,
        captions=annotated if held_out else spoken,
    )
    return Script(video, topic, tuple(scenes), tuple(spoken))


def _draw(script: Script, folder: Path) -> Script:
    target = folder / f"{script.video.video_id}.mp4"
    if target.exists():
        return script
    random = np.random.RandomState(int.from_bytes(script.video.video_id.encode()[:4], "little"))
    wav = target.with_suffix(".wav.tmp")
    _write_wav(wav, _soundtrack(script, random))
    beside = target.with_suffix(".mp4.tmp")
    encoder = _encoder(wav, beside)
    background = picture.room(script.topic, random)
    for scene in script.scenes:
        for frame in picture.frames(scene, background, random):
            encoder.stdin.write(frame.tobytes())
    encoder.stdin.close()
    if encoder.wait() != 0:
        raise InputError(f"FFmpeg could not write {beside}: {encoder.stderr.read().decode(errors='replace').strip()}")
    wav.unlink()
    beside.replace(target)
    return script


def _soundtrack(script: Script, random: np.random.RandomState) -> np.ndarray:
    track = sound.hum(script.topic, script.seconds, random)
    for scene in script.scenes:
        part = sound.strokes(scene, random)
        start = int(scene.start * sound.RATE)
        track[start : start + len(part)] += part[: len(track) - start]
    return track + sound.voice(script.spoken, script.seconds, speaker=random.uniform(90, 220))


def _write_wav(path: Path, track: np.ndarray) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sound.RATE)
        file.writeframes((np.clip(track, -1, 1) * 32767).astype("<i2").tobytes())


def _encoder(wav: Path, target: Path):  # type: ignore[no-untyped-def]  # ffmpeg-python has no types
    size = f"{picture.WIDTH}x{picture.HEIGHT}"
    video = ffmpeg.input("pipe:", format="rawvideo", pix_fmt="rgb24", s=size, r=picture.RATE)
    audio = ffmpeg.input(str(wav), format="wav")
    exact = {"fflags": "+bitexact", "flags:v": "+bitexact", "flags:a": "+bitexact"}
    output = ffmpeg.output(
        video, audio, str(target), format="mp4", vcodec="libx264", preset="veryfast", crf=26, pix_fmt="yuv420p",
        acodec="aac", audio_bitrate="64k", threads=1, movflags="+faststart", **exact,
    )  # fmt: skip
    return (
        output.overwrite_output()
        .global_args("-v", "error")
        .run_async(cmd=ffmpeg_binary(), pipe_stdin=True, pipe_stderr=True)
    )
