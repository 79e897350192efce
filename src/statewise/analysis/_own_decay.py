"""Lyapunov exponents of layers whose states do not act on each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from statewise.analysis._flow import ENTRIES, Flow
from statewise.analysis._linear import linear_system
from statewise.nn.contract import Layer, State
from statewise.nn.lti import LTI, LTIState

LONGEST = 64
"""Samples within which a delay line must forget its start."""
SAME = 1e-9


def own_exponents(flow: Flow, u: Tensor, start: Tensor, skip: int) -> np.ndarray | str:
    """Exponents per sample of all states of all layers, or a sentence why there is no such form.

    Args:
        flow: the model.
        u: inputs (L, m).
        start: state before the first sample (1, n).
        skip: samples that do not count.
    """
    leaves = [layer for layer in flow.model.modules() if isinstance(layer, Layer)]
    leaves = [
        layer
        for layer in leaves
        if not any(isinstance(part, Layer) for part in layer.modules() if part is not layer)
    ]
    seen: dict[int, tuple[Tensor, State]] = {}

    def note(layer: nn.Module, arguments: Any, options: dict[str, Any]) -> None:
        state = arguments[1] if len(arguments) > 1 else options.get("state")
        seen[id(layer)] = (arguments[0].detach(), state)

    hooks = [leaf.register_forward_pre_hook(note, with_kwargs=True) for leaf in leaves]
    try:
        with torch.no_grad():
            flow.model(u[None], flow.unflatten(start))
    finally:
        for hook in hooks:
            hook.remove()
    found: list[np.ndarray] = []
    for leaf in leaves:
        name = type(leaf).__name__
        if id(leaf) not in seen:
            return f"{name} is not run on sequences by {type(flow.model).__name__}"
        values, state = seen[id(leaf)]
        one = _of_layer(leaf, values[0], state, skip)
        if one is None:
            system = linear_system(leaf)
            if system is not None:
                one = torch.linalg.eigvals(system.A).abs().log().flatten().cpu().numpy()
        if one is None:
            return f"the states of {name} act on each other"
        found.append(one)
    count = sum(len(one) for one in found)
    if count != flow.n:
        return (
            f"{type(flow.model).__name__} has {flow.n} states and its layers {count}, so that some "
            f"are outside of them"
        )
    return np.concatenate(found) if found else np.zeros(0)


def _of_layer(layer: Layer, u: Tensor, state: State, skip: int) -> np.ndarray | None:
    if isinstance(layer, LTI):
        with torch.no_grad():
            decay = layer.eigenvalues().abs().log().cpu().numpy()
            twice = 2 if layer.poles.is_complex else 1
            held = layer.d_input if isinstance(layer.init_state(1), LTIState) else 0
        return np.concatenate([np.repeat(decay, twice), np.full(held, -np.inf)])
    flow = Flow(layer)
    if not flow.n:
        return np.zeros(0)
    x = flow.rest() if state is None else flow.flatten(state)
    states = flow.trajectory(x, u)[0]
    if not states.isfinite().all():
        raise ValueError(f"the run leaves the finite numbers within {len(u)} samples")
    states = states[:-1]
    if not _acyclic(flow, states, u):
        return None
    found = []
    for index in range(len(flow.sizes)):
        value = _of_part(flow, states, u, index, skip)
        if value is None:
            return None
        found.append(value)
    return np.concatenate(found)


def _vjp(flow: Flow, x: Tensor, u: Tensor, weight: Tensor) -> Tensor:
    """weightᵀ ∂x⁺/∂x at every sample, (T, n) for weights (T, n)."""
    chunk = max(1, ENTRIES // max(1, flow.n))
    found = []
    for xs, us, ws in zip(x.split(chunk), u.split(chunk), weight.split(chunk), strict=True):
        with torch.enable_grad():
            at = xs.detach().requires_grad_()
            after = flow.step(at, us)[0]
            if not after.requires_grad:
                found.append(torch.zeros_like(xs))
                continue
            pulled = torch.autograd.grad((ws * after).sum(), at, materialize_grads=True)
        found.append(pulled[0])
    return torch.cat(found)


def _acyclic(flow: Flow, x: Tensor, u: Tensor) -> bool:
    """Whether the parts of a state have an order in which each acts on later ones only."""
    spans = _spans(flow)
    acts = np.zeros((len(spans), len(spans)), bool)
    generator = torch.Generator().manual_seed(0)
    for target, span in enumerate(spans):
        weight = torch.zeros_like(x)
        draw = torch.randn(len(x), span.stop - span.start, generator=generator, dtype=x.dtype)
        weight[:, span] = draw.to(x.device)
        pulled = _vjp(flow, x, u, weight)
        for source, other in enumerate(spans):
            acts[source, target] = source != target and bool((pulled[:, other] != 0).any())
    order: list[int] = []
    while len(order) < len(spans):
        free = [
            k
            for k in range(len(spans))
            if k not in order and not any(acts[j, k] for j in range(len(spans)) if j not in order)
        ]
        if not free:
            return False
        order += free
    return True


def _spans(flow: Flow) -> list[slice]:
    ends = np.cumsum(flow.sizes)
    return [slice(int(end) - size, int(end)) for end, size in zip(ends, flow.sizes, strict=True)]


def _of_part(flow: Flow, x: Tensor, u: Tensor, index: int, skip: int) -> np.ndarray | None:
    """Means of log |ā| of one tensor of the state, or None where its entries act mutually."""
    span = _spans(flow)[index]
    size = span.stop - span.start
    generator = torch.Generator().manual_seed(1)

    def pulled(weight: Tensor) -> Tensor:
        full = torch.zeros_like(x)
        full[:, span] = weight
        return _vjp(flow, x, u, full)[:, span]

    draw = torch.randn(size, generator=generator, dtype=x.dtype).to(x.device)
    one = pulled(torch.ones_like(draw).expand(len(x), -1))
    drawn = pulled(draw.expand(len(x), -1))
    if _same(drawn, draw * one):
        return _mean_log(one.abs(), skip)
    shape = flow.shapes[index]
    if shape and shape[-1] == 2:
        found = _as_pairs(pulled, draw, len(x))
        if found is not None:
            return _mean_log(found, skip).repeat(2)
    return np.full(size, -np.inf) if _forgets(flow, x, u, span) else None


def _as_pairs(pulled: Callable[[Tensor], Tensor], draw: Tensor, length: int) -> Tensor | None:
    """|ā| of complex states stored as pairs (T, size/2), or None where they are no such."""
    first = torch.zeros_like(draw)
    first[0::2] = 1.0
    by_real = pulled(first.expand(length, -1))
    by_imag = pulled((1 - first).expand(length, -1))
    factor = draw[0::2].repeat_interleave(2)
    a, b = by_real[:, 0::2], by_real[:, 1::2]
    turned = torch.stack([-b, a], -1).flatten(1)
    if not _same(by_imag, turned):
        return None
    if not _same(pulled((first * factor).expand(length, -1)), factor * by_real):
        return None
    return torch.hypot(a, b)


def _same(one: Tensor, other: Tensor) -> bool:
    return bool(((one - other).abs() <= SAME * (1e-30 + other.abs())).all())


def _mean_log(size: Tensor, skip: int) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(size[skip:].cpu().numpy()).mean(0)


def _forgets(flow: Flow, x: Tensor, u: Tensor, span: slice) -> bool:
    """Whether a part of the state holds nothing of itself after some samples, as a delay line."""
    length = min(LONGEST, len(u))
    with torch.enable_grad():
        start = x[:1].detach().requires_grad_()
        part = start[:, span]
        for t in range(length):
            now = x[t : t + 1]
            mixed = torch.cat([now[:, : span.start], part, now[:, span.stop :]], 1)
            after = flow.step(mixed, u[t : t + 1])[0]
            part = after[:, span]
            if not part.requires_grad:
                return True
            if t + 1 < length and t % 4 != 3:
                continue
            generator = torch.Generator().manual_seed(t)
            weight = torch.randn(part.shape, generator=generator, dtype=part.dtype)
            pulled = torch.autograd.grad(
                (part * weight.to(part.device)).sum(), start, retain_graph=True
            )[0]
            if not bool((pulled[:, span] != 0).any()):
                return True
    return False
