"""Checks of a dataset's options."""

from mlcl.errors import MlclError


def at_least(smallest: int, **options: int | None) -> None:
    """Raise MlclError for the first option below the smallest value; None passes."""
    for name, value in options.items():
        if value is not None and value < smallest:
            raise MlclError(f"data.{name} is {value}, it must be at least {smallest}")


def one_of(name: str, value: str, *known: str) -> None:
    """Raise MlclError unless the value of this option is a known one."""
    if value not in known:
        raise MlclError(f"data.{name} is {value!r}; known: {', '.join(known)}")
