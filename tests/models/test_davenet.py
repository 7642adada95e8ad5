"""The audio network is the same in every order of memory."""

import pytest
import torch

from pipeline.models import davenet
from pipeline.models.davenet import Davenet


def _outcome(size):
    torch.manual_seed(0)
    net = Davenet(size, width=2).double().train()
    spectrogram = torch.randn(3, 40, 150, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    tokens = net(spectrogram)
    (tokens * torch.randn(tokens.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    gradients = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    return tokens, spectrogram.grad, gradients, dict(net.named_buffers())


@pytest.mark.parametrize("size", ["small", "large"])
def test_channels_last_as_on_a_gpu_changes_nothing(size, monkeypatch):
    expected = _outcome(size)
    monkeypatch.setattr(davenet, "CHANNELS_LAST_ON", ("cpu",))
    found = _outcome(size)
    torch.testing.assert_close(found, expected)
    assert found[0].is_contiguous(), "tokens come out of it without a copy"


def test_channels_last_nothing_is_copied_between_layers(monkeypatch):
    monkeypatch.setattr(davenet, "CHANNELS_LAST_ON", ("cpu",))
    net, orders = Davenet("small", width=4), []
    for module in net.modules():
        if isinstance(module, davenet.TimeConvolution | davenet.TimeNorm):
            module.register_forward_hook(lambda _, inputs, out: orders.append((inputs[0].stride(1), out.stride(1))))
    net(torch.randn(2, 40, 64))
    assert orders[0][1] == 1 and set(orders[1:]) == {(1, 1)}
