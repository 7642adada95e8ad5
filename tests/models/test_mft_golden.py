"""MFT gives the numbers of the published program."""

import numpy as np
import pytest
import torch

from pipeline.config import LossSettings, ModelSettings
from pipeline.models import build_model
from pipeline.objectives import build_loss
from tests.conftest import needs_shared
from tests.models.golden import (
    assert_close,
    assert_gradient_norms,
    batch_of,
    numbers,
    published_keys,
    with_published_weights,
)

BASE = {
    "video_dim": 32,
    "text_dim": 16,
    "embed_dim": 64,
    "projection_dim": 48,
    "heads": 4,
    "davenet": "small",
}
CASES = {
    "mft_base": ModelSettings(**BASE),
    "mft_depth2": ModelSettings(**BASE, depth=2, mlp_ratio=2.0),
    "mft_audio_maxpool": ModelSettings(**BASE, audio_pooling="max_pool", max_audio_tokens=6),
    "mft_per_modality": ModelSettings(**BASE, per_modality=True),
}
pytestmark = needs_shared


def _published(case):
    return with_published_weights(case, CASES[case])


@pytest.mark.parametrize("case", CASES)
def test_state_dict_has_exactly_the_published_names(case):
    with torch.device("meta"):
        model = build_model(CASES[case])
    ours = {name: list(value.shape) for name, value in model.state_dict().items()}
    assert ours == dict(published_keys(case))


@pytest.mark.parametrize("case", CASES)
def test_outputs_in_eval_mode(case):
    golden = {name: value for name, value in numbers(case, "eval").items() if not name.startswith("loss/")}
    with torch.no_grad():
        outputs = _published(case).eval()(batch_of(case))
    assert set(outputs) == set(golden)
    for name, value in golden.items():
        if value.dtype == bool:
            np.testing.assert_array_equal(outputs[name].numpy(), value)
        else:
            assert_close(outputs[name], value)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("name", "loss"), [("NormSoftmax", "norm_softmax"), ("MMS", "mms")])
def test_losses_in_eval_mode(case, name, loss):
    golden = numbers(case, f"eval/loss/{name}")
    with torch.no_grad():
        total, terms = build_loss(LossSettings(name=loss))(_published(case).eval()(batch_of(case)))
    assert_close(total, golden.pop("Retrieval"))
    assert set(terms) == set(golden)
    for term, value in golden.items():
        assert_close(terms[term], value)


@pytest.mark.parametrize("case", ["mft_base", "mft_depth2", "mft_per_modality"])
def test_loss_and_every_gradient_norm_in_train_mode(case):
    model = _published(case).train()
    total, _ = build_loss(LossSettings())(model(batch_of(case)))
    total.backward()
    assert_close(total, numbers(case, "train")["loss"])
    assert_gradient_norms(model, numbers(case, "train/gradnorm"))
