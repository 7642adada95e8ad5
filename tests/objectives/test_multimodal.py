"""MCN's loss: golden numbers, and what the queue and the clusters do over steps."""

import copy

import pytest
import torch

from pipeline.config import LossSettings
from pipeline.errors import InputError
from pipeline.objectives import build_loss, mms
from pipeline.objectives.clustering import OnlineClustering, cluster_contrast
from pipeline.objectives.contrastive import whole
from pipeline.objectives.kmeans import assign, first_centroids, kmeans
from tests.conftest import needs_shared
from tests.models.golden import (
    MCN_CASES,
    assert_close,
    assert_gradient_norms,
    batch_of,
    in_double,
    numbers,
    with_published_weights,
)


def _golden_total(case, model, batch):
    """The loss with the case's own centroids and labels instead of k-means'."""
    outputs = model(batch)
    total, terms = build_loss(LossSettings(name="mcn", clusters=0))(outputs)
    cluster = None
    if case in ("mcn_base", "avlnet_text_tri"):
        cluster = torch.stack(
            [
                cluster_contrast(outputs[f"{name}_embed"], batch["centroids"], batch["labels"])
                for name in ("audio", "video", "text")
            ]
        ).mean()
        total = total + cluster
    return total, terms, cluster


@needs_shared
@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("case", MCN_CASES)
def test_golden_losses_and_gradient_norms(case, mode):
    golden = numbers(case, mode)
    model = with_published_weights(case).train(mode == "train")
    total, terms, cluster = _golden_total(case, model, batch_of(case))
    assert_close(total, golden["loss"])
    if "loss/contrastive" in golden:
        assert_close(terms["tv"] + terms["ta"] + terms["va"], golden["loss/contrastive"])
    if "loss/cluster" in golden:
        assert_close(cluster, golden["loss/cluster"])
    if "loss/reconstruction" in golden:
        assert_close(50 * terms["reconstruction"], golden["loss/reconstruction"])
    if mode == "train":
        _golden_total(case, model.double(), in_double(batch_of(case)))[0].backward()
        assert_gradient_norms(model, numbers(case, "train/gradnorm"))


def _steps(count, clips=12, dim=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(clips, dim, generator=generator) for _ in range(count)]


def _first_half(clips=12, per_video=4):
    return torch.arange(clips) % per_video < per_video // 2


def test_k_means_runs_over_the_full_queue_every_so_many_steps():
    clustering, enters = OnlineClustering(clusters=4, queue_size=3), _first_half()
    batches = _steps(9)
    centroids, queue = first_centroids(batches[0], 4), []
    for step, batch in enumerate(batches):
        labels, moved = clustering(batch, enters)
        if step % 3 == 0:
            points = torch.cat([*queue, batch])
            expected, centroids = kmeans(points, centroids)
            expected = expected[-len(batch) :]
            assert len(points) == (12 if step == 0 else 3 * 6 + 12)
        else:
            expected = assign(batch, centroids)
        assert torch.equal(labels, expected)
        assert torch.equal(moved, centroids)
        queue = [batch[enters], *queue][:3]


def test_without_a_queue_each_batch_is_clustered_by_itself_and_warm_started():
    clustering = OnlineClustering(clusters=4, queue_size=0)
    first, second = _steps(2)
    _, centroids = clustering(first, _first_half())
    labels, moved = clustering(second, _first_half())
    expected_labels, expected = kmeans(second, centroids)
    assert torch.equal(labels, expected_labels) and torch.equal(moved, expected)
    assert clustering.queue == []


def test_an_epoch_starts_from_new_centroids_of_all_that_is_in_the_queue():
    clustering, enters = OnlineClustering(clusters=4, queue_size=2), _first_half()
    first, second, third = _steps(3)
    for batch in (first, second):
        clustering(batch, enters)
    clustering.restart()
    labels, moved = clustering(third, enters)
    points = torch.cat([second[enters], first[enters], third])
    expected_labels, expected = kmeans(points, first_centroids(points, 4))
    assert torch.equal(moved, expected) and torch.equal(labels, expected_labels[-len(third) :])


def test_clusters_that_are_used_are_counted_and_an_epoch_restarts_k_means():
    loss, outputs = build_loss(LossSettings(name="mcn", clusters=4, queue_size=2)), _outputs()
    assert loss.clusters_used() == 0
    loss(outputs)
    assert 1 < loss.clusters_used() <= 4
    loss.begin_epoch()
    assert loss.clustering.centroids is None and len(loss.clustering.queue) == 1
    for settings in (LossSettings(name="mcn", clusters=0), LossSettings(name="mcn", clustering="sinkhorn")):
        build_loss(settings).begin_epoch()


def test_evaluation_only_assigns():
    clustering = OnlineClustering(clusters=4, queue_size=2)
    first, second = _steps(2)
    clustering.eval()(first, _first_half())
    assert clustering.centroids is None
    clustering.train()
    _, centroids = clustering(first, _first_half())
    before = copy.deepcopy(clustering.state_dict())
    labels, same = clustering.eval()(second, _first_half())
    assert torch.equal(same, centroids) and torch.equal(labels, assign(second, centroids))
    assert clustering.state_dict()["_extra_state"]["step"] == before["_extra_state"]["step"]
    assert len(clustering.queue) == 1


