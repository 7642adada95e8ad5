import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.media.logmel import LogMel, log_mel
from tests.conftest import GOLDEN, needs_shared


@needs_shared
def test_golden() -> None:
    golden = np.load(GOLDEN / "logmel.npz")
    ours = log_mel(golden["pcm"], int(golden["sample_rate"]))
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours.T, golden["logmel"], atol=1e-2)


def noise(samples: int, offset: int = 0) -> np.ndarray:
    return (np.random.RandomState(7).normal(0, 2000, samples) + offset).astype(np.int16)


@settings(deadline=None, max_examples=25)
@given(samples=st.integers(1, 40_000), cuts=st.lists(st.integers(0, 40_000), max_size=5))
def test_chunks_do_not_matter(samples: int, cuts: list[int]) -> None:
    pcm = noise(samples)
    with LogMel() as transform:
        for piece in np.split(pcm, sorted(min(cut, samples) for cut in cuts)):
            transform.push(piece)
        in_pieces = transform.finish()
    assert in_pieces.dtype == np.float16
    assert in_pieces.shape == (1 + samples // 160, 40)
    np.testing.assert_allclose(in_pieces, log_mel(pcm), atol=0.04)  # float16 near -80


def test_long_sound_goes_block_by_block() -> None:
    # longer than one block of windows: every window must be what it is in the middle of a shorter sound
    pcm = noise(16_000 * 60, offset=500)
    pcm[-16_000] = 32_767  # the loudest moment comes last
    whole = log_mel(pcm)
    second = pcm[16_000 * 40 :]
    part = log_mel(second)
    difference = whole[4003:-3] - part[3:-3]
    assert np.ptp(difference[part[3:-3] > -60]) < 0.1


def test_constant_offset_is_removed() -> None:
    np.testing.assert_allclose(log_mel(noise(20_000)), log_mel(noise(20_000, offset=900)), atol=0.5)


def test_no_sound_and_silence() -> None:
    assert log_mel(np.zeros(0, np.int16)).shape == (0, 40)
    assert (log_mel(np.zeros(3200, np.int16)) == 0).all()


@pytest.mark.parametrize("rate", [8000, 16_000, 22_050, 44_100])
def test_a_tone_is_in_its_band(rate: int) -> None:
    times = np.arange(rate) / rate
    low, high = (log_mel((8000 * np.sin(2 * np.pi * hertz * times)).astype(np.int16), rate) for hertz in (200, 2000))
    assert low.mean(axis=0).argmax() < high.mean(axis=0).argmax()
    assert low.max() == 0 and low.min() >= -80
