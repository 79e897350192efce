"""Which back end computes an operator, and why.

Every operator has a ``reference`` back end that always works, and may have ``cpu`` (compiled)
and ``gpu`` ones. A back end is a module with a function ``supports(device, dtype)`` that answers
None, or one sentence that says why it cannot compute on such tensors; its answer depends on
nothing else, and is remembered.

The choice is made by :class:`use_backend`, else by the environment variable
``STATEWISE_BACKEND`` as it stood when this module was imported, else automatically: ``cpu`` for
CPU tensors, ``gpu`` for others, and ``reference`` where that one refuses. The logger
``statewise`` tells once which back end runs and why. A choice made by name is honoured or raises;
it never falls back.

Compiled kernels carry no tangents of forward-mode differentiation. A tensor that has one goes to
``reference`` when the choice is automatic, and another back end chosen by name refuses it.
"""

from __future__ import annotations

import importlib
import logging
import os
from contextvars import ContextVar, Token
from types import ModuleType
from typing import Any, NamedTuple

import torch

BACKENDS = ("reference", "cpu", "gpu")
VARIABLE = "STATEWISE_BACKEND"

# Read once: looking into the environment costs more than the rest of a dispatch.
_environment = os.environ.get(VARIABLE) or None

_log = logging.getLogger("statewise")
_modules: dict[tuple[str, str], str] = {}
_remembered: dict[tuple[str, str | None, str, torch.dtype], Any] = {}
_chosen: ContextVar[str | None] = ContextVar("statewise_backend", default=None)


class BackendStatus(NamedTuple):
    """One line of :func:`status`: whether a back end can compute an operator here, and why."""

    op: str
    backend: str
    available: bool
    reason: str


class BackendError(RuntimeError):
    """A back end chosen by name cannot compute what it was given; the message says why."""


def register(op: str, **modules: str) -> None:
    """Make an operator known.

    Args:
        op: name of the operator.
        **modules: for each of its back ends, the dotted name of the module, which is imported on
            first use. ``reference`` must be among them.
    """
    if "reference" not in modules:
        raise ValueError(f"{op} has no reference back end; every operator needs one")
    for backend, module in modules.items():
        _modules[op, _known(backend, "a back end of an operator")] = module


def _known(name: str, what: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"{what} is {name!r}; it must be one of {', '.join(BACKENDS)}")
    return name


class use_backend:  # noqa: N801 - read as a statement
    """Context manager: compute every operator with the named back end, in this thread or task.

    A backward pass uses the back end of its forward pass, unless the forward pass was compiled
    by ``torch.compile``; then it chooses when it runs.

    Args:
        name: ``"reference"``, ``"cpu"`` or ``"gpu"``.

    Raises:
        ValueError: ``name`` is none of these.

    Example:
        >>> import torch, statewise.ops as ops
        >>> with ops.use_backend("reference"):
        ...     h, last = ops.linear_scan(torch.tensor(0.5), torch.ones(1, 2, 1))
        >>> h.flatten().tolist()
        [1.0, 1.5]
    """

    def __init__(self, name: str) -> None:
        self._name = _known(name, "the back end")
        self._tokens: list[Token[str | None]] = []

    def __enter__(self) -> None:
        self._tokens.append(_chosen.set(self._name))

    def __exit__(self, *exception: object) -> None:
        _chosen.reset(self._tokens.pop())


def choice() -> str | None:
    """The back end chosen by name, by :class:`use_backend` or the environment; else None.

    Raises:
        ValueError: the environment variable names no back end.
    """
    name = _chosen.get()
    if name is None and _environment is not None:
        name = _known(_environment, f"the environment variable {VARIABLE}")
    return name


def select(op: str, device: str, dtype: torch.dtype, name: str | None = None) -> Any:
    """The back end module that computes ``op`` on tensors of this device type and dtype.

    Args:
        op: a registered operator.
        device: type of the device, such as ``"cpu"``.
        dtype: type of the tensors.
        name: a back end by name; None asks :func:`choice`.

    Returns:
        The module.

    Raises:
        BackendError: a back end chosen by name refuses.
    """
    key = (op, name or choice(), device, dtype)
    module = _remembered.get(key)
    if module is None:
        module = _remembered[key] = _select(*key)
    return module


def _select(op: str, name: str | None, device: str, dtype: torch.dtype) -> ModuleType:
    wanted = name or ("cpu" if device == "cpu" else "gpu")
    module, refusal = _ask(op, wanted, device, dtype)
    kind = str(dtype).removeprefix("torch.")
    if module is not None:
        why = "it was chosen by name" if name else f"the tensors are on the {device} device"
        _log.info("%s: the %s back end runs on %s, because %s", op, wanted, kind, why)
        return module
    if name:
        raise BackendError(f"{op} was asked to use the {name} back end, but {refusal}")
    _log.warning("%s: the reference back end runs, slowly, on %s, because %s", op, kind, refusal)
    module, refusal = _ask(op, "reference", device, dtype)
    if module is None:
        raise BackendError(f"{op} cannot be computed: {refusal}")
    return module


def _ask(
    op: str, backend: str, device: str, dtype: torch.dtype
) -> tuple[ModuleType | None, str | None]:
    """The module when it can compute this, else None with the sentence that says why not."""
    path = _modules.get((op, backend))
    if path is None:
        return None, f"the {backend} back end of {op} does not exist yet"
    try:
        module = importlib.import_module(path)
    except ImportError as error:
        return None, f"the {backend} back end of {op} cannot be imported ({error})"
    refusal = module.supports(device, dtype)
    return (module, None) if refusal is None else (None, refusal)


def operators() -> list[str]:
    """Names of the registered operators."""
    return sorted({op for op, _ in _modules})


def backends(op: str) -> list[str]:
    """Back ends that can compute ``op`` in float32 on this machine.

    Raises:
        ValueError: no operator has that name.
    """
    if op not in operators():
        raise ValueError(f"no operator is called {op!r}; there are {', '.join(operators())}")
    return [line.backend for line in status() if line.op == op and line.available]


def status() -> list[BackendStatus]:
    """Whether each back end of each operator can compute in float32 here, and why not."""
    lines = []
    for op in operators():
        for backend in BACKENDS:
            device = "cuda" if backend == "gpu" else "cpu"
            module, refusal = _ask(op, backend, device, torch.float32)
            lines.append(BackendStatus(op, backend, module is not None, refusal or "works here"))
    return lines


def warm(*names: str) -> None:
    """Compile the CPU kernels of operators now, instead of at their first use.

    Args:
        *names: the operators; all when none is named.

    Raises:
        ValueError: no operator has one of these names.
    """
    known = operators()
    for op in names or known:
        if op not in known:
            raise ValueError(f"no operator is called {op!r}; there are {', '.join(known)}")
        module, _ = _ask(op, "cpu", "cpu", torch.float32)
        if module is not None:
            module.warm()
