"""How a linear layer computes its sequence: one sample after the other, or by convolution."""

from __future__ import annotations

import torch
from torch import Tensor

from statewise.lti.functions import complex_exp
from statewise.nn.coupling import BankCoupling, Coupling, as_complex


def powers(a: Tensor, count: int, stride: int = 1) -> Tensor:
    """a^0, a^stride … a^(stride (count − 1)), shape (count, S).

    Computed as exp(k log a) in float64, because the phase k·arg(a) would lose its digits in
    float32 for large k.
    """
    wide = a.to(torch.complex128)
    index = stride * torch.arange(count, device=a.device, dtype=torch.float64).unsqueeze(-1)
    # log of |a| = 0 is −inf, and 0·(−inf) is NaN at k = 0: hold the modulus above the underflow.
    wide = torch.where(wide.detach().abs() < 1e-300, torch.full_like(wide, 1e-300), wide)
    exponent = torch.complex(index * torch.log(wide.abs()), index * wide.angle())
    return complex_exp(exponent).to(a.dtype)


def fft_simulate(
    coupling: Coupling, a: Tensor, gain: Tensor, scale: float, u: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Run x_k = a x_{k−1} + gain (B u_k), y_k = scale Re(C x_k) by convolution.

    Y(ω) = H(ω) U(ω) with H(ω) = scale/2 [C T(ω) B̄ + conj(C T(−ω) B̄)], T the transform of the
    powers of ``a`` cut to the length of the sequence, so that nothing wraps around in time.

    Args:
        coupling: B and C.
        a: poles (S,), real or complex.
        gain: input gains (S,).
        scale: factor of the real part.
        u: input (B, L, d_input).
        state: state before the first sample, (B, S, 2) or (B, S).

    Returns:
        Output (B, L, d_output) and the state after the last sample.
    """
    length = u.shape[1]
    work = u.to(gain.real.dtype)
    poles = a if a.is_complex() else torch.complex(a, torch.zeros_like(a))
    start = as_complex(state, coupling.is_complex)
    table = powers(poles, length + 1)
    n_fft = 2 * length
    spectrum = torch.fft.rfft(work, n=n_fft, dim=1)
    transfer = torch.fft.fft(table[:-1], n=n_fft, dim=0)
    upper = transfer[: length + 1]
    # T(−ω): entry 0 stays, the others run backwards.
    lower = torch.cat([transfer[:1], transfer.flip(0)[:length]])
    if isinstance(coupling, BankCoupling):
        shape = coupling.B.shape[:2]
        b = as_complex(coupling.B, coupling.is_complex) * gain.view(shape)
        c = as_complex(coupling.C, coupling.is_complex)
        weight = c * b
        response = torch.einsum("fhn,hn->fh", upper.unflatten(-1, shape), weight)
        mirrored = torch.einsum("fhn,hn->fh", lower.unflatten(-1, shape), weight)
        output = spectrum * (0.5 * (response + mirrored.conj()))
        driven = torch.einsum(
            "blh,lhn->bhn", work.to(b.dtype), table[:-1].flip(0).unflatten(-1, shape)
        )
        last = (driven * b).flatten(1)
        free = torch.einsum(
            "bhn,lhn->blh", start.unflatten(-1, shape) * c, table[1:].unflatten(-1, shape)
        )
    else:
        b, c = coupling.matrices()
        b = b * gain.unsqueeze(-1)
        response = torch.einsum("os,fs,si->foi", c, upper, b)
        mirrored = torch.einsum("os,fs,si->foi", c, lower, b)
        output = torch.einsum("foi,bfi->bfo", 0.5 * (response + mirrored.conj()), spectrum)
        driven = torch.einsum("bli,ls->bsi", work.to(b.dtype), table[:-1].flip(0))
        last = (driven * b).sum(-1)
        free = torch.einsum("os,bs,ls->blo", c, start, table[1:])
    y = scale * (torch.fft.irfft(output, n=n_fft, dim=1)[:, :length] + free.real)
    last = last + start * table[-1]
    after = torch.view_as_real(last) if coupling.is_complex else last.real
    return y.to(u.dtype), after
