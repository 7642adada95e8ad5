"""Ways of computing the same are timed, and the fastest is taken; clocks are scripted but for the test on a GPU."""

from dataclasses import replace
from io import StringIO
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from pipeline.config import LossSettings, ModelSettings, TrainSettings
from pipeline.models import MFT, rows
from pipeline.models.davenet import TimeConvolution
from pipeline.objectives import build_loss
from pipeline.shards.decoding import decode_batch
from pipeline.training.distributed import Ranks
from pipeline.training.step import loss_and_gradients
from pipeline.training.tuning import TokenLimits, Tuning
from tests.models.golden import TINY
from tests.training.fakes import QUIET

GPU = Ranks(device=torch.device("cuda"))
SETTINGS = TrainSettings(precision="bfloat16")


@pytest.fixture(autouse=True)
def _narrow_tokens(monkeypatch):
    monkeypatch.setattr(rows, "LEAST_DIM", 0)


def _model(**options):
    torch.manual_seed(0)
    return MFT(ModelSettings(**TINY | {"davenet": "small"} | options)).train()


def _loaded(clips=4, seed=0):
    """A batch as loaders give it."""
    generator = torch.Generator().manual_seed(seed)
    lengths = {name: torch.randint(0, most + 1, (clips,), generator=generator) for name, most in
               (("words", 7), ("video", 4), ("frames", 96))}  # fmt: skip
    words = torch.where(torch.arange(7) < lengths["words"].unsqueeze(1), 1, -1)
    return {
        "word_ids": words.int(),
        "features_2d": torch.randn(clips, 4, 6, generator=generator).half(),
        "features_3d": torch.zeros(clips, 4, 0).half(),
        "places_2d": torch.arange(4).expand(clips, 4).clone(),
        "video_tokens": lengths["video"],
        "audio": torch.randn(clips, 96, 40, generator=generator).half(),
        "audio_nframes": lengths["frames"].float(),
        "video_index": torch.arange(clips) // 2,
    }


def _prepare(batch):
    text = torch.sin(torch.arange(5.0) + batch["word_ids"].unsqueeze(2))
    return {**decode_batch(batch), "text": text}


def _clock(*seconds):
    """Does what is to be timed and says how long it took: the numbers given, one after another."""
    left = list(seconds)

    def timed(do):
        do()
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    timed.left = left
    return timed


def _by_transform(model):
    kinds = {module.transforms_on for module in model.modules() if isinstance(module, TimeConvolution)}
    assert len(kinds) == 1
    return "cuda" in kinds.pop()


def _step(tuning, model, batch):
    model.zero_grad()
    with tuning.applied(batch, _prepare) as ready:
        limits = model.most_tokens
        total, _ = loss_and_gradients(model, build_loss(LossSettings()), ready, Ranks())
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return limits, total.detach(), gradients


@pytest.mark.parametrize(
    ("seconds", "transform", "padding"),
    [((1.0, 0.5, 0.4), True, True), ((1.0, 0.5, 0.495), True, False), ((1.0, 2.0, 0.9), False, True),
     ((1.0, 1.0, 1.0), False, False)],
)  # fmt: skip
def test_the_faster_ways_are_taken_and_told(seconds, transform, padding):
    model, clock, out = _model(), _clock(*seconds), StringIO()
    tuning = Tuning(model, model, SETTINGS, GPU, Console(file=out, width=300), clock)
    for number in range(3):
        limits, _, _ = _step(tuning, model, _loaded(seed=number))
        assert (limits is not None) == padding
        assert model.most_tokens is None
    assert not clock.left
    assert _by_transform(model) == transform
    told = out.getvalue()
    assert told.count("\n") == 1
    assert f"1,000.0 → {seconds[1] * 1e3:,.1f} ms, {'' if transform else 'not '}taken" in told
    assert told.rstrip().endswith(f"{'ms, ' if padding else 'not '}taken")


def test_a_step_has_the_same_numbers_and_leaves_nothing_of_the_trials():
    plain, tuned = _model(), _model()
    nothing = Tuning(plain, plain, replace(SETTINGS, tune=False), GPU, QUIET, _clock())
    tuning = Tuning(tuned, tuned, SETTINGS, GPU, QUIET, _clock(1.0, 1.0, 0.5))
    for number in range(3):
        batch = _loaded(seed=number)
        _, expected, gradients = _step(nothing, plain, batch)
        limits, total, found = _step(tuning, tuned, batch)
        assert limits is not None
        torch.testing.assert_close(total, expected)
        torch.testing.assert_close(found, gradients)
    torch.testing.assert_close(tuned.state_dict(), plain.state_dict())


