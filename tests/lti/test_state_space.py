"""Linear systems as values: checks, batches, channels and other states."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from lti_systems import points, same_map, stable, values

from statewise.lti import (
    FOH,
    Bilinear,
    StateSpace,
    balanced_truncation,
    controllability_gramian,
    dc_gain,
    frequency_response,
    from_diagonal,
    from_pole_residue,
    from_transfer_function,
    from_updated,
    h2_reduction,
    hankel_norm,
    hankel_singular_values,
    hinf_norm,
    minimal_realisation,
    modal_truncation,
    singular_perturbation,
    stack,
    to_continuous,
    to_diagonal,
    to_discrete,
    to_pole_residue,
    to_transfer_function,
    to_updated,
    transmission_zeros,
    weighted_truncation,
)

HALF = {"A": [[0.5]], "B": [[1.0]], "C": [[2.0]]}


def test_numbers_become_float64_and_types_promote() -> None:
    system = StateSpace(np.array([[1, 0], [0, 1]]), [[1], [2]], np.ones((3, 2), np.float32))
    assert [M.dtype for M in system.matrices] == [torch.float64] * 4
    assert (system.n_states, system.n_inputs, system.n_outputs) == (2, 1, 3)
    assert torch.equal(system.D, torch.zeros(3, 1, dtype=torch.float64))
    assert not system.is_discrete
    assert StateSpace([[0.1]], [[1]], [[1]]).A.item() == 0.1
    single = StateSpace(*(torch.ones(1, 1) for _ in range(3)))
    assert single.dtype is torch.float32
    assert StateSpace(1j * torch.ones(1, 1), torch.ones(1, 1), torch.ones(1, 1)).is_complex


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"A": [[1.0, 2.0]]}, ValueError, "A must be"),
        ({"B": [[1.0], [2.0]]}, ValueError, "B must be"),
        ({"C": [[1.0, 2.0]]}, ValueError, "C must be"),
        ({"D": [[1.0, 2.0]]}, ValueError, "D must be"),
        ({"A": 0.5}, ValueError, "two dimensions"),
        ({"A": [[float("nan")]]}, ValueError, "not finite"),
        ({"A": "wide"}, TypeError, "array of numbers"),
        ({"A": torch.ones(1, 1, dtype=torch.bool)}, TypeError, "bool"),
        ({"dt": 0.0}, ValueError, "positive"),
        ({"dt": float("inf")}, ValueError, "positive"),
        ({"dt": "1 s"}, TypeError, "must be a number"),
        ({"A": torch.ones(2, 1, 1), "B": torch.ones(3, 1, 1)}, ValueError, "do not broadcast"),
    ],
)
def test_what_does_not_fit_is_refused(change, error, words) -> None:
    with pytest.raises(error, match=words):
        StateSpace(**{**HALF, **change})


def test_batches_broadcast_and_are_indexed() -> None:
    poles = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    system = StateSpace(poles[:, None, None], [[1.0]], [[2.0]], torch.zeros(4, 1, 1, 1), dt=0.1)
    assert system.batch_shape == (4, 3)
    assert system[0].batch_shape == (3,)
    assert system[..., 1].batch_shape == (4,)
    assert system[2, 1].A.item() == 0.5
    assert system[:, 1:].batch_shape == (4, 2)
    assert system[0, 0].expand(5, 2).batch_shape == (5, 2)
    torch.testing.assert_close(system(0.3j), 2 / (0.3j - poles[:, None, None]).expand(4, 3, 1, 1))
    with pytest.raises(IndexError, match="select"):
        system[0, 0][0]
    again = stack([system[0, k] for k in range(3)])
    assert torch.equal(again.A, system[0].A)
    with pytest.raises(ValueError, match="equal"):
        stack([system, system.select(inputs=[0, 0])])


def test_channels_are_selected() -> None:
    system = stable(4, m=3, p=2)
    part = system.select(outputs=1, inputs=[2, 0])
    assert torch.equal(values(part), values(system)[:, 1:, [2, 0]])
    with pytest.raises(IndexError, match="outputs has index 2"):
        system.select(outputs=2)


@pytest.mark.parametrize("dt", [None, 0.1])
@pytest.mark.parametrize("complex_valued", [False, True])
def test_a_change_of_states_keeps_the_map(dt, complex_valued) -> None:
    system = stable(5, dt=dt, batch=(2,), complex_valued=complex_valued)
    T = torch.eye(5, dtype=torch.float64) + 0.1 * torch.arange(25.0).reshape(5, 5).sin()
    moved = system.transform(T)
    same_map(moved, system, 1e-12)
    same_map(moved.transform(torch.linalg.inv(T)), system, 1e-12)
    torch.testing.assert_close(moved.transform(torch.linalg.inv(T)).A, system.A)
    with pytest.raises(ValueError, match="5 states need"):
        system.transform(torch.eye(4))


def test_the_dual_has_the_adjoint_map() -> None:
    system = stable(4, complex_valued=True)
    at = points(system)
    expected = torch.stack([system(s.conj()) for s in at]).mH
    torch.testing.assert_close(values(system.dual(), at), expected)


def test_a_gain_has_no_states() -> None:
    gain = StateSpace.gain([[1.0, 2.0]], dt=1.0)
    assert (gain.n_states, gain.n_inputs, gain.n_outputs) == (0, 2, 1)
    assert gain(3.0).tolist() == [[1, 2]]


def test_a_value_is_frozen_and_differentiable() -> None:
    system = stable(3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        system.dt = 2.0
    assert dataclasses.replace(system, dt=2.0).dt == 2.0
    A = system.A.clone().requires_grad_()
    dataclasses.replace(system, A=A)(1.5 + 0.5j).abs().sum().backward()
    assert A.grad is not None
    assert A.grad.abs().max() > 0
    assert system.to(torch.float32).dtype is torch.float32
    assert repr(system).startswith("StateSpace(3 states, 2 inputs, 3 outputs, dt=1")


@pytest.mark.parametrize("dt", [None, 1.0])
@pytest.mark.parametrize("batch", [(), (2,)])
def test_everything_works_without_states(dt, batch) -> None:
    gain = StateSpace.gain(torch.ones(*batch, 2, 3, dtype=torch.float64), dt)
    same = [
        from_diagonal(to_diagonal(gain)),
        from_diagonal(to_diagonal(gain, half=True)),
        from_pole_residue(to_pole_residue(gain)),
        from_transfer_function(to_transfer_function(gain)),
        balanced_truncation(gain, 0).system,
        singular_perturbation(gain, 0).system,
        weighted_truncation(gain, 0, input_weight=stable(2, 3, 3, dt=dt)).system,
    ]
    if dt is None:
        same.append(to_discrete(gain, 0.1, FOH()))
    else:
        same += [to_continuous(gain), from_updated(to_updated(gain))]
        assert from_updated(to_updated(gain, augment=True)).n_states == 2
    if not batch:
        same += [minimal_realisation(gain), modal_truncation(gain, 0).system]
        same.append(h2_reduction(gain, 0).system)
        assert len(transmission_zeros(gain)) == 0
    for system in same:
        assert system.n_states == 0
        assert torch.equal(system.D, gain.D)
    for method in ("auto", "schur", "doubling"):
        assert controllability_gramian(gain, method=method).X.shape == (*batch, 0, 0)
    assert hankel_singular_values(gain).shape == (*batch, 0)
    assert torch.equal(hankel_norm(gain), torch.zeros(batch, dtype=torch.float64))
    torch.testing.assert_close(
        hinf_norm(gain).lower, torch.full(batch, 6**0.5, dtype=torch.float64)
    )
    assert torch.equal(dc_gain(gain), gain.D)
    assert frequency_response(gain, torch.ones(4)).shape == (*batch, 4, 2, 3)


@pytest.mark.parametrize("dt", [None, 1.0])
@pytest.mark.parametrize("complex_valued", [False, True])
def test_single_precision_stays(dt, complex_valued) -> None:
    wide = stable(5, 2, 2, dt=dt, complex_valued=complex_valued)
    kind = torch.complex64 if complex_valued else torch.float32
    system = wide.to(kind)
    for value in (
        hankel_singular_values,
        lambda s: hinf_norm(s).upper,
        lambda s: controllability_gramian(s).X,
        lambda s: controllability_gramian(s, method="doubling").X,
        lambda s: balanced_truncation(s, 2).bound,
        dc_gain,
        lambda s: frequency_response(s, torch.ones(3)),
        lambda s: frequency_response(balanced_truncation(s, 2).system, torch.ones(3)),
    ):
        found, expected = value(system), value(wide)
        assert found.dtype in (torch.float32, torch.complex64)
        gap = (found - expected).abs().max() / expected.abs().max()
        assert gap < 1e-4
    for build in (
        lambda s: to_continuous(s, Bilinear()) if dt else to_discrete(s, 0.1),
        lambda s: to_continuous(s) if dt and complex_valued else s,
        minimal_realisation,
        lambda s: modal_truncation(s, 3).system,
        lambda s: h2_reduction(s, 2, iterations=5).system,
    ):
        assert build(system).dtype is kind
