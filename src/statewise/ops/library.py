"""What every registered operator needs from torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch

from statewise.ops import dispatch


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
