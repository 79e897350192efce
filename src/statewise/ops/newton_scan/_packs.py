"""Functions on packs that the gates of a cell are made of."""

from __future__ import annotations

from statewise.ops.simd_math import _function, _Lanes, _sigmoid
from statewise.ops.simd_pack import operation


def _tanh(lanes: _Lanes, x):
    """2 σ(2x) − 1: within 4 units in the last place of 1, which is what a gate needs."""
    builder = lanes.builder
    logistic = _sigmoid(lanes, builder.fadd(x, x))
    return builder.fsub(builder.fadd(logistic, logistic), lanes.number(1.0))


def _slope(lanes: _Lanes, x):
    return lanes.builder.fmul(x, lanes.builder.fsub(lanes.number(1.0), x))


@operation
def tanh(typingctx, x):
    """The hyperbolic tangent of every element."""
    return _function(typingctx, x, _tanh)


@operation
def slope(typingctx, x):
    """The product s (1 − s): the derivative of the logistic function where its value is s."""
    return _function(typingctx, x, _slope)
