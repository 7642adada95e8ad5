"""What extraction makes of one file, for people: streams, what each backbone sees, spectrogram, features."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline.backbones.base import Backbone
from pipeline.backbones.extractor import ClipCutter, FeatureExtractor, VideoFeatures
from pipeline.backbones.registry import backbones_of
from pipeline.config import ExtractSettings
from pipeline.errors import InputError
from pipeline.media.decode import decode
from pipeline.media.logmel import FRAMES_PER_SECOND, LogMel
from pipeline.media.pictures import Sheet
from pipeline.media.probe import MediaInfo

FRAMES_SHOWN = 24
CLIPS_SHOWN = 5
CLIP_FRAMES_SHOWN = 8


@dataclass
class Inspection:
    """One file, seen through the settings."""

    path: Path
    info: MediaInfo
    backbones: dict[str, Backbone]
    inputs: dict[str, _Sample]
    """Some of what each backbone sees, evenly spread."""
    spectrogram: np.ndarray | None
    """None: no sound was asked for."""
    notes: list[str]
    features: VideoFeatures | None = None
    missing: str = ""
    """Why there are no features."""


@dataclass
class _Sample:
    """Keeps every ``step``-th of what comes, ``most`` to ``2 * most`` of them, however much that is."""

    most: int
    count: int = 0
    step: int = 1
    kept: list[np.ndarray] = field(default_factory=list)

    def take(self, item: np.ndarray) -> None:
        if self.count % self.step == 0:
            self.kept.append(item.copy())
        if len(self.kept) == 2 * self.most:
            self.kept = self.kept[::2]
            self.step *= 2
        self.count += 1

    def spread(self) -> list[tuple[int, np.ndarray]]:
        """At most ``most``, with their numbers among all."""
        places = np.unique(np.linspace(0, len(self.kept) - 1, min(self.most, len(self.kept))).round().astype(int))
        return [(int(place) * self.step, self.kept[place]) for place in places]


def inspect_video(path: Path, settings: ExtractSettings, device: str = "cpu") -> Inspection:
    """Decodes a file and computes its features, if the weights can be had.

    Raises:
        MediaError: the file cannot be used.
        InputError: there is no such backbone.
    """
    backbones = backbones_of(settings)
    inputs = {key: _Sample(FRAMES_SHOWN if not backbones[key].clip_length else CLIPS_SHOWN) for key in backbones}
    cutters = {key: ClipCutter(backbone) for key, backbone in backbones.items()}
    formats = {key: backbone.frame_format for key, backbone in backbones.items()}
    decoding = decode(path, formats, settings.audio, settings.timeout)
    with LogMel() as sound:
        for name, chunk in decoding:
            if name == "audio":
                sound.push(chunk)
            else:
                for item in cutters[name].push(chunk):
                    inputs[name].take(item)
        for key, cutter in cutters.items():
            for item in cutter.finish():
                inputs[key].take(item)
        spectrogram = sound.finish() if settings.audio else None
    inspection = Inspection(path, decoding.info, backbones, inputs, spectrogram, decoding.notes)
    try:
        inspection.features = FeatureExtractor(settings, device).extract(path)
    except InputError as error:
        inspection.missing = str(error)
    return inspection


def draw(inspection: Inspection, path: Path) -> None:
    """Writes the contact sheet, a PNG."""
    sheet = Sheet()
    sheet.title(inspection.path.name)
    for row in stream_rows(inspection.info):
        sheet.line("   ".join(row))
    for note in inspection.notes:
        sheet.line(f"note: {note}")
    for key, backbone in inspection.backbones.items():
        _draw_inputs(sheet, key, backbone, inspection.inputs[key])
    if inspection.spectrogram is not None:
        _draw_sound(sheet, inspection.spectrogram)
    sheet.heading("features")
    for row in feature_rows(inspection):
        sheet.line("   ".join(row))
    if inspection.missing:
        sheet.line(f"none of the backbones: {inspection.missing}")
    sheet.save(path)


def _draw_sound(sheet: Sheet, spectrogram: np.ndarray) -> None:
    if not len(spectrogram):
        sheet.heading("audio · log-mel · nothing")
        return
    sheet.heading(f"audio · log-mel, {len(spectrogram)} frames of 10 ms, 40 bands, 0 to -80 dB")
    sheet.spectrogram(spectrogram, len(spectrogram) / FRAMES_PER_SECOND)


def _draw_inputs(sheet: Sheet, key: str, backbone: Backbone, sample: _Sample) -> None:
    if not sample.kept:
        sheet.heading(f"{key} · {backbone.name} · nothing")
        return
    height, width = sample.kept[0].shape[-3:-1]
    shown = sample.spread()
    rate = backbone.features_per_second
    if backbone.clip_length is None:
        sheet.heading(
            f"{key} · {backbone.name} · {_many(sample.count, 'frame')} at {rate:g}/s, {width} x {height} pixels"
        )
        sheet.frames([frame for _, frame in shown], [f"{place / rate:.1f} s" for place, _ in shown], columns=8)
        return
    sheet.heading(
        f"{key} · {backbone.name} · {_many(sample.count, 'clip')} at {rate:g}/s, each {backbone.clip_length} frames at "
        f"{backbone.frame_format.rate:g}/s, {width} x {height} pixels"
    )
    of_clip = np.linspace(0, backbone.clip_length - 1, min(CLIP_FRAMES_SHOWN, backbone.clip_length)).round().astype(int)
    for place, clip in shown:
        labels = [f"{place / rate + frame / backbone.frame_format.rate:.2f} s" for frame in of_clip]
        sheet.frames([clip[frame] for frame in of_clip], labels, columns=len(of_clip))


def _many(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def stream_rows(info: MediaInfo) -> list[tuple[str, ...]]:
    """One row per stream: number, kind, codec, details; those that are used first in each kind."""
    rows: list[tuple[str, ...]] = []
    for video in info.videos:
        rate = f"{video.rate:g}/s" if video.rate else "rate unknown"
        turned = f", turned by {video.rotation:g}°" if video.rotation else ""
        size = f"{video.width} x {video.height}, {rate}, {video.pixel_format}{turned}"
        rows.append((f"stream {video.index}", "video", video.codec, size))
    for audio in info.audios:
        rows.append((f"stream {audio.index}", "audio", audio.codec, f"{audio.sample_rate} Hz, {audio.channels}"))
    rows.extend(("not used", "", "", stream) for stream in info.unusable)
    duration = f"{info.duration:.2f} s" if info.duration is not None else "not announced"
    return [*rows, ("duration", "", "", duration)]


def feature_rows(inspection: Inspection) -> list[tuple[str, ...]]:
    """One row per array: modality, shape, rate, its rows' norms (least, mean, greatest), what computed it."""
    rows: list[tuple[str, ...]] = []
    features = inspection.features
    for key, array in (features.arrays if features is not None else {}).items():
        assert features is not None
        norms = np.linalg.norm(array.astype(np.float32), axis=1)
        shown = f"norm {norms.min():.2f} … {norms.mean():.2f} … {norms.max():.2f}"
        shape = " x ".join(map(str, array.shape))
        rows.append((key, shape, f"{features.rates[key]:g}/s", shown, features.backbones[key]))
    return rows
