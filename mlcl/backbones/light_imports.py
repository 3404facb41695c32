"""torchvision and timm without what they import and we seldom need: half of the time and memory of a start.

Both reach for torch's compiler when they are imported (torchvision 0.29, timm 1.0.31), for decorators that do nothing
before something is compiled, and timm imports Weights & Biases wherever that is installed.
"""

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

_COMPILER = "torch._dynamo"


@contextmanager
def light_imports() -> Iterator[None]:
    """Around imports of torchvision and timm: W&B as if it were not installed, and the compiler on first use.

    What is imported already stays as it is.
    """
    compiler, tools = ModuleType(_COMPILER), ModuleType(f"{_COMPILER}.utils")
    compiler.disable = _disabled  # type: ignore[attr-defined]
    tools.is_compile_supported = _is_compile_supported  # type: ignore[attr-defined]
    wanted: dict[str, Any] = {} if _COMPILER in sys.modules else {_COMPILER: compiler, tools.__name__: tools}
    hidden = {name: module for name, module in {**wanted, "wandb": None}.items() if name not in sys.modules}
    sys.modules |= hidden
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


def _disabled(function: Callable[..., Any] | None = None, recursive: bool = True, **settings: Any) -> Any:
    """``torch.compiler.disable``, done when the function is called for the first time."""
    if function is None:
        return functools.partial(_disabled, recursive=recursive, **settings)

    @functools.cache
    def made() -> Any:
        from torch.compiler import disable

        return disable(function, recursive, **settings)  # type: ignore[no-untyped-call]

    return functools.wraps(function)(lambda *args, **kwargs: made()(*args, **kwargs))


def _is_compile_supported(device_type: str) -> bool:
    from torch._dynamo.utils import is_compile_supported

    return bool(is_compile_supported(device_type))
