"""Have chains of draws come to one law, and how many independent draws are they worth?

Chains are (C, D, k): C chains of D draws of k numbers; further axes may lead.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri
from scipy.stats import rankdata
from torch import Tensor

from statewise._errors import require

Array = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, eq=False)
class ChainSummary:
    """Moments, quantiles and diagnostics of each of the k numbers of (C, D, k).

    Attributes:
        names: of the numbers.
        mean: (k,).
        sd: (k,).
        quantiles: of 5 %, 50 % and 95 %, (3, k).
        mcse: standard errors of the means, sd / √ESS, (k,).
        rhat: see :func:`rhat`.
        ess_bulk: see :func:`ess_bulk`.
        ess_tail: see :func:`ess_tail`.
    """

    names: tuple[str, ...]
    mean: Array
    sd: Array
    quantiles: Array
    mcse: Array
    rhat: Array
    ess_bulk: Array
    ess_tail: Array

    @property
    def converged(self) -> bool:
        """Whether every R̂ is below 1.01 and every effective sample size is at least 400."""
        enough = min(self.ess_bulk.min(), self.ess_tail.min()) >= 400
        return bool((self.rhat < 1.01).all() and enough)

    def __str__(self) -> str:
        head = f"{'':>12} {'mean':>10} {'sd':>10} {'5 %':>10} {'95 %':>10}"
        rows = [f"{head} {'R̂':>7} {'bulk':>7} {'tail':>7}"]
        for i, name in enumerate(self.names):
            low, _, high = self.quantiles[:, i]
            rows.append(
                f"{name:>12} {self.mean[i]:10.4g} {self.sd[i]:10.4g} {low:10.4g} {high:10.4g}"
                f" {self.rhat[i]:7.3f} {self.ess_bulk[i]:7.0f} {self.ess_tail[i]:7.0f}"
            )
        return "\n".join(rows)


def summarise_chains(chains: Any, *, names: Sequence[str] | None = None) -> ChainSummary:
    """Moments and diagnostics of chains.

    Args:
        chains: (C, D, k).
        names: of the k numbers; ``theta1``, ``theta2``, … when None.

    Raises:
        ValueError: fewer than 4 draws, another number of axes, or of names.

    Example:
        >>> draws = np.random.default_rng(0).normal(size=(4, 1000, 2))
        >>> summarise_chains(draws, names=["level", "slope"]).converged
        True
    """
    x = _chains(chains)
    if x.ndim != 3:
        raise ValueError(f"chains have shape {x.shape}; they must be (C, D, k)")
    flat = x.reshape(-1, x.shape[-1])
    sd = flat.std(0, ddof=1)
    return ChainSummary(
        named(names, x.shape[-1]),
        flat.mean(0),
        sd,
        np.quantile(flat, [0.05, 0.5, 0.95], axis=0),
        sd / np.sqrt(ess_mean(x)),
        rhat(x),
        ess_bulk(x),
        ess_tail(x),
    )


def named(names: Sequence[str] | None, k: int) -> tuple[str, ...]:
    """Names of k numbers.

    Raises:
        ValueError: another number of names.
    """
    if names is None:
        return tuple(f"theta{i + 1}" for i in range(k))
    if len(names) != k:
        raise ValueError(f"{k} parameters need {k} names; given {list(names)}")
    return tuple(names)


def rhat(chains: Any) -> Array:
    """R̂ of rank-normalised split chains, the larger of bulk and folded; (…, k) of (…, C, D, k).

    √(((n − 1)/n · W + B/n) / W) with the variance B/n of the means of the halves of chains and the
    mean W of their variances; near 1 where all come from one law, below 1.01 as a rule.

    Raises:
        ValueError: fewer than 4 draws, fewer than three axes, or draws that are not finite.

    Source: Vehtari, Gelman, Simpson, Carpenter and Bürkner, Rank-normalization, folding, and
    localization: an improved R̂ (2021), eq. 4 and 14.
    """

    def one(x: Array) -> float:
        halves = _split(x)
        folded = np.abs(halves - np.median(halves))
        return max(_potential(_normal_scores(halves)), _potential(_normal_scores(folded)))

    return _each(chains, one)


def ess_bulk(chains: Any) -> Array:
    """Effective sample size of rank-normalised split chains: for means and medians; (…, k).

    C D / τ with τ = −1 + 2 Σ P_j over the leading positive pairs P_j = ρ_2j + ρ_2j+1 of
    autocorrelations, made monotone.

    Raises:
        ValueError: what :func:`rhat` raises.

    Source: Vehtari et al. (2021), section 4; Geyer, Practical Markov chain Monte Carlo (1992).
    """
    return _each(chains, lambda x: _effective(_normal_scores(_split(x))))


def ess_tail(chains: Any) -> Array:
    """Effective sample size for the quantiles of 5 % and 95 %, the smaller one; (…, k).

    Raises:
        ValueError: what :func:`rhat` raises.

    Source: Vehtari et al. (2021), section 4.3.
    """

    def one(x: Array) -> float:
        below = [_split((x <= np.quantile(x, p)).astype(float)) for p in (0.05, 0.95)]
        return min(_effective(part) for part in below)

    return _each(chains, one)


def ess_mean(chains: Any) -> Array:
    """Effective sample size of split chains as they are: for the mean; (…, k).

    Raises:
        ValueError: what :func:`rhat` raises.
    """
    return _each(chains, lambda x: _effective(_split(x)))


def to_arviz(
    chains: Any,
    *,
    names: Sequence[str] | None = None,
    statistics: Mapping[str, Any] | None = None,
) -> Any:
    """Chains as ArviZ takes them: ``InferenceData``, or a ``DataTree`` from ArviZ 1.0 on.

    Args:
        chains: (C, D, k); each of the k numbers becomes a variable of the posterior.
        names: of the numbers; ``theta1``, ``theta2``, … when None.
        statistics: of each draw, (C, D), by name, such as ``lp`` or ``accepted``.

    Raises:
        ImportError: ArviZ is not installed (``pip install 'statewise[arviz]'``).
        ValueError: what :func:`summarise_chains` raises.
    """
    arviz = require("arviz", extra="arviz")
    x = _chains(chains)
    if x.ndim != 3:
        raise ValueError(f"chains have shape {x.shape}; they must be (C, D, k)")
    groups = {
        "posterior": {name: x[..., i] for i, name in enumerate(named(names, x.shape[-1]))},
        "sample_stats": {key: array(value) for key, value in (statistics or {}).items()},
    }
    groups = {key: values for key, values in groups.items() if values}
    # From 1.0 on the groups are one argument.
    old = hasattr(arviz, "InferenceData")
    return arviz.from_dict(**groups) if old else arviz.from_dict(groups)


def array(x: Any) -> np.ndarray:
    """A NumPy array of a tensor, on whatever device, or of what is one nearly."""
    return x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)


def _chains(chains: Any) -> Array:
    x = array(chains).astype(np.float64)
    if x.ndim < 3 or x.shape[-2] < 4 or 0 in x.shape:
        raise ValueError(
            f"chains have shape {x.shape}; they must be (C, D, k) with at least 4 draws"
        )
    if not np.isfinite(x).all():
        raise ValueError("chains hold numbers that are not finite")
    return x


def _each(chains: Any, one: Callable[[Array], float]) -> Array:
    """A function of (C, D) on each of the numbers of (…, C, D, k)."""
    x = np.moveaxis(_chains(chains), -1, -3)
    lead = x.shape[:-2]
    return np.array([one(part) for part in x.reshape(-1, *x.shape[-2:])]).reshape(lead)


def _split(x: Array) -> Array:
    """Both halves of each chain as chains; of an odd number the draw in the middle is left out."""
    half = x.shape[1] // 2
    return np.concatenate([x[:, :half], x[:, x.shape[1] - half :]])


def _normal_scores(x: Array) -> Array:
    """Ranks among all draws as quantiles of a normal law, after Blom."""
    return ndtri((rankdata(x).reshape(x.shape) - 0.375) / (x.size + 0.25))


def _potential(x: Array) -> float:
    n = x.shape[1]
    within = x.var(1, ddof=1).mean()
    between = x.mean(1).var(ddof=1)
    if within == 0:
        return 1.0 if between == 0 else math.inf
    return math.sqrt((n - 1) / n + between / within)


def _effective(x: Array) -> float:
    m, n = x.shape
    if np.ptp(x) == 0:
        return float(x.size)
    size = 2 ** math.ceil(math.log2(2 * n))
    spectrum = np.fft.rfft(x - x.mean(1, keepdims=True), size)
    covariance = np.fft.irfft(np.abs(spectrum) ** 2, size)[:, :n].mean(0) / n
    within = covariance[0] * n / (n - 1)
    total = covariance[0] + (x.mean(1).var(ddof=1) if m > 1 else 0.0)
    rho = 1 - (within - covariance) / total
    rho[0] = 1.0
    # The last lags rest on a few products.
    count = max((n - 2) // 2, 1)
    pairs = rho[: 2 * count].reshape(-1, 2).sum(1)
    negative = np.flatnonzero(pairs < 0)
    keep = int(negative[0]) if len(negative) else count - 1
    tau = -1 + 2 * np.minimum.accumulate(pairs[:keep]).sum()
    # One more even lag, which lowers the variance where draws alternate.
    tau += max(rho[2 * keep], 0.0)
    return x.size / max(tau, 1 / math.log10(x.size))
