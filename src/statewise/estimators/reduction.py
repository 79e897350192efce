"""Fewer states in a fitted estimator; scaling and initial states are seen to here."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from statewise.data import Experiments
from statewise.estimators.linear_system import MATRICES, LinearSystem
from statewise.estimators.observed import fit_quietly
from statewise.estimators.system_identifier import SystemIdentifier
from statewise.train.initial import EncoderState, LeastSquaresState

if TYPE_CHECKING:
    from statewise.compress import ModelReduction
    from statewise.compress.methods import ReductionMethod
    from statewise.lti import StateSpace

Size = int | float


def reduce_states(
    estimator: SystemIdentifier | LinearSystem,
    data: Experiments,
    *,
    to: Size | Sequence[Size] | None = None,
    tolerance: float | None = None,
    method: ReductionMethod | None = None,
) -> tuple[Any, ModelReduction]:
    """Reduce the linear systems in a fitted estimator, on data in their own units.

    A :class:`SystemIdentifier` goes through :func:`statewise.compress.reduce`. A
    :class:`LinearSystem` is reduced together with its noise model, as one system from (u, e) to y
    with e in units of its deviation; bound and errors are those of this system between scaled
    signals. Where the reduced noise model has no stable predictor, the gain is left out.

    Args:
        estimator: what was fitted; it is not changed.
        data: validation records, not those on which the model will be judged.
        to: the order, or a fraction of it; for a stack one number for each layer, or one for all.
        tolerance: the largest loss of fit on ``data`` in points of FIT; one of this and ``to``.
        method: how to reduce; None is ``BalancedTruncation()``.

    Returns:
        The reduced estimator and what became of it. A state that an encoder found is found by
        least squares afterwards.

    Raises:
        TypeError: an estimator of another kind.
        ValueError: orders out of range, both or none of ``to`` and ``tolerance``, or a system that
            is not stable.
    """
    if isinstance(estimator, LinearSystem):
        return _reduce_linear(estimator, data, to, tolerance, method)
    if isinstance(estimator, SystemIdentifier):
        return _reduce_stack(estimator, data, to, tolerance, method)
    raise TypeError(
        f"a SystemIdentifier or a LinearSystem can be reduced; given {type(estimator).__name__}"
    )


def _reduce_stack(
    estimator: SystemIdentifier,
    data: Experiments,
    to: Size | Sequence[Size] | None,
    tolerance: float | None,
    method: ReductionMethod | None,
) -> tuple[SystemIdentifier, ModelReduction]:
    from statewise.compress import reduce
    from statewise.train import build_initialiser

    state = estimator.initial_state_
    if isinstance(state, EncoderState):
        state = LeastSquaresState(samples=state.samples)
    found = reduce(
        estimator.model_,
        to=to,
        tolerance=tolerance,
        method=method,
        data=estimator._normalised(data),
        initial_state=state,
    )
    smaller = copy.copy(estimator)
    smaller.model = found.model.config
    smaller.model_ = found.model.eval()
    smaller.initial_state_ = state
    smaller.initialiser_ = build_initialiser(state, smaller.model_, seed=0)
    smaller.noise_ = fit_quietly(smaller, None, data)
    smaller.scores_ = smaller.evaluate(data, split="validation")
    return smaller, found


def _reduce_linear(
    estimator: LinearSystem,
    data: Experiments,
    to: Size | Sequence[Size] | None,
    tolerance: float | None,
    method: ReductionMethod | None,
) -> tuple[LinearSystem, ModelReduction]:
    from statewise.compress import BalancedTruncation
    from statewise.compress.result import BlockReduction, ModelReduction
    from statewise.compress.search import largest_cut
    from statewise.lti import hankel_singular_values, hinf_norm

    method = BalancedTruncation() if method is None else method
    if (to is None) == (tolerance is None):
        raise ValueError(
            f"one of to and tolerance is needed; given to={to!r}, tolerance={tolerance!r}"
        )
    full = _joint(estimator)
    values = hankel_singular_values(full).numpy()

    def build(orders: Sequence[int]) -> LinearSystem:
        if orders[0] >= full.n_states:
            return estimator
        return _with(estimator, _reduced(full, orders[0], method)[0], method)

    def score(model: LinearSystem) -> float:
        return _fit(model, data)

    if tolerance is not None:
        if not tolerance >= 0:
            raise ValueError(f"tolerance is 0 or more points of FIT; given {tolerance}")
        (order,) = largest_cut([values], build, score, tolerance)
    else:
        order = _order(to, full.n_states)
    smaller = copy.copy(build([order]))
    bound, error = 0.0, 0.0
    if order < full.n_states:
        system, bound = _reduced(full, order, method)
        error = float(hinf_norm(full - system, tolerance=1e-6).upper)
    after = len(smaller.poles_)
    block = BlockReduction(
        name="system",
        values=values,
        order_before=full.n_states,
        order_after=after,
        states_before=full.n_states,
        states_after=after,
        gain=float(hinf_norm(full, tolerance=1e-6).upper),
        bound=bound,
        rounding=0.0,
        error=error,
    )
    found = ModelReduction(
        model=smaller,
        method=method,
        blocks=(block,),
        fit_before=score(estimator),
        fit_after=score(smaller),
        parameters_before=estimator.n_parameters,
        parameters_after=smaller.n_parameters,
    )
    smaller.scores_ = smaller.evaluate(data, split="validation")
    return smaller, found


def _joint(estimator: LinearSystem) -> StateSpace:
    """From inputs and innovations of unit covariance to the outputs, all scaled."""
    from statewise.lti import StateSpace

    A, B, K, C, D = (estimator.matrices_[name] for name in MATRICES)
    size = _noise_root(estimator)
    return StateSpace(
        A, np.concatenate([B, K @ size], 1), C, np.concatenate([D, np.zeros_like(size)], 1), 1.0
    )


def _noise_root(estimator: LinearSystem) -> Any:
    out = estimator.normaliser_.y_std
    values, vectors = np.linalg.eigh(estimator.innovation_covariance_ / out[:, None] / out)
    return vectors * np.sqrt(np.maximum(values, 1e-12 * max(float(values.max()), 1e-300)))


def _reduced(
    system: StateSpace, order: int, method: ReductionMethod
) -> tuple[StateSpace, float | None]:
    """The reduced system, and its bound where the method has one."""
    from statewise import compress, lti

    if isinstance(method, compress.H2Optimal):
        return lti.h2_reduction(system, order, iterations=method.iterations).system, None
    if isinstance(method, compress.ModalTruncation):
        keep = isinstance(method, compress.ModalSingularPerturbation)
        found = lti.modal_truncation(system, order, match_dc=keep)
    elif isinstance(method, compress.SingularPerturbation):
        found = lti.singular_perturbation(system, order)
    else:
        found = lti.balanced_truncation(system, order)
    return found.system, None if found.bound is None else float(found.bound)


def _with(estimator: LinearSystem, system: StateSpace, method: ReductionMethod) -> LinearSystem:
    """A copy of an estimator with another joint system."""
    A, B, C, D = (M.numpy() for M in system.matrices)
    m, p = len(estimator.input_names_), len(estimator.output_names_)
    size = _noise_root(estimator)
    # A method that keeps the constant gain may give e a direct term: ε = (1 + D_e) e is the new e.
    direct = np.eye(p) + D[:, m:] @ np.linalg.inv(size)
    K = B[:, m:] @ np.linalg.inv(size) @ np.linalg.inv(direct)
    if not np.abs(np.linalg.eigvals(A - K @ C)).max(initial=0.0) < 1:
        K = np.zeros_like(K)
    smaller = copy.copy(estimator)
    smaller._take(dict(zip(MATRICES, (A, B[:, :m], K, C, D[:, :m]), strict=True)))
    n = len(A)
    smaller.order_ = n
    full = len(estimator.poles_)
    smaller.how_ = f"reduced from {full} states by {type(method).__name__}"
    smaller.order_scores_, smaller.coefficients_ = {}, []
    smaller.noise_ = None
    smaller._source, smaller._uncertainty = None, {}
    smaller.singular_values_, smaller.omega_ = np.zeros(0), np.zeros(0)
    smaller.pole_deviation_ = np.full(n, math.nan)
    smaller.response_deviation_ = np.zeros((0, p, m))
    return smaller


def _fit(estimator: LinearSystem, data: Experiments) -> float:
    """100 (1 − NRMSE) % of free runs, mean square over outputs, as for a stack."""
    scores = estimator.evaluate(data, metrics=("nrmse",))
    values = np.array([one.value for one in scores])
    return 100 * (1 - float(np.sqrt(np.mean(values**2)))) if len(values) else math.nan


def _order(to: Any, full: int) -> int:
    if isinstance(to, Sequence):
        if len(to) != 1:
            raise ValueError(f"to has {len(to)} orders; a LinearSystem takes one")
        (to,) = to
    if isinstance(to, bool) or not isinstance(to, int | float):
        raise TypeError(f"an order is a number of states or a fraction of them; given {to!r}")
    if isinstance(to, float):
        if not 0 < to <= 1:
            raise ValueError(f"a fraction of the states is in (0, 1]; given {to}")
        return max(1, math.ceil(to * full - 1e-9))
    if to < 1:
        raise ValueError(f"an order is at least 1; given {to}")
    return min(to, full)
