import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import ClipSettings
from pipeline.shards import clips
from tests.conftest import GOLDEN, needs_shared
from tests.shards.samples import video_tokens


def _golden_windows():
    golden = json.loads((GOLDEN / "clip_windows.json").read_text()) if GOLDEN.is_dir() else {"cases": []}
    return golden, golden["cases"]


@needs_shared
def test_clips_around_captions_are_the_published_ones():
    golden, cases = _golden_windows()
    captions = golden["captions"]
    for case in cases:
        clip = clips.caption_clip(
            captions["start"], captions["end"], case["index"], case["min_time"], case["misaligned"]
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
    clip = clips.random_clip(STARTS, ENDS, start, 8.0, misaligned=True)
    assert clip.captions == captions
    assert (clip.start, clip.end) == window
    sound = clip.start + 4.0 if captions else clip.start
    assert clip.audio_first == clips.time_to_frame(sound)


def test_a_video_without_captions_has_clips_without_text():
    drawn = clips.training_clips([], [], 60, ClipSettings(), np.random.default_rng(0))
    assert len(drawn) == 10
    assert all(clip.captions == () and clip.start >= 0 and clip.end <= 60 for clip in drawn)
    with pytest.raises(ValueError, match="there is none"):
        clips.training_clips([], [], 60, ClipSettings(sampling="mcn"), np.random.default_rng(0))


def test_a_video_shorter_than_a_window_starts_at_zero():
    drawn = clips.training_clips([], [], 5, ClipSettings(), np.random.default_rng(0))
    assert {(clip.start, clip.end) for clip in drawn} == {(0.0, 8.0)}


def test_clips_of_a_benchmark_are_the_captions_own_windows():
    settings = ClipSettings(sampling="caption", per_video=50)
    drawn = clips.training_clips(STARTS, ENDS, 60, settings, np.random.default_rng(0))
    assert {clip.captions for clip in drawn} == {(0,), (1,), (2,)}
    for clip in drawn:
        (index,) = clip.captions
        assert (clip.start, clip.end) == (STARTS[index], ENDS[index])
        assert clip.audio_first == clips.time_to_frame(clip.start)


def test_mcn_clips_last_ten_seconds_around_captions():
    starts = [float(second) for second in range(0, 100, 3)]
    ends = [start + 2 for start in starts]
    settings = ClipSettings(sampling="mcn", per_video=32, seconds=10.0, misaligned_audio=False)
    drawn = clips.training_clips(starts, ends, 100, settings, np.random.default_rng(0))
    assert len(drawn) == 32
    assert len({clip.captions[0] for clip in drawn}) > 10
    for clip in drawn:
        assert clip.end - clip.start >= 10
        assert (clip.audio_first, clip.audio_stop) == (clips.time_to_frame(clip.start), clips.time_to_frame(clip.end))


def test_avlnet_clips_are_random_windows_whatever_is_said():
    settings = ClipSettings(sampling="avlnet", per_video=200, seconds=10.0)
    drawn = clips.training_clips(STARTS, ENDS, 40, settings, np.random.default_rng(0))
    assert {clip.start for clip in drawn} == set(map(float, range(29)))  # the last second that is left out is AVLnet's
    for clip in drawn:
        assert clip.end == clip.start + 10 and clip.captions == ()
        assert (clip.audio_first, clip.audio_stop) == (clips.time_to_frame(clip.start), clips.time_to_frame(clip.end))
    short = clips.training_clips([], [], 5, settings, np.random.default_rng(0))
    assert {(clip.start, clip.end) for clip in short} == {(0.0, 10.0)}


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_grown_clip_is_contiguous_and_no_longer_than_needed(data):
    gaps = data.draw(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 5)), min_size=1, max_size=15))
    starts, ends, time = [], [], 0.0
    for gap, length in gaps:
        starts.append(time + gap)
        ends.append(time + gap + length)
        time = ends[-1]
    index = data.draw(st.integers(0, len(gaps) - 1))
    seconds = data.draw(st.floats(0.5, 40))
    added = clips.grow(starts, ends, index, seconds)
    assert added[0] == index
    assert sorted(added) == list(range(min(added), max(added) + 1))
    assert ends[max(added)] - starts[min(added)] >= seconds or len(added) == len(gaps)
    if len(added) > 1:
        assert ends[max(added[:-1])] - starts[min(added[:-1])] < seconds
