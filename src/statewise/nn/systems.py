"""Layers of every class that are linear and time-invariant, as the systems that they are."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from statewise.lti import StateSpace, append
from statewise.lti.diagonal_form import DiagonalForm
from statewise.nn.companion import Companion
from statewise.nn.contract import Layer
from statewise.nn.dss import DSS
from statewise.nn.ema import EMA
from statewise.nn.l2_bounded import L2Bounded
from statewise.nn.long_conv import LongConv
from statewise.nn.lssl import LSSL
from statewise.nn.lti import LTI
from statewise.nn.modes import layer_modes
from statewise.nn.s4 import S4

System = StateSpace | DiagonalForm
MOST_STATES = 512
"""States up to which a layer whose matrices grow with its channels or its taps is read."""


def layer_systems(layer: Layer) -> System | None:
    """s_{k+1} = A s_k + B u_k,  y_k = C s_k + D u_k: what a layer computes, at its nominal step.

    Layers with diagonal dynamics (LTI and its relatives, DSS, EMA, L2Bounded) give their modes, one
    of each conjugate pair; S4, LSSL, Companion and LongConv give matrices, because their modes may
    be hardly independent or not independent at all. Computed in float64 from the parameters; a
    bias is left out, and dropout is off.

    Args:
        layer: the layer.

    Returns:
        One system, or for a bank a batch of one for each channel, (H,); None for a layer that is
        not of these classes, that gives more than its output (a Companion with a closed loop), or
        whose matrix would have more than 512 rows: a LongConv that remembers more samples, an LSSL
        with several outputs a channel, which is one system with the states of all channels. What is
        returned need not be stable.
    """
    if isinstance(layer, LTI):
        return layer_modes(layer)
    for kind, read in _READERS.items():
        if isinstance(layer, kind):
            with torch.no_grad():
                return read(copy.deepcopy(layer).double().eval())
    return None


def _s4(layer: S4) -> StateSpace:
    a, b, c = layer.discretise()
    return _updated(a, b.unsqueeze(-1), c, layer.D[:, None, None])


def _lssl(layer: LSSL) -> StateSpace | None:
    if layer.outputs > 1 and layer.d_input * layer.d_state > MOST_STATES:
        return None
    a, b = layer.discretise()
    bank = _updated(a, b.unsqueeze(-1), layer.C, layer.D.unsqueeze(-1))
    # A channel with several outputs is no channel of a bank; outputs stand side by side.
    return bank if layer.outputs == 1 else append(*(bank[k] for k in range(layer.d_input)))


def _companion(layer: Companion) -> StateSpace | None:
    if layer.F is not None:
        return None
    last, h = layer.column(), layer.heads
    n = layer.d_state
    A = torch.diag(last.new_ones(n - 1), -1).repeat(len(last), 1, 1)
    A[..., -1] += last
    d = last.new_zeros(len(last)) if layer.D is None else layer.D
    parts = (A, layer.B.unsqueeze(-1), layer.C.unsqueeze(1), d[:, None, None])
    return _updated(*(part.repeat_interleave(h, 0) for part in parts))


def _long_conv(layer: LongConv) -> StateSpace | None:
    taps = layer.kernel()
    used = (taps != 0).any(0).nonzero()
    # Taps behind the last one that is not 0 in any channel remember nothing.
    n = int(used.max()) if len(used) else 0
    if n > MOST_STATES:
        return None
    H, first, later = len(taps), taps[:, :1], taps[:, 1 : n + 1]
    A = torch.diag(taps.new_ones(max(n - 1, 0)), -1)[:n, :n].repeat(H, 1, 1)
    B = torch.eye(n, 1, dtype=taps.dtype, device=taps.device).repeat(H, 1, 1)
    D = first if layer.D is None else first + layer.D.unsqueeze(-1)
    return StateSpace(A, B, later.unsqueeze(1), D.unsqueeze(-1), 1.0)


def _modes(layer: DSS | EMA | L2Bounded) -> DiagonalForm:
    return layer.modes()


_READERS: dict[type[Layer], Callable[[Any], System | None]] = {
    S4: _s4,
    LSSL: _lssl,
    Companion: _companion,
    LongConv: _long_conv,
    DSS: _modes,
    EMA: _modes,
    L2Bounded: _modes,
}


def _updated(A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> StateSpace:
    """The textbook form of x_k = A x_{k−1} + B u_k, y_k = C x_k + D u_k, with s_k = x_{k−1}."""
    return StateSpace(A, B, C @ A, D + C @ B, 1.0)
