from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.config import ModelSettings
from pipeline.errors import InputError
from pipeline.text.words import WordVectors
from pipeline.training.batches import preparation, to_device
from pipeline.training.text import WordTable

VECTORS = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], np.float32)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device(request.param)


def loaded() -> dict:
    return {
        "word_ids": torch.tensor([[2, 0, -1], [-1, -1, -1]], dtype=torch.int32),
        "features_2d": torch.full((2, 1, 4), 0.5, dtype=torch.float16),
        "features_3d": torch.zeros(2, 1, 0, dtype=torch.float16),
        "places_2d": torch.zeros(2, 1, dtype=torch.int64),
        "video_tokens": torch.ones(2, dtype=torch.int64),
        "audio": torch.zeros(2, 3, 40, dtype=torch.float16),
        "audio_nframes": torch.tensor([3.0, 0.0]),
        "clip_ids": ["a/0", "a/1"],
    }


def test_words_are_looked_up_and_padding_is_zero(device: torch.device) -> None:
    batch = to_device(loaded(), WordTable(VECTORS, device), device)
    assert batch["text"].tolist() == [[[5.0, 6.0], [1.0, 2.0], [0.0, 0.0]], [[0.0, 0.0]] * 3]
    assert "word_ids" not in batch
    assert torch.equal(batch["video"].cpu(), torch.full((2, 1, 4), 0.5))
    assert batch["video"].device.type == device.type
    assert batch["clip_ids"] == ["a/0", "a/1"]


def test_the_loaders_batch_stays_as_it_is(device: torch.device) -> None:
    before = loaded()
    to_device(before, WordTable(VECTORS, device), device)
    assert before.keys() == loaded().keys()
    for name, value in before.items():
        assert value == loaded()[name] if name == "clip_ids" else torch.equal(value, loaded()[name])


def test_the_loaders_memory_can_be_used_again() -> None:
    device, before = torch.device("cpu"), loaded()
    batch = to_device(before, WordTable(VECTORS, device), device)
    addresses = {value.data_ptr() for name, value in before.items() if name != "clip_ids" and value.numel()}
    assert not addresses & {value.data_ptr() for name, value in batch.items() if name != "clip_ids"}


def test_widths_that_are_not_the_models_say_which_setting(device: torch.device) -> None:
    words = WordVectors(["a", "b", "c"], VECTORS)
    with pytest.raises(InputError, match=r"set --model.text_dim 2"):
        preparation(Path("shards/x"), words, ModelSettings(text_dim=3), device)
    prepare = preparation(Path("shards/x"), words, ModelSettings(text_dim=2, video_dim=5), device)
    with pytest.raises(InputError, match=r"shards/x: video tokens have 4 dimensions, the model takes 5"):
        prepare(loaded())
