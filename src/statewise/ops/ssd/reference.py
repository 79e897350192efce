"""State-space duality as a readable loop over time, and its adjoint as one.

Glossary: B batch, L length, H heads, P head dimension, G groups of heads that share B and C, N
states. x, z, y (B, L, H, P); log_a, w (B, L, H); B, C (B, L, G, N); D (H, P); h0 and the last
state (B, H, P, N); reset (B, L). See README.md for the derivation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import silu, softplus

from statewise.ops.precision import accumulation_dtype
from statewise.ops.ssd._library import present
from statewise.ops.ssd._shapes import CHUNK, chunks


def supports(device: str, dtype: torch.dtype) -> str | None:
    """None: the reference computes on any device and any floating-point type."""
    return None


def _order(length: int, reverse: bool) -> range:
    return range(length - 1, -1, -1) if reverse else range(length)


def _per_head(x: Tensor, heads: int, dtype: torch.dtype) -> Tensor:
    """(B, L, G, N) to (B, L, H, N): head h is in group h // (H / G)."""
    return x.to(dtype).repeat_interleave(heads // x.shape[2], dim=2)


def _fresh(k: int, t: int, h0: Tensor | None, reset: Tensor | None, like: Tensor) -> Tensor:
    """(B, 1, 1, 1): True where the step, k-th in scan order, t-th in time, has no predecessor."""
    fresh = torch.full((like.shape[0], 1, 1, 1), k == 0 and h0 is None, device=like.device)
    return fresh if reset is None else fresh | reset[:, t, None, None, None]


def forward(
    x: Tensor,
    log_a: Tensor,
    w: Tensor | None,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    h0: Tensor | None,
    reset: Tensor | None,
    reverse: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """h_t = a_t h_{t−1} + w_t x_t B_tᵀ, a_t = exp(log_a_t);  y_t = (h_t C_t + D ⊙ x_t) ⊙ silu(z_t).

    Where the sequence starts anew, h_t = w_t x_t B_tᵀ.

    Args:
        x: inputs, (B, L, H, P).
        log_a: logarithm of the decay, (B, L, H), in the accumulation type.
        w: scale of the input, (B, L, H), in the accumulation type; None for 1.
        B: input directions, (B, L, G, N).
        C: output directions, (B, L, G, N).
        D: skip, (H, P), in the accumulation type, or None.
        z: gate, (B, L, H, P), or None.
        h0: state before the first step in scan order, (B, H, P, N), accumulation type, or None.
        reset: (B, L) bool, True where the state is zeroed before the step, or None.
        reverse: scan from the last step to the first.
        keep: whether the states before the chunks are wanted.

    Returns:
        y (B, L, H, P) in the type of ``x``; the last state (B, H, P, N), and the states before
        each chunk (B, K, H, P, N), empty unless ``keep``, both in the accumulation type.
    """
    batch, length, heads, width = x.shape
    dtype = accumulation_dtype(x.dtype)
    X, b, c, a = x.to(dtype), _per_head(B, heads, dtype), _per_head(C, heads, dtype), log_a.exp()
    u = X if w is None else w[..., None] * X
    h = X.new_zeros(batch, heads, width, B.shape[3]) if h0 is None else h0.clone()
    states = h.new_empty((batch, chunks(length), *h.shape[1:]) if keep else 0)
    y = torch.empty_like(X, memory_format=torch.contiguous_format)
    for k, t in enumerate(_order(length, reverse)):
        if keep and k % CHUNK == 0:
            states[:, k // CHUNK] = h
        added = u[:, t, :, :, None] * b[:, t, :, None, :]
        carried = a[:, t, :, None, None] * h + added
        h = torch.where(_fresh(k, t, h0, reset, x), added, carried)
        y[:, t] = (h @ c[:, t, :, :, None]).squeeze(-1)
    if D is not None:
        y = y + D * X
    if z is not None:
        y = y * silu(z.to(dtype))
    return y.to(x.dtype), h, states


def backward(
    grad_y: Tensor | None,
    grad_last: Tensor | None,
    x: Tensor,
    log_a: Tensor,
    w: Tensor | None,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    h0: Tensor | None,
    reset: Tensor | None,
    states: Tensor,
    reverse: bool,
    needs: Sequence[bool],
) -> tuple[Tensor, ...]:
    """g_t = a_{t+1} g_{t+1} + o̅_t C_tᵀ is the gradient of h_t, and gives all others.

    With o_t = h_t C_t + D ⊙ x_t and o̅_t = y̅_t ⊙ silu(z_t): ∂C_t = h_tᵀ o̅_t, e_t = g_t B_t,
    ∂x_t = w_t e_t + D ⊙ o̅_t, ∂w_t = x_t · e_t, ∂B_t = w_t g_tᵀ x_t, ∂log_a_t = ⟨g_t, a_t h_{t−1}⟩.

    Args:
        grad_y: gradient of y, or None for zero.
        grad_last: gradient of the last state, or None for zero.
        x: as given to :func:`forward`.
        log_a: as given to it.
        w: as given to it.
        B: as given to it.
        C: as given to it.
        D: as given to it.
        z: as given to it.
        h0: as given to it.
        reset: as given to it.
        states: those before each chunk; every state is computed again from the first.
        reverse: as given to :func:`forward`.
        needs: for each of x, log_a, w, B, C, D, z and h0, whether its gradient is wanted.

    Returns:
        The gradients of x, log_a, w, B, C, D, z and h0, each in the type of its tensor; those
        that are not wanted are empty.
    """
    batch, length, heads, _ = x.shape
    dtype = accumulation_dtype(x.dtype)
    X, b, c, a = x.to(dtype), _per_head(B, heads, dtype), _per_head(C, heads, dtype), log_a.exp()
    u = X if w is None else w[..., None] * X
    order = list(_order(length, reverse))
    h = states[:, 0]
    before = h.new_empty(length, *h.shape)
    after = torch.empty_like(before)
    o = torch.empty_like(X)
    for k, t in enumerate(order):
        before[t] = h
        added = u[:, t, :, :, None] * b[:, t, :, None, :]
        carried = a[:, t, :, None, None] * h + added
        h = after[t] = torch.where(_fresh(k, t, h0, reset, x), added, carried)
        o[:, t] = (h @ c[:, t, :, :, None]).squeeze(-1)
    if D is not None:
        o = o + D * X
    G = torch.zeros_like(X) if grad_y is None else grad_y.to(dtype)
    dz = torch.zeros_like(X)
    if z is not None:
        Z = z.to(dtype)
        s = Z.sigmoid()
        dz = G * o * (s + Z * s * (1 - s))
        G = G * silu(Z)
    e, db, dc = torch.empty_like(X), torch.empty_like(b), torch.empty_like(c)
    dlog_a = torch.empty_like(a)
    g = torch.zeros_like(h) if grad_last is None else grad_last.to(dtype)
    nil = torch.zeros_like(g)
    for k, t in reversed(list(enumerate(order))):
        g = g + G[:, t, :, :, None] * c[:, t, :, None, :]
        dc[:, t] = (G[:, t, :, None, :] @ after[t]).squeeze(-2)
        e[:, t] = (g @ b[:, t, :, :, None]).squeeze(-1)
        db[:, t] = (u[:, t, :, None, :] @ g).squeeze(-2)
        g = torch.where(_fresh(k, t, h0, reset, x), nil, a[:, t, :, None, None] * g)
        carried = torch.where(_fresh(k, t, h0, reset, x), nil, g * before[t])
        dlog_a[:, t] = carried.sum((-2, -1))
    dx = e if w is None else w[..., None] * e
    if D is not None:
        dx = dx + D * G
    groups, size = B.shape[2:]
    shared = (batch, length, groups, heads // groups, size)
    gradients = (
        *(dx, dlog_a, (X * e).sum(-1), db.reshape(shared).sum(3), dc.reshape(shared).sum(3)),
        *((G * X).sum((0, 1)), dz, g),
    )
    likes = present((x, log_a, w, B, C, D, z, h0))
    return tuple(
        gradient.to(like.dtype) if need else like.new_empty(0)
        for gradient, like, need in zip(gradients, likes, needs, strict=True)
    )


def steps(
    dt: Tensor, A: Tensor, bias: Tensor | None, soft: bool, low: float, high: float
) -> tuple[Tensor, Tensor]:
    """log_a = Δ A and Δ = clamp(softplus(dt + bias), low, high), softplus where ``soft``.

    Args:
        dt: (B, L, H).
        A: (H,).
        bias: (H,), or None for 0.
        soft: whether log(1 + exp(·)) is taken before the clamp.
        low: least Δ.
        high: largest Δ.

    Returns:
        log_a and Δ, (B, L, H).
    """
    delta = dt.clone() if bias is None else dt + bias
    if soft:
        # The default threshold of torch replaces softplus by the identity from 20 on, which is
        # exact in float32 and 2e-9 off in float64.
        delta = softplus(delta, threshold=40.0)
    delta = delta.clamp(low, high)
    return delta * A, delta


def steps_backward(
    dlog_a: Tensor | None,
    ddelta: Tensor | None,
    dt: Tensor,
    A: Tensor,
    bias: Tensor | None,
    soft: bool,
    low: float,
    high: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of dt, A and the bias from those of log_a and Δ, None for zero."""
    through = torch.zeros_like(dt) if dlog_a is None else dlog_a
    direct = torch.zeros_like(dt) if ddelta is None else ddelta
    raw = dt if bias is None else dt + bias
    free = softplus(raw, threshold=40.0) if soft else raw
    inside = (free >= low) & (free <= high)
    ddt = torch.where(inside, through * A + direct, torch.zeros_like(dt))
    if soft:
        ddt = ddt * raw.sigmoid()
    return ddt, (through * free.clamp(low, high)).sum((0, 1)), ddt.sum((0, 1))
