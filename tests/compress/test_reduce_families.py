"""Reduction of linear layers that are not of class LTI: S4, DSS, LSSL, EMA and others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from statewise.compress import (
    BalancedTruncation,
    H2Optimal,
    ModalSingularPerturbation,
    ModalTruncation,
    SingularPerturbation,
    reduce,
)
from statewise.compress.search import largest_cut
from statewise.data import Record
from statewise.lti import (
    FouT,
    LegT,
    StateSpace,
    balanced_truncation,
    from_diagonal,
    singular_perturbation,
)
from statewise.lti.diagonal_form import DiagonalForm
from statewise.models import (
    DeepWiener,
    DeepWienerConfig,
    SequenceModel,
    SequenceModelConfig,
    load_model,
    save_model,
)
from statewise.nn import (
    DSS,
    EMA,
    LRU,
    LSSL,
    LTI,
    S4,
    S4D,
    BlockSpec,
    Companion,
    Gated,
    L2Bounded,
    Layer,
    LayerNorm,
    LongConv,
    Mamba,
    SeqBoat,
    Tanh,
    WienerBlock,
)
from statewise.nn.systems import layer_systems

FAMILIES = {
    "S4": S4.spec(d_state=8, dt_min=0.02, dt_max=0.3),
    "S4-LegT": S4.spec(d_state=5, measure=LegT(), dt_min=0.02),
    "S4-FouT": S4.spec(d_state=5, measure=FouT(), dt_min=0.02),
    "DSS": DSS.spec(d_state=6, dt_min=0.02, dt_max=0.3),
    "DSS-softmax": DSS.spec(d_state=4, norm="softmax", length=32, dt_min=0.02),
    "LSSL": LSSL.spec(d_state=10, dt_min=0.02, dt_max=0.3),
    "LSSL-Euler": LSSL.spec(d_state=6, alpha=1.0, train_dynamics=True),
    "EMA": EMA.spec(d_state=6),
    "Companion": Companion.spec(d_state=7, norm="scaled"),
    "Companion-shift": Companion.spec(d_state=6, norm="none", init="shift"),
    "LongConv": LongConv.spec(taps=16, squash=0.0, init="random"),
    "L2Bounded": L2Bounded.spec(d_state=5),
}
DIAGONAL = {"DSS", "DSS-softmax", "EMA", "L2Bounded"}
WIDTH = 3
GRID = torch.linspace(0.0, np.pi, 300, dtype=torch.float64)
every_family = pytest.mark.parametrize("name", FAMILIES)


def deep(layer: Any, dtype: torch.dtype = torch.float64, **changes: Any) -> DeepWiener:
    parts: dict[str, Any] = {"n_layers": 1, "d_model": WIDTH, "layer": layer, "static": Tanh()}
    return DeepWiener(2, 1, DeepWienerConfig(**(parts | changes)), seed=3).to(dtype).eval()


def only_layer(model: DeepWiener) -> Layer:
    (block,) = model.blocks
    assert isinstance(block.layer, Layer)
    return block.layer


def impulse_response(layer: Layer, length: int) -> Tensor:
    """What the layer gives for a unit in each of its inputs, (length, d_output, d_input)."""
    u = torch.zeros(layer.d_input, length, layer.d_input, dtype=torch.float64)
    u[:, 0] = torch.eye(layer.d_input, dtype=torch.float64)
    return layer(u)[0].permute(1, 2, 0)


def matrices(layer: Layer) -> list[StateSpace]:
    """The systems of a layer as real matrices, one for each channel of a bank."""
    systems = layer_systems(layer)
    assert systems is not None
    systems = from_diagonal(systems) if isinstance(systems, DiagonalForm) else systems
    return [systems[k] for k in range(len(systems.A))] if systems.batch_shape else [systems]


def joined(singles: list[Tensor]) -> Tensor:
    """Channel responses (..., 1, 1) as one diagonal matrix; one joint response as it is."""
    if len(singles) == 1:
        return singles[0]
    return torch.diag_embed(torch.cat(singles, -1).squeeze(-2))


@pytest.mark.parametrize("name", [*FAMILIES, "LSSL-outputs", "Companion-heads"])
@torch.no_grad()
def test_the_system_that_is_read_computes_what_the_layer_does(name) -> None:
    more: dict[str, Layer] = {
        "LSSL-outputs": LSSL(2, 5, outputs=3, seed=1),
        "Companion-heads": Companion(4, d_state=5, heads=2, seed=1),
    }
    layer = more[name] if name in more else only_layer(deep(FAMILIES[name]))
    layer = layer.double().eval()
    expected = impulse_response(layer, 40)
    singles = []
    for one in matrices(layer):
        taps, column = [one.D], one.B
        for _ in range(39):
            taps.append(one.C @ column)
            column = one.A @ column
        singles.append(torch.stack(taps))
    assert (joined(singles) - expected).abs().max() < 1e-13 * expected.abs().max()


def test_reading_leaves_the_layer_and_its_type() -> None:
    layer = EMA(3, d_state=4)
    weights = {name: value.clone() for name, value in layer.state_dict().items()}
    systems = layer_systems(layer)
    assert isinstance(systems, DiagonalForm)
    assert systems.poles.dtype == torch.complex128
    assert layer.training
    assert layer_systems(Mamba(4, d_state=2)) is None
    for name, value in layer.state_dict().items():
        assert torch.equal(value, weights[name])


@every_family
@pytest.mark.parametrize(
    "method", [BalancedTruncation(), SingularPerturbation()], ids=["truncated", "perturbed"]
)
@torch.no_grad()
def test_the_layer_in_its_place_is_the_reduced_system_within_the_bound(name, method) -> None:
    model = deep(FAMILIES[name])
    before = only_layer(model)
    found = reduce(model, to=4, method=method)
    after = only_layer(found.model)
    (block,) = found.blocks
    assert isinstance(after, LTI)
    assert found.untouched == ()
    assert block.order_after <= 4 < block.order_before
    assert block.states_after == after.d_state < block.states_before

    z = torch.exp(1j * GRID)
    full = joined([one(z) for one in matrices(before)])
    made = after.frequency_response(GRID)
    gap = float(torch.linalg.matrix_norm(full - made, 2).max())
    assert gap <= block.error * (1 + 1e-6)
    assert block.error <= (block.bound + block.rounding) * (1 + 1e-6)
    perturbed = isinstance(method, SingularPerturbation)
    smaller = singular_perturbation if perturbed else balanced_truncation
    wanted = joined([smaller(one, 4).system(z) for one in matrices(before)])
    assert (made - wanted).abs().max() <= 1e-9 * full.abs().max()
    if perturbed:
        assert (made - full)[0].abs().max() <= 1e-9 * full.abs().max()


@pytest.mark.parametrize("name", sorted(DIAGONAL))
@pytest.mark.parametrize("method", [ModalTruncation(), ModalSingularPerturbation()])
@torch.no_grad()
def test_modes_are_chosen_where_the_layer_has_them(name, method) -> None:
    found = reduce(deep(FAMILIES[name]), to=4, method=method)
    (block,) = found.blocks
    assert block.order_after <= 4
    assert block.error <= (block.bound + block.rounding) * (1 + 1e-6)
    assert block.rounding <= 1e-9 * block.gain


@torch.no_grad()
def test_a_method_of_modes_passes_over_matrices_without_independent_ones() -> None:
    both = (LSSL.spec(d_state=40), DSS.spec(d_state=4))
    model = deep(both, n_layers=2)
    found = reduce(model, to=3, method=ModalTruncation())
    assert [block.name for block in found.blocks] == ["blocks.1.layer"]
    assert found.untouched == ("blocks.0.layer (LSSL, modes nearly dependent)",)
    assert "LSSL, modes nearly dependent" in str(found)
    # As a matrix it is reduced all the same, and what is left has modes.
    found = reduce(model, to=[6, 1.0])
    assert found.untouched == ()
    assert found.blocks[0].order_before == 40
    assert found.blocks[0].rounding <= 1e-9 * found.blocks[0].gain


@torch.no_grad()
def test_the_iteration_starts_from_a_matrix_too() -> None:
    (block,) = reduce(deep(FAMILIES["LSSL"]), to=4, method=H2Optimal()).blocks
    assert block.bound is None
    assert block.error < block.gain


@every_family
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@torch.no_grad()
def test_the_layer_in_its_place_runs_and_is_saved_like_others(name, dtype, tmp_path) -> None:
    model = deep(FAMILIES[name], dtype)
    found = reduce(model, to=3, certify=False)
    assert isinstance(found.model.blocks[0], WienerBlock)
    save_model(found.model, tmp_path / "model")
    again = load_model(tmp_path / "model")
    u = torch.randn(2, 30, 2, dtype=dtype)
    y, last = found.model(u)
    assert y.dtype == dtype
    assert torch.equal(again(u)[0], y)

    tight = 1e-12 if dtype == torch.float64 else 2e-5
    state, steps = again.init_state(2), []
    for k in range(30):
        sample, state = again.step(u[:, k], state)
        steps.append(sample)
    assert (torch.stack(steps, 1) - y).abs().max() < tight
    (one,), (other,) = last, state
    assert (one - other).abs().max() < tight * (1 + one.abs().max())
    short, _ = again(u, lengths=torch.tensor([30, 7]))
    assert (short[1, :7] - y[1, :7]).abs().max() < tight
    assert not short[1, 7:].any()
    reset = torch.zeros(2, 30, dtype=torch.bool)
    reset[:, 12] = True
    fresh, _ = again(u, reset=reset)
    assert (fresh[:, 12:] - again(u[:, 12:])[0]).abs().max() < tight
    assert torch.isfinite(again(u, dt=torch.full((2, 30), 0.5, dtype=dtype))[0]).all()


@every_family
@torch.no_grad()
def test_full_orders_stay_as_they_are(name) -> None:
    model = deep(FAMILIES[name])
    found = reduce(model, to=1.0)
    assert type(only_layer(found.model)) is type(only_layer(model))
    assert found.removed == found.blocks[0].error == 0
    u = torch.randn(1, 10, 2, dtype=torch.float64)
    assert torch.equal(found.model(u)[0], model(u)[0])


@torch.no_grad()
def test_blocks_of_a_sequence_model_and_a_layer_that_is_used_twice(tmp_path) -> None:
    blocks = tuple(
        BlockSpec(spec, norm=LayerNorm())
        for spec in (S4.spec(d_state=4), Mamba.spec(d_state=4), EMA.spec(d_state=4))
    )
    model = SequenceModel(2, 1, SequenceModelConfig(blocks, d_model=4), seed=0).eval()
    found = reduce(model, to=[2, 3])
    assert [block.name for block in found.blocks] == ["blocks.0.layer", "blocks.2.layer"]
    assert found.untouched == ("blocks.1.layer (Mamba)",)
    save_model(found.model, tmp_path / "model")
    u = torch.randn(1, 10, 2)
    assert torch.equal(load_model(tmp_path / "model")(u)[0], found.model(u)[0])

    shared = EMA(2, d_state=6).double()
    twice = reduce(nn.ModuleList([shared, nn.Identity(), shared]), to=2).model
    assert twice[0] is twice[2]
    assert twice[0].d_state <= 2


@torch.no_grad()
def test_several_outputs_of_a_channel_are_reduced_as_one_system() -> None:
    layer = LSSL(2, 4, outputs=2, dt_min=0.05).double()
    found = reduce(nn.Sequential(layer), to=5)
    (block,) = found.blocks
    assert (block.order_before, block.order_after) == (8, 5)
    after = found.model[0]
    assert (after.d_input, after.d_output) == (2, 4)
    gap = matrices(layer)[0](torch.exp(1j * GRID)) - after.frequency_response(GRID)
    assert torch.linalg.matrix_norm(gap, 2).max() <= (block.bound + block.rounding) * (1 + 1e-6)


@torch.no_grad()
def test_taps_of_zero_at_the_end_are_no_states() -> None:
    layer = LongConv(2, taps=12, squash=0.0).double()
    layer.taps[:, 5:] = 0
    assert matrices(layer)[0].n_states == 4
    layer.taps[:, 1:] = 0
    model = nn.ModuleList([layer, LRU(2, 2, 3)])
    assert len(reduce(model, to=2).blocks) == 1


# --- what stays


@torch.no_grad()
def test_what_is_not_stable_stays() -> None:
    model = deep((LSSL.spec(d_state=3, train_dynamics=True), DSS.spec(d_state=3)), n_layers=2)
    first = model.blocks[0].layer
    assert isinstance(first, LSSL)
    first.A.copy_(torch.eye(3))
    found = reduce(model, to=2)
    assert found.untouched == ("blocks.0.layer (LSSL, not stable)",)
    assert found.model.blocks[0].layer.A.equal(first.A)
    alone = SequenceModel(2, 1, SequenceModelConfig((BlockSpec(Mamba.spec()),), d_model=4))
    alone.blocks[0].layer = first
    with pytest.raises(ValueError, match=r"it has blocks\.0\.layer \(LSSL, not stable\)"):
        reduce(alone, to=2)


@torch.no_grad()
def test_what_has_more_than_an_output_or_too_long_a_memory_stays() -> None:
    layers = (
        Companion.spec(d_state=4, closed_loop=True),
        LongConv.spec(taps=600, squash=0.0),
        EMA.spec(d_state=4),
    )
    found = reduce(deep(layers, n_layers=3), to=2)
    assert found.untouched == ("blocks.0.layer (Companion)", "blocks.1.layer (LongConv)")
    assert layer_systems(LSSL(100, 6, outputs=2)) is None


@torch.no_grad()
def test_a_layer_inside_another_one_stays() -> None:
    model = deep((SeqBoat.spec(d_state=4), EMA.spec(d_state=4)), n_layers=2, d_model=4)
    found = reduce(model, to=2)
    assert [block.name for block in found.blocks] == ["blocks.1.layer"]
    assert found.untouched == ("blocks.0.layer (SeqBoat)",)
    assert isinstance(found.model.blocks[0].layer.memory, EMA)


@pytest.mark.parametrize("inner", [S4.spec(d_state=4), S4D.spec(d_state=4)])
@torch.no_grad()
def test_a_layer_inside_a_gated_shell_is_reduced(inner, tmp_path) -> None:
    specs = (BlockSpec(Gated.spec(inner=inner, d_conv=2)), BlockSpec(Mamba.spec(d_state=4)))
    model = SequenceModel(2, 1, SequenceModelConfig(specs, repeat=2, d_model=3), seed=0).eval()
    found = reduce(model, to=[1.0, 3])
    names = [block.name for block in found.blocks]
    assert names == ["blocks.0.layer.inner", "blocks.2.layer.inner"]
    assert found.untouched == ("blocks.1.layer (Mamba)", "blocks.3.layer (Mamba)")
    save_model(found.model, tmp_path / "model")
    again = load_model(tmp_path / "model")
    u = torch.randn(1, 10, 2)
    assert torch.equal(again(u)[0], found.model(u)[0])
    first, second = (again.blocks[k].layer for k in (0, 2))
    assert type(first.inner).__name__ == inner.layer
    assert (second.inner.d_state, second.conv.width) == (found.blocks[1].states_after, 2)


@torch.no_grad()
def test_a_prescribed_gain_is_kept() -> None:
    model = deep(L2Bounded.spec(d_state=5), gain=2.0)
    with pytest.raises(ValueError, match="L2Bounded, in a model with a prescribed gain"):
        reduce(model, to=2)
    (block,) = reduce(deep(L2Bounded.spec(d_state=5)), to=2).blocks
    assert block.gain <= 1 + 1e-6


# --- a loss of fit


def test_a_tolerance_is_kept_on_the_data() -> None:
    model = deep((S4.spec(d_state=8, dt_min=0.1, dt_max=0.3), EMA.spec(d_state=4)), n_layers=2)
    u = np.random.default_rng(0).standard_normal((200, 2))
    with torch.no_grad():
        y = model(torch.from_numpy(u)[None])[0][0].numpy()
    found = reduce(model, tolerance=1.0, data=[Record(y, u, dt=1.0)], certify=False)
    assert found.fit_before == pytest.approx(100)
    assert 99 <= found.fit_after < 100
    assert found.removed > 0


def test_the_search_passes_over_orders_that_are_no_layer() -> None:
    def score(orders: list[int]) -> float:
        return -np.inf if orders[0] in (3, 5) else float(orders[0])

    assert largest_cut([np.array([6.0, 5, 4, 3, 2, 1])], list, score, 4.0) == [2]