def test_a_way_that_fails_is_told_and_not_taken():
    model, out = _model(), StringIO()
    clock = _clock(1.0, torch.OutOfMemoryError("too little memory"), 0.5)
    tuning = Tuning(model, model, SETTINGS, GPU, Console(file=out, width=300), clock)
    limits, total, _ = _step(tuning, model, _loaded())
    assert limits is not None
    assert total.isfinite()
    assert not _by_transform(model)
    assert "too little memory" in out.getvalue()
    assert "convolutions by transform failed, not taken; padding left out 1,000.0 → 500.0 ms, taken" in out.getvalue()


@pytest.mark.parametrize(
    ("settings", "ranks"),
    [
        (SETTINGS, Ranks()),
        (replace(SETTINGS, tune=False), GPU),
        (replace(SETTINGS, batch_norm="synchronized"), Ranks(0, 2, GPU.device)),
    ],
    ids=["on a CPU", "not wanted", "ranks that wait for one another"],
)
def test_nothing_is_timed(settings, ranks):
    model = _model()
    limits, _, _ = _step(Tuning(model, model, settings, ranks, QUIET, _clock()), model, _loaded())
    assert limits is None


def test_what_cannot_be_told_apart_is_not_timed():
    model, clock = _model(), _clock(1.0, 0.1)
    settings = replace(SETTINGS, precision="float32", accumulate=2)  # no transform, and parts of a batch
    limits, _, _ = _step(Tuning(model, model, settings, GPU, QUIET, clock), model, _loaded())
    assert limits is None
    assert clock.left == [1.0, 0.1]


@given(seeds=st.lists(st.tuples(st.integers(0, 9), st.integers(1, 200)), min_size=1, max_size=12))
def test_limits_hold_whatever_comes(seeds):
    model = _model(davenet_width=2)
    limits, seen = TokenLimits(model, Ranks()), []
    for seed, clips in seeds:
        batch = _loaded(clips, seed)
        found = limits.of(batch)
        masks = decode_batch(batch)
        sound = model.davenet.token_mask(masks["audio_mask"])
        valid = {"text": masks["text_mask"], "video": masks["video_mask"], "audio": sound}
        assert all(found[name] >= mask.sum(dim=1).clamp(min=1).sum() for name, mask in valid.items())
        seen.append(tuple(found.values()))
    for before, after in pairwise(seen):
        assert all(a <= b for a, b in zip(before, after, strict=True))


def test_batches_of_one_size_need_few_limits():
    model = _model(davenet_width=2)
    limits = TokenLimits(model, Ranks())
    seen = {tuple(limits.of(_loaded(800, seed)).values()) for seed in range(200)}
    assert len(seen) <= 3
    assert all(limit <= 1.2 * 800 * mean for limit, mean in zip(max(seen), (3.6, 2.2, 3.7), strict=True))


class _TwoRanks(Ranks):
    """The first of two, whose other has these limits."""

    def all_of(self, value):
        return [value, {"text": 64_000, "video": 64, "audio": 64_000}]


def test_ranks_begin_with_the_limits_of_the_one_that_needs_most():
    model, batch = _model(davenet_width=2), _loaded(400)
    alone, found = TokenLimits(model, Ranks()).of(batch), TokenLimits(model, _TwoRanks()).of(batch)
    assert found == {"text": 64_000, "video": alone["video"], "audio": 64_000}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("compiled", [False, True])
def test_on_a_gpu_each_way_is_timed_and_gives_the_same_loss(compiled):
    model, out = _model().cuda(), StringIO()
    network = torch.compile(model) if compiled else model
    tuning = Tuning(model, network, SETTINGS, GPU, Console(file=out, width=300))
    expected, _ = build_loss(LossSettings())(model(_on_gpu(_loaded(64))))
    with tuning.applied(_loaded(64), _on_gpu) as ready:
        total, _ = loss_and_gradients(network, build_loss(LossSettings()), ready, GPU, "bfloat16")
    assert out.getvalue().count("taken") == 2
    assert "failed" not in out.getvalue()
    torch.testing.assert_close(total, expected, rtol=0.02, atol=0.0)


def _on_gpu(batch):
    return {name: value.cuda() for name, value in _prepare(batch).items()}
