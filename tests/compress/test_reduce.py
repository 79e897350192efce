"""Reduction of trained models: the bounds, the round trip to layers, the search."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from statewise.compress import (
    BalancedTruncation,
    H2Optimal,
    ModalSingularPerturbation,
    ModalTruncation,
    ReductionMethod,
    SingularPerturbation,
    reduce,
)
from statewise.compress.search import largest_cut
from statewise.compress.writing import Place, written
from statewise.data import Record
from statewise.lti import StateSpace, Trapezoid, balanced_truncation, h2_norm, hinf_norm
from statewise.models import (
    DeepWiener,
    DeepWienerConfig,
    LanguageModel,
    LanguageModelConfig,
    SequenceModel,
    SequenceModelConfig,
    load_model,
    save_model,
)
from statewise.nn import (
    GSS,
    LRU,
    LTI,
    S4D,
    S4PTD,
    S5,
    BlockSpec,
    ContinuousDiagonal,
    Layer,
    LayerNorm,
    Mamba,
    PolarDiagonal,
    Tanh,
)
from statewise.nn.modes import layer_modes
from statewise.train import LeastSquaresState

METHODS = [
    BalancedTruncation(),
    SingularPerturbation(),
    ModalTruncation(),
    ModalSingularPerturbation(),
]
LAYERS = {
    "LRU": LRU.spec(d_state=6, r_min=0.2, r_max=0.95),
    "S5": S5.spec(d_state=4),
    "S4D": S4D.spec(d_state=4, dt_max=0.5),
    "S4D-real": S4D.spec(d_state=4, real=True, dt_max=0.5),
    "two-points": LTI.spec(d_state=4, poles=ContinuousDiagonal(rule=Trapezoid(), dt_max=0.5)),
}
GRID = torch.linspace(0.0, np.pi, 400, dtype=torch.float64)


def deep(layer: object, dtype: torch.dtype = torch.float64, **changes: object) -> DeepWiener:
    parts: dict = {"n_layers": 2, "d_model": 3, "layer": layer, "static": Tanh()}
    return DeepWiener(2, 1, DeepWienerConfig(**(parts | changes)), seed=3).to(dtype).eval()


def linear_layers(model: nn.Module) -> list[LTI]:
    return [module for module in model.modules() if isinstance(module, LTI)]


def textbook(layer: LTI) -> StateSpace:
    """The real system of a dense layer with one input sample a step, by its own matrices."""
    a, gain, _ = layer.poles.discretise()
    b, c = layer.coupling.matrices()
    b, c = gain[:, None] * b, layer.poles.output_scale * c
    A = torch.zeros(2 * len(a), 2 * len(a), dtype=torch.float64)
    n = len(a)
    A[:n, :n] = A[n:, n:] = torch.diag(a.real)
    A[n:, :n], A[:n, n:] = torch.diag(a.imag), -torch.diag(a.imag)
    B = torch.cat((b.real, b.imag))
    C = torch.cat((c.real, -c.imag), 1)
    D = torch.zeros(len(c), b.shape[1], dtype=torch.float64) if layer.D is None else layer.D
    D = torch.diag(D) if D.ndim == 1 else D
    return StateSpace(A, B, C @ A, D + C @ B, dt=1.0)


def largest_gap(one: LTI, other: LTI) -> float:
    gap = one.frequency_response(GRID) - other.frequency_response(GRID)
    return float(torch.linalg.matrix_norm(gap, 2).max())


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
@torch.no_grad()
def test_the_error_is_measured_and_within_its_bound(layer, method: ReductionMethod) -> None:
    model = deep(layer)
    found = reduce(model, to=3, method=method)
    assert found.removed > 0
    rows = zip(found.blocks, linear_layers(model), linear_layers(found.model), strict=True)
    for block, before, after in rows:
        assert block.order_after <= 3 < block.order_before
        assert block.states_after == after.d_state < before.d_state or before.d_state == 4
        gap = largest_gap(before, after)
        assert gap <= block.error * (1 + 1e-6)
        assert block.error <= (block.bound + block.rounding) * (1 + 1e-6)
        assert block.rounding <= 1e-8
        largest = np.max(block.values[..., block.order_after])
        assert block.error >= largest * (1 - 1e-6) - block.rounding


@given(
    st.integers(1, 6),
    st.integers(1, 11),
    st.integers(0, 1000),
    st.sampled_from([BalancedTruncation(), SingularPerturbation(), ModalTruncation()]),
)
def test_bounds_hold_for_any_layer(states: int, order: int, seed: int, method) -> None:
    layer = LRU(2, 3, states, r_min=0.1, r_max=0.98, seed=seed)
    found = reduce(nn.Sequential(layer), to=order, method=method)
    (block,) = found.blocks
    assert block.error <= (block.bound + block.rounding) * (1 + 1e-6)
    assert block.rounding <= 1e-4 * block.gain


@torch.no_grad()
def test_the_layer_is_the_truncated_system() -> None:
    model = deep(LAYERS["LRU"])
    found = reduce(model, to=4)
    z = torch.exp(1j * GRID)
    for before, after in zip(linear_layers(model), linear_layers(found.model), strict=True):
        expected = balanced_truncation(textbook(before), 4).system(z)
        assert (after.frequency_response(GRID) - expected).abs().max() < 1e-10


@pytest.mark.parametrize("method", [SingularPerturbation(), ModalSingularPerturbation()])
@torch.no_grad()
def test_perturbation_keeps_the_constant_gain(method: ReductionMethod) -> None:
    model = deep(LAYERS["LRU"])
    found = reduce(model, to=3, method=method)
    zero = torch.zeros(1, dtype=torch.float64)
    for before, after in zip(linear_layers(model), linear_layers(found.model), strict=True):
        gap = before.frequency_response(zero) - after.frequency_response(zero)
        assert gap.abs().max() < 1e-11


@torch.no_grad()
def test_h2_optimal_is_no_worse_than_truncation_in_its_norm() -> None:
    model = deep(LAYERS["LRU"], n_layers=1)
    errors = []
    for method in (H2Optimal(), BalancedTruncation()):
        found = reduce(model, to=4, method=method)
        (before,), (after,) = linear_layers(model), linear_layers(found.model)
        gap = textbook(before) - textbook(after)
        errors.append(h2_norm(StateSpace(gap.A, gap.B, gap.C, dt=1.0)).item())
        assert (found.blocks[0].bound is None) == isinstance(method, H2Optimal)
    assert errors[0] <= errors[1] * (1 + 1e-9)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
@torch.no_grad()
def test_states_without_influence_go_for_nothing(method: ReductionMethod) -> None:
    model = deep(LAYERS["LRU"], n_layers=1)
    (layer,) = linear_layers(model)
    layer.coupling.B[2:] = 0
    u = torch.randn(2, 60, 2, dtype=torch.float64)
    found = reduce(model, to=4, method=method)
    assert (found.model(u)[0] - model(u)[0]).abs().max() < 1e-11
    assert found.blocks[0].bound <= 1e-12


@torch.no_grad()
def test_the_given_model_and_full_orders_stay() -> None:
    model = deep(LAYERS["LRU"])
    weights = copy.deepcopy(model.state_dict())
    found = reduce(model, to=[1.0, 4])
    assert all(torch.equal(weights[k], v) for k, v in model.state_dict().items())
    assert model.config.layer == LAYERS["LRU"]
    assert isinstance(linear_layers(found.model)[0], LRU)
    assert found.blocks[0].error == found.blocks[0].bound == 0
    u = torch.randn(1, 20, 2, dtype=torch.float64)
    assert torch.equal(reduce(model, to=1.0).model(u)[0], model(u)[0])


@pytest.mark.parametrize("layer", [*LAYERS.values(), None], ids=[*LAYERS, "config"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@torch.no_grad()
def test_reduced_models_run_and_are_saved_like_others(layer, dtype, tmp_path) -> None:
    model = deep(layer, dtype, d_state=4, bias=True)
    found = reduce(model, to=[3, 5])
    save_model(found.model, tmp_path / "model")
    again = load_model(tmp_path / "model")
    u = torch.randn(2, 40, 2, dtype=dtype)
    y, _ = found.model(u)
    assert torch.equal(again(u)[0], y)
    assert [layer.d_state for layer in linear_layers(again)] == [
        block.states_after for block in found.blocks
    ]
    state, steps = again.init_state(2), []
    for k in range(u.shape[1]):
        sample, state = again.step(u[:, k], state)
        steps.append(sample)
    tight = 1e-12 if dtype == torch.float64 else 1e-5
    assert (torch.stack(steps, 1) - y).abs().max() < tight
    lengths = torch.tensor([40, 7])
    short, _ = again(u, lengths=lengths)
    assert (short[1, :7] - y[1, :7]).abs().max() < tight


@torch.no_grad()
def test_sequence_models_get_a_block_for_each_layer(tmp_path) -> None:
    config = SequenceModelConfig(
        (BlockSpec(LRU.spec(d_state=6), norm=LayerNorm()), BlockSpec(Mamba.spec(d_state=4))),
        repeat=2,
        d_model=4,
    )
    model = SequenceModel(2, 1, config, seed=0).eval()
    found = reduce(model, to=[2, 4])
    assert [block.name for block in found.blocks] == ["blocks.0.layer", "blocks.2.layer"]
    assert found.untouched == ("blocks.1.layer (Mamba)", "blocks.3.layer (Mamba)")
    assert str(found).endswith("as they were: blocks.1.layer (Mamba), blocks.3.layer (Mamba)")
    assert found.model.config.repeat == 1
    assert len(found.model.config.blocks) == 4
    save_model(found.model, tmp_path / "model")
    u = torch.randn(1, 10, 2)
    assert torch.equal(load_model(tmp_path / "model")(u)[0], found.model(u)[0])


@torch.no_grad()
def test_a_layer_that_is_used_twice_is_replaced_twice() -> None:
    shared = LRU(2, 2, 6)
    found = reduce(nn.ModuleList([shared, nn.Identity(), shared]), to=3)
    assert len(found.blocks) == 1
    assert found.model[0] is found.model[2]
    assert found.model[0].d_state == found.blocks[0].states_after < 6


# --- what cannot be written as it is


def system(A: Sequence[Sequence[float]], dtype: torch.dtype) -> tuple[StateSpace, LTI]:
    n = len(A)
    B = torch.arange(1.0, n + 1, dtype=torch.float64)[:, None]
    return StateSpace(A, B, B.mT.flip(-1), dt=1.0), LTI(1, 1, 2).to(dtype)


AWKWARD = {
    "negative": [[-0.7, 0.0], [0.0, -0.2]],
    "defective": [[0.5, 1.0], [0.0, 0.5]],
    "delay": [[0.0, 0.0], [0.0, 0.3]],
    "two delays": [[0.0, 1.0], [0.0, 0.0]],
    "pair": [[0.3, 0.8], [-0.8, 0.3]],
    "near the circle": [[1 - 1e-7, 0.0], [0.0, 0.3]],
}


@pytest.mark.parametrize("A", AWKWARD.values(), ids=AWKWARD)
@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 2e-3), (torch.float64, 1e-5)])
@torch.no_grad()
def test_awkward_poles_are_written_within_a_small_error(A, dtype, size) -> None:
    given_system, like = system(A, dtype)
    layer = written([given_system], Place.of(like, bank=False))
    made = layer_modes(layer)
    assert made.poles.abs().max() < 1
    gain = float(hinf_norm(given_system).upper)
    points = torch.exp(1j * GRID)
    values = given_system(points)
    response = layer.double().frequency_response(GRID)
    # Beside the circle even the last digits of the pole matter at frequency 0.
    away = slice(1, None) if A is AWKWARD["near the circle"] else slice(None)
    assert (response - values)[away].abs().max() <= size * gain
    assert layer.d_state <= (1 if A is AWKWARD["pair"] else 2)


@torch.no_grad()
def test_negative_real_poles_run_as_such_in_float32() -> None:
    given_system, like = system([[-0.95, 0.0], [0.0, -0.2]], torch.float32)
    layer = written([given_system], Place.of(like, bank=False))
    u = torch.randn(1, 300, 1)
    s, expected = torch.zeros(2, dtype=torch.float64), []
    for k in range(300):
        expected.append((given_system.C @ s + given_system.D @ u[0, k].double()).item())
        s = given_system.A @ s + given_system.B @ u[0, k].double()
    gap = layer(u)[0].flatten().double() - torch.tensor(expected, dtype=torch.float64)
    assert gap.abs().max() < 1e-4


def test_what_no_diagonal_form_is_near_is_refused() -> None:
    A = 0.9 * np.eye(12) + np.eye(12, k=1)
    given_system, like = system(A.tolist(), torch.float32)
    with pytest.raises(ValueError, match="has no diagonal form: its eigenvectors have condition"):
        written([given_system], Place.of(like, bank=False))
    unstable, like = system([[1.1]], torch.float32)
    with pytest.raises(ValueError, match=r"a pole of modulus 1\.1"):
        written([unstable], Place.of(like, bank=False))


# --- a loss of fit


def record(model: DeepWiener, length: int = 300, seed: int = 0) -> Record:
    u = np.random.default_rng(seed).standard_normal((length, 2))
    with torch.no_grad():
        y, _ = model(torch.from_numpy(u)[None])
    return Record(y[0].numpy(), u, dt=1.0, skip=20)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_a_tolerance_is_kept_on_the_data(method: ReductionMethod) -> None:
    model = deep(LAYERS["LRU"])
    with torch.no_grad():
        for layer in linear_layers(model):
            layer.coupling.C[:, 3:] *= 1e-3
    data = [record(model)]
    found = reduce(model, tolerance=0.5, data=data, method=method)
    assert found.fit_before == pytest.approx(100)
    assert 99.5 <= found.fit_after < 100
    assert found.removed >= 0.5
    tighter = reduce(model, tolerance=1e-4, data=data, method=method)
    assert tighter.fit_after >= 100 - 1e-4 - 1e-9
    assert tighter.removed <= found.removed


def test_free_runs_start_where_they_are_told() -> None:
    model = deep(LAYERS["LRU"], n_layers=1)
    one = record(model)
    late = Record(one.y[50:], one.u[50:], dt=1.0, skip=60)
    rest = reduce(model, to=12, data=[late])
    found = reduce(model, to=12, data=[late], initial_state=LeastSquaresState(60))
    assert found.fit_before > rest.fit_before


def test_the_search_takes_only_what_was_scored() -> None:
    values = [np.array([4.0, 2.0, 1.0, 0.5]), np.array([1.0, 0.1])]
    score = {n: float(n) for n in range(7)}
    scored: list[tuple[int, ...]] = []

    def judge(orders: Sequence[int]) -> float:
        scored.append(tuple(orders))
        # The score falls and rises again.
        return -5.0 if sum(orders) == 4 else score[sum(orders)]

    orders = largest_cut(values, list, judge, 3.0)
    assert tuple(orders) in scored
    assert judge(orders) >= 6 - 3
    assert largest_cut(values, list, judge, 0.0) == [4, 2]


# --- refusals and views


def test_refusals_say_what_was_given() -> None:
    model = deep(LAYERS["LRU"])
    for keywords, words in (
        ({}, "one of to and tolerance"),
        ({"to": 3, "tolerance": 1.0}, "one of to and tolerance"),
        ({"to": 0}, "an order is at least 1; given 0"),
        ({"to": 1.5}, r"a fraction of the states is in \(0, 1\]; given 1.5"),
        ({"to": [3]}, "to has 1 orders; the model has 2 layers"),
        ({"tolerance": 1.0}, "data to measure it are missing"),
        ({"tolerance": -1.0, "data": [record(model)]}, "tolerance is 0 or more"),
    ):
        with pytest.raises(ValueError, match=words):
            reduce(model, **keywords)
    with pytest.raises(TypeError, match="given True"):
        reduce(model, to=True)
    with pytest.raises(TypeError, match="a method such as"):
        reduce(model, to=3, method=BalancedTruncation)  # type: ignore[arg-type]
    for kind in (Mamba, GSS):
        said = rf"no linear layers to reduce: it has blocks\.0\.layer \({kind.__name__}\)"
        with pytest.raises(ValueError, match=said):
            reduce(deep(kind.spec(d_state=4), dtype=torch.float32), to=3)
    with pytest.raises(ValueError, match="a layer alone"):
        reduce(LRU(2, 2, 4), to=3)
    with pytest.raises(TypeError, match="LanguageModel"):
        reduce(LanguageModel(LanguageModelConfig(8, 4, 1, layer=LRU.spec(d_state=4))), to=2)
    with pytest.raises(ValueError, match="iterations >= 1"):
        H2Optimal(iterations=0)


def test_a_result_reads_and_draws() -> None:
    model = deep(LAYERS["S4D"])
    found = reduce(model, to=0.5, data=[record(model)])
    text = str(found)
    assert "blocks.1.layer" in text
    assert "50 % of the states removed" in text or "removed, FIT" in text
    figure = found.plot()
    assert len(figure.axes) == 2
    assert found.blocks[0].values.shape == (3, 8)
    assert found.parameters_after == sum(p.numel() for p in found.model.parameters())
    assert not found.untouched


def test_errors_need_not_be_measured() -> None:
    model = deep(LAYERS["S4D"])
    quick, full = (reduce(model, to=3, certify=certify) for certify in (False, True))
    for name, tensor in full.model.state_dict().items():
        assert torch.equal(tensor, quick.model.state_dict()[name])
    for block, other in zip(quick.blocks, full.blocks, strict=True):
        assert (block.order_after, block.bound) == (other.order_after, other.bound)
        assert np.isnan([block.gain, block.rounding, block.error]).all()
    assert "nan" in str(quick)


def test_perturbed_then_diagonalised_layers_are_known() -> None:
    model = nn.Sequential(S4PTD(2, 4).double())
    found = reduce(model, to=4)
    assert isinstance(found.model[0], Layer)
    (block,) = found.blocks
    assert block.error <= (block.bound + block.rounding) * (1 + 1e-6)


def test_polar_poles_are_placed_where_they_should_be() -> None:
    wanted = torch.tensor([0.5, -0.9, 0.3 + 0.4j, -0.2 - 0.7j, 1e-5], dtype=torch.complex128)
    poles = PolarDiagonal().build(5, 1, np.random.default_rng(0)).double()
    poles.place(wanted)
    assert (poles.eigenvalues - wanted).abs().max() < 1e-15
    half = torch.tensor([0.5], dtype=torch.float64)
    twice: Tensor = poles.discretise(half).a ** 2
    assert (twice - wanted).abs().max() < 1e-15
