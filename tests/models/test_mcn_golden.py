"""MCN and AVLnet give the numbers of the published programs."""

import pytest
import torch

from tests.conftest import needs_shared
from tests.models.golden import (
    MCN_CASES,
    assert_close,
    batch_of,
    numbers,
    published_keys,
    with_published_weights,
    without_weights,
)

NAMES = {"audio": "audio_embed", "video": "video_embed", "text": "text_embed", "audio_text": "ta_embed"}
NAMES["recon"] = "reconstruction"
pytestmark = needs_shared


@pytest.mark.parametrize("case", MCN_CASES)
def test_state_dict_has_exactly_the_published_names(case):
    assert {name: list(value.shape) for name, value in without_weights(case).state_dict().items()} == dict(
        published_keys(case)
    )


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("case", MCN_CASES)
def test_outputs(case, mode):
    golden = {name: value for name, value in numbers(case, mode).items() if name in NAMES}
    model = with_published_weights(case).train(mode == "train")
    with torch.no_grad():
        outputs = model(batch_of(case))
    assert {NAMES[name] for name in golden} <= set(outputs)
    for name, value in golden.items():
        assert_close(outputs[NAMES[name]], value)
