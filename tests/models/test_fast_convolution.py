"""The convolution with fewer multiplications is a convolution."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from pipeline.models import davenet, fast_convolution
from pipeline.models.davenet import Davenet
from pipeline.models.fast_convolution import ON_CPU, ON_CPU_IN_HALVES, ON_GPU, Plan, convolve, plan


def _cut(time, blocks, taps):
    step = math.ceil(time / blocks)
    return Plan(blocks, step, step + (taps // 2 if blocks == 1 else taps - 1))


def _as_defined(signal, kernel):
    return F.conv1d(signal.permute(1, 2, 0), kernel, padding=kernel.shape[2] // 2).permute(2, 0, 1)


@given(
    time=st.integers(1, 40), blocks=st.integers(1, 5), taps=st.sampled_from([3, 5, 9]), batch=st.integers(1, 3),
    in_channels=st.integers(1, 4), out_channels=st.integers(1, 4), kept=st.sampled_from([0, 1 << 20]),
    seed=st.integers(0, 9),
)  # fmt: skip
def test_result_and_gradients_are_those_of_the_definition(
    time, blocks, taps, batch, in_channels, out_channels, kept, seed
):
    generator = torch.Generator().manual_seed(seed)
    kind = {"generator": generator, "dtype": torch.float64}
    signal = torch.randn(time, batch, in_channels, **kind).requires_grad_()
    kernel = torch.randn(out_channels, in_channels, taps, **kind).requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast_convolution, "KEPT_BYTES", kept)
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
    cut = plan(125, 512, 128, 128, 9, ON_CPU)
    exact = _as_defined(signal.double(), kernel.double())
    error = (convolve(signal, kernel, cut).double() - exact).norm() / exact.norm()
    assert error < 1e-6


def test_it_is_taken_where_it_saves_operations():
    chosen = plan(63, 128, 1024, 1024, 9, ON_CPU)
    assert chosen is not None and chosen.blocks * chosen.step >= 63
    assert plan(63, 8, 1024, 1024, 9, ON_CPU) is None, "a few clips do not pay for the transform of a kernel"
    assert plan(500, 128, 16, 16, 9, ON_CPU) is None, "narrow layers are left as they are"


def test_the_audio_network_is_the_same_with_it(monkeypatch):
    spectrogram = torch.randn(3, 40, 61, generator=torch.Generator().manual_seed(0)).double()
    outcomes = []
    for least, worth in ((10**9, 1.2), (1, 1e-9)):
        monkeypatch.setattr(davenet, "ON_CPU", ON_CPU._replace(narrowest=least, fewest=least, worth=worth))
        torch.manual_seed(0)
        net = Davenet("small", width=2).double().train()
        tokens = net(spectrogram)
        tokens.square().sum().backward()
        gradients = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
        outcomes.append((tokens, gradients, dict(net.named_buffers())))
    torch.testing.assert_close(outcomes[0], outcomes[1])


def _everywhere(monkeypatch, costs=ON_CPU):
    anywhere = costs._replace(narrowest=1, fewest=1, worth=1e-9)
    monkeypatch.setattr(davenet, "_costs", lambda _: anywhere)


def _trained(net, spectrogram):
    net.zero_grad(set_to_none=True)
    tokens = net(spectrogram)
    tokens.float().square().mean().backward()
    return tokens.detach(), [p.grad for p in net.parameters() if p.grad is not None]


def test_it_compiles_with_its_gradients_to_one_graph(monkeypatch):
    _everywhere(monkeypatch)
    net, spectrogram = Davenet("small", width=4).train(), torch.randn(3, 40, 64)
    expected = _trained(net, spectrogram)
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(_trained(compiled, spectrogram), expected, rtol=0, atol=0)


@pytest.mark.parametrize("costs", [ON_CPU_IN_HALVES, ON_GPU], ids=["CPU", "GPU"])
def test_bfloat16_costs_two_roundings_instead_of_one(costs, monkeypatch):
    torch.manual_seed(0)
    convolution = davenet.TimeConvolution((64, 64, 1, 9))
    signal = torch.randn(16, 64, 48).relu()
    exact = F.conv1d(signal, convolution.weight.view(64, 64, 9), padding=4)

    def error():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            result = convolution(signal)
        assert result.dtype == torch.bfloat16
        return ((result - exact).norm() / (exact - exact.mean((0, 2), keepdim=True)).norm()).item()

    as_defined = error()
    _everywhere(monkeypatch, costs)
    assert as_defined != error() < 2.5 * as_defined


def test_it_is_taken_in_bfloat16_but_not_in_float16():
    convolution, signal = davenet.TimeConvolution((256, 256, 1, 9)), torch.randn(64, 256, 24)
    assert convolution.plan(signal, 24) is not None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert convolution.plan(signal, 24) is not None
    with torch.autocast("cpu", dtype=torch.float16):
        assert convolution.plan(signal, 24) is None, "sums over a signal may leave float16's range"


def test_a_block_with_its_shortcut_lies_in_memory_as_its_convolutions_leave_it():
    block, orders = davenet.ResidualBlock(64, 128, stride=2), []
    for module in block.modules():
        if isinstance(module, davenet.TimeConvolution | davenet.TimeNorm):
            module.register_forward_hook(lambda _, __, out: orders.append(out.permute(2, 0, 1).is_contiguous()))
    block(torch.randn(64, 64, 96))
    assert len(orders) == 6 and all(orders)
