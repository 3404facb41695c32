"""Importing every file of a package, so that a class is known by its short name as soon as its file exists."""

import importlib
import pkgutil
from types import ModuleType

from mlcl.errors import MlclError


def import_all(package: str, path: list[str]) -> list[ModuleType]:
    """Import the modules directly under a package; returns those whose names do not start with an underscore.

    Raises:
        MlclError: if one of them cannot be imported; the message names the file, since it breaks every command.
    """
    modules = []
    for module in sorted(pkgutil.iter_modules(path), key=lambda m: m.name):
        try:
            imported = importlib.import_module(f"{package}.{module.name}")
        except Exception as error:
            raise MlclError(
                f"{package.replace('.', '/')}/{module.name}.py cannot be imported: {type(error).__name__}: {error}"
            ) from error
        if not module.name.startswith("_"):
            modules.append(imported)
    return modules


def public_classes(modules: list[ModuleType], base: type) -> dict[str, type]:
    """The subclasses of ``base`` that the modules define (not those they import), by name, ``base`` itself left out."""
    found: dict[str, type] = {}
    for module in modules:
        for name, value in vars(module).items():
            defined_here = isinstance(value, type) and value.__module__ == module.__name__
            if defined_here and issubclass(value, base) and value is not base and not name.startswith("_"):
                found[name] = value
    return found
