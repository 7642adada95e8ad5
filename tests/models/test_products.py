"""Products are products, by oneDNN and by MKL."""

import pytest
import torch
import torch.nn.functional as F

from pipeline.models import products as products_module
from pipeline.models.products import Linear, product, products


@pytest.fixture(autouse=True, params=[True, False], ids=["by oneDNN", "by MKL"])
def _library(request, monkeypatch):
    monkeypatch.setattr(products_module, "one_dnn_is_faster", lambda: request.param)


def _random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def _assert_close(found, expected):
    """To float32's rounding of a sum, which the order of its terms changes."""
    scale = expected.detach().abs().max().item() if expected.numel() else 1.0
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 * max(1.0, scale))


@pytest.mark.parametrize("rows", [1, 3, 300])
def test_products_of_matrices_and_their_transposes(rows):
    a, b = _random(rows, 200), _random(100, 200)
    _assert_close(product(a, b.t()), a @ b.t())
    _assert_close(product(b, a.t()), b @ a.t())
    _assert_close(product(_random(2, rows, 200), b.t()), _random(2, rows, 200) @ b.t())
    stack, other = _random(4, rows, 200), _random(4, 100, 200).transpose(1, 2)
    _assert_close(products(stack, other), torch.bmm(stack, other))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(300, 64), (2, 150, 64), (1, 64), (0, 64)])
def test_a_layer_and_its_gradients(bias, shape):
    layer, x = Linear(64, 128, bias=bias), _random(*shape).requires_grad_()
    out, expected = layer(x), F.linear(x, layer.weight, layer.bias)
    _assert_close(out, expected)
    inputs = (x, *layer.parameters())
    for found, wanted in zip(
        torch.autograd.grad(out.square().sum(), inputs),
        torch.autograd.grad(expected.square().sum(), inputs),
        strict=True,
    ):
        _assert_close(found, wanted)


def test_only_what_needs_a_gradient_gets_one():
    layer, x = Linear(64, 128), _random(300, 64)
    layer.weight.requires_grad_(False)
    layer(x).sum().backward()
    assert x.grad is None and layer.weight.grad is None
    torch.testing.assert_close(layer.bias.grad, torch.full((128,), 300.0))


def test_autocast_and_other_precisions_are_torchs_own():
    layer, x = Linear(64, 128), _random(300, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert layer.double()(x.double()).dtype == torch.float64
