"""The sums that regularisers add, with gradients that hold where many values are near 0."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from statewise.nn.lti import LTI
from statewise.nn.modes import layer_modes

SMALLEST = 1e-9
"""Hankel values below this fraction of the largest are rounding, and have no gradient."""


def linear_layers(model: nn.Module) -> list[LTI]:
    """The linear layers of a model.

    Raises:
        ValueError: there are none.
    """
    found = [module for module in model.modules() if isinstance(module, LTI)]
    if not found:
        raise ValueError(
            f"a regulariser of linear layers was given, and {type(model).__name__} has no LTI layer"
        )
    return found


def modulus_sum(layer: LTI) -> Tensor:
    """Σ |λ| over the states of a layer, ()."""
    return layer_modes(layer).poles.abs().sum()


def hankel_sum(layer: LTI) -> Tensor:
    """Σ σ of a layer, over the channels of a bank, (): the trace norm of its Hankel operator.

    dΣσ = ½ tr(W_Q dQ) + ½ tr(W_P dP) with W_Q = Σ x_i x_iᵀ/σ_i and W_P = Σ y_i y_iᵀ/σ_i for the
    balancing vectors x = L_p v and y = L_q u, and both Gramians in closed form of the modes.
    """
    form = layer_modes(layer)
    P = _gramian(form.poles, form.B)
    # The observability of (λ, C) is the controllability of (λ̄, C*).
    Q = _gramian(form.poles.conj(), form.C.mH)
    with torch.no_grad():
        Lp, Lq = (_factor(M) for M in (P, Q))
        U, sigma, Vh = torch.linalg.svd(Lq.mT @ Lp)
        good = sigma > SMALLEST * sigma[..., :1]
        weight = torch.where(good, sigma, torch.ones_like(sigma)).rsqrt() * good
        x = Lp @ Vh.mT * weight.unsqueeze(-2)
        y = Lq @ U * weight.unsqueeze(-2)
        total, W_Q, W_P = sigma.sum(), x @ x.mT, y @ y.mT
    change = 0.5 * ((W_Q * Q).sum() + (W_P * P).sum())
    return total + change - change.detach()


def _gramian(poles: Tensor, B: Tensor) -> Tensor:
    """Σ_k z_k z_kᵀ with z_k the real and imaginary parts of λᵏ B, (..., 2S, 2S).

    From Σ x x* and Σ x xᵀ, whose entries are b_i b_j*/(1 − λ_i λ̄_j) and b_i b_jᵀ/(1 − λ_i λ_j).
    """
    row, column = poles.unsqueeze(-2), poles.unsqueeze(-1)
    mixed = (B @ B.mH) / (1 - column * row.conj())
    plain = (B @ B.mT) / (1 - column * row)
    cross = (plain.imag - mixed.imag) / 2
    return torch.cat(
        (
            torch.cat(((mixed.real + plain.real) / 2, cross), -1),
            torch.cat((cross.mT, (mixed.real - plain.real) / 2), -1),
        ),
        -2,
    )


def _factor(M: Tensor) -> Tensor:
    """L with L Lᵀ = M for a Gramian, singular ones too."""
    values, vectors = torch.linalg.eigh(M)
    return vectors * values.clamp_min(0).sqrt().unsqueeze(-2)
