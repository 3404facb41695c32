"""Counts what would make the host wait for a device, or give a step shapes that depend on values. Needs no device."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_TAGS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
_BY_MASK = ("index.Tensor", "index_put.default", "index_put_.default", "_index_put_impl_.default")
_WITH_SIZE = ("repeat_interleave.Tensor", "bincount.default")


class Waits(TorchDispatchMode):
    """Records every operation that reads a value: ``found`` holds their names.

    On the meta device, where tensors have no values, also every copy from and to the CPU is such a reading, and an
    operation that needs one cannot run at all.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = f"{func.overloadpacket.__name__}.{func._overloadname}"
        if name in _BY_MASK:
            waits = any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
        elif name in _WITH_SIZE:
            waits = (kwargs or {}).get("output_size") is None
        else:
            waits = bool(_TAGS & set(func.tags))
        result = func(*args, **(kwargs or {}))
        if name.startswith(("_to_copy", "copy_")):
            waits = len({tensor.device.type for tensor in _tensors((args, kwargs, result))}) > 1
        if waits:
            self.found.append(name)
        return result


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))
