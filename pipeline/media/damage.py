"""Whether enough of a file was decoded, judged by what came and by what FFmpeg said.

What is missing in the middle of a file is filled with repeated pictures and silence, so that its length tells little:
FFmpeg's own counts of what it decoded show it.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

from pipeline.media.pipes import Messages
from pipeline.media.probe import AudioStream, MediaInfo, VideoStream

KEPT_SHARE = 0.9
"""Share of the announced duration that a damaged file must still give."""

_PICTURES = re.compile(r"vist#|h26[34]|hevc|av1|vp[89]|mpeg[124]|theora|[Vv]ideo")
_CONTAINER = re.compile(r"^\[(in#|matroska|mov,|avi|flv|ogg|asf)")
_TAIL = re.compile(r"prematurely|partial file|[Tt]runcat")
"""Complaints of an end that is missing: what is there before it lacks nothing."""


@dataclass(frozen=True)
class Outcome:
    """What a decode gave."""

    info: MediaInfo
    video: VideoStream | None
    """The stream that was used."""
    audio: AudioStream | None
    seen: float
    """Seconds of pictures that came out."""
    heard: float
    messages: Messages
    code: int
    """FFmpeg's exit code."""

    @property
    def cause(self) -> str:
        """What was wrong, the complaints about pictures first: FFmpeg's threads write in an order of their own."""
        complaints = sorted(self.messages.complaints, key=lambda line: not _PICTURES.search(line))
        return complaints[0] if complaints else f"FFmpeg ended with code {self.code}" if self.code else ""


@dataclass
class Verdict:
    """What is to be made of it."""

    failure: str = ""
    """Why the file is of no use."""
    notes: list[str] = field(default_factory=list)
    """What is wrong with one that is used all the same."""
    sound_usable: bool = True


def judge(outcome: Outcome) -> Verdict:
    """Decides whether what came is enough."""
    cause = outcome.cause
    longest = max(outcome.seen, outcome.heard)
    if longest == 0:
        return Verdict(failure=f"nothing could be decoded ({cause or 'it is empty'})")
    length = outcome.info.duration or longest
    covered = _covered(outcome, length)
    # of a short file the last frame may be missing without any damage
    if covered < KEPT_SHARE * length and length - covered > 0.5:
        share = f"{covered:.1f} s of {length:.1f} s ({100 * covered / length:.0f} %)"
        return Verdict(failure=f"only {share} could be decoded{f' ({cause})' if cause else ''}")
    verdict = Verdict()
    heard_share = _share_without_errors(outcome, outcome.audio)
    if outcome.video is not None and outcome.heard and heard_share < KEPT_SHARE:
        verdict.sound_usable = False
        cause += f"; sound left out, of which only {heard_share:.0%} could be decoded"
    if cause:
        verdict.notes.append(f"damaged: {cause}")
    verdict.notes.extend(f"passed over {stream}" for stream in outcome.info.unusable)
    return verdict


def _covered(outcome: Outcome, length: float) -> float:
    """Seconds of a file of ``length`` that were decoded.

    A stream may well be shorter than its file; one that FFmpeg complains of may not.
    """
    longest = max(outcome.seen, outcome.heard)
    if not outcome.cause:
        all_decoded = outcome.info.stream_count == (outcome.video is not None) + (outcome.audio is not None)
        return longest if all_decoded else length
    complaints = outcome.messages.complaints
    of_pictures = outcome.video is not None and any(_PICTURES.search(line) for line in complaints)
    of_container = any(_CONTAINER.search(line) and not _TAIL.search(line) for line in complaints)
    without_errors = length * _share_without_errors(outcome, outcome.video or outcome.audio)
    lasting = _seconds_decoded(outcome) if of_container else math.inf
    return min(outcome.seen if of_pictures else longest, without_errors, lasting)


def _share_without_errors(outcome: Outcome, stream: VideoStream | AudioStream | None) -> float:
    """Share of a stream's packets that its decoder could make something of."""
    decoded = outcome.messages.decoded.get(stream.index) if stream is not None else None
    if decoded is None or not decoded.errors:
        return 1.0
    return decoded.frames / (decoded.frames + decoded.errors)


def _seconds_decoded(outcome: Outcome) -> float:
    """How long all decoded frames last, of the stream of which more is left: what a container lost is in neither.

    For pictures of uneven rate it is an estimate from below, since a header may give the highest rate.
    """
    lasting = []
    for stream in (outcome.video, outcome.audio):
        decoded = outcome.messages.decoded.get(stream.index) if stream is not None else None
        if decoded is not None and isinstance(stream, AudioStream):
            lasting.append(decoded.samples / stream.sample_rate)
        elif decoded is not None and isinstance(stream, VideoStream) and stream.rate:
            lasting.append(decoded.frames / stream.rate)
    return max(lasting, default=math.inf)
