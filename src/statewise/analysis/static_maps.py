"""How much can a static map stretch differences between its inputs?"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from statewise.nn.feed_forward import FeedForward
from statewise.nn.static import ChebyshevSeries, GatedUnit, LinearAndMap

GELU_HIGH = 0.5 * (1 + math.erf(1.0)) + math.exp(-1.0) / math.sqrt(math.pi)
"""Largest slope of η Φ(η), Φ(√2) + √2 φ(√2), at √2; the smallest is 1 minus it."""
GELU_LOWEST = (-0.7517915246935645, -0.16997120747990369)
"""Where η Φ(η) is least, and that value."""
SILU_HIGH = 1.0998393202
"""Largest slope of η/(1 + e^−η), rounded up; the smallest is 1 minus it."""
ROUNDING = 1 + 1e-12


@dataclasses.dataclass(frozen=True, eq=False)
class Lipschitz:
    """Result of :func:`lipschitz`.

    Attributes:
        value: a number with ‖σ(a) − σ(b)‖ ≤ value ‖a − b‖ for all a and b (of the given range);
            infinite where none is known.
        slopes: smallest and largest slope of every channel, () or (channels,) each, of a map that
            acts channel by channel; else None.
        reason: why the value is infinite, or what it rests on; empty where nothing is to be said.
    """

    value: float
    slopes: tuple[Tensor, Tensor] | None = None
    reason: str = ""


def lipschitz(module: nn.Module | None, *, low: Any = None, high: Any = None) -> Lipschitz:
    """An upper bound of the Lipschitz constant of a static map, in the Euclidean norm.

    Linear maps have their spectral norm, channelwise maps their largest slope. A channelwise map
    between two linear ones, W₂ σ(W₁ η), has m ‖W₂ W₁‖ + r ‖W₂‖ ‖W₁‖ with slopes m ± r, which is
    no more than the product of the three. A gate needs a range. A norm over channels is Lipschitz
    by its ``eps`` alone, with a constant of about 1/√eps.

    Args:
        module: the map; None is the identity. A module may have a method ``gain_bound()``, whose
            value is taken as it is.
        low: smallest inputs, a number or (channels,); with ``high``, the range that is asked for.
        high: largest inputs.

    Returns:
        The bound, which is infinite, with the reason, for a map that is not known.

    Raises:
        ValueError: a range whose ends are in the wrong order, or only one end.
    """
    if (low is None) != (high is None):
        raise ValueError("a range needs both of its ends, low and high")
    if low is not None and not bool((torch.as_tensor(low) <= torch.as_tensor(high)).all()):
        raise ValueError(f"low must not be above high; given {low} and {high}")
    with torch.no_grad():
        return _bound(module, low, high)


def own_bound(module: nn.Module) -> float | None:
    """What a module says about differences of its output per difference of its input, or None."""
    method: Callable[[], Any] | None = getattr(module, "gain_bound", None)
    return None if method is None else float(method())


def _bound(module: nn.Module | None, low: Any, high: Any) -> Lipschitz:
    if module is None or isinstance(module, (nn.Identity, nn.Dropout)):
        return _channelwise(1.0, 1.0)
    own = own_bound(module)
    if own is not None:
        return Lipschitz(own, None, "by its own account")
    slopes = _slopes(module)
    if slopes is not None:
        return _channelwise(*slopes)
    if isinstance(module, nn.Linear):
        return Lipschitz(_norm(module.weight.double()))
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        return _norm_layer(module)
    if isinstance(module, GatedUnit):
        return _gate(module, low, high)
    if isinstance(module, LinearAndMap):
        one = _bound(module.map, low, high)
        value = _largest(module.linear) + _largest(module.weight) * one.value
        return Lipschitz(value, None, one.reason)
    if isinstance(module, FeedForward) and not module.gated:
        acts = {"gelu": nn.GELU(), "relu": nn.ReLU(), "silu": nn.SiLU()}
        return _sequence([module.enter, acts[module.activation], module.leave])
    if isinstance(module, nn.Sequential):
        return _sequence(list(module))
    return Lipschitz(math.inf, None, f"no Lipschitz constant of {type(module).__name__} is known")


def _channelwise(low: float | Tensor, high: float | Tensor) -> Lipschitz:
    ends = tuple(torch.as_tensor(end, dtype=torch.float64) for end in (low, high))
    value = float(torch.maximum(ends[0].abs(), ends[1].abs()).max())
    return Lipschitz(value, (ends[0], ends[1]))


def _slopes(module: nn.Module) -> tuple[float | Tensor, float | Tensor] | None:
    """Smallest and largest slope of a map that acts channel by channel; None of another."""
    if isinstance(module, (nn.Tanh, nn.ReLU, nn.Softplus, nn.Softsign, nn.Hardtanh)):
        return 0.0, 1.0
    if isinstance(module, nn.Sigmoid):
        return 0.0, 0.25
    if isinstance(module, nn.ELU):
        return (0.0, max(1.0, module.alpha)) if module.alpha >= 0 else None
    if isinstance(module, nn.LeakyReLU):
        ends = sorted((1.0, module.negative_slope))
        return ends[0], ends[1]
    if isinstance(module, nn.GELU) and module.approximate == "none":
        return 1 - GELU_HIGH * ROUNDING, GELU_HIGH * ROUNDING
    if isinstance(module, nn.SiLU):
        return 1 - SILU_HIGH, SILU_HIGH
    if isinstance(module, ChebyshevSeries):
        return _series_slopes(module)
    if isinstance(module, LinearAndMap):
        inner = (1.0, 1.0) if isinstance(module.map, nn.Identity) else _slopes(module.map)
        if inner is not None:
            ends = [module.linear.double() + module.weight.double() * end for end in inner]
            return torch.minimum(*ends), torch.maximum(*ends)
    return None


def _series_slopes(module: ChebyshevSeries) -> tuple[Tensor, Tensor]:
    """Extremes of Σ c_p T_p'(z)/s on [−1, 1]: at the ends and where the second derivative is 0."""
    from numpy.polynomial import chebyshev

    ends = []
    for c in module.coefficients.detach().double().cpu().numpy().T:
        slope = chebyshev.chebder(c)
        at = [-1.0, 1.0]
        if len(slope) > 1 and np.abs(slope[1:]).max() > 0:
            roots = chebyshev.chebroots(np.trim_zeros(chebyshev.chebder(slope), "b"))
            # A double root may leave the real axis by rounding.
            real = roots.real[np.abs(roots.imag) < 1e-6]
            at += list(np.clip(real, -1.0, 1.0))
        values = chebyshev.chebval(np.array(at), slope) / module.support
        ends.append((values.min(), values.max()))
    low, high = torch.tensor(np.array(ends)).unbind(1)
    return low, high


