"""CLIP's text tower against open_clip's with the same weights, through a TORCH_HOME that is filled beforehand."""

from pathlib import Path

import pytest
import torch

from pipeline.backbones.clip_text import CONTEXT, START, clip_text_tower
from pipeline.errors import InputError
from tests.backbones.hub import put_checkpoint, put_clip_text


@pytest.mark.slow
def test_features_of_every_piece_are_open_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    theirs = put_clip_text(tmp_path)
    ours = clip_text_tower()
    ids = torch.randint(0, START, (3, CONTEXT), generator=torch.Generator().manual_seed(1))
    ids[:, 0] = START
    with torch.inference_mode():
        expected = theirs(ids)
        torch.testing.assert_close(ours(ids), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours(ids[:, :9]), expected[:, :9], rtol=1e-4, atol=1e-5)
    assert expected.shape == (3, CONTEXT, 512)
    assert not any(parameter.requires_grad for parameter in ours.parameters())


def test_weights_that_are_missing_or_of_another_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("no network in tests")

    monkeypatch.setattr(torch.hub, "urlopen", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(InputError, match=r"CLIP's text tower: .*no network.* put https://.*/ViT-B-32\.pt at "):
        clip_text_tower()
    put_checkpoint(tmp_path, "ViT-B-32.pt", {"ln_final.weight": torch.ones(512)})
    with pytest.raises(InputError, match="CLIP's text tower: the weight file is not of this network"):
        clip_text_tower()
