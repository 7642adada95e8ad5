import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from pipeline.backbones.folding import fold_batch_norms
from pipeline.backbones.fusion import FusedConvolution, fuse_convolutions
from pipeline.backbones.resnext101_3d import ResNeXt3D
from tests.backbones.test_folding import with_statistics


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def fused_convolutions(network: nn.Module) -> list[FusedConvolution]:
    return [module for module in network.modules() if isinstance(module, FusedConvolution)]


@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (2, 3, 70, 96)])
def test_a_resnet_is_the_same_function(shape: tuple[int, ...]) -> None:
    network = fold_batch_norms(with_statistics(resnet18(weights=None)))
    images = random(*shape)
    with torch.inference_mode():
        before = network(images)
        fused = fuse_convolutions(network, (1, 3, 64, 64))
        torch.testing.assert_close(fused(images), before, rtol=1e-4, atol=1e-4 * float(before.abs().max()))
    # all but the three that make a shortcut's channels fit are followed by a ReLU
    assert [one.activation for one in fused_convolutions(fused)].count("none") == 3
    assert not [module for module in fused.modules() if isinstance(module, nn.Conv2d | nn.ReLU | nn.Identity)]


def test_the_order_of_weights_for_one_size_changes_no_bit_for_another() -> None:
    networks = []
    for shape in ((1, 3, 64, 64), (1, 3, 96, 40)):
        torch.manual_seed(0)
        networks.append(fuse_convolutions(fold_batch_norms(with_statistics(resnet18(weights=None))), shape))
    images = random(1, 3, 48, 80)
    with torch.inference_mode():
        first, second = (network(images) for network in networks)
        assert torch.equal(first, second) and torch.equal(first, networks[0](images))


def test_grouped_convolutions_over_time() -> None:
    torch.manual_seed(0)
    network = fold_batch_norms(with_statistics(ResNeXt3D(classes=2)))
    clips = random(1, 3, 16, 32, 32)
    with torch.inference_mode():
        before = network(clips)
        fused = fuse_convolutions(network, (1, 3, 16, 112, 112))
        torch.testing.assert_close(fused(clips), before, rtol=1e-3, atol=1e-4 * float(before.abs().max()))


class Awkward(nn.Module):
    """What must not be fused: a result that is used twice, a sum with a number, a sum of itself."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.first(x)
        b = torch.relu(self.second(a) + 1)
        c = self.third(b)
        return torch.relu(c + c) + a


def test_what_cannot_be_fused_is_left_as_it_is() -> None:
    torch.manual_seed(0)
    network, images = Awkward().eval(), random(1, 3, 8, 8)
    with torch.inference_mode():
        before = network(images)
        fused = fuse_convolutions(network, (1, 3, 8, 8))
        torch.testing.assert_close(fused(images), before)
    assert [one.activation for one in fused_convolutions(fused)] == ["none"] * 3
