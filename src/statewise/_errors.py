"""Errors that speak one sentence, and the door to optional dependencies."""

from __future__ import annotations

import importlib
from types import ModuleType


class StatewiseError(Exception):
    """Base of the errors that Statewise raises on purpose."""


class DataError(StatewiseError, ValueError):
    """Data that cannot be understood; the message says where and what was expected."""


class ConvergenceError(StatewiseError, ArithmeticError):
    """An iteration that did not reach its tolerance; the message holds the residual."""


def require(module: str, *, extra: str) -> ModuleType:
    """Import an optional dependency.

    Args:
        module: name of the module, such as ``"pandas"``.
        extra: the extra of the package that installs it.

    Returns:
        The imported module.

    Raises:
        ImportError: the module is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"this needs the package {module!r}, which is not installed: "
            f"pip install 'statewise[{extra}]'"
        ) from error
