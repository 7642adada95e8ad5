"""MFT gives the numbers of the published program."""

import numpy as np
import pytest
import torch

from pipeline.config import LossSettings
from pipeline.objectives import build_loss
from tests.conftest import needs_shared
from tests.models.golden import (
    MFT_CASES,
    assert_close,
    assert_gradient_norms,
    batch_of,
    in_double,
    numbers,
    published_keys,
    with_published_weights,
    without_weights,
)

pytestmark = needs_shared


@pytest.mark.parametrize("case", MFT_CASES)
def test_state_dict_has_exactly_the_published_names(case):
    ours = {name: list(value.shape) for name, value in without_weights(case).state_dict().items()}
    assert ours == dict(published_keys(case))


@pytest.mark.parametrize("case", MFT_CASES)
def test_outputs_in_eval_mode(case):
    golden = {name: value for name, value in numbers(case, "eval").items() if not name.startswith("loss/")}
    with torch.no_grad():
        outputs = with_published_weights(case).eval()(batch_of(case))
    assert set(outputs) == set(golden)
    for name, value in golden.items():
        if value.dtype == bool:
            np.testing.assert_array_equal(outputs[name].numpy(), value)
        else:
            assert_close(outputs[name], value)


@pytest.mark.parametrize("case", MFT_CASES)
@pytest.mark.parametrize(("name", "loss"), [("NormSoftmax", "norm_softmax"), ("MMS", "mms")])
def test_losses_in_eval_mode(case, name, loss):
    golden = numbers(case, f"eval/loss/{name}")
    with torch.no_grad():
        total, terms = build_loss(LossSettings(name=loss))(with_published_weights(case).eval()(batch_of(case)))
    assert_close(total, golden.pop("Retrieval"))
    assert set(terms) == set(golden)
    for term, value in golden.items():
        assert_close(terms[term], value)


@pytest.mark.parametrize("case", ["mft_base", "mft_depth2", "mft_per_modality"])
def test_loss_and_every_gradient_norm_in_train_mode(case):
    model, batch, loss = with_published_weights(case).train(), batch_of(case), build_loss(LossSettings())
    assert_close(loss(model(batch))[0], numbers(case, "train")["loss"])
    loss(model.double()(in_double(batch)))[0].backward()
    assert_gradient_norms(model, numbers(case, "train/gradnorm"))
