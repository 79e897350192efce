"""A linear layer as the system it is: its modes in the textbook form, in double precision."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

from statewise.lti.diagonal_form import DiagonalForm
from statewise.lti.discretise import DiscretisedPoles
from statewise.nn.coupling import BankCoupling
from statewise.nn.lti import LTI
from statewise.nn.poles import Poles
from statewise.ops.pairs import from_pairs


def layer_modes(layer: LTI) -> DiagonalForm:
    """s_{k+1} = a s_k + (a g + g') B u_k,  y_k = Re(C s_k) + (D + Re(C g B)) u_k, at nominal steps.

    From x_k = a x_{k−1} + g B u_k + g' B u_{k−1} with s_k = x_k − g B u_k, exact for every a. The
    bias is left out. Computed in float64 from the parameters, and differentiable.

    Args:
        layer: the layer.

    Returns:
        The modes with one of each conjugate pair (``half``): S of them; for a bank a batch of one
        system for each channel, (H, N).
    """
    bank = isinstance(layer.coupling, BankCoupling)
    a, gain, before = _wide(layer.poles)
    if bank:
        shape = layer.coupling.B.shape[:2]
        a, gain = a.view(shape), gain.view(shape)
        before = None if before is None else before.view(shape)
    b, c = (_matrix(M, layer.coupling.is_complex) for M in (layer.coupling.B, layer.coupling.C))
    c = layer.poles.output_scale * c
    a = _without_rounding(a, b, c, layer)
    if bank:
        b, c = b.unsqueeze(-1), c.unsqueeze(-2)
    driven = gain.unsqueeze(-1) * b
    later = a.unsqueeze(-1) * driven
    if before is not None:
        later = later + before.unsqueeze(-1) * b
    direct = (c @ driven).real
    if layer.D is not None:
        d = layer.D.double()
        direct = direct + (d[:, None, None] if bank else torch.diag(d) if d.ndim == 1 else d)
    return DiagonalForm(a, later, c, direct, dt=1.0, half=True)


class _Discretise(nn.Module):
    """The rule of some poles as the call of a module, for which parameters can be exchanged."""

    def __init__(self, poles: Poles) -> None:
        super().__init__()
        self.poles = poles

    def forward(self) -> DiscretisedPoles:
        """The coefficients at the nominal step."""
        return self.poles.discretise()


def _wide(poles: Poles) -> tuple[Tensor, Tensor, Tensor | None]:
    """The coefficients with all digits that the parameters hold: near 1 float32 has too few."""
    parameters = {f"poles.{name}": p.double() for name, p in poles.named_parameters()}
    a, gain, before = functional_call(_Discretise(poles), parameters)
    kind = torch.complex128
    return a.to(kind), gain.to(kind), None if before is None else before.to(kind)


def _matrix(M: Tensor, pairs: bool) -> Tensor:
    M = M.double()
    return from_pairs(M) if pairs else M.to(torch.complex128)


def _without_rounding(a: Tensor, b: Tensor, c: Tensor, layer: LTI) -> Tensor:
    """Poles on the real axis where their phase, such as π, is off it by its rounding alone."""
    eps = torch.finfo(layer.coupling.B.dtype).eps
    bank = isinstance(layer.coupling, BankCoupling)
    real = (b.imag == 0) if bank else (b.imag == 0).all(-1)
    real = real & ((c.imag == 0) if bank else (c.imag == 0).all(0))
    real = real & (a.imag.abs() <= 2 * eps * a.abs())
    return torch.where(real, a.real.to(a.dtype), a)
