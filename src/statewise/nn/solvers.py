"""How a nonlinear recurrence is run over a sequence, as data. Nothing here needs torch."""

from __future__ import annotations

import dataclasses

from statewise._config import register


@register
@dataclasses.dataclass(frozen=True)
class SequentialSolver:
    """One step after the other: exact for any weights."""


@register
@dataclasses.dataclass(frozen=True)
class NewtonSolver:
    """All steps at once by Newton's method, see :func:`statewise.ops.newton_scan`.

    Exact to the tolerance where the cell contracts; an answer that has not converged is warned
    of, and its gradient refused. Memory is B L n² for n states, unless ``diagonal`` is set. A NaN
    in one sequence of a batch keeps all from converging.

    Attributes:
        iterations: the most updates to make.
        tolerance: residual to stop at, relative to the states; None for ε^(3/4).
        damping: strength of the trust region, 0 for none.
        diagonal: use the diagonal of the Jacobian alone (more iterations, less of everything).

    Raises:
        ValueError: no iterations, or a negative damping.

    Sources: DEER (2309.12252); quasi-DEER and ELK (2407.19115).
    """

    iterations: int = 16
    tolerance: float | None = None
    damping: float = 0.0
    diagonal: bool = False

    def __post_init__(self) -> None:
        if self.iterations < 1 or not self.damping >= 0:
            raise ValueError(
                f"NewtonSolver needs iterations >= 1 and damping >= 0; given iterations = "
                f"{self.iterations}, damping = {self.damping}"
            )
