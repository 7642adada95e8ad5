import math
from functools import partial

import numpy as np
import pytest
import torch

from pipeline.config import LossSettings
from pipeline.errors import InputError
from pipeline.objectives import build_loss, mil_nce, mms, norm_softmax
from pipeline.objectives.contrastive import ALL, Similarities, similarities, unit_length, whole
from tests.conftest import GOLDEN, needs_shared

LOSSES = {
    "norm_softmax": partial(norm_softmax, temperature=0.5),
    "mms": partial(mms, margin=0.1),
    "mil_nce": partial(mil_nce, temperature=0.5),
}


def _similarity(count, seed=0):
    return torch.from_numpy(np.random.RandomState(seed).standard_normal((count, count)))


def _with_candidates(similarity):
    """Of ``[N, N * k]``: ``N`` clips and ``k`` candidates each, those of clip ``i`` from column ``i * k`` on."""
    candidates = similarity.view(len(similarity), len(similarity), -1)
    return Similarities(candidates, candidates.transpose(0, 1))


@needs_shared
def test_mms_golden():
    case = np.load(GOLDEN / "mms.npz")
    np.testing.assert_allclose(mms(whole(torch.from_numpy(case["similarity"]))).item(), case["loss"], rtol=1e-5)


@needs_shared
def test_mil_nce_golden():
    case = np.load(GOLDEN / "milnce.npz")
    similarity = torch.from_numpy(case["video"]) @ torch.from_numpy(case["text"]).T
    np.testing.assert_allclose(mil_nce(_with_candidates(similarity)).item(), case["loss"], rtol=1e-5)


def test_norm_softmax_of_two_samples_by_hand():
    similarity = torch.tensor([[0.9, 0.1], [0.3, 0.5]])
    rows = [math.log(1 + math.exp((0.1 - 0.9) / 0.5)), math.log(1 + math.exp((0.3 - 0.5) / 0.5))]
    columns = [math.log(1 + math.exp((0.3 - 0.9) / 0.5)), math.log(1 + math.exp((0.1 - 0.5) / 0.5))]
    expected = (sum(rows) + sum(columns)) / 2
    assert norm_softmax(whole(similarity), temperature=0.5).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_absent_samples_are_as_if_not_there(name):
    loss = LOSSES[name]
    similarity = _similarity(7).requires_grad_()
    present = torch.tensor([True, False, True, True, False, True, True])
    value = loss(whole(similarity), present)
    (gradient,) = torch.autograd.grad(value, similarity)

    kept = _similarity(7)[present][:, present].requires_grad_()
    expected = loss(whole(kept))
    (expected_gradient,) = torch.autograd.grad(expected, kept)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient[present][:, present], expected_gradient)
    assert not gradient[~present].any() and not gradient[:, ~present].any()


@pytest.mark.parametrize("name", LOSSES)
def test_nobody_present_is_zero_with_a_finite_gradient(name):
    similarity = _similarity(4).requires_grad_()
    value = LOSSES[name](whole(similarity), torch.zeros(4, dtype=torch.bool))
    (gradient,) = torch.autograd.grad(value, similarity)
    assert value.item() == 0
    assert not gradient.any()


@pytest.mark.parametrize("everybody", [True, False])
@pytest.mark.parametrize("name", LOSSES)
def test_shares_add_up_to_the_loss_and_its_gradients(name, everybody):
    generator = torch.Generator().manual_seed(4)
    first, second = (torch.randn(7, 3, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2))
    present = None if everybody else torch.tensor([True, False, True, True, False, True, True])

    def loss(own):
        return LOSSES[name](similarities(first, second, own), present)

    expected = torch.autograd.grad(loss(ALL), (first, second))
    shares = [loss(own) for own in (slice(0, 2), slice(2, 3), slice(3, 7))]
    torch.testing.assert_close(sum(shares), loss(ALL))
    torch.testing.assert_close(torch.autograd.grad(sum(shares), (first, second)), expected)
    assert len({round(share.item(), 9) for share in shares}) == 3


