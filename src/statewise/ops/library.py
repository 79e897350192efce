"""Operators: functions that autograd, compile and export know of.

torch.library gives an operator reverse mode and tracing. Two things it does not do are done here.
Forward-mode derivatives it drops without a word: a tensor with a tangent goes in, and one without
comes out. An operator therefore hands such tensors to its reference back end, whose plain torch
arithmetic carries them, or refuses. And where nothing follows a call, the function is called as it
is, since torch's own machinery takes as long as the kernel on a small problem.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.autograd import forward_ad

from statewise.ops import dispatch

_log = logging.getLogger("statewise")
_told: set[str] = set()
_PLAIN = (Tensor, torch.nn.Parameter)
_modes = torch._C._len_torch_dispatch_stack
_transform = torch._C._functorch.peek_interpreter_stack  # pyright: ignore
_wrapped = torch._C._functorch.is_functorch_wrapped_tensor  # pyright: ignore


class Operator:
    """A function registered as a torch operator; call it with all arguments, by position.

    Args:
        function: what it computes; it returns new tensors.
        name: its name in the namespace ``statewise``.
        schema: its arguments and results, as torch writes them.

    Raises:
        RuntimeError: when called under ``torch.compile``, or past this class, on a tensor with a
            forward-mode tangent.
        BackendError: on such a tensor, where another back end than the reference was chosen.
    """

    def __init__(self, function: Callable[..., Any], name: str, schema: str) -> None:
        def compute(*arguments: Any) -> Any:
            if forward_ad._current_level >= 0 and _carries_below(arguments):
                _lose(name)
            return function(*arguments)

        self.name, self.function = name, function
        known = torch.library.custom_op(
            f"statewise::{name}", compute, mutates_args=(), schema=schema
        )
        self.register_fake = known.register_fake
        self.register_autograd = known.register_autograd
        self.known = getattr(torch.ops.statewise, name).default

    def __call__(self, *arguments: Any) -> Any:
        """What the function returns."""
        if torch.compiler.is_compiling():
            if forward_ad._current_level >= 0 and carries_tangent(arguments):
                _lose(self.name)
            return self.known(*arguments)
        if forward_ad._current_level < 0:
            return (self.known if _is_seen(arguments) else self.function)(*arguments)
        # A transform inside another one shows the tangents of its own level alone.
        wrapped = any(isinstance(x, Tensor) and _wrapped(x) for x in arguments)
        if wrapped or carries_tangent(arguments):
            return self._with_tangents(arguments)
        return self.known(*arguments)

    def _with_tangents(self, arguments: tuple) -> Any:
        """The function on plain torch arithmetic, which every transform of torch goes through."""
        # A backward operator is given the back end that was chosen when its forward one ran.
        given = [x for x in arguments if isinstance(x, str) and x in dispatch.BACKENDS]
        chosen = next(iter(given), None) or dispatch.choice()
        if chosen not in (None, "reference"):
            raise dispatch.BackendError(
                f"{self.name} was asked to use the {chosen} back end, but a tensor has a "
                "forward-mode tangent, which compiled kernels do not carry; choose the reference "
                "back end, or differentiate in reverse mode"
            )
        if chosen is None and self.name not in _told:
            _told.add(self.name)
            _log.warning(
                "%s: the reference back end runs, slowly, because a tensor has a forward-mode "
                "tangent, which compiled kernels do not carry",
                self.name,
            )
        with dispatch.use_backend("reference"):
            return self.function(*arguments)


def operator(name: str, schema: str) -> Callable[[Callable[..., Any]], Operator]:
    """Decorator: make a function an :class:`Operator`."""
    return lambda function: Operator(function, name, schema)


def _lose(name: str) -> NoReturn:
    raise RuntimeError(
        f"{name} was given a tensor with a forward-mode tangent in a compiled or recorded graph, "
        "where it would be lost; call it outside of torch.compile, where the reference back end "
        "carries tangents, or differentiate in reverse mode"
    )


def in_forward_mode() -> bool:
    """Whether a level of forward-mode differentiation is entered."""
    return forward_ad._current_level >= 0


def carries_tangent(arguments: Iterable[Any]) -> bool:
    """Whether a tensor among these has a tangent of the forward-mode level that is entered."""
    return forward_ad._current_level >= 0 and any(
        isinstance(x, Tensor) and forward_ad.unpack_dual(x).tangent is not None for x in arguments
    )


def _carries_below(arguments: Iterable[Any]) -> bool:
    """The same where torch has left autograd behind it, and only autograd sees tangents."""
    included, excluded = (
        torch._C._dispatch_tls_local_include_set(),
        torch._C._dispatch_tls_local_exclude_set(),
    )
    with torch._C._ForceDispatchKeyGuard(included, excluded - excluded):
        return carries_tangent(arguments)


def refuse_tangents(name: str, *groups: Iterable[Any]) -> None:
    """For functions without derivatives.

    Raises:
        ValueError: a tensor in one of the groups has a forward-mode tangent.
    """
    if forward_ad._current_level >= 0 and any(map(carries_tangent, groups)):
        raise ValueError(
            f"{name} has no derivative, and a tensor with a forward-mode tangent was given; detach "
            "it, or write the formula in plain torch where a derivative is needed"
        )


def is_followed(arguments: Iterable[Any]) -> bool:
    """Whether torch has to know of a call: it records, traces or transforms what is done."""
    if torch.compiler.is_compiling() or forward_ad._current_level >= 0:
        return True
    return _is_seen(arguments)


def _is_seen(arguments: Iterable[Any]) -> bool:
    """The same outside of compilers and of forward mode."""
    graph = torch.is_grad_enabled()
    for x in arguments:
        if isinstance(x, Tensor) and (type(x) not in _PLAIN or (graph and x.requires_grad)):
            return True
    return _modes() > 0 or _transform() is not None or torch._C._is_tracing()


def captured_choice() -> str | None:
    """The back end chosen by name, for a backward pass to keep; None while a graph is traced.

    Autograd's threads see no context variables, so the forward pass has to remember; a traced
    graph must not freeze the choice.
    """
    return None if torch.compiler.is_compiling() else dispatch.choice()


def no_second_derivative(op: str) -> Callable[..., NoReturn]:
    """The backward function of a backward operator: it says that there is none."""

    def refuse(ctx: Any, *gradients: torch.Tensor | None) -> NoReturn:
        raise RuntimeError(
            f"{op} has no second derivative: its gradient was asked for a gradient "
            "(create_graph=True); write the recurrence as a plain loop where one is needed"
        )

    return refuse
