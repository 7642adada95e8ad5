from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.config import ModelSettings
from pipeline.errors import InputError
from pipeline.text.words import WordVectors
from pipeline.training.batches import WordTable, preparation, to_device

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
        "video": torch.full((2, 1, 4), 0.5, dtype=torch.float16),
        "video_mask": torch.ones(2, 1),
        "clip_ids": ["a/0", "a/1"],
    }


def test_words_are_looked_up_and_padding_is_zero(device: torch.device) -> None:
    batch = to_device(loaded(), WordTable(VECTORS, device), device)
    assert batch["text"].tolist() == [[[5.0, 6.0], [1.0, 2.0], [0.0, 0.0]], [[0.0, 0.0]] * 3]
    assert "word_ids" not in batch
    assert batch["video"].dtype == torch.float32
    assert batch["video"].device.type == device.type
    assert batch["clip_ids"] == ["a/0", "a/1"]


def test_the_loaders_batch_stays_as_it_is(device: torch.device) -> None:
    before = loaded()
    to_device(before, WordTable(VECTORS, device), device)
    assert before.keys() == loaded().keys()
    assert before["video"].dtype == torch.float16


def test_widths_that_are_not_the_models_say_which_setting(device: torch.device) -> None:
    words = WordVectors(["a", "b", "c"], VECTORS)
    with pytest.raises(InputError, match=r"set --model.text_dim 2"):
        preparation(Path("shards/x"), words, ModelSettings(text_dim=3), device)
    prepare = preparation(Path("shards/x"), words, ModelSettings(text_dim=2, video_dim=5), device)
    with pytest.raises(InputError, match=r"shards/x: video tokens have 4 dimensions, the model takes 5"):
        prepare(loaded())


def test_a_batch_is_aligned_however_the_loader_lays_it_out() -> None:
    """Vectorised sums go by alignment: the same values elsewhere in memory would give other last bits."""
    memory = torch.arange(2 * 4 + 1, dtype=torch.float32)
    batch = {**loaded(), "video": memory[1:].view(2, 1, 4)}
    assert batch["video"].data_ptr() % 64
    device = torch.device("cpu")
    assert to_device(batch, WordTable(VECTORS, device), device)["video"].data_ptr() % 64 == 0
