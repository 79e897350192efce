"""Linear systems on a GPU give what they give on a CPU."""

from __future__ import annotations

import pytest
import torch
from lti_systems import stable

from statewise.lti import (
    FOH,
    Bilinear,
    balanced_truncation,
    continuous_riccati,
    controllability_gramian,
    dc_gain,
    discrete_riccati,
    feedback,
    frequency_response,
    from_diagonal,
    from_pole_residue,
    from_transfer_function,
    from_updated,
    h2_norm,
    h2_reduction,
    hankel_singular_values,
    hinf_norm,
    impulse_response,
    minimal_realisation,
    modal_truncation,
    simulate,
    singular_perturbation,
    to_continuous,
    to_diagonal,
    to_discrete,
    to_pole_residue,
    to_transfer_function,
    to_updated,
    to_zpk,
    transmission_zeros,
)

pytestmark = pytest.mark.gpu


def same(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.device.type == "cuda"
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("dt", [None, 0.5])
@pytest.mark.parametrize("batch", [(), (3,)])
def test_numbers_are_those_of_the_cpu(dt, batch) -> None:
    here = stable(5, 2, 2, dt=dt, batch=batch)
    there = here.to(device="cuda")
    w = torch.linspace(0.1, 3, 9, dtype=torch.float64)
    for value in (
        hankel_singular_values,
        dc_gain,
        lambda s: h2_norm(s) if dt else controllability_gramian(s).X,
        lambda s: controllability_gramian(s, method="doubling").X,
        lambda s: hinf_norm(s).lower,
        lambda s: frequency_response(s, w),
        lambda s: impulse_response(s, 6, step=None if dt else 0.2),
        lambda s: balanced_truncation(s, 2).bound,
        lambda s: (
            (discrete_riccati if dt else continuous_riccati)(
                s.A, s.B, s.A @ s.A.mT, 1.0 * (s.B.mT @ s.B)
            ).X
        ),
    ):
        same(value(there), value(here))
    systems = [
        lambda s: balanced_truncation(s, 3).system,
        lambda s: singular_perturbation(s, 3).system,
        lambda s: from_transfer_function(to_transfer_function(s)),
        lambda s: from_diagonal(to_diagonal(s)),
        feedback,
    ]
    if dt:
        systems += [
            lambda s: from_updated(to_updated(s)),
            lambda s: to_continuous(s, Bilinear()),
        ]
    else:
        systems += [lambda s: to_discrete(s, 0.1, FOH())]
    if not batch:
        systems += [minimal_realisation, lambda s: modal_truncation(s, 3, match_dc=True).system]
        systems += [lambda s: h2_reduction(s, 2).system]
        systems += [lambda s: from_pole_residue(to_pole_residue(s))]
    for build in systems:
        same(frequency_response(build(there), w), frequency_response(build(here), w))
    if not batch:
        assert transmission_zeros(there).device.type == "cuda"
        assert to_zpk(there.select(0, 0)).zeros.device.type == "cuda"


def test_simulation_runs_on_the_gpu() -> None:
    here = stable(5, batch=(3,))
    u = torch.randn(3, 50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y, last = simulate(here.to(device="cuda"), u.cuda())
    expected, end = simulate(here, u)
    same(y, expected)
    same(last, end)
