"""BatchNorm folded into the convolution before it: the same function with fewer operations, for an export."""

import copy
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mlcl.backbones.light_timm import timm

_LAYERS: Any = timm.layers  # untyped
# By their exact types: a subclass may do something else with its weights (standardise them, for one).
_CONVOLUTIONS = (nn.Conv2d, _LAYERS.Conv2dSame)
_NORMS = (nn.BatchNorm2d, _LAYERS.BatchNormAct2d)
_TOLERANCE = 1e-5


@torch.no_grad()
def fold_batch_norms(network: nn.Module, example: Tensor) -> tuple[nn.Module, int]:
    """A copy of a network, with every BatchNorm that directly follows a convolution folded into it.

    Pairs are found by one pass through the network and not by names, so it works for any backbone: a BatchNorm is
    folded where it is the only thing that is done with a convolution's output, and both run once.

    Args:
        network: in eval mode; left as it is. It gives one tensor.
        example: an input of it.

    Returns:
        The copy and the number of BatchNorms folded; the network itself and 0 where the copy would give anything else.
    """
    folded = copy.deepcopy(network)
    pairs = list(_pairs(folded, example))
    for convolution, norm in pairs:
        kind, mean, variance = convolution.weight, norm.running_mean.double(), norm.running_var.double()
        weight, bias = fuse_conv_bn_weights(
            kind.double(), _double(convolution.bias), mean, variance, norm.eps, _double(norm.weight), _double(norm.bias)
        )
        convolution.weight, convolution.bias = nn.Parameter(weight.to(kind)), nn.Parameter(bias.to(kind))
        rest = nn.Sequential(norm.drop, norm.act) if type(norm) is _LAYERS.BatchNormAct2d else nn.Identity()
        for parent in [*folded.modules()]:
            for name, child in parent.named_children():
                if child is norm:
                    parent.add_module(name, rest)
    if not torch.allclose(network(example), folded(example), rtol=0, atol=_TOLERANCE):
        return network, 0
    return folded, len(pairs)


def _double(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.double()


def _pairs(network: nn.Module, example: Tensor) -> Iterator[tuple[Any, Any]]:
    """The convolutions and the BatchNorms to fold into them."""
    calls: Counter[nn.Module] = Counter()
    made: list[tuple[nn.Module, Tensor]] = []  # also keeps the outputs, whose ids would be used again
    entered: list[tuple[nn.Module, Tensor]] = []
    uses = _Uses()

    def after(module: nn.Module, _: Any, output: Tensor) -> None:
        calls[module] += 1
        made.append((module, output))
        uses.of[id(output)] = 0  # what was counted before was another tensor at this place

    def before(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        calls[module] += 1
        entered.append((module, arguments[0]))

    modules = [*network.modules()]
    hooks = [module.register_forward_hook(after) for module in modules if type(module) in _CONVOLUTIONS]
    norms = [module for module in modules if type(module) in _NORMS]
    hooks += [module.register_forward_pre_hook(before) for module in norms]
    try:
        with uses:
            network(example)
    finally:
        for hook in hooks:
            hook.remove()
    sources = {id(output): module for module, output in made}
    for norm, given in entered:
        convolution = sources.get(id(given))
        once = convolution is not None and calls[convolution] == calls[norm] == 1
        if once and uses.of[id(given)] == 1 and norm.running_mean is not None and not norm.training:
            yield convolution, norm


class _Uses(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations that get a tensor, by its id."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.of: Counter[int] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.of.update({id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)})
        return func(*args, **(kwargs or {}))
