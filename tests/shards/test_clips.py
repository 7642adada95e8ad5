import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import ClipSettings
from pipeline.shards import clips
from pipeline.shards.order import random_shares
from tests.conftest import GOLDEN, needs_shared
from tests.shards.samples import narrations_of, one_by_one, video_tokens


def _golden_windows():
    golden = json.loads((GOLDEN / "clip_windows.json").read_text()) if GOLDEN.is_dir() else {"cases": []}
    return golden, golden["cases"]


@needs_shared
def test_clips_around_captions_are_the_published_ones():
    golden, cases = _golden_windows()
    captions = golden["captions"]
    narrations = narrations_of((captions["start"], captions["end"]))
    for case in cases:
        (clip,) = one_by_one(
            clips.grown_clips(narrations, [case["index"]], case["min_time"], misaligned=case["misaligned"])
        )
        words = " ".join(captions["text"][index] for index in clip.captions).split()
        stop = min(clip.audio_stop, golden["mel_frames"], clip.audio_first + golden["max_audio_frames"])
        assert (clip.start, clip.end, words) == (case["start"], case["end"], case["words"])
        assert clip.audio_first == case["audio_first_frame"]
        assert max(0, stop - clip.audio_first) == case["audio_frames"]
    assert len(cases) > 100


@needs_shared
@pytest.mark.parametrize("strategy", ["clip", "nearest", "max_pool"])
def test_video_tokens_are_the_published_ones(strategy):
    golden = np.load(GOLDEN / "video_tokens.npz")
    cases = sorted({name.rpartition("/")[0] for name in golden if name.startswith(f"{strategy}/")})
    assert len(cases) == 10
    for case in cases:
        video, mask = video_tokens(golden[f"{case}/2d"], golden[f"{case}/3d"], 12, strategy)
        np.testing.assert_allclose(video, golden[f"{case}/video"], rtol=1e-6, atol=1e-7, err_msg=case)
        np.testing.assert_array_equal(mask, golden[f"{case}/mask"], err_msg=case)


@needs_shared
def test_windows_of_features_are_the_published_ones():
    golden = np.load(GOLDEN / "video_tokens.npz")
    for case in range(4):
        start, end = golden[f"slice/{case}/window"]
        tracks = {}
        for name, rate in (("2d", 1.0), ("3d", 1.5)):
            features = golden[f"slice/{case}/{name}"]
            first, stop = clips.feature_window(start, end, rate, len(features))
            tracks[name] = features[first:stop]
        video, mask = video_tokens(tracks["2d"], tracks["3d"], 12, "clip")
        np.testing.assert_allclose(video, golden[f"slice/{case}/video"], rtol=1e-6, atol=1e-7)
        np.testing.assert_array_equal(mask, golden[f"slice/{case}/mask"])


@settings(max_examples=200, deadline=None)
@given(length=st.integers(1, 4000), count=st.integers(1, 400))
def test_nearest_is_torchs(length, count):
    track = torch.arange(length, dtype=torch.float64).reshape(1, 1, -1)
    expected = torch.nn.functional.interpolate(track.float(), size=count, mode="nearest")
    assert clips.nearest(length, count).tolist() == expected.flatten().long().tolist()


