"""Plain gradient descent on the input and output weights of small linear layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from statewise.nn import LTI, GivenContinuous, RealDiagonal

Array = npt.NDArray[Any]


def one_pole_layer(
    pole: float, states: int, start: float, d_input: int = 1, d_output: int = 1
) -> LTI:
    """A layer whose states all have one real pole that is not trained, B = C = ``start``."""
    law = GivenContinuous((float(np.log(pole)),) * states, (0.0,) * states)
    poles = RealDiagonal(law, dt_min=1.0, dt_max=1.0)
    layer = LTI(d_input, d_output, states, poles=poles, feedthrough=False).double()
    with torch.no_grad():
        layer.get_parameter("poles.log_decay").fill_(float(np.log(-np.log(pole))))
        layer.get_parameter("poles.log_dt").zero_()
        layer.coupling.B.fill_(start)
        layer.coupling.C.fill_(start)
    layer.poles.requires_grad_(False)
    return layer


def filtered(layer: LTI, u: Tensor) -> Tensor:
    """The state that a unit B would give, z, (B, L, d_input), for layers of one pole."""
    from statewise.ops import linear_scan

    with torch.no_grad():
        a, gain, _ = layer.poles.discretise()
        size = u.shape[-1]
        return linear_scan(a[:1].expand(size), gain[0] * u)[0]


def descend(
    layers: list[LTI], u: Tensor, target: Tensor, rate: float, steps: int
) -> list[list[tuple[Tensor, Tensor]]]:
    """Descend ½ mean over samples of ‖y − target‖² in B and C of a stack of layers.

    Args:
        layers: layer after layer; B and C are changed.
        u: input (B, L, d_input).
        target: (B, L, d_output).
        rate: step of gradient descent.
        steps: number of steps.

    Returns:
        B and C of every layer before each step and behind the last.
    """
    parameters = [p for layer in layers for p in (layer.coupling.B, layer.coupling.C)]
    samples = u.shape[0] * u.shape[1]
    kept = []
    for k in range(steps + 1):
        kept.append(
            [(x.coupling.B.detach().clone(), x.coupling.C.detach().clone()) for x in layers]
        )
        if k == steps:
            break
        y = u
        for layer in layers:
            y = layer(y)[0]
        loss = 0.5 * (y - target).square().sum() / samples
        grads = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for parameter, grad in zip(parameters, grads, strict=True):
                parameter -= rate * grad
    return kept
