"""The shape of a cell's Jacobian ∂h_t/∂h_{t−1}."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


class Structure:
    """Which entries of the n×n Jacobian may be non-zero: one of the classes below."""


@dataclass(frozen=True)
class Diagonal(Structure):
    """Only the diagonal; Jacobians are (..., n)."""


@dataclass(frozen=True)
class Blocks(Structure):
    """n/k blocks of k×k, for consecutive groups of k states; Jacobians are (..., n/k, k, k).

    Attributes:
        k: states in a block.

    Raises:
        ValueError: ``k`` is less than 1.
    """

    k: int

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"Blocks: k is {self.k}; a block has at least one state")


@dataclass(frozen=True)
class Dense(Structure):
    """Any entry; Jacobians are (..., 1, n, n)."""


@dataclass(frozen=True)
class Cell:
    """A function h, x ↦ h' together with what is known about it.

    Attributes:
        function: maps a state (..., n) and an input (..., m) to the next state (..., n); what it
            does to one entry of the leading axes does not depend on the others.
        size: n, the number of states.
        structure: the shape of ∂h'/∂h.
        jacobian: the Jacobian itself, from the same arguments, in the shape that ``structure``
            names; None lets autograd find it.
    """

    function: Callable[[Tensor, Tensor], Tensor]
    size: int
    structure: Structure = Dense()
    jacobian: Callable[[Tensor, Tensor], Tensor] | None = None

    def __call__(self, h: Tensor, x: Tensor) -> Tensor:
        """The next state."""
        return self.function(h, x)
