"""Convolutions together with what follows them, for CPUs: ``relu(conv(x))`` and ``relu(conv(x) + y)`` in one go.

oneDNN computes both while a convolution's results are still in registers, and reads weights fastest in an order of its
own. The operators are those that ``torch.compile`` puts into its CPU programs; called directly they need no compiler
on the user's machine.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence

import torch
from torch import fx, nn
from torch.nn import functional

_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)
_RELUS = (functional.relu, torch.relu)
_SUMS = (operator.add, operator.iadd, torch.add)


class FusedConvolution(nn.Module):
    """A convolution, an addition where a second input is given, and a ReLU where asked for."""

    def __init__(self, convolution: nn.Conv2d | nn.Conv3d, shape: Sequence[int], relu: bool) -> None:
        """Takes the weights over, in the order that is best for an input of ``shape``."""
        super().__init__()
        settings = (convolution.padding, convolution.stride, convolution.dilation, convolution.groups)
        reorder = getattr(torch.ops.aten, f"mkldnn_reorder_conv{len(shape) - 2}d_weight")
        self.weight = reorder(convolution.weight.detach().to_mkldnn(), *settings, list(shape))
        self.bias = None if convolution.bias is None else convolution.bias.detach()
        self.settings = settings
        self.activation = "relu" if relu else "none"

    def forward(self, x: torch.Tensor, other: torch.Tensor | None = None) -> torch.Tensor:
        """Float32 ``[batch, channels, ...]``; ``other`` has the shape of the result."""
        operators = torch.ops.mkldnn._convolution_pointwise
        if other is None:
            return operators(x, self.weight, self.bias, *self.settings, self.activation, [], "")
        return operators.binary(x, other, self.weight, self.bias, *self.settings, "add", None, self.activation, [], "")


def fuse_convolutions(network: nn.Module, shape: Sequence[int]) -> nn.Module:
    """The same function in fewer passes over memory; results differ in the last bits.

    Args:
        network: in evaluation mode, on a CPU, in float32, with its batch norms folded; it is used up.
        shape: of a typical input; others do as well.
    """
    if not torch.backends.mkldnn.is_available():
        return network
    traced = fx.symbolic_trace(network)
    modules = dict(traced.named_modules())
    for node in list(traced.graph.nodes):
        if node.op == "call_module" and isinstance(modules[node.target], nn.Identity):
            node.replace_all_uses_with(node.args[0])
            traced.graph.erase_node(node)
    shapes = _input_shapes(traced, shape)
    for node in list(traced.graph.nodes):
        if node.op == "call_module" and isinstance(modules[node.target], _CONVOLUTIONS):
            _fuse(traced, node, modules, shapes[node.target])
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


def _input_shapes(network: nn.Module, shape: Sequence[int]) -> dict[str, Sequence[int]]:
    """What each convolution gets, by its name."""
    shapes: dict[str, Sequence[int]] = {}
    handles = [
        module.register_forward_pre_hook(lambda _, inputs, name=name: shapes.update({name: inputs[0].shape}))
        for name, module in network.named_modules()
        if isinstance(module, _CONVOLUTIONS)
    ]
    with torch.inference_mode():
        network(torch.zeros(tuple(shape)))
    for handle in handles:
        handle.remove()
    return shapes


def _fuse(traced: fx.GraphModule, node: fx.Node, modules: dict[str, nn.Module], shape: Sequence[int]) -> None:
    """Replaces a convolution, and what alone uses its result as far as that can be done with it."""
    last, other = node, None
    summed = _only_user(node)
    if summed is not None and _calls(summed, _SUMS) and _is_relu(_only_user(summed), modules):
        operands = [operand for operand in summed.args if operand is not node]
        if len(operands) == 1 and isinstance(operands[0], fx.Node):
            last, other = summed, operands[0]
    follower = _only_user(last)
    relu = _is_relu(follower, modules)
    if relu and follower is not None:
        last = follower
    convolution = modules[str(node.target)]
    assert isinstance(convolution, _CONVOLUTIONS)
    setattr(traced, name := f"fused_{node.name}", FusedConvolution(convolution, shape, relu))
    with traced.graph.inserting_before(last):
        fused = traced.graph.call_module(name, (node.args[0],) if other is None else (node.args[0], other))
    last.replace_all_uses_with(fused)
    for done in (last, summed if other is not None else None, node):
        if done is not None and not done.users and done in traced.graph.nodes:
            traced.graph.erase_node(done)


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _calls(node: fx.Node, functions: Sequence[object]) -> bool:
    return node.op == "call_function" and node.target in functions


def _is_relu(node: fx.Node | None, modules: dict[str, nn.Module]) -> bool:
    if node is None:
        return False
    return _calls(node, _RELUS) or (node.op == "call_module" and isinstance(modules.get(str(node.target)), nn.ReLU))
