"""Power series by the transforms of torch: what the fast back ends compute with."""

from __future__ import annotations

import torch
from torch import Tensor


def smooth(n: int) -> int:
    """The smallest number of at least ``n`` with factors 2, 3 and 5 only."""
    best, five = 1 << max(n - 1, 0).bit_length(), 1
    while five < best:
        three = five
        while three < best:
            two = three << max(-(-n // three) - 1, 0).bit_length()
            best = min(best, two)
            three *= 3
        five *= 5
    return best


def multiply(x: Tensor, y: Tensor, length: int) -> Tensor:
    """The first ``length`` coefficients of the product of two series, (..., length)."""
    x, y = x[..., :length], y[..., :length]
    size = smooth(max(x.shape[-1] + y.shape[-1] - 1, length))
    spectrum = torch.fft.rfft(x, size) * torch.fft.rfft(y, size)
    return torch.fft.irfft(spectrum, size)[..., :length]


def correlate(x: Tensor, y: Tensor, length: int) -> Tensor:
    """Σ_j x_{j+k} y_j for k = 0 … length − 1, (..., length)."""
    size = smooth(max(x.shape[-1], length) + y.shape[-1] - 1)
    # A lazy conj() is lost here when a compiled graph calls the operator.
    spectrum = torch.fft.rfft(x, size) * torch.fft.rfft(y, size).conj_physical()
    return torch.fft.irfft(spectrum, size)[..., :length]


def supports(device: str, dtype: torch.dtype) -> str | None:
    """None where torch has transforms in double precision, else a sentence that says why not."""
    if device in ("cpu", "cuda"):
        return None
    return f"the transforms behind reciprocal_series run on cpu and cuda tensors, not on {device}"


def forward(p: Tensor, length: int) -> Tensor:
    """Newton's iteration: from m coefficients of y = 1 / q to 2m, y ← y − y (q y − 1).

    Arguments and results are those of ``reference.forward``.
    """
    q = torch.nn.functional.pad(p.double(), (1, 0), value=1.0)
    y = torch.ones_like(q[..., :1])
    steps = [length]
    while steps[-1] > 1:
        steps.append((steps[-1] + 1) // 2)
    for target in steps[-2::-1]:
        known = y.shape[-1]
        # The first coefficients of q y are 1, 0, 0, …: what wraps around may land on them.
        size = smooth(target)
        spectrum = torch.fft.rfft(y, size)
        residual = torch.fft.irfft(spectrum * torch.fft.rfft(q[..., :target], size), size)
        residual = residual[..., known:target]
        step = torch.fft.irfft(spectrum * torch.fft.rfft(residual, size), size)
        y = torch.cat([y, -step[..., : target - known]], -1)
    return y.to(p.dtype)


def backward(grad: Tensor, y: Tensor, count: int) -> Tensor:
    """Two correlations; arguments and results are those of ``reference.backward``."""
    value = y.double()
    adjoint = correlate(grad.double(), value, y.shape[-1])
    return -correlate(adjoint, value, count + 1)[..., 1:].to(y.dtype)


def warm() -> None:
    """Nothing is compiled here."""
