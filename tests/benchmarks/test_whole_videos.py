import numpy as np
import pytest

from pipeline.benchmarks.whole_videos import whole_video_recalls

VIDEOS = ["b", "a", "b", "a", "c", "c"]


def published(similarity: np.ndarray, videos: list[str]) -> dict[str, dict[str, float]]:
    """As the published program counts, one caption and one video at a time; scores have no ties."""
    names = sorted(set(videos))
    counts: dict[str, dict[str, float]] = {}
    best = np.array([[max(row[[v == name for v in videos]]) for name in names] for row in similarity])
    averaged = np.array([best[[v == name for v in videos]].mean(0) for name in names])
    for k in (1, 5, 10):
        caption = [videos[i] in [videos[j] for j in np.argsort(-similarity[i])[:k]] for i in range(len(videos))]
        average = [place in np.argsort(-averaged[place])[:k] for place in range(len(names))]
        counts.setdefault("caption", {})[f"R{k}"] = 100 * float(np.mean(caption))
        counts.setdefault("average", {})[f"R{k}"] = 100 * float(np.mean(average))
    return counts


def test_equals_a_count_one_by_one() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        videos = [str(name) for name in random.integers(0, 12, 30)]
        similarity = random.standard_normal((30, 30))
        found = whole_video_recalls(similarity, videos)
        for way, expected in published(similarity, videos).items():
            assert found[way] == pytest.approx(expected), way


def test_perfect_and_hopeless() -> None:
    perfect = whole_video_recalls(np.eye(6), VIDEOS)
    assert all(recalls["R1"] == 100.0 for recalls in perfect.values())
    away = np.array([[float(mine != other) for other in VIDEOS] for mine in VIDEOS])
    hopeless = whole_video_recalls(away, VIDEOS)
    assert all(recalls["R1"] == 0.0 for recalls in hopeless.values())


def test_a_vote_is_won_by_the_video_that_most_captions_find() -> None:
    similarity = np.zeros((6, 6))
    for caption, clip in enumerate((0, 1, 4, 4, 5, 4)):  # of b: b and c; of a: a and c; of c: c and c
        similarity[caption, clip] = 1
    votes = whole_video_recalls(similarity, VIDEOS)["votes_of_clips"]
    assert votes["R1"] == 100.0  # where votes are equal the first name wins: b before c, a before c
    assert votes["R10"] == 100.0
