"""Sinkhorn's equal partition, and the clustering term that is built on it."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import LossSettings
from pipeline.errors import InputError
from pipeline.objectives import build_loss
from pipeline.objectives.sinkhorn import EqualPartition

NAMES = ("text", "video", "audio")


def _scores(clips, clusters, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(clips, clusters, generator=generator, dtype=torch.float64) * 2 - 1


def _all(clips):
    return torch.ones(clips, dtype=torch.bool)


@given(clips=st.integers(1, 12), clusters=st.integers(1, 6), seed=st.integers(0, 99), absent=st.integers(0, 12))
def test_clips_are_whole_and_clusters_equal(clips, clusters, seed, absent):
    present = torch.arange(clips) >= absent
    assigned = EqualPartition(epsilon=0.5, rounds=200)(_scores(clips, clusters, seed), present)
    there = int(present.sum())
    torch.testing.assert_close(assigned.sum(dim=1), present.double())
    torch.testing.assert_close(assigned.sum(dim=0), torch.full((clusters,), there / clusters).double())
    of_these = EqualPartition(epsilon=0.5, rounds=200)(_scores(clips, clusters, seed)[present], _all(there))
    torch.testing.assert_close(assigned[present], of_these)


def test_by_hand():
    # With weight 1, exp of the scores is [[4, 1], [2, 2]]. Columns to 1: [[2/3, 1/3], [1/3, 2/3]]; its rows are whole.
    scores = torch.tensor([[4.0, 1.0], [2.0, 2.0]]).log()
    assigned = EqualPartition(epsilon=1.0, rounds=1)(scores, _all(2))
    torch.testing.assert_close(assigned, torch.tensor([[2 / 3, 1 / 3], [1 / 3, 2 / 3]]))


def test_the_limits_of_its_strength():
    # All prefer the first cluster; only two of four get it: those that lose most by leaving.
    scores = torch.tensor([[1.0, 0.0], [1.0, 0.9], [1.0, 0.2], [1.0, 0.8]])
    hard = EqualPartition(epsilon=0.01, rounds=1000)(scores, _all(4))
    torch.testing.assert_close(hard, torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]), rtol=0, atol=5e-3)
    even = EqualPartition(epsilon=1e6)(scores, _all(4))
    torch.testing.assert_close(even, torch.full((4, 2), 0.5), rtol=0, atol=1e-5)


def test_unbounded_scores_do_not_overflow():
    assigned = EqualPartition()(torch.tensor([[900.0, -900.0], [-900.0, 900.0]]), _all(2))
    assert torch.equal(assigned, torch.eye(2))


def _outputs(clips=8, clusters=4):
    generator = torch.Generator().manual_seed(3)
    outputs = {}
    for name in NAMES:
        outputs[f"{name}_embed"] = torch.randn(clips, 5, generator=generator)
        outputs[f"{name}_cluster"] = (torch.rand(clips, clusters, generator=generator) * 2 - 1).requires_grad_()
        outputs[f"{name}_nonempty_input_mask"] = _all(clips)
    return outputs


def _term(outputs, **settings):
    loss = build_loss(LossSettings(name="mcn", clustering="sinkhorn", clusters=4, **settings))
    return loss(outputs)[1]["cluster"]


def _published(outputs, soft):
    """Six cross-entropies as the published program writes them: hard ones summed, soft ones summed and over 3."""
    scores = {name: outputs[f"{name}_cluster"] for name in NAMES}
    given = {name: EqualPartition()(own, _all(len(own))) for name, own in scores.items()}
    total = torch.zeros(())
    for one in NAMES:
        for other in NAMES:
            if one == other:
                continue
            if soft:
                total = total - (given[other] * F.softmax(scores[one] * 10, dim=1).log()).sum(dim=1).mean() / 3
            else:
                total = total + F.cross_entropy(scores[one], given[other].argmax(dim=1))
    return total.detach()


def test_swapped_targets_are_those_of_the_published_program():
    outputs = _outputs()
    hard = _term(outputs, cluster_targets="swapped")
    torch.testing.assert_close(3 * hard, _published(outputs, soft=False))
    soft = _term(outputs, cluster_targets="swapped", soft_labels=True, cluster_temperature=0.1)
    torch.testing.assert_close(soft, _published(outputs, soft=True))


def test_fused_and_joint_targets_partition_the_mean_of_the_scores():
    outputs = _outputs()
    fused = sum(outputs[f"{name}_cluster"].detach() for name in NAMES) / 3
    labels = EqualPartition()(fused, _all(8)).argmax(dim=1)
    torch.testing.assert_close(_term(outputs, cluster_targets="joint"), F.cross_entropy(fused, labels))
    each = [F.cross_entropy(outputs[f"{name}_cluster"].detach(), labels) for name in NAMES]
    torch.testing.assert_close(_term(outputs, cluster_targets="fused"), torch.stack(each).mean())


@pytest.mark.parametrize("targets", ["fused", "joint", "swapped"])
@pytest.mark.parametrize("soft", [False, True])
def test_a_missing_modality_takes_no_part_and_all_others_learn(targets, soft):
    outputs = _outputs()
    outputs["audio_nonempty_input_mask"] = torch.arange(8) != 2
    settings = {"cluster_targets": targets, "soft_labels": soft}
    loss = build_loss(LossSettings(name="mcn", clustering="sinkhorn", clusters=4, **settings))
    total, terms = loss(outputs)
    total.backward()
    assert (outputs["audio_cluster"].grad[2] == 0).all()
    assert (outputs["video_cluster"].grad != 0).any(dim=1).all()
    with torch.no_grad():
        outputs["audio_cluster"][2] = 77.0
    torch.testing.assert_close(_term(outputs, **settings), terms["cluster"])


def test_what_does_not_go_together_is_refused():
    with pytest.raises(InputError, match=r"loss\.soft_labels is for loss\.clustering sinkhorn"):
        build_loss(LossSettings(name="mcn", soft_labels=True))
    with pytest.raises(InputError, match=r"loss\.cluster_targets swapped is for"):
        build_loss(LossSettings(name="mcn", cluster_targets="swapped"))
    outputs = _outputs(clusters=5)
    with pytest.raises(InputError, match=r"loss\.clusters 4 and model\.cluster_classes 5"):
        _term(outputs)
    with pytest.raises(InputError, match=r"set model\.cluster_classes"):
        _term({name: value for name, value in outputs.items() if not name.endswith("_cluster")})


def test_the_time_spent_on_clusters_is_told_once():
    loss = build_loss(LossSettings(name="mcn", clustering="sinkhorn", clusters=4))
    loss(_outputs())
    assert 0 < loss.clustering_time.take() < 10
    assert loss.clustering_time.take() == 0
