import torch
from torch import nn
from torchvision.models import resnet18

from pipeline.backbones.folding import fold_batch_norms
from pipeline.backbones.s3d import Inception


def with_statistics(network: nn.Module) -> nn.Module:
    """Batch norms that do something."""
    random = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                assert tensor is not None
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=random))
    return network.eval()


def norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d) for module in network.modules())


def test_a_resnet_is_the_same_function_without_its_norms() -> None:
    network = with_statistics(resnet18(weights=None))
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        before = network(images)
        folded = fold_batch_norms(network)
        torch.testing.assert_close(folded(images), before, rtol=1e-4, atol=1e-4 * float(before.abs().max()))
    assert norms(folded) == 0


def test_separable_convolutions() -> None:
    network = with_statistics(Inception(8, (4, 4, 4, 4, 4, 4)))
    clips = torch.randn(1, 8, 4, 6, 6, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        before = network(clips)
        torch.testing.assert_close(fold_batch_norms(network)(clips), before, rtol=1e-4, atol=1e-4)
    assert norms(network) == 0


def test_a_norm_before_its_convolution_stays() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)).eval()
    assert norms(fold_batch_norms(network)) == 2