def test_mil_nce_wants_any_of_a_clips_candidates():
    one_matches = torch.full((2, 4), -5.0)
    one_matches[0, 1] = one_matches[1, 2] = 5.0
    none_match = torch.full((2, 4), -5.0)
    none_match[0, 2] = none_match[1, 1] = 5.0
    assert mil_nce(_with_candidates(one_matches)).item() == pytest.approx(math.log(2), abs=0.01)
    assert mil_nce(_with_candidates(none_match)).item() > 5


def test_similarities_are_float32_under_autocast():
    half = torch.randn(3, 8, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        similarity = similarities(unit_length(half), unit_length(half)).rows
    assert similarity.dtype == torch.float32
    torch.testing.assert_close(similarity.diagonal(), torch.ones(3))


def _outputs(count=5, seed=3):
    generator = torch.Generator().manual_seed(seed)
    names = ("text", "video", "audio", "tv", "ta", "va")
    outputs = {f"{name}_embed": torch.randn(count, 6, generator=generator) for name in names}
    masks = {f"{name}_nonempty_input_mask": torch.ones(count, dtype=torch.bool) for name in names[:3]}
    return outputs | masks


def test_total_is_the_weighted_mean_of_the_terms():
    weights = {"tv": 2.0, "a_tv": 0.5, "ta": 0.0}
    total, terms = build_loss(LossSettings(weights=weights))(_outputs())
    assert set(terms) == {"tv", "a_tv"}
    assert total.item() == pytest.approx((2 * terms["tv"].item() + 0.5 * terms["a_tv"].item()) / 2.5, rel=1e-6)


@pytest.mark.parametrize("name", ["norm_softmax", "mms", "mil_nce"])
def test_shares_of_all_terms_add_up(name):
    outputs, loss = _outputs(), build_loss(LossSettings(name=name))
    outputs["audio_nonempty_input_mask"][:3] = False
    total, terms = loss(outputs)
    shares = [loss.share(loss.prepare(outputs), own) for own in (slice(0, 2), slice(2, 5))]
    torch.testing.assert_close(shares[0][0] + shares[1][0], total)
    for term, value in terms.items():
        torch.testing.assert_close(shares[0][1][term] + shares[1][1][term], value)


def test_a_term_without_samples_counts_for_nothing():
    outputs = _outputs()
    outputs["audio_nonempty_input_mask"] = torch.zeros(5, dtype=torch.bool)
    total, terms = build_loss(LossSettings())(outputs)
    assert total.item() == pytest.approx(terms["tv"].item(), rel=1e-6)
    assert terms["ta"].item() == terms["t_va"].item() == 0


def test_terms_whose_embeddings_are_missing_are_left_out():
    outputs = {name: value for name, value in _outputs().items() if name not in ("tv_embed", "ta_embed", "va_embed")}
    _, terms = build_loss(LossSettings())(outputs)
    assert set(terms) == {"tv", "ta", "va"}


def test_mil_nce_divides_by_the_temperature():
    outputs = _outputs()
    found = similarities(unit_length(outputs["text_embed"]), unit_length(outputs["video_embed"]))
    total, _ = build_loss(LossSettings(name="mil_nce", temperature=0.2, weights={"tv": 1.0}))(outputs)
    torch.testing.assert_close(total, mil_nce(whole(found.rows / 0.2)))


def test_unknown_weights_and_no_weights_are_refused():
    with pytest.raises(InputError, match="vt"):
        build_loss(LossSettings(weights={"vt": 1.0}))
    with pytest.raises(InputError, match="all zero"):
        build_loss(LossSettings(weights={"tv": 0.0}))


def test_a_model_that_gives_none_of_the_embeddings_is_refused():
    loss, text = build_loss(LossSettings(weights={"t_va": 1.0})), {"text_embed": torch.zeros(2, 3)}
    with pytest.raises(InputError, match="the loss's terms t_va: train another model"):
        loss(text)
    with pytest.raises(InputError, match=r"the loss's terms t_va: give one of tv a weight in loss\.weights"):
        loss(text | {"video_embed": torch.zeros(2, 3)})
