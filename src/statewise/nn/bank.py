"""A bank of diagonal systems over a sequence: its states are never stored over time."""

from __future__ import annotations

import torch
from torch import Tensor

from statewise.nn.contract import valid_steps
from statewise.nn.coupling import BankCoupling, as_complex
from statewise.nn.poles import Poles
from statewise.nn.simulators import powers
from statewise.ops import diagonal_ssm, fft_conv, vandermonde_kernel

BLOCK = 128
"""Samples that are summed at once where the last state of a convolution is read."""


def convolution_pays(u: Tensor, states: int) -> bool:
    """Whether a bank is faster by convolution on the CPU (``benchmarks/bank_crossover.py``).

    Without gradients it never is: the last state costs half as much as the whole recurrence. With
    them the recurrence pays for each of its states twice more, the convolution does not.
    """
    batch, length, _ = u.shape
    return torch.is_grad_enabled() and states >= 64 and batch >= 4 and batch * length >= 1 << 15


def bank_recurrence(
    poles: Poles,
    coupling: BankCoupling,
    d: Tensor | None,
    u: Tensor,
    start: Tensor,
    dt: Tensor | None = None,
    reset: Tensor | None = None,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor] | None:
    """Run x_k = a x_{k−1} + gain ⊙ (B u_k), y_k = s Re(C x_k) + D u_k through ``diagonal_ssm``.

    Args:
        poles: the dynamics, of a rule that uses one input sample.
        coupling: B and C.
        d: D, (H,), or None.
        u: inputs (B, L, H), finite behind ``lengths``.
        start: states before, (B, S, 2), or (B, S) for real poles.
        dt: relative steps (B, L) or (L,), finite, or None for 1.
        reset: True where the state is set to 0 before that sample, (B, L).
        lengths: number of valid samples, (B,).

    Returns:
        Outputs (B, L, H) and the state after the last valid sample; None for a rule whose varying
        steps the operator does not know.
    """
    steps = rule = None
    if dt is None and lengths is None:
        a, gain, _ = poles.discretise()
    else:
        held = poles.held()
        if held is None:
            return None
        a, gain, rule = held
        steps = torch.ones(u.shape[:2], dtype=gain.real.dtype, device=u.device)
        if dt is not None:
            steps = steps * dt.to(steps.dtype)
        if lengths is not None:
            # A step of no width leaves the state as it is.
            valid = valid_steps(lengths, u.shape[1])
            steps = torch.where(valid, steps, torch.zeros_like(steps))
            reset = None if reset is None else reset & valid
    b, c = _weights(coupling, gain, poles.output_scale)
    y, last = diagonal_ssm(
        *(u, _parts(a.view(b.shape[:2])), _parts(b), _parts(c), d),
        start.view(start.shape[0], *coupling.B.shape).to(_parts(b).dtype),
        dt=steps,
        rule=rule,
        reset=reset,
    )
    return y, last.reshape(start.shape).to(start.dtype)


def bank_convolution(
    poles: Poles, coupling: BankCoupling, d: Tensor | None, u: Tensor, start: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The same by convolution with the impulse response, at the nominal step.

    Args:
        poles: the dynamics, of a rule that uses one input sample.
        coupling: B and C.
        d: D, (H,), or None.
        u: inputs (B, L, H).
        start: states before, (B, S, 2), or (B, S) for real poles; None for rest.

    Returns:
        Outputs (B, L, H) and the state after the last sample.
    """
    batch, length, channels = u.shape
    a, gain, _ = poles.discretise()
    b, c = _weights(coupling, gain, poles.output_scale)
    a, b, c = (x.view(b.shape).to(torch.promote_types(x.dtype, torch.complex64)) for x in (a, b, c))
    y, _ = fft_conv(u, vandermonde_kernel(a, c * b, length), d, need_state=False)
    last = b * _last_sum(a, u.to(b.real.dtype))
    if start is not None:
        before = as_complex(start, coupling.is_complex).view(batch, *b.shape)
        free = vandermonde_kernel(
            a.expand(batch, -1, -1).reshape(-1, a.shape[-1]).contiguous(),
            (before * (c * a)).flatten(0, 1),
            length,
        )
        y = y + free.view(batch, channels, length).transpose(1, 2).to(y.dtype)
        last = last + before * powers(a.flatten(), 2, length)[1].view(a.shape)
    last = torch.view_as_real(last) if coupling.is_complex else last.real
    return y, last.flatten(1, 2)


def _last_sum(a: Tensor, u: Tensor) -> Tensor:
    """Σ_k a^{L−1−k} u_k, (B, H, N), as matrix products over blocks of samples."""
    batch, length, channels = u.shape
    count = -(-length // BLOCK)
    padded = torch.nn.functional.pad(u, (0, 0, count * BLOCK - length, 0))
    blocks = padded.view(batch, count, BLOCK, channels).permute(3, 0, 1, 2).flatten(1, 2)
    within = powers(a.flatten(), BLOCK).flip(0).view(BLOCK, *a.shape).permute(1, 0, 2)
    sums = (blocks @ torch.view_as_real(within).flatten(-2)).unflatten(-1, (-1, 2))
    sums = torch.view_as_complex(sums.unflatten(1, (batch, count)))
    outer = powers(a.flatten(), count, BLOCK).flip(0).view(count, *a.shape).permute(1, 0, 2)
    return torch.einsum("hbcn,hcn->bhn", sums, outer)


def _weights(coupling: BankCoupling, gain: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Weights B with their gain and C with its scale, (H, N), complex, or real for real poles."""
    b, c = coupling.B, coupling.C
    if coupling.is_complex:
        b, c = as_complex(b, True), as_complex(c, True)
    else:
        b, c = (x if x.dtype == torch.float64 else x.float() for x in (b, c))
    return b * gain.view(b.shape), scale * c


def _parts(x: Tensor) -> Tensor:
    return torch.view_as_real(x) if x.is_complex() else x
