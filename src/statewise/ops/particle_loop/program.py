"""Formulas of one particle, as data: what a model computes, without the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

LEAVES = ("x", "z", "y", "u", "c")
"""Entries of a state, of its normal numbers, of an output, of an input, and constants."""


def _truth(compare: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda a, b: compare(a, b).double()


OPERATIONS: dict[str, Callable[..., Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "pow": torch.pow,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "lt": _truth(torch.lt),
    "le": _truth(torch.le),
    "eq": _truth(torch.eq),
    "where": lambda condition, a, b: torch.where(condition != 0, a, b),
    "neg": torch.neg,
    "abs": torch.abs,
    "sqrt": torch.sqrt,
    "exp": torch.exp,
    "log": torch.log,
    "sin": torch.sin,
    "cos": torch.cos,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "expm1": torch.expm1,
    "log1p": torch.log1p,
    "tan": torch.tan,
    "atan": torch.atan,
    "sinh": torch.sinh,
    "cosh": torch.cosh,
    "erf": torch.erf,
    "lgamma": torch.lgamma,
}
"""What a program may compute, and what each means; comparisons give 1 or 0."""


@dataclass(frozen=True)
class Program:
    """Straight-line code: each line computes one number of one particle from those before it.

    Attributes:
        code: lines ``(name, arguments)``. Of a name in :data:`LEAVES` the argument is which entry,
            of one in :data:`OPERATIONS` arguments are numbers of earlier lines.
        outputs: numbers of the lines that are asked for.

    Raises:
        ValueError: a line that names no operation, or a later line.
    """

    code: tuple[tuple[str, tuple[int, ...]], ...]
    outputs: tuple[int, ...]

    def __post_init__(self) -> None:
        for k, (name, arguments) in enumerate(self.code):
            if name not in LEAVES and name not in OPERATIONS:
                raise ValueError(f"line {k} of a program is {name!r}, which is no operation")
            if name in OPERATIONS and not all(0 <= a < k for a in arguments):
                raise ValueError(f"line {k} of a program takes {arguments}, not all before it")
        if not all(0 <= k < len(self.code) for k in self.outputs):
            raise ValueError(f"a program of {len(self.code)} lines gives lines {self.outputs}")

    def entries(self, leaf: str) -> int:
        """How many entries of a kind of leaf it must be given."""
        return max((args[0] + 1 for name, args in self.code if name == leaf), default=0)


class Formula(NamedTuple):
    """A program and its constants.

    Attributes:
        program: what is computed.
        constants: (S, R, C) float64 with S 1 or T, R 1 or B.
    """

    program: Program
    constants: Tensor

    def at(self, t: int) -> Tensor:
        """Constants of a step, (R, C)."""
        return self.constants[t if len(self.constants) > 1 else 0]


def evaluate(
    program: Program, x: Tensor, z: Tensor, y: Tensor, u: Tensor, constants: Tensor
) -> Tensor:
    """Outputs (B, N, q) in float64.

    Args:
        program: what to compute.
        x: states (B, N, n).
        z: normal numbers (B, N, n).
        y: outputs (B, p).
        u: inputs (B, m).
        constants: (1 or B, C).
    """
    y, u, constants = (one.unsqueeze(1) for one in (y, u, constants))
    leaves = {"x": x, "z": z, "y": y, "u": u, "c": constants}
    values: list[Tensor] = []
    for name, arguments in program.code:
        if name in leaves:
            values.append(leaves[name][..., arguments[0]].double())
        else:
            values.append(OPERATIONS[name](*(values[a] for a in arguments)))
    shape = x.shape[:2]
    return torch.stack([values[k].expand(shape) for k in program.outputs], -1)
