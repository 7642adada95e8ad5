import pytest
import torch
import torch.nn.functional as F

from pipeline.models.audio_pooling import pool_tokens

LIMIT = 6
POOLED = {
    "max_pool": lambda x: F.adaptive_max_pool1d(x, LIMIT),
    "avg_pool": lambda x: F.adaptive_avg_pool1d(x, LIMIT),
    "nearest": lambda x: F.interpolate(x.unsqueeze(0), size=LIMIT, mode="nearest")[0],
}


@pytest.mark.parametrize("how", POOLED)
def test_every_length_is_pooled_as_torch_pools_one_sequence(how):
    total = 41
    tokens = torch.randn(total + 1, total, 3, generator=torch.Generator().manual_seed(0))
    real = torch.arange(total + 1)
    mask = torch.arange(total) < real.unsqueeze(1)
    pooled, pooled_mask = pool_tokens(tokens, mask, real, LIMIT, how)
    assert torch.equal(pooled_mask, mask[:, :LIMIT])
    for length in range(total + 1):
        sequence = tokens[length]
        expected = POOLED[how](sequence[:length].T).T if length > LIMIT else sequence[:LIMIT]
        torch.testing.assert_close(pooled[length], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("how", POOLED)
def test_gradients_are_those_of_torch(how):
    tokens = torch.randn(2, 17, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    real = torch.tensor([17, 11])
    weights = torch.randn(2, LIMIT, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    pooled, _ = pool_tokens(tokens, torch.ones(2, 17, dtype=torch.bool), real, LIMIT, how)
    (ours,) = torch.autograd.grad((pooled * weights).sum(), tokens)
    expected = torch.stack([POOLED[how](tokens[i, : real[i]].T).T for i in range(2)])
    (theirs,) = torch.autograd.grad((expected * weights).sum(), tokens)
    torch.testing.assert_close(ours, theirs)


def test_clip_keeps_the_first_and_none_keeps_all():
    tokens, mask, real = torch.randn(2, 9, 3), torch.ones(2, 9, dtype=torch.bool), torch.tensor([9, 4])
    clipped, clipped_mask = pool_tokens(tokens, mask, real, 4, "clip")
    assert torch.equal(clipped, tokens[:, :4]) and clipped_mask.shape == (2, 4)
    assert pool_tokens(tokens, mask, real, 4, "none")[0] is tokens
    assert pool_tokens(tokens, mask, real, 9, "max_pool")[0] is tokens
