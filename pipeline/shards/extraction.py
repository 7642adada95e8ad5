"""From a video file to its sample in a shard: what a worker of the extract verb does, with Ray or without."""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.acquire.layout import find_captions
from pipeline.acquire.ledger import LedgerRow
from pipeline.errors import InputError
from pipeline.media.captions import read_captions
from pipeline.media.errors import MediaError
from pipeline.media.ffmpeg import check_ffmpeg
from pipeline.settings import ExtractSettings
from pipeline.types import Video
from pipeline.wording import of_no_use, to_share

if TYPE_CHECKING:
    from pipeline.shards.remote import Destination

STAGE = "extract"
ORPHAN_SECONDS = 30.0
"""How long the workers of a run that was killed are waited for."""


@dataclass(frozen=True)
class Job:
    """One video to extract, its captions resolved."""

    video: Video
    path: Path
    note: str | None = None
    """What was wrong with its captions file."""


def job_of(video: Video, path: Path, videos: Path) -> Job:
    """A video's work; captions that the manifest does not have are those beside its file."""
    beside = find_captions(videos, video.video_id) if video.captions is None else None
    if beside is not None:
        try:
            video = replace(video, captions=read_captions(beside))
        except MediaError as error:
            return Job(video, path, f"captions left out: {error.message}")
    return Job(video, path)


class Worker:
    """The actor: features of videos into shards of its own.

    Several threads may extract at once; on a GPU their frames share batches, and one decodes while another's compute.
    """

    def __init__(
        self,
        settings: ExtractSettings,
        folder: Path,
        name: str,
        writer: str,
        device: str,
        threads: int,
        destination: Destination | None = None,
    ):
        """Loads networks and vocabulary, and recovers what a killed worker of the same name left.

        With a destination each shard goes there when it is sealed, while the next is made.

        Raises:
            InputError: the folder is another one than the driver's; weights, CLIP's tokeniser or FFmpeg are missing;
                PyTorch cannot use the GPU; or another process still writes as ``writer``.
        """
        import torch  # takes seconds to import, and the verb's driver needs none of it

        from pipeline.backbones.extractor import FeatureExtractor
        from pipeline.shards.uploads import SealedUploads
        from pipeline.shards.writer import ShardWriter
        from pipeline.text.vocabulary import load_vocabulary

        if not (folder / "words.parquet").is_file():
            raise InputError(f"{folder}: what is in it is not there on {socket.gethostname()}: {to_share('shards')}")
        check_ffmpeg()
        if device == "cuda" and not torch.cuda.is_available():
            raise InputError(
                f"Ray counts a GPU on {socket.gethostname()}, but {of_no_use(torch.__version__, torch.version.cuda)}: "
                "install another PyTorch, or hide it from Ray with CUDA_VISIBLE_DEVICES="
            )
        torch.set_num_threads(threads)
        self.settings = settings
        self.features = FeatureExtractor(settings, device)
        self.words = load_vocabulary(folder / "words.parquet")
        self.words.ids("")  # what its tokeniser lacks is said now, and not of every video
        self.uploads = SealedUploads(folder, writer, destination) if destination else None
        on_seal = self.uploads.start if self.uploads else lambda: None
        self.writer = ShardWriter(folder, name, writer, settings.shard_bytes, wait=ORPHAN_SECONDS, on_seal=on_seal)
        self._writing = threading.Lock()

    def extract(self, job: Job) -> LedgerRow:
        """Extracts one video; when this returns a ``done`` row, its sample is on disk and counts.

        Raises:
            OSError: the disk is full, or fails.
        """
        from pipeline.shards.sample import Sample, encode_captions, to_8bit

        started = time.monotonic()
        try:
            features = self.features.extract(job.path)
        except MediaError as error:
            row = row_of(job, "failed", error.reason, error.message, started)
            return replace(row, recipe=self.settings.fingerprint())
        notes = features.notes + ([job.note] if job.note else [])
        captions = job.video.captions or []
        arrays: dict[Any, Any] = dict(features.arrays)
        if "audio" in arrays and self.settings.audio_dtype == "8bit":
            arrays["audio"] = to_8bit(arrays["audio"])
        caption_words = [0] * (len(captions) + 1)
        if captions:
            arrays["text"], caption_words = encode_captions(captions, self.words.ids)
        sample = Sample(
            video_id=job.video.video_id,
            duration=features.duration,
            captions=captions,
            arrays=arrays,
            rates=features.rates,
            caption_words=caption_words,
            recipe=self.settings.fingerprint(),
            backbones=features.backbones,
            notes=notes,
            split=job.video.split,
            category_1=job.video.category_1,
            category_2=job.video.category_2,
            task_id=job.video.task_id,
        )
        with self._writing:
            self.writer.add(sample)
        return row_of(job, "done", None, "; ".join(notes), started)

    def close(self) -> None:
        """Seals the shard in the making, and waits until it is where it goes."""
        self.writer.close()
        if self.uploads is not None:
            self.uploads.close()


def row_of(job: Job, outcome: str, reason: str | None, message: str, started: float | None = None) -> LedgerRow:
    """The ledger's row about a job."""
    seconds = time.monotonic() - started if started is not None else 0.0
    size = job.path.stat().st_size if job.path.exists() else 0
    return LedgerRow(job.video.video_id, STAGE, outcome, reason, message, bytes=size, seconds=seconds)
