"""Reference back end: the recursions as loops over time in torch, in float64."""

from __future__ import annotations

import torch
from torch import Tensor


def supports(device: str, dtype: torch.dtype) -> str | None:
    """None: this back end always works."""
    return None


def impossible(series: int, step: int) -> ValueError:
    """The error for a step that no state can have given."""
    return ValueError(
        f"hidden_markov: step {step} of series {series} has probability 0 in every state that can "
        "be reached; the model needs an emission or a transition above 0 there"
    )


def _at(x: Tensor, t: int) -> Tensor:
    return x[:, min(t, x.shape[1] - 1)]


def _finite(x: Tensor) -> Tensor:
    return torch.where(x == -torch.inf, 0.0, x)


def forward(
    log_initial: Tensor,
    log_transition: Tensor,
    log_emission: Tensor,
    lengths: Tensor | None,
    begins: bool,
) -> tuple[Tensor, Tensor]:
    """Filtered log-probabilities (B, T, K) and log-likelihoods (B, T)."""
    dtype = log_emission.dtype
    start, P, e = (x.double() for x in (log_initial, log_transition, log_emission))
    filtered, logs, now = torch.zeros_like(e), torch.zeros_like(e[..., 0]), start
    for t in range(e.shape[1]):
        going = torch.ones_like(now[:, 0], dtype=torch.bool) if lengths is None else t < lengths
        if t or not begins:
            now = torch.logsumexp(now.unsqueeze(-1) + _at(P, t), 1)
        joint = now + e[:, t]
        total = torch.logsumexp(joint, -1)
        dead = going & (total == -torch.inf)
        if bool(dead.any()):
            raise impossible(int(dead.to(torch.int8).argmax()), t)
        now = torch.where(going.unsqueeze(-1), joint - total.unsqueeze(-1), 0.0)
        filtered[:, t], logs[:, t] = now, torch.where(going, total, 0.0)
    return filtered.to(dtype), logs.to(dtype)


def backward(
    gf: Tensor | None,
    gl: Tensor | None,
    log_initial: Tensor,
    log_transition: Tensor,
    log_filtered: Tensor,
    lengths: Tensor | None,
    begins: bool,
    lead: tuple[int, ...],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of log_initial (B, K), log_transition (*lead, K, K) and log_emission (B, T, K).

    With z_t = log Σ_i exp(f_{t−1}(i) + P_t(i, ·)) + e_t, f_t = z_t − ℓ_t: ḡ_z = ḡ_f + p_t (ḡ_ℓ −
    Σ ḡ_f), and P_t(i, j) and f_{t−1}(i) take the share p(x_{t−1}=i | x_t=j) of ḡ_z(j).
    """
    dtype = log_filtered.dtype
    start, P, f = (x.double() for x in (log_initial, log_transition, log_filtered))
    batch, length, K = f.shape
    d_emission = torch.zeros_like(f)
    d_transition = f.new_zeros(batch, lead[1], K, K)
    carry = torch.zeros_like(start)
    for t in reversed(range(length)):
        going = torch.ones_like(start[:, 0], dtype=torch.bool) if lengths is None else t < lengths
        total = carry if gf is None else carry + gf[:, t].double()
        g = 0.0 if gl is None else gl[:, t : t + 1].double()
        g = total + f[:, t].exp() * (g - total.sum(-1, keepdim=True))
        g = torch.where(going.unsqueeze(-1), g, 0.0)
        d_emission[:, t] = g
        if t == 0 and begins:
            return g.to(dtype), _summed(d_transition, lead).to(dtype), d_emission.to(dtype)
        before = f[:, t - 1] if t else start
        joint = before.unsqueeze(-1) + _at(P, t)
        ahead = _finite(torch.logsumexp(joint, 1, keepdim=True))
        share = (joint - ahead).exp() * g.unsqueeze(1)
        d_transition[:, min(t, lead[1] - 1)] += share
        carry = share.sum(-1)
    return carry.to(dtype), _summed(d_transition, lead).to(dtype), d_emission.to(dtype)


def _summed(x: Tensor, lead: tuple[int, ...]) -> Tensor:
    return x if lead[0] == len(x) else x.sum(0, keepdim=True)
