"""Checks of a dataset's options."""

from collections.abc import Sequence

from mlcl.errors import MlclError

WORDS = {
    "interpolation": ("bilinear", "bicubic"),
    "empty_images": ("keep", "drop"),
    "cache": ("none", "ram", "disk", "features"),
    "cache_dtype": ("float16", "float32"),
    "augment_on": ("cpu", "device"),
    "on_bad_image": ("raise", "skip"),
    "sampler": ("random", "class_aware"),
}  # the values of options that are words


def at_least(smallest: int, **options: int | None) -> None:
    """Raise MlclError for the first option below the smallest value; None passes."""
    for name, value in options.items():
        if value is not None and value < smallest:
            raise MlclError(f"data.{name} is {value}, it must be at least {smallest}")


def below_one(**options: float) -> None:
    """Raise MlclError for the first share outside [0, 1)."""
    for name, value in options.items():
        if not 0 <= value < 1:
            raise MlclError(f"data.{name} is {value}, it must lie in [0, 1)")


def ascending(name: str, borders: Sequence[int]) -> None:
    """Raise MlclError unless these are two whole numbers, the first at least 0 and below the second."""
    if len(borders) != 2 or not 0 <= borders[0] < borders[1]:
        raise MlclError(f"data.{name} is {list(borders)}, it must be two whole numbers, such as [20, 100]")


def one_of(name: str, value: str, *known: str) -> None:
    """Raise MlclError unless the value of this option is a known one."""
    if value not in known:
        raise MlclError(f"data.{name} is {value!r}; known: {', '.join(known)}")
