"""A linear system in state-space form under the layer contract."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from statewise.nn.contract import State, valid_steps
from statewise.nn.recurrence import Recurrence


class LinearLayer(Recurrence):
    """x_{t+1} = A x_t + B u_t,  y_t = C x_t + D u_t, sample by sample.

    Any matrices may be given, stable or not. It is what questions of :mod:`statewise.analysis` are
    asked of. The matrices are parameters, which keep their type: float64 at first.

    Args:
        A: (n, n).
        B: (n, m).
        C: (p, n).
        D: (p, m).

    Raises:
        ValueError: ``dt`` in a run, which a system without continuous time cannot honour.
    """

    roles: ClassVar[dict[str, str]] = {"A": "A", "B": "B", "C": "C", "D": "D"}

    A: nn.Parameter
    B: nn.Parameter
    C: nn.Parameter
    D: nn.Parameter

    def __init__(self, A: Any, B: Any, C: Any, D: Any) -> None:
        super().__init__()
        for name, value in zip("ABCD", (A, B, C, D), strict=True):
            matrix = torch.as_tensor(value, dtype=torch.float64).clone()
            self.register_parameter(name, nn.Parameter(matrix))
        self.d_input, self.d_output = self.D.shape[1], self.D.shape[0]

    def init_state(self, batch: int) -> Tensor:
        """The state of rest, (batch, n)."""
        return self.rest(batch, len(self.A))

    def _sequence(
        self,
        u: Tensor,
        state: State,
        dt: Tensor | None,
        reset: Tensor | None,
        lengths: Tensor | None,
    ) -> tuple[Tensor, State]:
        valid = None if lengths is None else valid_steps(lengths, u.shape[1])
        outputs = []
        for k in range(u.shape[1]):
            if reset is not None:
                state = torch.where(reset[:, k, None], torch.zeros_like(state), state)
            y, after = self._sample(u[:, k], state, None)
            state = after if valid is None else torch.where(valid[:, k, None], after, state)
            outputs.append(y)
        return torch.stack(outputs, 1), state

    def _sample(self, u: Tensor, state: State, dt: Tensor | None) -> tuple[Tensor, State]:
        kind = u.device.type if torch.amp.is_autocast_available(u.device.type) else "cpu"
        # Half types would lose a state that adds up over many samples.
        with torch.autocast(kind, enabled=False):
            A, B, C, D = (matrix.to(state.dtype).mT for matrix in (self.A, self.B, self.C, self.D))
            v = u.to(state.dtype)
            return state @ C + v @ D, state @ A + v @ B
