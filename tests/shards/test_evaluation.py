import numpy as np
import pytest

from pipeline.config import ClipSettings
from pipeline.errors import InputError
from pipeline.shards.clips import feature_window, video_tokens
from pipeline.shards.evaluation import evaluation_clips
from pipeline.shards.reader import ShardSet
from tests.shards.samples import make_sample, write_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    samples = [
        make_sample("train1"),
        make_sample("test1", split="test", seconds=40),
        make_sample("silent", split="test", modalities=("2d", "3d")),
        make_sample("test2", split="test", modalities=("text", "2d", "3d")),
    ]
    return ShardSet(write_shards(folder, samples))


def test_each_caption_of_the_split_is_one_clip(shards):
    batches = list(evaluation_clips(shards, "test", batch_clips=4))
    expected = [f"{name}/{index}" for name, count in (("test1", 9), ("test2", 7)) for index in range(count)]
    assert [clip for batch in batches for clip in batch["clip_ids"]] == expected
    assert [len(batch["video"]) for batch in batches] == [4, 4, 4, 4]
    row = 0
    for batch in batches:
        for place, clip in enumerate(batch["clip_ids"]):
            name, index = clip.split("/")
            sample = shards.read(name)
            caption = sample.captions[int(index)]
            assert batch["texts"][place] == caption.text
            words = sample.arrays["text"][sample.caption_words[int(index)] : sample.caption_words[int(index) + 1]]
            assert batch["word_ids"][place][batch["text_mask"][place] > 0].tolist() == words.tolist()
            tracks = []
            for modality in ("2d", "3d"):
                first, stop = feature_window(
                    caption.start, caption.end, sample.rates[modality], len(sample.arrays[modality])
                )
                tracks.append(sample.arrays[modality][first:stop])
            np.testing.assert_array_equal(batch["video"][place], video_tokens(*tracks, 12, "clip")[0])
            if "audio" in sample.arrays:
                first, stop = (max(0, (int(time * 16000) - 200) // 160) for time in caption[:2])
                np.testing.assert_array_equal(
                    batch["audio"][place, :, : stop - first], sample.arrays["audio"][first:stop].T
                )
                assert int(batch["audio_nframes"][place]) == stop - first
            else:
                assert not batch["audio_mask"][place].any()
            row += 1


def test_words_are_cut(shards):
    batch = next(evaluation_clips(shards, "test", ClipSettings(max_words=20), max_words=2))
    assert batch["word_ids"].shape == (16, 2)
    assert batch["text_mask"].all()


def test_a_split_without_captions_is_refused(shards):
    with pytest.raises(InputError, match="no video with captions in split val; it has the splits test, train"):
        evaluation_clips(shards, "val")
