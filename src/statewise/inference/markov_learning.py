"""Expectation maximisation for hidden Markov models, with gaps and records of unequal length."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from statewise.inference.hidden_markov import HiddenMarkov
from statewise.inference.markov_chain import MarkovSmoothed
from statewise.inference.regressions import ascend

NAMES = ("initial", "transition", "emission")


@dataclasses.dataclass(frozen=True)
class BaumWelchResult:
    """Where expectation maximisation ended.

    Attributes:
        model: the last model.
        log_likelihoods: log p(y) over all series of the model before each turn and of the last.
        converged: whether the last gain was below the tolerance.
    """

    model: HiddenMarkov
    log_likelihoods: list[float]
    converged: bool


def baum_welch(
    model: HiddenMarkov,
    y: Any,
    u: Any = None,
    *,
    free: tuple[str, ...] = NAMES,
    mask: Any = None,
    lengths: Any = None,
    counts: Any = None,
    steps: int = 100,
    tolerance: float = 1e-8,
) -> BaumWelchResult:
    """Fit a hidden Markov model by turns of smoothing and weighted fitting; each gains likelihood.

    initial = mean of γ_1, transition_ij = Σ_t ξ_t(i, j) / Σ_tj ξ_t(i, j), the emission by its own
    weighted fit; a transition that is a module by L-BFGS. With ``counts`` the posterior gains.

    Args:
        model: where to start; a transition of numbers must be one for all series and steps. What
            starts at probability 0 stays there, and states that start alike stay alike.
        y: observations (B, T, p); NaN where nothing is observed.
        u: inputs (B, T, m), or None.
        free: what is fitted, among initial, transition and emission.
        mask: (B, T) or (B, T, p) bool, True where y is observed.
        lengths: steps of each series, (B,); those of length 0 count for nothing.
        counts: (K, K) added to the expected numbers of transitions: a Dirichlet prior, large on
            the diagonal for states that last; None for none.
        steps: turns at most.
        tolerance: gain per observed step that ends it.

    Raises:
        ValueError: a name that is not known, or a model of another kind.

    Source: Baum et al. (1970); Rabiner (1989), section III.C.
    """
    unknown = [name for name in free if name not in NAMES]
    if unknown or not free:
        raise ValueError(f"free is {free!r}; it must be some of {', '.join(NAMES)}")
    fixed = isinstance(model.transition, Tensor)
    if "transition" in free and fixed and model.transition.dim() != 2:
        raise ValueError(
            f"transition has shape {tuple(model.transition.shape)}; to be fitted it must be one "
            "for all series and steps, (K, K)"
        )
    if "initial" in free and model.initial.dim() != 1:
        raise ValueError(
            f"initial has shape {tuple(model.initial.shape)}; to be fitted it must be (K,)"
        )
    if counts is not None:
        counts = torch.as_tensor(counts, dtype=torch.float64, device=torch.as_tensor(y).device)
        if tuple(counts.shape) != (model.states,) * 2 or not fixed or bool((counts < 0).any()):
            raise ValueError(
                f"counts has shape {tuple(counts.shape)}; it must be {(model.states,) * 2}, at "
                "least 0, beside a transition of numbers"
            )
    data = model.data(y, u, mask=mask, lengths=lengths)
    observed = max(int(data[2].any(-1).sum()), 1)
    history: list[float] = []
    converged = False
    with torch.no_grad():
        for turn in range(steps + 1):
            found = model.smooth(y, u, mask=mask, lengths=lengths, pairs=not fixed)
            history.append(found.log_likelihood.sum().item())
            if turn and abs(history[-1] - history[-2]) <= tolerance * observed:
                converged = True
                break
            if turn < steps:
                model = _maximise(model, data, found, free, counts)
    return BaumWelchResult(model, history, converged)


def _maximise(
    model: HiddenMarkov,
    data: tuple[Tensor, Tensor | None, Tensor, Tensor | None],
    found: MarkovSmoothed,
    free: tuple[str, ...],
    counts: Tensor | None,
) -> HiddenMarkov:
    y, u, seen, lengths = data
    changes: dict[str, Any] = {}
    if "initial" in free:
        first = found.mean[:, 0]
        first = first if lengths is None else first[lengths > 0]
        changes["initial"] = first.mean(0) / first.mean(0).sum()
    if "transition" in free and isinstance(model.transition, Tensor):
        total = found.pairs.sum((0, 1))
        total = total if counts is None else total + counts
        row = total.sum(-1, keepdim=True)
        changes["transition"] = torch.where(
            row > 0, total / torch.where(row > 0, row, 1.0), model.transition.to(total)
        )
    elif "transition" in free and isinstance(model.transition, nn.Module):
        made = changes["transition"] = copy.deepcopy(model.transition)
        ascend(made, lambda: made(u), found.pairs, 20)
    if "emission" in free:
        changes["emission"] = model.emission.to(y.device).maximise(y, u, seen, found.mean)
    return model.replace(**changes)
