"""Butterfly: the Fourier transform as a product of small matrices that can be learned."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from statewise.nn.windows import working_dtype
from statewise.ops.pairs import from_pairs


class Butterfly(nn.Module):
    """B = P (I ⊗ F_{n_p}) T_p … (I ⊗ F_{n_1}) along the last axis, of length N = n_1 ⋯ n_p.

    F_n is the n × n matrix e^{∓2πijk/n}, T are the twiddle factors e^{∓2πijk/N}, which are fixed,
    and P orders the outputs. With F as they start B is the discrete Fourier transform, as a few
    products by small dense matrices. Trained, it is another linear map at the same price,
    O(N Σ n_i). One matrix serves all blocks of a factor.

    Source: Fu et al., Simple hardware-efficient long convolutions for sequence modeling
    (2302.06646), section 4.

    Args:
        length: N, a power of two.
        largest: largest n_i, a power of two of at least 2.
        inverse: start as the inverse transform, with + in the exponents and 1/N.
        noise: standard deviation of what is added to both parts of every entry at the start, in
            units of the largest entry.
        seed: seed of the initial draw, or a NumPy generator.

    Raises:
        ValueError: a length or a largest block that is no power of two.
    """

    def __init__(
        self,
        length: int,
        *,
        largest: int = 16,
        inverse: bool = False,
        noise: float = 0.0,
        seed: int | np.random.Generator = 0,
    ) -> None:
        super().__init__()
        for name, size, least in (("length", length, 1), ("largest", largest, 2)):
            if size < least or size & (size - 1):
                raise ValueError(
                    f"Butterfly needs a power of two of at least {least} as {name}; given {size}"
                )
        rng = np.random.default_rng(seed)
        self.length, self.sign = length, 1.0 if inverse else -1.0
        self.sizes = _split(length, largest)
        dtype = torch.get_default_dtype()
        self.factors = nn.ParameterList()
        for n in self.sizes:
            k = np.arange(n)
            f = np.exp(self.sign * 2j * math.pi / n * np.outer(k, k)) / (n if inverse else 1)
            pairs = np.stack([f.real, f.imag], -1)
            pairs = pairs + noise * np.abs(f).max() * rng.standard_normal(pairs.shape)
            self.factors.append(nn.Parameter(torch.tensor(pairs, dtype=dtype)))

    def forward(self, x: Tensor) -> Tensor:
        """B x.

        Args:
            x: real or complex, (..., N).

        Returns:
            Complex (..., N), in the precision of the parameters, float32 at least.

        Raises:
            ValueError: another length.
        """
        if x.ndim == 0 or x.shape[-1] != self.length:
            raise ValueError(
                f"Butterfly takes an input of shape (..., {self.length}); given {tuple(x.shape)}"
            )
        real = working_dtype(self.factors[0])
        x = x.to(torch.complex128 if real == torch.float64 else torch.complex64)
        lead, rest, done = x.shape[:-1], self.length, 1
        # Digits of the output index that are known already stand in front, the newest last.
        for factor, n in zip(self.factors, self.sizes, strict=True):
            rest //= n
            matrix = from_pairs(factor.to(real)).to(x.dtype)
            x = x.reshape(*lead, done, n, rest)
            x = torch.einsum("kj,...jr->...kr", matrix, x)
            if rest > 1:
                x = x * self._twiddles(n, rest, x)
            done *= n
        x = x.reshape(*lead, *self.sizes)
        order = [*range(len(lead)), *reversed(range(len(lead), x.ndim))]
        return x.permute(order).reshape(*lead, self.length)

    def _twiddles(self, n: int, rest: int, like: Tensor) -> Tensor:
        k = torch.arange(n, device=like.device, dtype=torch.float64).unsqueeze(-1)
        j = torch.arange(rest, device=like.device, dtype=torch.float64)
        angles = self.sign * 2 * math.pi / (n * rest) * k * j
        return torch.polar(torch.ones_like(angles), angles).to(like.dtype)


class ButterflyConv(nn.Module):
    """y = Re B' (B pad(u) ⊙ B pad(k)) + d ⊙ u for each channel, with learned B and B'.

    B and B' are of length 2^m ≥ 2 L, and start as the Fourier transform and its inverse: the map
    starts as the causal convolution of u with k. Once they are trained it is a structured linear
    map of whole sequences: neither causal nor the same at all times. So it has no state and no
    ``step``, and is no layer of the contract.

    Source: Fu et al. (2302.06646), the learned Butterfly extension of section 4.

    Args:
        d_model: D, inputs and outputs.
        length: L, the longest sequence; shorter ones are padded with zeros.
        largest: largest block of a factor, a power of two.
        noise: what is added to the factors at the start; the paper also tries 0.01.
        seed: seed of the initial draw, or a NumPy generator.

    Raises:
        ValueError: sizes below 1, or a block that is no power of two.
    """

    roles: ClassVar[dict[str, str]] = {"taps": "A", "D": "D"}

    def __init__(
        self,
        d_model: int,
        length: int,
        *,
        largest: int = 16,
        noise: float = 0.0,
        seed: int | np.random.Generator = 0,
    ) -> None:
        super().__init__()
        if d_model < 1 or length < 1:
            raise ValueError(
                f"ButterflyConv needs d_model and length of at least 1; given {d_model} and "
                f"{length}"
            )
        rng = np.random.default_rng(seed)
        self.d_model, self.length = d_model, length
        dtype = torch.get_default_dtype()
        taps = 0.02 * rng.standard_normal((d_model, length))
        self.taps = nn.Parameter(torch.tensor(taps, dtype=dtype))
        self.D = nn.Parameter(torch.tensor(rng.standard_normal(d_model), dtype=dtype))
        padded = 1 << (2 * length - 1).bit_length()
        self.analysis = Butterfly(padded, largest=largest, noise=noise, seed=rng)
        self.synthesis = Butterfly(padded, largest=largest, noise=noise, inverse=True, seed=rng)

    def forward(self, u: Tensor) -> Tensor:
        """Map whole sequences.

        Args:
            u: input (B, L', D), L' ≤ L.

        Returns:
            Output (B, L', D).

        Raises:
            ValueError: another number of channels, or a sequence that is too long or empty.
        """
        if u.ndim != 3 or u.shape[2] != self.d_model or not 1 <= u.shape[1] <= self.length:
            raise ValueError(
                f"ButterflyConv takes an input of shape (batch, 1 to {self.length}, "
                f"{self.d_model}); given {tuple(u.shape)}"
            )
        steps, size = u.shape[1], self.analysis.length
        dtype = working_dtype(self.taps)
        inputs = nn.functional.pad(u.mT.to(dtype), (0, size - steps))
        taps = nn.functional.pad(self.taps.to(dtype), (0, size - self.length))
        mixed = self.synthesis(self.analysis(inputs) * self.analysis(taps))
        return mixed.real[..., :steps].mT.to(u.dtype) + self.D.to(u.dtype) * u


def _split(length: int, largest: int) -> list[int]:
    """Factors of ``length``, powers of two of at most ``largest``, the largest first."""
    sizes, rest = [], length
    while rest > largest:
        sizes.append(largest)
        rest //= largest
    return [*sizes, rest]
