"""MFT's shared and packed computation equals separate passes with attention written out, for all its options."""

from pathlib import Path

import pytest
import torch

from pipeline.config import LossSettings, ModelSettings
from pipeline.models import MFT, rows
from pipeline.objectives import build_loss
from tests.models.golden import TINY

FOR_NONE = {"video_dim": 8, "text_dim": 8, "projection_dim": 8, "davenet_width": 1}
OPTIONS = {
    "plain": {},
    "no transformer": {"depth": 0},
    "three layers": {"depth": 3, "mlp_ratio": 2.5},
    "large audio network": {"davenet": "large"},
    "shared projection": {"individual_projections": False},
    "class token": {"class_token": True, "individual_projections": False, "depth": 2},
    "linear": {"token_projection": "linear", "projection": "linear"},
    "none": {"projection": "none", "token_projection": "none", **FOR_NONE},
    "class token, none": {"class_token": True, "individual_projections": False, "projection": "none", **FOR_NONE},
    "positions": {"positions": True, "max_video_tokens": 12, "max_text_tokens": 20, "max_audio_tokens": 48},
    "pooled and positions": {
        "positions": True, "max_video_tokens": 12, "max_text_tokens": 20, "max_audio_tokens": 12,
        "audio_pooling": "max_pool",
    },
    **{how: {"audio_pooling": how, "max_audio_tokens": 7} for how in ("clip", "nearest", "max_pool", "avg_pool")},
    "one per modality": {"per_modality": True, "depth": 2},
    "one per modality, class token": {"per_modality": True, "class_token": True},
    "one per modality, positions": {
        "per_modality": True, "positions": True, "max_video_tokens": 12, "max_text_tokens": 20, "max_audio_tokens": 48,
    },
    "no pairs in training": {"cross_modal": False},
    "text and video": {"text_video_only": True},
    "text and video, class token": {"text_video_only": True, "class_token": True},
}  # fmt: skip
LACKING = {
    "something": [],
    "all of one clip": [(0, ("text", "video", "audio"))],
    "text of all": [(slice(None), ("text",))],
    "video of all": [(slice(None), ("video",))],
    "sound of all": [(slice(None), ("audio",))],
    "two of one clip": [(0, ("text", "audio")), (3, ("video", "audio"))],
}


@pytest.fixture(scope="module")
def benchmark():
    """The benchmark's step and its baseline."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
        import published_mft
        import step

        yield step, published_mft


def _model(options):
    torch.manual_seed(1)
    model = MFT(ModelSettings(**TINY | options)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def _batch(step, model):
    return {name: value.double() for name, value in step.make_batch(model.settings, 5, "cpu").items()}


@pytest.mark.parametrize("padding_is", ["computed", "left out", "left out to the last", "left out up to a limit"])
@pytest.mark.parametrize("option", OPTIONS)
def test_same_loss_outputs_and_gradients(benchmark, option, padding_is, monkeypatch):
    monkeypatch.setattr(rows, "LEAST_DIM", 512 if padding_is == "computed" else 0)
    step, published = benchmark
    model = _model(OPTIONS[option]).train()
    batch = _batch(step, model)
    if padding_is in ("left out to the last", "left out up to a limit"):
        more = 0 if padding_is == "left out to the last" else 3
        model.most_tokens = {name: count + more for name, count in step.count_tokens(model, batch).items()}
    steps = (step.Step(model, "cpu", published=way) for way in (False, True))
    assert max(step.differences(*steps, batch).values()) < 1e-9
    with torch.no_grad():
        ours, expected = model.eval()(batch), published.published_outputs(model, batch, evaluating=True)
    _assert_same(ours, expected)


@pytest.mark.parametrize("lacking", LACKING)
@pytest.mark.parametrize("limited", [False, True])
@pytest.mark.parametrize("option", ["plain", "class token", "max_pool", "one per modality"])
def test_clips_that_lack_modalities_in_any_combination(benchmark, option, limited, lacking, monkeypatch):
    monkeypatch.setattr(rows, "LEAST_DIM", 0 if limited else 512)
    step, published = benchmark
    model = _model(OPTIONS[option]).eval()
    batch = _batch(step, model)
    for clips, names in LACKING[lacking]:
        for name in names:
            batch[f"{name}_mask"][clips] = 0
            if name == "audio":
                batch["audio_nframes"][clips] = 0
    model.most_tokens = step.count_tokens(model, batch) if limited else None
    ours = model(batch)
    with torch.no_grad():
        _assert_same(ours, published.published_outputs(model, batch, evaluating=True))
    total, _ = build_loss(LossSettings())(ours)
    total.backward()
    assert total.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("frames", [90, 100, 112])
def test_sound_is_told_from_padding_as_in_the_published_program(benchmark, frames):
    """It counts frames in equal parts; where there are none, it does not run, and ours counts by the stride."""
    model, step = _model({}), benchmark[0]
    mask = torch.arange(frames) < torch.arange(frames + 1).unsqueeze(1)
    tokens = -(-frames // model.davenet.stride)
    part = frames // tokens if frames % tokens == 0 else model.davenet.stride
    expected = [[bool(clip[at * part : (at + 1) * part].any()) for at in range(tokens)] for clip in mask]
    assert model.davenet.token_mask(mask).tolist() == expected
    if frames % tokens == 0:
        batch = {name: value[..., :frames] if name == "audio" else value for name, value in _batch(step, model).items()}
        batch |= {"audio_mask": mask[-5:].double(), "audio_nframes": mask[-5:].sum(1).double()}
        with torch.no_grad():
            _assert_same(model(batch), benchmark[1].published_outputs(model, batch))


def _assert_same(ours, expected):
    assert set(expected) <= set(ours)
    for name, value in expected.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-9, atol=1e-9)
