"""CLIP's text as the published program of MFT's CLIP variant has it."""

import re

import numpy as np
import pytest
import torch

from pipeline.errors import InputError
from pipeline.text.clip_vocabulary import ClipVocabulary
from pipeline.training.text import ClipText, text_encoder
from tests.backbones.hub import put_clip_text

TEXTS = ["pour the batter", "", "So, now you whisk the zabaglione -- don't stop! it's 80 degrees", "flip it over " * 30]
CPU = torch.device("cpu")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> tuple[ClipText, torch.nn.Module]:
    """Ours, and open_clip's with the same weights."""
    home = tmp_path_factory.mktemp("torch")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(home))
        theirs = put_clip_text(home)
        ours = text_encoder(ClipVocabulary(), CPU)
    assert isinstance(ours, ClipText)
    return ours, theirs


def word_ids(texts: list[str], most: int) -> torch.Tensor:
    """As the loader makes them."""
    ids = torch.full((len(texts), most), -1, dtype=torch.int32)
    for row, text in enumerate(texts):
        found = ClipVocabulary().ids(text)[:most]
        ids[row, : len(found)] = torch.from_numpy(found)
    return ids


def published(theirs: torch.nn.Module, texts: list[str], most: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features and mask by the steps of the published ``clip_utils.py``: all 77 ids, start and end, through CLIP."""
    from open_clip.tokenizer import SimpleTokenizer

    ids = SimpleTokenizer()([" ".join(re.findall(r"[\w']+", text)) for text in texts])
    with torch.no_grad():
        features = theirs(ids)[:, 1:]
    mask = torch.zeros(len(texts), most)
    for row, ends in enumerate(ids[:, 1:].argmax(dim=1)):
        mask[row, :ends] = 1
    return features[:, :most], mask


@pytest.mark.parametrize("most", [20, 75])
def test_features_and_mask_are_the_published_ones(towers: tuple[ClipText, torch.nn.Module], most: int) -> None:
    ours, theirs = towers
    ids = word_ids(TEXTS, most)
    features, (expected, mask) = ours(ids), published(theirs, TEXTS, most)
    assert torch.equal((ids >= 0).float(), mask)
    assert int(mask[3].sum()) == most
    torch.testing.assert_close(features, expected * mask[..., None], rtol=1e-4, atol=1e-5)
    assert features.dtype == torch.float32 and not features.requires_grad


def test_a_texts_features_do_not_depend_on_what_is_beside_or_behind_it(
    towers: tuple[ClipText, torch.nn.Module],
) -> None:
    ours, _ = towers
    together, alone = ours(word_ids(TEXTS, 20)), ours(word_ids(TEXTS[:1], 5))
    torch.testing.assert_close(together[:1, :5], alone, rtol=1e-4, atol=1e-5)


def test_a_network_learns_from_them(towers: tuple[ClipText, torch.nn.Module]) -> None:
    layer = torch.nn.Linear(512, 4)
    layer(towers[0](word_ids(TEXTS, 20))).square().sum().backward()
    assert layer.weight.grad is not None and bool(layer.weight.grad.any())


def test_in_half_the_bits(towers: tuple[ClipText, torch.nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    ours, _ = towers
    exact = ours(word_ids(TEXTS, 20))
    monkeypatch.setattr(ours, "dtype", torch.bfloat16)
    rough = ours(word_ids(TEXTS, 20))
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    cosine = torch.nn.functional.cosine_similarity(rough, exact, dim=2)[word_ids(TEXTS, 20) >= 0]
    assert float(cosine.min()) > 0.99


def test_more_pieces_than_clip_takes(towers: tuple[ClipText, torch.nn.Module]) -> None:
    with pytest.raises(InputError, match="at most 75 pieces of a text, not 76"):
        towers[0](torch.from_numpy(np.zeros((1, 76), np.int32)))
