import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline.objectives.kmeans import assign, first_centroids, kmeans
from tests.conftest import GOLDEN, needs_shared


@needs_shared
def test_golden():
    case = {name: torch.from_numpy(value) for name, value in np.load(GOLDEN / "kmeans.npz").items()}
    labels, centroids = kmeans(case["X"], case["init"])
    assert torch.equal(labels, case["labels"])
    torch.testing.assert_close(centroids, case["centroids"], rtol=1e-5, atol=1e-6)
    assert torch.equal(assign(case["new"], centroids), case["new_labels"])


def _dense(points, centroids, rounds):
    """The published way: a one-hot mask of all points for every cluster."""
    for _ in range(rounds):
        labels = (F.normalize(points, dim=1) @ F.normalize(centroids, dim=1).T).argmax(dim=1)
        mask = (labels == torch.arange(len(centroids)).unsqueeze(1)).to(points.dtype)
        means = mask @ points / mask.sum(dim=1, keepdim=True)
        means[means.isnan()] = 0
        change = (means - centroids).square().sum()
        centroids = means
        if change <= 1e-4:
            break
    return labels, centroids


@pytest.mark.parametrize("rounds", [1, 2, 100])
def test_equals_the_published_way(rounds):
    generator = torch.Generator().manual_seed(rounds)
    points = torch.randn(300, 7, dtype=torch.float64, generator=generator)
    start = first_centroids(points, 12)
    labels, centroids = kmeans(points, start, rounds=rounds)
    expected_labels, expected_centroids = _dense(points, start, rounds)
    assert torch.equal(labels, expected_labels)
    torch.testing.assert_close(centroids, expected_centroids)


def test_a_cluster_without_members_is_zero():
    points = torch.tensor([[1.0, 0.0], [0.9, 0.1]])
    labels, centroids = kmeans(points, torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), rounds=1)
    assert labels.tolist() == [0, 0]
    torch.testing.assert_close(centroids, torch.tensor([[0.95, 0.05], [0.0, 0.0]]))


@pytest.mark.parametrize(
    ("points", "start"),
    [
        (torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), 8),  # fewer than clusters
        (torch.ones(6, 4, dtype=torch.float64), 3),  # all alike: every comparison is a tie
        (torch.zeros(5, 4, dtype=torch.float64), 2),  # without a direction
        (torch.eye(4, dtype=torch.float64).repeat(3, 1), 4),
    ],
)
def test_corners_equal_the_published_way(points, start):
    centroids = points[torch.arange(start) % len(points)]
    labels, moved = kmeans(points, centroids)
    expected_labels, expected = _dense(points, centroids, 100)
    assert torch.equal(labels, expected_labels)
    torch.testing.assert_close(moved, expected)


def test_it_stops_once_centroids_stand_still():
    points = torch.randn(300, 7, generator=torch.Generator().manual_seed(3))
    labels, centroids = kmeans(points, first_centroids(points, 12))
    again, still = kmeans(points, centroids, rounds=1)
    assert torch.equal(again, labels)
    torch.testing.assert_close(still, centroids, rtol=0, atol=1e-2)


def test_first_centroids_are_different_points_and_always_the_same():
    points = torch.arange(20.0).unsqueeze(1)
    drawn = first_centroids(points, 20)
    assert torch.equal(drawn.sort(dim=0).values, points)
    assert torch.equal(first_centroids(points, 20), drawn)
    with pytest.raises(ValueError, match="20 points cannot start 21"):
        first_centroids(points, 21)
