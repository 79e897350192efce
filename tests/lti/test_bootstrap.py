"""The bootstrap of subspace models: an oracle one by one, exact cases, coverage of the truth."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from statewise import lti
from statewise.lti.parametric_bootstrap import _made, _matched

A = np.array([[0.8, 0.3], [-0.3, 0.8]])
B = np.array([[1.0], [0.5]])
C = np.array([[1.0, -0.5]])
K = np.array([[0.4], [0.1]])
OMEGA = np.geomspace(1e-2, 1.0, 25) * np.pi


def _system(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """A, B, C, D and K of order 1 to 3 with a stable predictor."""
    n = int(rng.integers(1, 4))
    poles: list[complex] = []
    while len(poles) < n:
        radius, angle = rng.uniform(0.3, 0.95), rng.uniform(0.2, 2.5)
        if n - len(poles) >= 2:
            poles += [radius * np.exp(1j * angle), radius * np.exp(-1j * angle)]
        else:
            poles.append(radius)
    A = np.vstack([-np.poly(poles).real[1:], np.eye(n)[:-1]])
    C = rng.standard_normal((1, n))
    while True:
        K = rng.uniform(0, 1.5) * rng.standard_normal((n, 1))
        if np.abs(np.linalg.eigvals(A - K @ C)).max() < 0.95:
            return A, np.eye(n)[:, :1], C, np.zeros((1, 1)), K


def _record(
    system: tuple[np.ndarray, ...], u: np.ndarray, e: np.ndarray, x: np.ndarray | None = None
) -> np.ndarray:
    A, B, C, D, K = system
    x, y = np.zeros(len(A)) if x is None else x, np.empty((len(u), len(C)))
    for t in range(len(u)):
        y[t] = C @ x + D @ u[t] + e[t]
        x = A @ x + B @ u[t] + K @ e[t]
    return y


def _data(*lengths: int, noise: float = 0.3) -> tuple[list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(0)
    u = [rng.standard_normal((length, 1)) for length in lengths]
    system = (A, B, C, np.array([[0.2]]), K)
    return u, [_record(system, part, noise * rng.standard_normal(part.shape)) for part in u]


@pytest.mark.parametrize("weighting", [lti.CVA, lti.SSARX], ids=lambda one: one.name)
@pytest.mark.parametrize("lengths", [(300,), (200, 120)])
def test_each_model_is_what_identify_finds_in_its_record(
    weighting: lti.Weighting, lengths: tuple[int, ...]
) -> None:
    u, y = _data(*lengths)
    found = lti.identify(u, y, 2, weighting=weighting, horizon=6)
    made = lti.bootstrap(found, u, replicates=4, seed=np.random.default_rng(3))
    rng = np.random.default_rng(3)
    samples, used = sum(lengths), 2 * 3 + 1 + 2 * len(lengths)
    size = float(found.innovation_covariance * samples / (samples - used)) ** 0.5
    system = (*(M.numpy() for M in found.system.matrices), found.K.numpy())
    again: list[list[np.ndarray]] = [[] for _ in range(4)]
    for part, x0 in zip(u, found.x0.numpy(), strict=True):
        for k, e in enumerate(rng.standard_normal((4, len(part), 1))):
            again[k].append(_record(system, part, size * e, x0))
    for k, outputs in enumerate(again):
        one = lti.identify(u, outputs, 2, weighting=weighting, horizon=6)
        expected = lti.frequency_response(one.system, OMEGA)
        assert torch.allclose(made.responses(OMEGA)[k], expected, rtol=1e-8)
        gap = (made.replicated_poles[k][:, None] - lti.poles(one.system)).abs().amin(1)
        assert gap.max() < 1e-8


def test_the_seed_decides() -> None:
    u, y = _data(300)
    found = lti.identify(u, y, 2)
    first, same, other = (lti.bootstrap(found, u, replicates=8, seed=s) for s in (0, 0, 1))
    assert torch.equal(first.systems.A, same.systems.A)
    assert not torch.equal(first.systems.A, other.systems.A)


def test_innovations_are_not_the_inputs_of_data_with_the_same_seed() -> None:
    u, y = _data(300)
    assert np.array_equal(u[0], np.random.default_rng(0).standard_normal((300, 1)))
    found = lti.identify(u, y, 2)
    systems = lti.bootstrap(found, u, replicates=8, seed=0).systems
    moved = lti.bootstrap(found, [u[0] * (1 + 1e-12)], replicates=8, seed=0).systems
    gap = lti.frequency_response(systems, OMEGA) - lti.frequency_response(moved, OMEGA)
    assert gap.abs().max() < 1e-8


def test_without_noise_there_is_no_doubt() -> None:
    u, y = _data(300, noise=0.0)
    made = lti.bootstrap(lti.identify(u, y, 2), u, replicates=5)
    assert made.pole_deviation()[1].max() < 1e-8
    assert made.response_deviation(OMEGA).max() < 1e-7


def test_half_the_noise_is_half_the_deviation() -> None:
    u, y = _data(2000)
    found = lti.identify(u, y, 2)
    small = lti.bootstrap(found, u).response_deviation(OMEGA)
    found.innovation_covariance.mul_(0.25)
    assert torch.allclose(lti.bootstrap(found, u).response_deviation(OMEGA) * 2, small, rtol=0.1)


def test_poles_are_matched_as_a_whole_and_pairs_share_their_deviation() -> None:
    poles = torch.tensor([0.9, 0.5 + 0.5j, 0.5 - 0.5j, -0.3], dtype=torch.complex128)
    moved = poles * torch.tensor([0.97, 1.05, 1.05, 0.9])
    order = torch.tensor([[2, 0, 3, 1], [3, 2, 1, 0]])
    assert torch.equal(_matched(poles, moved[order]), moved.expand(2, 4))
    # The nearest of both is 0.90, which only one of them can be.
    close = torch.tensor([0.9, 0.8], dtype=torch.complex128)
    others = torch.tensor([[0.89, 0.95]], dtype=torch.complex128)
    assert _matched(close, others).real.tolist() == [[0.95, 0.89]]
    u, y = _data(300)
    poles, deviation = lti.bootstrap(lti.identify(u, y, 2), u, replicates=10).pole_deviation()
    assert poles.imag.abs().min() > 0.1
    assert deviation[0] == deviation[1] > 0


def test_a_band_of_ninety_per_cent_covers_the_gain_about_as_often() -> None:
    inside = []
    for k in range(80):
        rng = np.random.default_rng(k)
        system = _system(rng)
        u, e = rng.standard_normal((2, 400, 1))
        clean = _record(system, u, 0 * e)
        noise = _record(system, 0 * u, e)
        y = clean + 0.2 * noise * clean.std() / noise.std()
        found = lti.identify(u, y, len(system[0]), stability=0.999)
        made = lti.bootstrap(found, u, seed=k, stability=0.999)
        truth = lti.frequency_response(lti.StateSpace(*system[:4], dt=1.0), OMEGA).abs().log()
        own = lti.frequency_response(found.system, OMEGA).abs().log()
        away = (made.responses(OMEGA).abs().log() - own).abs().sort(0).values[45]
        inside.append(float(((truth - own).abs() <= away).double().mean()))
    assert 0.85 < np.mean(inside) < 0.95


def test_a_replicate_may_be_unstable() -> None:
    # A second pole where there is one: in long records its run would overflow.
    rng = np.random.default_rng(6)
    u, e = rng.standard_normal((5000, 1)), np.empty((5000, 1))
    for t in range(5000):
        e[t] = 0.1 * rng.standard_normal()
    first = tuple(np.full((1, 1), value) for value in (0.97, 1.0, 1.0, 0.0, 0.0))
    found = lti.identify(u, _record(first, u, e), 2)
    made = lti.bootstrap(found, u, replicates=30, seed=np.random.default_rng(0))
    radius = made.replicated_poles.abs().amax(1)
    assert radius.max() > 1.01
    (outputs,) = _made(found, [torch.from_numpy(u)], 30, np.random.default_rng(0))
    one = lti.identify(u, outputs[radius.argmax()], 2)
    assert one.focus == "prediction"
    expected = lti.frequency_response(one.system, OMEGA)
    assert torch.allclose(made.responses(OMEGA)[radius.argmax()], expected, rtol=1e-6)
    poles, deviation = made.pole_deviation()
    assert deviation[(poles - 0.97).abs().argmin()] < 1e-3
    assert deviation.max() > 0.1


def test_refusals_name_what_was_given() -> None:
    u, y = _data(200, 100)
    found = lti.identify(u, y, 2)
    with pytest.raises(ValueError, match="whole number of at least 2; given 1"):
        lti.bootstrap(found, u, replicates=1)
    with pytest.raises(ValueError, match="u has 1 records of 1 inputs; the model is of 2 records"):
        lti.bootstrap(found, u[0])
    with pytest.raises(ValueError, match="the model is of 1 inputs and 2 records"):
        lti.bootstrap(found, None, [200, 100])
    batch = lti.identify_batch(u[0][None], y[0][None], 2)
    with pytest.raises(ValueError, match="the model is a batch"):
        lti.bootstrap(batch, u[0])
    found.system.A.mul_(1.5)
    with pytest.raises(ValueError, match=r"not stable \(largest \|pole\| 1.2"):
        lti.bootstrap(found, u)


def test_records_without_inputs_need_their_lengths() -> None:
    rng = np.random.default_rng(0)
    y = _record((A, B, C, np.zeros((1, 1)), K), np.zeros((500, 1)), rng.standard_normal((500, 1)))
    found = lti.identify(None, y, 2)
    made = lti.bootstrap(found, None, [500])
    assert made.responses(OMEGA).shape == (50, 25, 1, 0)
    assert 0.005 < made.pole_deviation()[1].max() < 0.2
    with pytest.raises(ValueError, match="without inputs their lengths"):
        lti.bootstrap(found, None)