@pytest.mark.parametrize("stop", [0, 1, 4, 6])
def test_resumed_from_a_saved_state_it_goes_on_with_the_same_bits(tmp_path, stop):
    undisturbed, enters = OnlineClustering(clusters=4, queue_size=3), _first_half()
    batches = _steps(10)
    expected = [undisturbed(batch, enters) for batch in batches]
    killed = OnlineClustering(clusters=4, queue_size=3)
    for batch in batches[:stop]:
        killed(batch, enters)
    torch.save(killed.state_dict(), tmp_path / "state.pt")
    resumed = OnlineClustering(clusters=4, queue_size=3)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for batch, (labels, centroids) in zip(batches[stop:], expected[stop:], strict=True):
        again = resumed(batch, enters)
        assert torch.equal(again[0], labels) and torch.equal(again[1], centroids)


def test_more_clusters_than_clips_is_an_error_that_says_what_to_do():
    with pytest.raises(InputError, match=r"loss\.clusters"):
        OnlineClustering(clusters=13, queue_size=2)(_steps(1)[0], _first_half())


def _outputs(clips=12, seed=1):
    generator = torch.Generator().manual_seed(seed)
    names = ("text", "video", "audio")
    outputs = {f"{name}_embed": torch.randn(clips, 5, generator=generator).requires_grad_() for name in names}
    masks = {f"{name}_nonempty_input_mask": torch.ones(clips, dtype=torch.bool) for name in names}
    return {**outputs, **masks, "enters_queue": _first_half(clips)}


def test_the_clustering_term_is_added_and_draws_every_modality():
    outputs = _outputs()
    loss = build_loss(LossSettings(name="mcn", clusters=4, queue_size=2, cluster_weight=0.5))
    total, terms = loss(outputs)
    contrast = terms["tv"] + terms["ta"] + terms["va"]
    torch.testing.assert_close(total.detach(), contrast + 0.5 * terms["cluster"])
    fused = (outputs["text_embed"] + outputs["video_embed"] + outputs["audio_embed"]).detach() / 3
    labels, centroids = kmeans(fused, first_centroids(fused, 4))
    each = [
        cluster_contrast(outputs[f"{name}_embed"].detach(), centroids, labels) for name in ("text", "video", "audio")
    ]
    torch.testing.assert_close(terms["cluster"], torch.stack(each).mean())


def test_the_fused_embedding_itself_can_be_drawn_to_its_centroid():
    outputs = _outputs()
    loss = build_loss(LossSettings(name="mcn", clusters=4, queue_size=2, cluster_targets="joint"))
    total, terms = loss(outputs)
    fused = (outputs["text_embed"] + outputs["video_embed"] + outputs["audio_embed"]).detach() / 3
    labels, centroids = kmeans(fused, first_centroids(fused, 4))
    torch.testing.assert_close(terms["cluster"], cluster_contrast(fused, centroids, labels))
    without = build_loss(LossSettings(name="mcn", clusters=0))(outputs)[0]
    drawn = torch.autograd.grad(total - without, [outputs[f"{name}_embed"] for name in ("text", "video", "audio")])
    assert drawn[0].abs().max() > 0
    torch.testing.assert_close(drawn[1], drawn[0])
    torch.testing.assert_close(drawn[2], drawn[0])


def test_a_clip_without_sound_is_fused_and_drawn_without_it():
    outputs = _outputs()
    outputs["audio_nonempty_input_mask"] = torch.arange(12) != 2
    changed = dict(
        outputs,
        audio_embed=torch.where(outputs["audio_nonempty_input_mask"].unsqueeze(1), 1, 99.0) * outputs["audio_embed"],
    )
    settings = LossSettings(name="mcn", clusters=4, queue_size=2)
    first, second = (build_loss(settings)(given)[1] for given in (outputs, changed))
    for name, value in first.items():
        torch.testing.assert_close(second[name], value)


def test_outputs_without_a_pair_are_refused():
    with pytest.raises(InputError, match="no two embeddings"):
        build_loss(LossSettings(name="mcn", clusters=0))({"video_embed": torch.zeros(2, 3)})


def test_text_can_be_contrasted_with_the_sum_of_the_others():
    outputs = _outputs()
    total, terms = build_loss(LossSettings(name="mcn", clusters=0, contrast="text_to_sum"))(outputs)
    similarity = outputs["text_embed"] @ (outputs["video_embed"] + outputs["audio_embed"]).T
    assert set(terms) == {"t_va"}
    torch.testing.assert_close(total, mms(whole(similarity)))


def test_a_cluster_head_is_clustered_instead_of_the_embeddings():
    outputs = _outputs()
    heads = {f"{name}_cluster": value for name, value in _outputs(seed=9).items() if name.endswith("_embed")}
    renamed = {name.replace("_embed_cluster", "_cluster"): value for name, value in heads.items()}
    settings = LossSettings(name="mcn", clusters=4, queue_size=2)
    with_heads = build_loss(settings)({**outputs, **renamed})[1]
    of_heads = build_loss(settings)(_outputs(seed=9))[1]
    torch.testing.assert_close(with_heads["cluster"], of_heads["cluster"])
    torch.testing.assert_close(with_heads["tv"], build_loss(settings)(outputs)[1]["tv"])


def test_clips_that_have_nothing_enter_no_queue_and_start_no_cluster():
    outputs = _outputs()
    lacking = torch.arange(12) % 3 == 0
    for name in ("text", "video", "audio"):
        outputs[f"{name}_nonempty_input_mask"] = ~lacking
    outputs["enters_queue"] = torch.ones(12, dtype=torch.bool)
    loss = build_loss(LossSettings(name="mcn", clusters=4, queue_size=2)).train()
    loss(outputs)
    state = loss.state_dict()["clustering._extra_state"]
    assert len(state["queue"][0]) == 8
    assert state["queue"][0].any(dim=1).all() and state["centroids"].any(dim=1).all()
