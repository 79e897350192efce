"""Hidden Markov models: K discrete states, any emission, constant or driven transitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from statewise.inference.emissions import Emission, check_distribution, parameter, safe_log
from statewise.inference.engine import Filter, run
from statewise.inference.linear_gaussian import ends_of
from statewise.inference.markov_chain import (
    Chain,
    Decoded,
    Forward,
    MarkovResult,
    MarkovSmoothed,
    ParallelForward,
    sample_chain,
    smooth_chain,
    viterbi,
)
from statewise.inference.regressions import CallableEmission
from statewise.ops import hidden_markov


class HiddenMarkov:
    """p(x_1 = k) = initial_k, p(x_t = j | x_{t−1} = i) = transition_ij, y_t | x_t by the emission.

    All is computed in float64 and differentiable in probabilities above 0.

    Args:
        initial: (K,), or (B, K) with one for each series.
        transition: (K, K), rows sum to 1; (T, K, K) or (B, T, K, K) where it varies, index t
            leading into step t; or a function or module that gives the logarithms (B, T, K, K) of
            inputs u (B, T, m), such as :class:`DrivenTransition`.
        emission: an :class:`Emission`, or a function or module (y, u) → log p(y_t | x_t = k),
            (B, T, K), given y (B, T, p) and u or None.
        outputs: p, for such a function; an emission object knows it.

    Raises:
        ValueError: shapes that do not fit, or numbers that are no distributions.

    Example:
        >>> from statewise.inference import GaussianEmission
        >>> emission = GaussianEmission([[-1.0], [1.0]], [[1.0], [1.0]])
        >>> model = HiddenMarkov([0.5, 0.5], [[0.9, 0.1], [0.1, 0.9]], emission)
        >>> y = torch.tensor([[[-1.2], [float("nan")], [-0.9], [1.6]]])
        >>> model.viterbi(y).path.tolist()
        [[0, 0, 0, 1]]
    """

    unknown: ClassVar[None] = None

    def __init__(
        self,
        initial: Any,
        transition: Any,
        emission: Emission | Callable[[Tensor, Tensor | None], Tensor],
        *,
        outputs: int = 1,
    ) -> None:
        self.initial = parameter("initial", initial, 1, 2)
        check_distribution("initial", self.initial)
        self.states = self.initial.shape[-1]
        if isinstance(transition, Tensor | np.ndarray | list | tuple):
            transition = parameter("transition", transition, 2, 3, 4)
            if tuple(transition.shape[-2:]) != (self.states, self.states):
                raise ValueError(
                    f"transition has shape {tuple(transition.shape)}; initial of {self.states} "
                    f"states needs (…, {self.states}, {self.states})"
                )
            check_distribution("transition", transition)
        elif not callable(transition):
            raise TypeError(
                f"transition is a {type(transition).__name__}; it must be probabilities or a "
                "function of the inputs"
            )
        self.transition: Any = transition
        if not isinstance(emission, Emission):
            if not callable(emission):
                raise TypeError(
                    f"emission is a {type(emission).__name__}; it must be an Emission, a function "
                    "or a module"
                )
            emission = CallableEmission(emission, self.states, outputs)
        if emission.states != self.states:
            raise ValueError(
                f"emission has {emission.states} states and initial {self.states}; they must agree"
            )
        self.emission: Emission = emission
        self.outputs = emission.outputs

    def replace(self, **changes: Any) -> HiddenMarkov:
        """A copy with other initial, transition or emission."""
        given = {k: getattr(self, k) for k in ("initial", "transition", "emission")}
        return HiddenMarkov(**(given | changes))

    def data(
        self, y: Any, u: Any = None, *, mask: Any = None, lengths: Any = None
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
        """Observations with 0 where nothing is observed, inputs, what is observed, and lengths."""
        return _data(self.outputs, y, u, mask, lengths)

    def problem(
        self,
        y: Any,
        u: Any = None,
        *,
        mask: Any = None,
        lengths: Any = None,
        start: int | None = None,
    ) -> Chain:
        """The model beside data.

        Args:
            y: observations (B, T, p); NaN where nothing is observed.
            u: inputs (B, T, m), or None for a model without.
            mask: (B, T) or (B, T, p) bool, True where y is observed; None where it is not NaN.
            lengths: steps of each series, (B,); None for T.
            start: number of steps before these, which transitions that vary in time have too;
                None when they are those of these steps.

        Raises:
            ValueError: shapes that do not fit, or missing inputs.
        """
        y, u, seen, ends = self.data(y, u, mask=mask, lengths=lengths)
        batch, length, _ = y.shape
        if len(self.initial) not in (1, batch) and self.initial.dim() == 2:
            raise ValueError(
                f"initial is given for {len(self.initial)} series; the data have {batch}"
            )
        P = self.log_transition(u).to(y.device)
        if P.shape[1] > 1 and start is not None and isinstance(self.transition, Tensor):
            P = P[:, start : start + length]
        if P.shape[0] not in (1, batch) or P.shape[1] not in (1, length):
            raise ValueError(
                f"transition is given for {P.shape[0]} series and {P.shape[1]} steps; the data "
                f"have {batch} series and {length} steps"
            )
        e = self.emission.to(y.device).log_prob(y, u, seen)
        valid = seen.any(-1, keepdim=True)
        e = torch.where(valid, e, 0.0)
        first = safe_log(self.initial.to(y.device)).expand(batch, self.states)
        return Chain(first, P, e, ends, not start)

    def log_transition(self, u: Tensor | None) -> Tensor:
        """Logarithms of the transition, (b, t, K, K)."""
        if isinstance(self.transition, Tensor):
            P = safe_log(self.transition)
            return P.reshape((1,) * (4 - P.dim()) + tuple(P.shape))
        if u is None:
            raise ValueError("the transition is a function of inputs; give u (B, T, m)")
        P = self.transition(u)
        expected = (*u.shape[:2], self.states, self.states)
        if tuple(P.shape) != expected:
            raise ValueError(f"transition gives shape {tuple(P.shape)}; it must be {expected}")
        return P.double()

    def filter(
        self,
        y: Any,
        u: Any = None,
        *,
        mask: Any = None,
        lengths: Any = None,
        parallel: bool = False,
        fused: bool = True,
    ) -> MarkovResult:
        """Probabilities of every state given the observations so far, and the likelihood.

        Args:
            y: observations (B, T, p); NaN where nothing is observed.
            u: inputs (B, T, m), or None.
            mask: (B, T) or (B, T, p) bool, True where y is observed.
            lengths: steps of each series, (B,).
            parallel: combine steps as a tree, in O(log T) rounds.
            fused: the compiled recursion, rather than step after step in the engine.

        Raises:
            ValueError: shapes that do not fit, or a step that no state can have given.
        """
        problem: Any = self.problem(y, u, mask=mask, lengths=lengths)
        found = run(ParallelForward() if parallel else Forward(), problem, parallel, fused)
        return MarkovResult(*found[:3], problem)

    def smooth(
        self,
        y: Any,
        u: Any = None,
        *,
        mask: Any = None,
        lengths: Any = None,
        pairs: bool = True,
        parallel: bool = False,
    ) -> MarkovSmoothed:
        """Probabilities of states and of pairs of states given all observations.

        Args:
            y: observations (B, T, p); NaN where nothing is observed.
            u: inputs (B, T, m), or None.
            mask: (B, T) or (B, T, p) bool, True where y is observed.
            lengths: steps of each series, (B,).
            pairs: the pairs of every step, rather than their sum.
            parallel: as scans in O(log T) rounds, which are differentiable in probabilities above
                0; the compiled recursion is not.

        Raises:
            ValueError: shapes that do not fit, or a step that no state can have given.
        """
        chain: Any = self.problem(y, u, mask=mask, lengths=lengths)
        if parallel:
            found = run(ParallelForward(), chain, True, False)
            logs, each = safe_log(found.mean), found.log_likelihood
            logs = torch.where(chain.valid().unsqueeze(-1), logs, 0.0)
        else:
            chain = chain._replace(
                **{k: getattr(chain, k).detach() for k in ("log_initial", "log_transition", "y")}
            )
            logs, each = _forward(chain)
        one, both = smooth_chain(chain, logs, pairs, parallel)
        return MarkovSmoothed(one, both, each.sum(1))

    def viterbi(self, y: Any, u: Any = None, *, mask: Any = None, lengths: Any = None) -> Decoded:
        """The most probable path (B, T) and log p(path, y), (B,).

        Of paths equally probable (to the last bit of float64) that one is given whose state is
        lowest at the last step at which they differ.

        Args:
            y: observations (B, T, p); NaN where nothing is observed.
            u: inputs (B, T, m), or None.
            mask: (B, T) or (B, T, p) bool, True where y is observed.
            lengths: steps of each series, (B,); the path is −1 behind them.

        Raises:
            ValueError: shapes that do not fit, or no path that is possible.
        """
        return viterbi(self.problem(y, u, mask=mask, lengths=lengths))

    def sample_states(
        self,
        y: Any,
        samples: int,
        u: Any = None,
        *,
        mask: Any = None,
        lengths: Any = None,
        seed: int | np.random.Generator = 0,
    ) -> Tensor:
        """Draws of whole paths given all observations, (samples, B, T), −1 behind the end.

        Args:
            y: observations (B, T, p); NaN where nothing is observed.
            samples: number of draws.
            u: inputs (B, T, m), or None.
            mask: (B, T) or (B, T, p) bool, True where y is observed.
            lengths: steps of each series, (B,).
            seed: of the random numbers.

        Source: Scott, Bayesian methods for hidden Markov models (2002): filter forwards, sample
        backwards.
        """
        with torch.no_grad():
            chain = self.problem(y, u, mask=mask, lengths=lengths)
            return sample_chain(chain, _forward(chain)[0], samples, seed)

    def stream(self, batch: int = 1) -> Filter:
        """A filter that takes one observation of every series at a time, in constant memory."""
        model: Any = self
        return Filter(model, Forward(), batch=batch)

    def __repr__(self) -> str:
        kind = type(self.emission).__name__
        return f"HiddenMarkov(states={self.states}, outputs={self.outputs}, emission={kind})"


def _forward(chain: Chain) -> tuple[Tensor, Tensor]:
    return hidden_markov(*chain[:3], lengths=chain.lengths, begins=chain.begins)


def _data(
    outputs: int, y: Any, u: Any, mask: Any, lengths: Any
) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
    y = torch.as_tensor(y, dtype=torch.float64)
    if y.dim() != 3 or y.shape[2] != outputs or 0 in y.shape[:2]:
        raise ValueError(
            f"y has shape {tuple(y.shape)}; it must be (B, T, {outputs}), series first"
        )
    seen = ~y.isnan()
    if mask is not None:
        mask = torch.as_tensor(mask, device=y.device)
        if mask.dtype is not torch.bool:
            raise TypeError(f"mask is {mask.dtype}; it must be bool")
        mask = mask.unsqueeze(-1) if mask.dim() == 2 else mask
        if mask.dim() != 3 or mask.shape[:2] != y.shape[:2] or mask.shape[2] not in (1, outputs):
            raise ValueError(
                f"mask has shape {tuple(mask.shape)}; y of shape {tuple(y.shape)} needs "
                f"{tuple(y.shape[:2])} or {tuple(y.shape)}"
            )
        seen = seen & mask
    batch, length, _ = y.shape
    if lengths is not None:
        lengths = ends_of(lengths, y)
        steps = torch.arange(length, device=y.device)
        # What is behind the end may be no observation at all, so no density is asked of it.
        seen = seen & (steps < lengths.unsqueeze(1)).unsqueeze(-1)
    if u is not None:
        u = torch.as_tensor(u, dtype=torch.float64)
        if u.dim() != 3 or u.shape[:2] != y.shape[:2]:
            raise ValueError(
                f"u has shape {tuple(u.shape)}; it must be ({batch}, {length}, m), as y is"
            )
    return torch.where(seen, y, 0.0), u, seen, lengths
