"""Sinkhorn's codes and swapped prediction."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import LossSettings
from pipeline.errors import InputError
from pipeline.objectives import build_loss
from pipeline.objectives.sinkhorn import sinkhorn, swapped_prediction


def _scores(clips, prototypes, seed=0):
    return torch.nn.functional.normalize(torch.randn(clips, prototypes, generator=torch.Generator().manual_seed(seed)))


@given(clips=st.integers(1, 40), prototypes=st.integers(1, 8), seed=st.integers(0, 20))
def test_a_clip_is_shared_out_whole_and_prototypes_get_equally_much(clips, prototypes, seed):
    codes = sinkhorn(_scores(clips, prototypes, seed).double(), rounds=300)
    assert codes.min() >= 0
    torch.testing.assert_close(codes.sum(dim=1), torch.ones(clips, dtype=torch.float64))
    shares = codes.sum(dim=0) / clips * prototypes
    torch.testing.assert_close(shares, torch.ones(prototypes, dtype=torch.float64), rtol=0.05, atol=0.05)


def test_clips_that_all_prefer_one_prototype_are_divided_all_the_same():
    # the second clip prefers the first prototype by less than the first clip does
    codes = sinkhorn(torch.tensor([[1.0, 0.0], [0.6, 0.0]]), rounds=100)
    assert codes.argmax(dim=1).tolist() == [0, 1]


def test_scores_of_any_size_give_numbers():
    assert sinkhorn(torch.tensor([[1e4, -1e4], [-1e4, 1e4]])).tolist() == [[1.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize("soft", [False, True])
def test_agreeing_modalities_lose_little_and_absent_clips_count_for_nothing(soft):
    scores = {"text": 5 * torch.eye(4).repeat(2, 1), "video": 5 * torch.eye(4).repeat(2, 1)}
    present = {name: torch.ones(8, dtype=torch.bool) for name in scores}
    agreeing = swapped_prediction(scores, present, soft)
    turned = {"text": scores["text"], "video": scores["video"].roll(1, dims=1)}
    assert agreeing < swapped_prediction(turned, present, soft) / 10
    # four clips more whose video is absent, and anything in its place
    longer = {
        "text": torch.cat((scores["text"], 5 * torch.eye(4))),
        "video": torch.cat((scores["video"], torch.full((4, 4), 9e9))),
    }
    absent = {"text": torch.ones(12, dtype=torch.bool), "video": torch.arange(12) < 8}
    torch.testing.assert_close(swapped_prediction(longer, absent, soft), agreeing, rtol=1e-3, atol=1e-4)
    nobody = {name: torch.zeros(8, dtype=torch.bool) for name in scores}
    assert swapped_prediction(scores, nobody, soft) == 0


def _outputs(clips=12, classes=4):
    outputs = {}
    for number, name in enumerate(("text", "video", "audio")):
        outputs[f"{name}_embed"] = torch.randn(clips, 8, generator=torch.Generator().manual_seed(number))
        outputs[f"{name}_cluster"] = _scores(clips, classes, number).requires_grad_()
        outputs[f"{name}_nonempty_input_mask"] = torch.ones(clips, dtype=torch.bool)
    return outputs


@pytest.mark.parametrize("soft", [False, True])
def test_as_the_clustering_term_of_mcn(soft):
    loss = build_loss(LossSettings(name="mcn", clustering="sinkhorn", soft_labels=soft))
    outputs = _outputs()
    total, terms = loss(outputs)
    assert torch.isfinite(total) and terms["cluster"] > 0
    total.backward()
    assert all(outputs[f"{name}_cluster"].grad.abs().sum() > 0 for name in ("text", "video", "audio"))
    assert 0 < loss.clustering_time.take() < 10 and loss.clustering_time.take() == 0


def test_what_does_not_fit_together_is_said():
    with pytest.raises(InputError, match=r"loss.soft_labels is for loss.clustering sinkhorn"):
        build_loss(LossSettings(name="mcn", soft_labels=True))
    outputs = {name: value for name, value in _outputs().items() if not name.endswith("_cluster")}
    with pytest.raises(InputError, match=r"needs a cluster head: set model.cluster_classes"):
        build_loss(LossSettings(name="mcn", clustering="sinkhorn"))(outputs)
