"""How sure a subspace model is: the same method on records that the model itself makes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from statewise.lti._estimates import estimate
from statewise.lti._hankel import Records, layout_of, read_records, scaled, triangular_factor
from statewise.lti._lanes import lanes_of, window_gram
from statewise.lti._output_fit import states_before
from statewise.lti._projections import decompose
from statewise.lti.frequency import frequency_response
from statewise.lti.state_space import StateSpace
from statewise.lti.subspace import PIECE, SubspaceResult

# Moduli of poles below it count as so large when poles are matched: what is gone within a sample.
LEAST = 1e-3
# Of the records that are made, at least this part must give a model.
USABLE = 0.5
# Apart from data that were made with the same seed, whose inputs innovations must not repeat.
STREAM = 1


@dataclasses.dataclass(frozen=True, eq=False)
class BootstrapResult:
    """Models of records that an identified model made.

    Attributes:
        estimate: the model that made them.
        systems: what was identified from each, a batch of R.
        poles: of the estimate, (n,).
        replicated_poles: of each model, (R, n), in the order of ``poles``.
        replicates: number of records that were made; R is smaller where some gave no model.
    """

    estimate: StateSpace
    systems: StateSpace
    poles: Tensor
    replicated_poles: Tensor
    replicates: int

    def pole_deviation(self) -> tuple[Tensor, Tensor]:
        """The poles, (n,), and √mean |λ* − λ|² over the replicates; a pair has one value."""
        away = (self.replicated_poles - self.poles).abs().square().mean(0)
        return self.poles, _shared(self.poles, away).sqrt()

    def response_deviation(self, frequency: Any) -> Tensor:
        """√mean |G* − G|² over the replicates, (F, p, m), at ω in radians per unit of time."""
        own = frequency_response(self.estimate, frequency)
        return (self.responses(frequency) - own).abs().square().mean(0).sqrt()

    def responses(self, frequency: Any) -> Tensor:
        """Frequency responses of the replicates, (R, F, p, m)."""
        return frequency_response(self.systems, frequency)


@torch.no_grad()
def bootstrap(
    found: SubspaceResult,
    u: Any,
    lengths: Sequence[int] | None = None,
    *,
    replicates: int = 50,
    seed: int | np.random.Generator = 0,
    direct: bool = True,
    stability: float | None = None,
) -> BootstrapResult:
    """Identify records that a subspace model makes, by the method that it was found with.

    x*_{t+1} = A x*_t + B u_t + K e*_t,  y*_t = C x*_t + D u_t + e*_t  with the measured inputs, the
    first states of the estimate and Gaussian e* of its innovation covariance, which counts the
    samples less the parameters. All records are identified at once. What this does not tell is how
    sure the order is, and what a linear model leaves out.

    Args:
        found: the model, of one system.
        u: the inputs that it was identified from, (T, m), (T,) or a list of those; None without.
        lengths: samples of each record, needed without inputs only.
        replicates: records to make, 2 at least.
        seed: of the innovations.
        direct: as it was given to :func:`~statewise.lti.identify`.
        stability: as it was given to :func:`~statewise.lti.identify`.

    Returns:
        The models.

    Raises:
        ValueError: a batch, an unstable model, whose free run says nothing about the data, fewer
            than two replicates, inputs of other records, or records that give no model.

    Source: Bittanti & Lovera, Bootstrap-based estimates of uncertainty in subspace identification
    methods (2000).

    Example:
        >>> u = torch.randn(300, 1, generator=torch.Generator().manual_seed(0))
        >>> noise = torch.randn(300, 1, generator=torch.Generator().manual_seed(1))
        >>> from statewise.lti import identify
        >>> found = identify(u, torch.cat((torch.zeros(1, 1), u[:-1])) + 0.1 * noise, 1)
        >>> made = bootstrap(found, u, replicates=20)
        >>> made.replicated_poles.shape, bool(made.pole_deviation()[1] < 0.1)
        (torch.Size([20, 1]), True)
    """
    if isinstance(replicates, bool) or not isinstance(replicates, int) or replicates < 2:
        raise ValueError(f"replicates is a whole number of at least 2; given {replicates!r}")
    inputs = _inputs(found, u, lengths)
    rng = seed if isinstance(seed, np.random.Generator) else np.random.default_rng((seed, STREAM))
    made = _made(found, inputs, replicates, rng)
    try:
        systems = _identified(found, inputs, made, direct, stability)
    except RuntimeError as error:
        raise ValueError(f"the records that the model made give no models: {error}") from error
    sound = torch.stack([M.isfinite().flatten(1).all(1) for M in systems]).all(0)
    if sound.sum() < max(2, USABLE * replicates):
        raise ValueError(
            f"of {replicates} records that the model made only {int(sound.sum())} gave a model, "
            f"too few to say how sure it is"
        )
    batch = StateSpace(*(M[sound] for M in systems), dt=found.system.dt)
    poles = torch.linalg.eigvals(found.system.A)
    return BootstrapResult(
        found.system, batch, poles, _matched(poles, torch.linalg.eigvals(batch.A)), replicates
    )


def _inputs(found: SubspaceResult, u: Any, lengths: Sequence[int] | None) -> list[Tensor]:
    if found.system.A.dim() != 2:
        raise ValueError("the model is a batch; bootstrap takes one system")
    radius = float(torch.linalg.eigvals(found.system.A).abs().amax())
    if not radius < 1:
        raise ValueError(
            f"the model is not stable (largest |pole| {radius:.4g}), so that the records it makes "
            f"grow without bound; stability=0.999 keeps poles within the circle"
        )
    (p, m), count = found.system.D.shape, len(found.x0)
    if u is None:
        if lengths is None or len(lengths) != count or m:
            raise ValueError(
                f"the model is of {m} inputs and {count} records; give their inputs, or without "
                f"inputs their lengths"
            )
        return [found.x0.new_zeros(length, 0) for length in lengths]
    parts = list(u) if isinstance(u, list | tuple) else [u]
    sizes = [len(part) for part in parts]
    read = read_records(parts, [torch.zeros(size, p, dtype=torch.float64) for size in sizes])
    if len(parts) != count or read.n_inputs != m:
        raise ValueError(
            f"u has {len(parts)} records of {read.n_inputs} inputs; the model is of {count} "
            f"records of {m}"
        )
    return [part[0] * read.u_scale[0] for part in read.u]


def _made(
    found: SubspaceResult, inputs: list[Tensor], replicates: int, rng: np.random.Generator
) -> list[Tensor]:
    """Outputs (R, T, p) of each record."""
    A, B, C, D = found.system.matrices
    n, m, p = len(A), B.shape[1], len(C)
    samples = sum(map(len, inputs))
    used = (n * (m + 2 * p) + p * m + n * len(inputs)) / p
    grown = samples / max(samples - used, samples / 4)
    values, vectors = torch.linalg.eigh(found.innovation_covariance * grown)
    root = vectors * values.clamp_min(0).sqrt()
    outputs = []
    for u, x0 in zip(inputs, found.x0, strict=True):
        e = torch.from_numpy(rng.standard_normal((replicates, len(u), p))) @ root.mT
        drive = (u @ B.mT + e @ found.K.mT)[:, :, None]
        start = x0.expand(replicates, 1, n).contiguous()
        x = states_before(A.expand(replicates, n, n).contiguous(), drive, start)[:, :, 0]
        outputs.append(x @ C.mT + u @ D.mT + e)
    return outputs


def _identified(
    found: SubspaceResult,
    inputs: list[Tensor],
    outputs: list[Tensor],
    direct: bool,
    stability: float | None,
) -> tuple[Tensor, ...]:
    """A, B, C and D of all replicates."""
    count = len(outputs[0])
    u = [part.expand(count, *part.shape).contiguous() for part in inputs]
    records = scaled(u, outputs)
    order = found.order
    # Unstable ones among them are fitted to predictions, as identify does of itself.
    focus = None if found.focus == "simulation" else found.focus
    layout = layout_of(records, found.horizon, order, direct)
    step = max(1, PIECE // sum(records.lengths))
    pieces = []
    for start in range(0, count, step):
        part: Records = records.part(slice(start, start + step))
        lanes = lanes_of(part)
        gram = None if lanes is None else partial(window_gram, lanes, layout)
        R = triangular_factor(part, layout, "auto", gram)
        decomposed = decompose(R, layout, found.weighting)
        pieces.append(estimate(decomposed, part, order, focus, stability, lanes).matrices)
    return tuple(torch.cat(parts) for parts in zip(*pieces, strict=True))


def _matched(poles: Tensor, others: Tensor) -> Tensor:
    """Rows of poles (R, n) in the order of ``poles``, by the least sum of |log λ* − log λ|."""
    own, theirs = _logarithms(poles), _logarithms(others)
    gap = theirs[:, None, :] - own[:, None]
    turned = torch.remainder(gap.imag + torch.pi, 2 * torch.pi) - torch.pi
    cost = torch.hypot(gap.real, turned).numpy()
    order = np.stack([linear_sum_assignment(one)[1] for one in cost])
    return torch.gather(others, 1, torch.from_numpy(order))


def _logarithms(poles: Tensor) -> Tensor:
    return torch.complex(poles.abs().clamp_min(LEAST).log(), poles.angle())


def _shared(poles: Tensor, values: Tensor) -> Tensor:
    """Means of the values of conjugate poles."""
    gap = (poles[:, None] - poles.conj()).abs()
    return (values + values[gap.argmin(1)]) / 2
