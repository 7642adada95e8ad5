"""Valid tokens as rows, and back."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.models import rows
from pipeline.models.rows import Rows


@pytest.fixture(autouse=True)
def _narrow_tokens(monkeypatch):
    monkeypatch.setattr(rows, "LEAST_DIM", 0)


masks = st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=5).map(torch.tensor)


@given(mask=masks, spare=st.integers(0, 25) | st.none())
def test_valid_tokens_come_back_and_padding_is_left_out_to_the_limit(mask, spare):
    count = int(mask.sum())
    most = None if spare is None else max(1, count + spare)
    moved = Rows(mask, 3, most)
    tokens = torch.arange(mask.numel() * 3.0).view(*mask.shape, 3) + 1
    picked = moved.pick(tokens)
    assert len(picked) == min(mask.numel(), count if most is None else most)
    back = moved.put(picked)
    assert torch.equal(back[mask], tokens[mask])
    assert ((back == tokens) | (back == 0)).all()


@given(mask=masks, spare=st.integers(0, 5))
def test_gradients_are_those_of_the_definition(mask, spare):
    moved = Rows(mask, 2, max(1, int(mask.sum()) + spare))
    tokens = torch.randn(*mask.shape, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(moved.pick, tokens)
    picked = moved.pick(tokens).detach().requires_grad_()
    assert torch.autograd.gradcheck(moved.put, picked)


def test_tokens_that_are_narrow_stay_where_they_are(monkeypatch):
    monkeypatch.setattr(rows, "LEAST_DIM", 4)
    mask = torch.tensor([[True, False]])
    assert len(Rows(mask, 3, 1).pick(torch.ones(1, 2, 3))) == 2
