"""Conversions of time against SciPy, exact solutions and their inverses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.signal
import torch
from lti_systems import same_map, stable

from statewise.lti import (
    FOH,
    ZOH,
    AliasingWarning,
    BackwardEuler,
    Bilinear,
    Discretisation,
    DiscretisedPoles,
    Euler,
    Impulse,
    StateSpace,
    Trapezoid,
    dc_gain,
    frequency_response,
    from_diagonal,
    impulse_response,
    markov_parameters,
    simulate,
    to_continuous,
    to_diagonal,
    to_discrete,
    to_zpk,
)

PEERS = {
    ZOH(): "zoh",
    FOH(): "foh",
    Bilinear(): "bilinear",
    Euler(): "euler",
    BackwardEuler(): "backward_diff",
    Impulse(): "impulse",
}
RULES = [*PEERS, Trapezoid()]


def proper(system: StateSpace, rule: Discretisation) -> StateSpace:
    return StateSpace(system.A, system.B, system.C) if rule == Impulse() else system


@pytest.mark.parametrize("rule", PEERS, ids=repr)
@pytest.mark.parametrize("dt", [0.01, 0.3])
def test_rules_are_those_of_scipy(rule, dt) -> None:
    system = proper(stable(5, dt=None), rule)
    matrices = tuple(M.numpy() for M in system.matrices)
    *expected, _ = scipy.signal.cont2discrete(matrices, dt, method=PEERS[rule])
    found = to_discrete(system, dt, rule)
    assert found.dt == dt
    for M, reference in zip(found.matrices, expected, strict=True):
        np.testing.assert_allclose(M, reference, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("complex_valued", [False, True])
def test_there_and_back(rule, complex_valued) -> None:
    system = proper(stable(5, dt=None, batch=(2,), complex_valued=complex_valued), rule)
    back = to_continuous(to_discrete(system, 0.2, rule), rule)
    assert back.dt is None
    assert back.is_complex is complex_valued
    same_map(back, system)
    for name in "ABCD":
        torch.testing.assert_close(getattr(back, name), getattr(system, name), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("rule", "order"),
    [
        (ZOH(), 1),
        (Euler(), 1),
        (FOH(), 2),
        (Trapezoid(), 2),
        (Bilinear(), 2),
        (Impulse(), 1),
        (BackwardEuler(), 1),
    ],
)
def test_rules_have_their_order(rule, order) -> None:
    system = proper(stable(4, dt=None), rule)
    w = torch.tensor([0.8], dtype=torch.float64)
    exact = frequency_response(system, w)
    gaps = [
        (frequency_response(to_discrete(system, dt, rule), w) - exact).abs().max().item()
        for dt in (0.02, 0.01)
    ]
    assert abs(math.log2(gaps[0] / gaps[1]) - order) < 0.1


@pytest.mark.parametrize("rule", [ZOH(), FOH()], ids=repr)
def test_holds_are_exact_for_their_inputs(rule) -> None:
    system, dt, fine = stable(3, dt=None), 0.5, 50
    u = torch.randn(12, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    u[0] = 0  # a triangle hold rests before its first sample
    coarse, _ = simulate(to_discrete(system, dt, rule), u)
    if rule == ZOH():
        dense = u.repeat_interleave(fine, 0)
    else:
        t = torch.arange(11 * fine + 1, dtype=torch.float64) / fine
        k = t.long().clamp(max=10)
        dense = u[k] + (t - k)[:, None] * (u[k + 1] - u[k])
    y, _ = simulate(to_discrete(system, dt / fine, rule), dense)
    torch.testing.assert_close(coarse, y[::fine][: len(coarse)], rtol=1e-10, atol=1e-11)


def test_prewarped_bilinear_keeps_one_frequency() -> None:
    system, w = stable(4, dt=None), torch.tensor([1.7], dtype=torch.float64)
    found = to_discrete(system, 0.9, Bilinear(prewarp=1.7))
    torch.testing.assert_close(frequency_response(found, w), frequency_response(system, w))
    same_map(to_continuous(found, Bilinear(prewarp=1.7)), system)
    plain = to_discrete(system, 0.9, Bilinear())
    torch.testing.assert_close(dc_gain(plain), dc_gain(system))


def test_impulse_rule_matches_samples() -> None:
    system = StateSpace(*stable(4, dt=None).matrices[:3])
    found = markov_parameters(to_discrete(system, 0.3, Impulse()), 20)
    torch.testing.assert_close(found, 0.3 * impulse_response(system, 20, step=0.3))


def test_impulse_rule_goes_back_from_a_response_that_starts_slowly() -> None:
    chain = torch.tensor([[-0.5, 1, 0], [0, -0.5, 1], [0, 0, -0.5]], dtype=torch.float64)
    system = StateSpace(chain, [[0.0], [0.0], [1.0]], [[1.0, 0.0, 0.0]])
    back = to_continuous(to_discrete(system, 0.1, Impulse()), Impulse())
    same_map(back, system)
    assert not back.D.any()


def test_dense_rules_are_those_of_poles() -> None:
    form = to_diagonal(stable(4, dt=None))
    system, step = from_diagonal(form), torch.tensor(0.2, dtype=torch.float64)
    for rule in (ZOH(), Bilinear(), Bilinear(prewarp=3.0)):
        a, gain, _ = rule(form.poles, step)
        found = to_discrete(system, 0.2, rule)
        torch.testing.assert_close(found.A, torch.diag(a))
        torch.testing.assert_close(found.B, gain[:, None] * form.B)


def test_the_logarithm_warns_near_the_nyquist_frequency() -> None:
    fast = StateSpace([[-0.1, 3.0], [-3.0, -0.1]], [[1.0], [0.0]], [[1.0, 0.0]])
    with pytest.warns(AliasingWarning, match="0.95"):
        back = to_continuous(to_discrete(fast, 1.0))
    same_map(back, fast)
    folded = to_discrete(fast, 1.2)
    slower = to_continuous(folded)
    assert to_zpk(slower).poles.imag.abs().max() < 2.7


def test_conversions_have_gradients() -> None:
    base = stable(3, dt=None)
    for rule in (ZOH(), FOH(), Bilinear(), Trapezoid()):
        A = base.A.clone().requires_grad_()
        found = to_discrete(StateSpace(A, base.B, base.C), 0.3, rule)
        (found.A.sum() + found.B.sum()).backward()
        assert A.grad is not None
        assert A.grad.isfinite().all()


def test_a_logarithm_has_no_gradient() -> None:
    base = to_discrete(stable(3, dt=None), 0.1)
    A = base.A.clone().requires_grad_()
    system = StateSpace(A, base.B, base.C, base.D, 0.1)
    with pytest.raises(ValueError, match="no gradient"):
        to_continuous(system)
    with torch.no_grad():
        assert to_continuous(system).n_states == 3
    to_continuous(system, Bilinear()).A.sum().backward()
    assert A.grad is not None


class OwnRule(Discretisation):
    """A rule that knows poles alone."""

    def __call__(self, poles, dt) -> DiscretisedPoles:
        return DiscretisedPoles(poles, dt, None)


def test_rules_are_objects() -> None:
    words = r"rule is 'zoh'; a rule object such as ZOH\(\)"
    with pytest.raises(TypeError, match=words):
        to_discrete(stable(2, dt=None), 0.1, "zoh")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=words):
        to_continuous(stable(2), "zoh")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: to_discrete(stable(2), 0.1), "continuous system"),
        (lambda: to_continuous(stable(2, dt=None)), "dt is None"),
        (lambda: to_discrete(stable(2, dt=None), 0.1, OwnRule()), "for poles alone"),
        (lambda: Bilinear(prewarp=-1.0), "positive"),
        (lambda: to_discrete(stable(2, dt=None), -1.0), "positive"),
        (lambda: to_discrete(stable(2, dt=None), 0.1, Impulse()), "D = 0"),
        (lambda: to_discrete(stable(2, dt=None), 0.1, Bilinear(prewarp=40.0)), "Nyquist"),
        (lambda: to_continuous(StateSpace([[-0.5]], [[1.0]], [[1.0]], dt=1.0)), "negative real"),
        (lambda: to_continuous(StateSpace([[0.0]], [[1.0]], [[1.0]], dt=1.0)), "pure delay"),
        (lambda: to_continuous(StateSpace([[-1.0]], [[1.0]], [[1.0]], dt=1.0), Bilinear()), "-1"),
        (
            lambda: to_continuous(StateSpace([[0.5]], [[1.0]], [[1.0]], [[1.0]], 1.0), Impulse()),
            "misses",
        ),
    ],
)
def test_what_cannot_be_converted_is_refused(make, words) -> None:
    with pytest.raises(ValueError, match=words):
        make()
