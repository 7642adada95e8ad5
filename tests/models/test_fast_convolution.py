"""The convolution with fewer multiplications is a convolution."""

import math

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from pipeline.models import fast_convolution
from pipeline.models.davenet import Davenet
from pipeline.models.fast_convolution import Plan, convolve, plan


def _cut(time, blocks, taps):
    step = math.ceil(time / blocks)
    return Plan(blocks, step, step + (taps // 2 if blocks == 1 else taps - 1))


def _as_defined(signal, kernel):
    return F.conv1d(signal.permute(1, 2, 0), kernel, padding=kernel.shape[2] // 2).permute(2, 0, 1)


@given(
    time=st.integers(1, 40), blocks=st.integers(1, 5), taps=st.sampled_from([3, 5, 9]), batch=st.integers(1, 3),
    in_channels=st.integers(1, 4), out_channels=st.integers(1, 4), seed=st.integers(0, 9),
)  # fmt: skip
def test_result_and_gradients_are_those_of_the_definition(time, blocks, taps, batch, in_channels, out_channels, seed):
    generator = torch.Generator().manual_seed(seed)
    kind = {"generator": generator, "dtype": torch.float64}
    signal = torch.randn(time, batch, in_channels, **kind).requires_grad_()
    kernel = torch.randn(out_channels, in_channels, taps, **kind).requires_grad_()
    result, expected = convolve(signal, kernel, _cut(time, blocks, taps)), _as_defined(signal, kernel)
    torch.testing.assert_close(result, expected)
    downstream = torch.randn(expected.shape, **kind)
    found = torch.autograd.grad(result, (signal, kernel), downstream)
    for one, other in zip(found, torch.autograd.grad(expected, (signal, kernel), downstream), strict=True):
        torch.testing.assert_close(one, other)


def test_float32_is_as_exact_as_float32_can_be():
    generator = torch.Generator().manual_seed(0)
    signal = torch.randn(125, 8, 128, generator=generator).relu()
    kernel = torch.randn(128, 128, 9, generator=generator)
    cut = plan(125, 512, 128, 128, 9)
    exact = _as_defined(signal.double(), kernel.double())
    error = (convolve(signal, kernel, cut).double() - exact).norm() / exact.norm()
    assert error < 1e-6


def test_it_is_taken_where_it_saves_operations():
    chosen = plan(63, 128, 1024, 1024, 9)
    assert chosen is not None and chosen.blocks * chosen.step >= 63
    assert plan(63, 8, 1024, 1024, 9) is None, "a few clips do not pay for the transform of a kernel"
    assert plan(500, 128, 16, 16, 9) is None, "narrow layers are left as they are"


def test_the_audio_network_is_the_same_with_it(monkeypatch):
    spectrogram = torch.randn(3, 40, 61, generator=torch.Generator().manual_seed(0)).double()
    outcomes = []
    for least, worth in ((10**9, 1.2), (1, 1e-9)):
        monkeypatch.setattr(fast_convolution, "NARROWEST", least)
        monkeypatch.setattr(fast_convolution, "FEWEST", least)
        monkeypatch.setattr(fast_convolution, "WORTH", worth)
        torch.manual_seed(0)
        net = Davenet("small", width=2).double().train()
        tokens = net(spectrogram)
        tokens.square().sum().backward()
        gradients = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
        outcomes.append((tokens, gradients, dict(net.named_buffers())))
    torch.testing.assert_close(outcomes[0], outcomes[1])
