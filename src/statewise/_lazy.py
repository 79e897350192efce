"""Packages whose public names are imported on first use."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any


def attach(
    package: str,
    homes: Mapping[str, str],
    *,
    modules: Iterable[str] = (),
    ready: Iterable[str] = (),
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Make the ``__getattr__`` and ``__dir__`` of a package.

    Args:
        package: the ``__name__`` of the package.
        homes: the module that holds each public name, absolute or within the package.
        modules: submodules that are public themselves.
        ready: public names that the package has from the start.

    Returns:
        The two functions, to be bound to those names.
    """
    own = frozenset(modules)
    shown = sorted({*homes, *own, *ready})

    def get(name: str) -> Any:
        if name in own:
            return importlib.import_module(f"{package}.{name}")
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home = homes[name]
        full = home if home.startswith("statewise.") else f"{package}.{home}"
        return getattr(importlib.import_module(full), name)

    return get, lambda: list(shown)