def _norm_layer(module: nn.LayerNorm | nn.RMSNorm) -> Lipschitz:
    """At the input 0 the map is diag(w) η/√eps, with the mean removed by a LayerNorm."""
    name, size = type(module).__name__, math.prod(module.normalized_shape)
    eps = module.eps
    if eps is None:
        eps = torch.finfo(torch.get_default_dtype()).eps
    if eps <= 0 or len(module.normalized_shape) != 1:
        return Lipschitz(math.inf, None, f"{name} without eps has no Lipschitz constant")
    matrix = torch.eye(size, dtype=torch.float64)
    if isinstance(module, nn.LayerNorm):
        matrix = matrix - 1 / size
    if module.weight is not None:
        matrix = module.weight.double().cpu()[:, None] * matrix
    reason = f"{name} is Lipschitz by its eps = {eps:g} alone, for signals near 0"
    return Lipschitz(_norm(matrix) / math.sqrt(eps), None, reason)


def _sequence(parts: list[nn.Module]) -> Lipschitz:
    """The product over parts, with linear–channelwise–linear triples taken together."""
    parts = [part for part in parts if not isinstance(part, (nn.Identity, nn.Dropout))]
    value, reasons, index = 1.0, [], 0
    while index < len(parts):
        triple = parts[index : index + 3]
        joint = _triple(triple) if len(triple) == 3 else None
        if joint is not None:
            value, index = value * joint, index + 3
            continue
        one = _bound(parts[index], None, None)
        value, index = value * one.value, index + 1
        reasons += [one.reason] if one.reason else []
    return Lipschitz(value, None, "; ".join(reasons))


def _triple(parts: list[nn.Module]) -> float | None:
    first, middle, last = parts
    if not isinstance(first, nn.Linear) or not isinstance(last, nn.Linear):
        return None
    slopes = _slopes(middle)
    if slopes is None:
        return None
    low, high = (torch.as_tensor(end, dtype=torch.float64) for end in slopes)
    one, two = first.weight.double(), last.weight.double()
    mean = (low + high).to(one) / 2 * torch.ones(len(one)).to(one)
    half = (high - low).to(one) / 2 * torch.ones(len(one)).to(one)
    return _norm(two @ (mean[:, None] * one)) + _norm(two * half.sqrt()) * _norm(
        half.sqrt()[:, None] * one
    )


def _gate(module: GatedUnit, low: Any, high: Any) -> Lipschitz:
    """‖diag(s) W₁ + diag(v s') W₂‖ times the slope of GELU, with intervals for gate and value."""
    if low is None:
        return Lipschitz(
            math.inf,
            None,
            "a gate has no global Lipschitz constant, only one on a range of its input",
        )
    weight, bias = module.mix.weight.double(), module.mix.bias.double()
    count = weight.shape[1]
    ends = [torch.as_tensor(end).to(weight).expand(count) for end in (low, high)]
    at, least = GELU_LOWEST
    edges = torch.stack([nn.functional.gelu(end) for end in ends])
    inside = (ends[0] <= at) & (at <= ends[1])
    below = torch.where(inside, torch.full_like(edges[0], least), edges.amin(0))
    above = edges.amax(0)
    middle = weight @ ((above + below) / 2) + bias
    reach = weight.abs() @ ((above - below) / 2)
    value, gate = middle.chunk(2)
    value_reach, gate_reach = reach.chunk(2)
    most = torch.sigmoid(gate + gate_reach)
    nearest = torch.sigmoid((gate.abs() - gate_reach).clamp_min(0))
    turn = (value.abs() + value_reach) * nearest * (1 - nearest)
    into, out = weight.chunk(2)
    total = _norm(most[:, None] * into) + _norm(turn[:, None] * out)
    return Lipschitz(total * GELU_HIGH * ROUNDING, None, "on the given range")


def _largest(vector: Tensor) -> float:
    return float(vector.double().abs().max())


def _norm(matrix: Tensor) -> float:
    return float(torch.linalg.matrix_norm(matrix, 2)) * ROUNDING
