"""Reference back end: weighing and choosing as operations on tensors."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from statewise.ops.memory import fresh

LOG_2PI = math.log(2 * math.pi)
SCHEMES = ("systematic", "stratified", "multinomial", "residual")


def supports(device: str, dtype: torch.dtype) -> str | None:
    """None: this back end always works."""
    return None


def inverse(weights: Tensor, u: Tensor) -> Tensor:
    """Indices at which the distribution function passes u in [0, 1), both (…, N)."""
    c = weights.double().cumsum(-1)
    c = c / c[..., -1:]
    below = 1 - torch.finfo(torch.float64).eps
    # From the right, so that weights of 0, where c stands still, are passed over.
    return torch.searchsorted(c, u.clamp_max(below).contiguous(), right=True)


def ancestors(scheme: str, weights: Tensor, u: Tensor) -> Tensor:
    """Ancestors (…, N) int64 of weights (…, N), which need not sum to 1; none of weight 0.

    Args:
        scheme: ``"systematic"``, ``"stratified"``, ``"multinomial"`` or ``"residual"``.
        weights: finite, not negative, one above 0.
        u: uniform numbers in [0, 1), (…, 1) for systematic ones, else (…, N).
    """
    if scheme == "multinomial":
        return inverse(weights, u)
    N = weights.shape[-1]
    slot = torch.arange(N, device=weights.device)
    if scheme != "residual":
        return inverse(weights, (slot + u) / N)
    share = N * weights.double() / weights.double().sum(-1, keepdim=True)
    counts = share.floor()
    ends = counts.cumsum(-1)
    slot = slot.double().expand(share.shape)
    sure = torch.searchsorted(ends, slot.contiguous(), right=True).clamp_max(N - 1)
    rest = share - counts
    left = rest.sum(-1, keepdim=True) > 0
    drawn = inverse(torch.where(left, rest, weights.double()), u)
    return torch.where(slot < ends[..., -1:], sure, drawn)


def roomy(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """An uninitialised tensor; a large one costs less to write to for the first time."""
    if device.type == "cpu":
        return fresh(shape, dtype)
    return torch.empty(shape, dtype=dtype, device=device)


class ParticleSteps:
    """Weights of T steps of B series of N particles, in float64.

    A step calls :meth:`weigh` or :meth:`weigh_normal`, with particles where ancestors shall be
    chosen at once, or :meth:`choose` behind it where they look ahead.

    Attributes:
        log_weights: normalised, of all steps (T, B, N), or of the last (1, B, N).
        ancestors: likewise, int64; those that were chosen for a step.
        log_likelihoods: log of the estimate of p(y_t | y_1 … y_{t−1}), (T, B).
        ess: effective sample sizes 1 / Σ W² (T, B).
        carried: log-weights that the next step starts from, (B, N).
    """

    def __init__(
        self,
        sizes: tuple[int, int, int],
        threshold: float,
        scheme: str | Callable[[Tensor], Tensor],
        history: bool,
        device: torch.device,
    ) -> None:
        self.steps, self.batch, self.count = sizes
        self.threshold, self.scheme, self.history = threshold, scheme, history
        kind = {"dtype": torch.float64, "device": device}
        shape = (self.steps if history else 1, self.batch, self.count)
        self.log_weights = roomy(shape, torch.float64, device)
        self.stay = torch.arange(self.count, device=device).expand(shape[1:])
        self.ancestors = roomy(shape, torch.int64, device)
        self.ancestors[0] = self.stay
        self.log_likelihoods = torch.empty(sizes[:2], **kind)
        self.ess = torch.empty(sizes[:2], **kind)
        self.carried = torch.full(shape[1:], -math.log(self.count), **kind)

    def uniforms(self) -> int:
        """How many uniform numbers a choice takes for each series; 0 for a scheme of one's own."""
        if not isinstance(self.scheme, str):
            return 0
        return 1 if self.scheme == "systematic" else self.count

    def slot(self, t: int) -> int:
        """Where a step is kept."""
        return t if self.history else 0

    def last(self, t: int) -> Tensor:
        """Normalised log-weights of step t, which is the last weighed if there is no history."""
        return self.log_weights[self.slot(t)]

    def average(self, t: int, x: Tensor, out: Tensor) -> None:
        """Write the means (B, n) of particles x (B, N, n) of step t to ``out``, in float64."""
        out.copy_((self.last(t).exp().unsqueeze(1) @ x.double()).squeeze(1))

    def weigh(
        self, t: int, gain: Tensor, x: Tensor | None = None, u: Tensor | None = None
    ) -> Tensor | None:
        """Weigh the particles of step t by log-densities.

        Args:
            t: the step.
            gain: (B, N).
            x: particles (B, N, n), whose ancestors for the next step are chosen at once; or None.
            u: uniform numbers (B, 1) or (B, N), as :meth:`uniforms` says, where there is x.

        Returns:
            What :meth:`choose` gives, where there is x.
        """
        logs = self.carried + gain
        total = torch.logsumexp(logs, -1, keepdim=True)
        logs = torch.where(total > -torch.inf, logs - total, -math.log(self.count))
        self.log_weights[self.slot(t)] = logs
        self.log_likelihoods[t] = total.squeeze(-1)
        self.ess[t] = 1 / logs.exp().square().sum(-1)
        self.carried = logs
        return None if x is None else self.choose(t + 1, x, u)

    def weigh_normal(
        self,
        t: int,
        y: Tensor,
        loc: Tensor,
        scale: Tensor,
        whole: bool = False,
        x: Tensor | None = None,
        u: Tensor | None = None,
    ) -> Tensor | None:
        """:meth:`weigh` by outputs that are independent normal numbers.

        Args:
            t: the step.
            y: (B, p) float64; NaN where nothing is observed.
            loc: means (B, N, p).
            scale: standard deviations (B, N, p).
            whole: whether an output that is missing makes all of its step missing.
            x: as for :meth:`weigh`.
            u: as for :meth:`weigh`.
        """
        loc, scale, y = loc.double(), scale.double(), y.unsqueeze(1)
        missing = y.isnan()
        missing = missing.any(-1, keepdim=True) if whole else missing
        terms = -0.5 * (((y - loc) / scale).square() + LOG_2PI) - scale.log()
        return self.weigh(t, torch.where(missing, 0.0, terms).sum(-1), x, u)

    def choose(
        self, t: int, x: Tensor, u: Tensor | None = None, ahead: Tensor | None = None
    ) -> Tensor:
        """Ancestors of step t where series are poor, and particles moved to their places.

        Args:
            t: the step that they are chosen for, 1 or more.
            x: particles (B, N, n) of the step before.
            u: as for :meth:`weigh`.
            ahead: log-weights (B, N) float64 by which ancestors are chosen beside their own.

        Returns:
            Particles (B, N, n); x itself where none was moved.
        """
        chosen = self.carried if ahead is None else self.carried + ahead
        total = torch.logsumexp(chosen, -1, keepdim=True)
        usable = total > -torch.inf
        W = torch.where(usable, chosen - total, -math.log(self.count)).exp()
        poor = (1 / W.square().sum(-1, keepdim=True) < self.threshold * self.count) & usable
        found = self.stay
        # To ask a GPU whether any is poor is to wait for it.
        if x.device.type != "cpu" or bool(poor.any()):
            found = torch.where(poor, self._ancestors(W, u), self.stay)
            even = (total - math.log(self.count)).expand(found.shape)
            if ahead is not None:
                even = even - ahead.gather(1, found)
            self.carried = torch.where(poor, even, self.carried)
            x = x.gather(1, found.unsqueeze(-1).expand(x.shape))
        if t < self.steps:
            self.ancestors[self.slot(t)] = found
        return x

    def _ancestors(self, W: Tensor, u: Tensor | None) -> Tensor:
        if not isinstance(self.scheme, str):
            return self.scheme(W)
        if u is None:
            raise ValueError(f"particle_step: {self.scheme} ancestors need uniform numbers u")
        return ancestors(self.scheme, W, u)


Steps = ParticleSteps