@settings(max_examples=150, deadline=None)
@given(
    lengths=st.tuples(st.integers(0, 60), st.integers(0, 90)),
    count=st.integers(1, 20),
    strategy=st.sampled_from(["clip", "nearest", "max_pool"]),
)
def test_tokens_are_at_unit_length_and_masked_behind(lengths, count, strategy):
    generator = np.random.default_rng(0)
    tracks = [generator.standard_normal((length, 4)).astype(np.float16) for length in lengths]
    video, mask = video_tokens(*tracks, count, strategy)
    tokens = int(mask.sum())
    assert mask.tolist() == [1.0] * tokens + [0.0] * (count - tokens)
    assert tokens == (0 if 0 in lengths else min(count, lengths[1]))
    np.testing.assert_allclose(np.linalg.norm(video[:tokens, :4], axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(video[:tokens, 4:], axis=1), 1, rtol=1e-5)
    assert not video[tokens:].any()


def test_one_token_is_the_maximum_of_each_track():
    generator = np.random.default_rng(0)
    track = generator.standard_normal((7, 4)).astype(np.float32)
    video, mask = video_tokens(track, track[:0], 0, "max_pool")
    expected = torch.nn.functional.normalize(torch.from_numpy(track).amax(0), dim=0).numpy()
    np.testing.assert_allclose(video, np.concatenate([expected, np.zeros(4)])[None], rtol=1e-6)
    assert mask.tolist() == [1.0]


def test_a_window_before_the_beginning_has_no_features():
    assert clips.feature_window(-5.0, -1.0, 1.5, 20) == (0, 0)
    assert clips.feature_window(-5.0, 2.0, 1.5, 20) == (0, 4)


def test_one_track_alone():
    track = np.eye(5, 3, dtype=np.float16)
    video, mask = video_tokens(None, track, 4, "clip")
    np.testing.assert_array_equal(video, track[:4])
    assert mask.tolist() == [1, 1, 1, 1]


STARTS, ENDS = [10.0, 14.0, 30.0], [13.0, 20.0, 32.0]


@pytest.mark.parametrize(
    ("start", "captions", "window"),
    [
        (11.0, (0, 1), (10.0, 20.0)),  # spoken when the window begins
        (5.5, (), (5.5, 13.5)),  # a caption lies within, but neither end is spoken
        (6.5, (1, 0), (10.0, 20.0)),  # spoken when it ends
        (21.0, (), (21.0, 29.0)),  # silence
        (0.0, (), (0.0, 8.0)),
    ],
)
def test_narration_around_a_random_window(start, captions, window):
    narrations = narrations_of((STARTS, ENDS))
    (clip,) = one_by_one(clips.random_clips(narrations, np.array([0]), np.array([start]), 8.0, misaligned=True))
    assert clip.captions == captions
    assert (clip.start, clip.end) == window
    sound = clip.start + 4.0 if captions else clip.start
    assert clip.audio_first == clips.time_to_frame(sound)


def _drawn(starts, ends, available, settings, seed=0):
    shares = random_shares(seed, 0, np.array([7], np.uint32), settings.per_video)
    return one_by_one(clips.training_clips(narrations_of((starts, ends)), np.array([available]), settings, shares))


def test_a_video_without_captions_has_clips_without_text():
    drawn = _drawn([], [], 60, ClipSettings())
    assert len(drawn) == 10
    assert all(clip.captions == () and clip.start >= 0 and clip.end <= 60 for clip in drawn)
    with pytest.raises(ValueError, match="there is none"):
        _drawn([], [], 60, ClipSettings(sampling="mcn"))


def test_a_video_shorter_than_a_window_starts_at_zero():
    assert {(clip.start, clip.end) for clip in _drawn([], [], 5, ClipSettings())} == {(0.0, 8.0)}


def test_clips_of_a_benchmark_are_the_captions_own_windows():
    drawn = _drawn(STARTS, ENDS, 60, ClipSettings(sampling="caption", per_video=50))
    assert {clip.captions for clip in drawn} == {(0,), (1,), (2,)}
    for clip in drawn:
        (index,) = clip.captions
        assert (clip.start, clip.end) == (STARTS[index], ENDS[index])
        assert clip.audio_first == clips.time_to_frame(clip.start)


def test_mcn_clips_last_ten_seconds_around_captions():
    starts = [float(second) for second in range(0, 100, 3)]
    ends = [start + 2 for start in starts]
    drawn = _drawn(starts, ends, 100, ClipSettings(sampling="mcn", per_video=32, seconds=10.0, misaligned_audio=False))
    assert len(drawn) == 32
    assert len({clip.captions[0] for clip in drawn}) > 10
    for clip in drawn:
        assert clip.end - clip.start >= 10
        assert (clip.audio_first, clip.audio_stop) == (clips.time_to_frame(clip.start), clips.time_to_frame(clip.end))


def test_avlnet_clips_are_random_windows_whatever_is_said():
    settings = ClipSettings(sampling="avlnet", per_video=200, seconds=10.0)
    drawn = _drawn(STARTS, ENDS, 40, settings)
    assert {clip.start for clip in drawn} == set(map(float, range(29)))  # the last second that is left out is AVLnet's
    for clip in drawn:
        assert clip.end == clip.start + 10 and clip.captions == ()
        assert clip.audio_first == clips.time_to_frame(clip.start)
        assert clip.audio_stop - clip.audio_first == 1000
    assert {(clip.start, clip.end) for clip in _drawn([], [], 5, settings)} == {(0.0, 10.0)}


def test_the_one_vector_of_a_clip_is_its_maximum_or_its_mean():
    tracks = [np.float16([[1, 5], [3, -1], [5, 2]]), np.float16([[7, 8]]), np.zeros((0, 2), np.float16)]
    highest, average = (clips.token_features(tracks, 0, "clip", pooling) for pooling in ("max", "mean"))
    assert [track.tolist() for track in highest] == [[[5, 5]], [[7, 8]], []]
    assert [track.tolist() for track in average] == [[[3, 2]], [[7, 8]], []]


@st.composite
def _videos(draw):
    """Captions of some videos, that touch, overlap, or last no time at all."""
    found = []
    for gaps in draw(
        st.lists(st.lists(st.tuples(st.integers(-2, 5), st.integers(0, 5)), max_size=12), min_size=1, max_size=5)
    ):
        starts, ends, time = [], [], 3.0
        for gap, length in gaps:
            starts.append(max(time + gap, starts[-1] if starts else 0.0))
            ends.append(starts[-1] + length)
            time = ends[-1]
        found.append((starts, ends))
    return found


def _grown_one_by_one(starts, ends, index, seconds):
    """The published rule, for one clip."""
    first = last = index
    added = [index]
    while ends[last] - starts[first] < seconds:
        lengths = {}
        if first > 0:
            lengths[first - 1] = ends[last] - starts[first - 1]
        if last < len(ends) - 1:
            lengths[last + 1] = ends[last + 1] - starts[first]
        if not lengths:
            break
        added.append(min(lengths, key=lengths.get))  # of equal ones the earlier
        first, last = min(first, added[-1]), max(last, added[-1])
    return tuple(added), starts[first], ends[last]


@settings(max_examples=200, deadline=None)
@given(videos=_videos(), seconds=st.floats(0.5, 40))
def test_clips_grow_by_the_nearer_neighbour_and_no_longer_than_needed(videos, seconds):
    narrations = narrations_of(*videos)
    grown = one_by_one(clips.grown_clips(narrations, np.arange(len(narrations.starts)), seconds, misaligned=False))
    expected = [
        (video, *_grown_one_by_one(starts, ends, index, seconds))
        for video, (starts, ends) in enumerate(videos)
        for index in range(len(starts))
    ]
    found = [
        (
            clip.video,
            tuple(caption - int(narrations.bounds[clip.video]) for caption in clip.captions),
            clip.start,
            clip.end,
        )
        for clip in grown
    ]
    assert found == expected


@settings(max_examples=200, deadline=None)
@given(
    videos=_videos(),
    sampling=st.sampled_from(["mft", "mcn", "avlnet", "caption"]),
    misaligned=st.booleans(),
    seed=st.integers(0, 9),
)
def test_clips_of_many_videos_are_those_of_each(videos, sampling, misaligned, seed):
    if sampling in ("mcn", "caption"):
        videos = [video for video in videos if video[0]]
    drawn = ClipSettings(sampling=sampling, per_video=4, seconds=6.0, misaligned_audio=misaligned)
    available = np.array([5 + 9 * place for place in range(len(videos))])
    shares = random_shares(seed, 3, np.arange(len(videos), dtype=np.uint32), 4)
    narrations = narrations_of(*videos)
    together = one_by_one(clips.training_clips(narrations, available, drawn, shares))
    apart = []
    for place, video in enumerate(videos):
        own = clips.training_clips(narrations_of(video), available[[place]], drawn, shares[[place]])
        first = int(narrations.bounds[place])
        apart += [
            clip._replace(video=place, captions=tuple(caption + first for caption in clip.captions))
            for clip in one_by_one(own)
        ]
    assert together == apart


@settings(max_examples=100, deadline=None)
@given(videos=_videos(), start=st.floats(0, 60), seconds=st.floats(1, 20))
def test_a_window_finds_the_caption_that_is_spoken_at_an_end_of_it(videos, start, seconds):
    narrations, places = narrations_of(*videos), np.arange(len(videos))
    found = one_by_one(clips.random_clips(narrations, places, np.full(len(videos), start), seconds, misaligned=False))
    for clip, (starts, ends) in zip(found, videos, strict=True):
        spoken = None
        for time in (start, start + seconds):
            before = [index for index, begin in enumerate(starts) if begin < time]
            index = before[-1] if before else 0
            if spoken is None and starts and starts[index] <= time <= ends[index]:
                spoken = index
        if spoken is None:
            assert (clip.start, clip.end, clip.captions) == (start, start + seconds, ())
        else:
            assert clip.captions[0] == spoken + narrations.bounds[clip.video]


@settings(max_examples=50, deadline=None)
@given(cuts=st.lists(st.integers(0, 12), min_size=2, max_size=2))
def test_part_of_some_clips(cuts):
    narrations = narrations_of((STARTS, ENDS), ([1.0], [2.0]), (STARTS, ENDS))
    whole = clips.grown_clips(narrations, [0, 0, 1, 2, 3, 4, 5, 5, 6], 8.0, misaligned=True)
    first, stop = sorted(cuts)
    assert one_by_one(whole.part(first, stop)) == one_by_one(whole)[first:stop]
