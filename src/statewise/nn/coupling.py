"""How inputs enter the states of a diagonal system and how outputs are read.

Either every input meets every state, or each channel has states of its own.

Complex matrices are stored as real pairs in the last axis.
"""

from __future__ import annotations

import abc
import math
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from statewise.ops.pairs import from_pairs


def as_work(tensor: Tensor, like: Tensor) -> Tensor:
    """Bring a parameter to the dtype of the sequence it meets."""
    return tensor.to(like.dtype)


class Coupling(nn.Module, abc.ABC):
    """Input matrix B and output matrix C of a diagonal system with S states.

    Sequences of states have shape (..., S, 2) for complex poles and (..., S) for real ones; a
    coefficient per state has the same trailing shape without batch.
    """

    roles: ClassVar[dict[str, str]] = {"B": "B", "C": "C"}
    is_complex: bool
    d_input: int
    d_output: int

    @abc.abstractmethod
    def drive(self, u: Tensor, gain: Tensor) -> Tensor:
        """Inputs (..., d_input) to states, v = gain ⊙ (B u) with a constant gain (S,)."""

    @abc.abstractmethod
    def read(self, x: Tensor, scale: float) -> Tensor:
        """States to outputs (..., d_output), y = scale · Re(C x)."""

    @abc.abstractmethod
    def matrices(self) -> tuple[Tensor, Tensor]:
        """B (S, d_input) and C (d_output, S), complex, dense."""


class DenseCoupling(Coupling):
    """B is (S, d_input), C is (d_output, S).

    Args:
        d_input: input channels.
        d_output: output channels.
        n: states.
        is_complex: whether states are complex.
        rng: source of the initial draw: entries of B and C are normal with variance 1/d_input and
            1/n, split evenly between real and imaginary part of B.
    """

    def __init__(
        self, d_input: int, d_output: int, n: int, is_complex: bool, rng: np.random.Generator
    ) -> None:
        super().__init__()
        self.d_input, self.d_output, self.is_complex = d_input, d_output, is_complex
        pair = (2,) if is_complex else ()
        b = rng.standard_normal((n, d_input, *pair)) / math.sqrt(d_input * (2 if is_complex else 1))
        c = rng.standard_normal((d_output, n, *pair)) / math.sqrt(n)
        dtype = torch.get_default_dtype()
        self.B = nn.Parameter(torch.tensor(b, dtype=dtype))
        self.C = nn.Parameter(torch.tensor(c, dtype=dtype))

    def drive(self, u: Tensor, gain: Tensor) -> Tensor:
        """See :meth:`Coupling.drive`."""
        if not self.is_complex:
            weight = self.B.to(gain.dtype) * gain.unsqueeze(-1)
            return u @ as_work(weight, u).mT
        b = from_pairs(self.B.to(gain.real.dtype))
        weight = torch.view_as_real(b * gain.unsqueeze(-1))
        columns = weight.permute(1, 0, 2).reshape(self.d_input, -1)
        return (u @ as_work(columns, u)).unflatten(-1, (-1, 2))

    def read(self, x: Tensor, scale: float) -> Tensor:
        """See :meth:`Coupling.read`."""
        if not self.is_complex:
            return x @ as_work(scale * self.C, x).mT
        # Re(c x) = Re c · Re x − Im c · Im x
        return x.flatten(-2) @ as_work(_conjugate(self.C, scale).flatten(-2), x).mT

    def matrices(self) -> tuple[Tensor, Tensor]:
        """See :meth:`Coupling.matrices`."""
        return as_complex(self.B, self.is_complex), as_complex(self.C, self.is_complex)


class BankCoupling(Coupling):
    """B and C are (H, N): channel h drives and reads its own N states only.

    Args:
        channels: H, the number of inputs and of outputs.
        n: N, states per channel.
        is_complex: whether states are complex.
        rng: source of the initial draw: B = 1, C complex standard normal.
    """

    def __init__(self, channels: int, n: int, is_complex: bool, rng: np.random.Generator) -> None:
        super().__init__()
        self.d_input = self.d_output = channels
        self.is_complex = is_complex
        pair = (2,) if is_complex else ()
        b = np.ones((channels, n, *pair))
        if is_complex:
            b[..., 1] = 0
        c = rng.standard_normal((channels, n, *pair)) / math.sqrt(2 if is_complex else 1)
        dtype = torch.get_default_dtype()
        self.B = nn.Parameter(torch.tensor(b, dtype=dtype))
        self.C = nn.Parameter(torch.tensor(c, dtype=dtype))

    def drive(self, u: Tensor, gain: Tensor) -> Tensor:
        """See :meth:`Coupling.drive`."""
        if not self.is_complex:
            weight = self.B.to(gain.dtype) * gain.view(self.B.shape)
            return (u.unsqueeze(-1) * as_work(weight, u)).flatten(-2)
        b = from_pairs(self.B.to(gain.real.dtype))
        weight = as_work(torch.view_as_real(b * gain.view(b.shape)), u)
        return (u[..., None, None] * weight).flatten(-3, -2)

    def read(self, x: Tensor, scale: float) -> Tensor:
        """See :meth:`Coupling.read`."""
        if not self.is_complex:
            return (x.unflatten(-1, self.C.shape) * as_work(scale * self.C, x)).sum(-1)
        split = x.unflatten(-2, self.C.shape[:2])
        return (split * as_work(_conjugate(self.C, scale), x)).sum((-2, -1))

    def matrices(self) -> tuple[Tensor, Tensor]:
        """See :meth:`Coupling.matrices`."""
        b, c = as_complex(self.B, self.is_complex), as_complex(self.C, self.is_complex)
        channels = torch.eye(self.d_input, dtype=b.dtype, device=b.device)
        dense_b = torch.einsum("hn,hi->hni", b, channels).flatten(0, 1)
        dense_c = torch.einsum("hn,hi->ihn", c, channels).flatten(1, 2)
        return dense_b, dense_c


def _conjugate(pairs: Tensor, scale: float) -> Tensor:
    """The conjugates of numbers in pairs, times ``scale``, without a tensor from the host."""
    return torch.stack((scale * pairs[..., 0], -scale * pairs[..., 1]), -1)


def as_complex(tensor: Tensor, pairs: bool) -> Tensor:
    """A real tensor, or one of real pairs in the last axis, as complex64 or complex128."""
    tensor = tensor if tensor.dtype == torch.float64 else tensor.float()
    if pairs:
        return from_pairs(tensor)
    return torch.complex(tensor, torch.zeros_like(tensor))
