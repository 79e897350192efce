"""Pruning: which channels have no influence, and what the others' absence changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from statewise.compress import prune
from statewise.compress.pruning import without_influence
from statewise.data import Record
from statewise.models import (
    DeepWiener,
    DeepWienerConfig,
    SequenceModel,
    SequenceModelConfig,
    load_model,
    save_model,
)
from statewise.nn import (
    ELU,
    GLU,
    LRU,
    MLP,
    S4D,
    Bank,
    Identity,
    LayerNorm,
    LinearPlus,
    Mamba,
    Polynomial,
    Tanh,
)

STATICS = [ELU(), GLU(), Identity(), MLP(5), Polynomial(2), Tanh(), LinearPlus(Tanh())]
WIDTH, DEAD = 6, 2


def build(seed: int = 0, **changes: object) -> DeepWiener:
    parts: dict = {"n_layers": 2, "d_model": WIDTH, "d_state": 4, "bias": True, "static": Tanh()}
    model = DeepWiener(2, 2, DeepWienerConfig(**(parts | changes)), seed=seed)
    with torch.no_grad():
        for parameter in model.parameters():
            # Nothing is 0 by its initial draw.
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.manual_seed(seed))
    return model.double().eval()


def signals(length: int = 200) -> torch.Tensor:
    return torch.randn(3, length, 2, dtype=torch.float64, generator=torch.manual_seed(1))


def record(length: int = 200, seed: int = 0) -> Record:
    draw = np.random.default_rng(seed)
    return Record(draw.standard_normal((length, 2)), draw.standard_normal((length, 2)), dt=1.0)


def hide(model: DeepWiener, channel: int, *, reading: bool) -> None:
    """Let nothing read a channel, or nothing write it, by zeros."""
    with torch.no_grad():
        if reading:
            model.output_map.weight[:, channel] = 0
        elif model.input_map is not None:
            model.input_map.weight[channel] = 0
            model.input_map.bias[channel] = 0
        for block in model._chain:
            layer, static = block.layer, block.static
            if reading and layer.D.ndim == 2:
                layer.coupling.B[:, channel] = 0
                layer.D[:, channel] = 0
            inner = getattr(static, "map", static)
            if hasattr(inner, "mix"):
                inner.mix.weight[:, channel] = 0
                if not reading:
                    inner.mix.weight[channel] = 0
                    inner.mix.bias[channel] = 0
            elif isinstance(inner, torch.nn.Sequential):
                inner[0].weight[:, channel] = 0
                if not reading:
                    inner[-1].weight[channel] = 0
                    inner[-1].bias[channel] = 0
            elif not reading:
                layer.coupling.C[channel] = 0
                layer.D[channel] = 0
                layer.bias[channel] = 0
                if hasattr(inner, "coefficients"):
                    inner.coefficients[:, channel] = 0
                    inner.coefficients[1, channel] = 1


@pytest.mark.parametrize("reading", [True, False], ids=["unread", "unwritten"])
@pytest.mark.parametrize("coupling", ["dense", "bank"])
@pytest.mark.parametrize("static", STATICS, ids=lambda static: type(static).__name__)
@torch.no_grad()
def test_channels_hidden_by_zeros_go_for_nothing(static, coupling: str, reading: bool) -> None:
    parts = {"coupling": Bank()} if coupling == "bank" else {}
    model = build(static=static, **parts)
    assert without_influence(model) == []
    hide(model, DEAD, reading=reading)
    found = prune(model)
    assert found.removed == (DEAD,)
    assert found.exact
    assert found.bound == 0
    assert found.model.config.d_model == WIDTH - 1
    u = signals()
    assert (found.model(u)[0] - model(u)[0]).abs().max() < 1e-12
    assert found.parameters_after < found.parameters_before


@pytest.mark.parametrize("static", STATICS, ids=lambda static: type(static).__name__)
@torch.no_grad()
def test_a_weight_that_is_not_zero_keeps_the_channel(static) -> None:
    """One weight at a time brings the influence back, and the channel stays."""
    u = signals(40)
    for reading in (True, False):
        base = build(static=static)
        hide(base, DEAD, reading=reading)
        for name, parameter in base.named_parameters():
            where = (parameter == 0).nonzero()
            if not len(where):
                continue
            model = build(static=static)
            model.load_state_dict(base.state_dict())
            changed = dict(model.named_parameters())[name]
            changed[tuple(where[-1])] = 0.5
            expected = model(u)[0]
            found = prune(model)
            assert (found.model(u)[0] - expected).abs().max() < 1e-12


@torch.no_grad()
def test_all_but_one_channel_can_go() -> None:
    model = build()
    model.output_map.weight.zero_()
    for block in model._chain:
        block.layer.coupling.B.zero_()
        block.layer.D.zero_()
    found = prune(model)
    assert found.model.config.d_model == 1
    assert (found.model(signals())[0] - model(signals())[0]).abs().max() < 1e-14


@pytest.mark.parametrize("norm", [None, LayerNorm()], ids=["plain", "norm"])
@torch.no_grad()
def test_little_influence_is_measured(norm) -> None:
    model = build(norm=norm)
    hide(model, DEAD, reading=True)
    model.output_map.weight[:, DEAD] = 1e-4
    data = [record(), record(150, 1)]
    assert prune(model, data=data).removed == ()
    if norm is None:
        found = prune(model, data=data, tolerance=1e-2)
        assert DEAD in found.removed
        assert not found.exact
    else:
        found = prune(model, data=data, tolerance=0.5)
    assert 0 <= found.bound <= (1e-2 if norm is None else 0.5)
    outputs, changed = ([], [])
    for one in data:
        u = torch.from_numpy(one.u.copy())[None]
        outputs.append(model(u)[0][0])
        changed.append(found.model(u)[0][0] - outputs[-1])
    y, gap = torch.cat(outputs), torch.cat(changed)
    relative = ((gap**2).mean(0) / y.var(0, correction=0)).mean().sqrt()
    assert found.bound == pytest.approx(relative.item(), rel=1e-9)
    assert found.largest == pytest.approx(gap.abs().max().item(), rel=1e-9)


@pytest.mark.parametrize(
    "parts",
    [
        {"layer": LRU.spec(d_state=4), "skip": "linear", "input_map": False},
        {"layer": S4D.spec(d_state=4), "direct": True},
    ],
    ids=["LRU", "S4D"],
)
@torch.no_grad()
def test_pruned_models_are_saved_like_others(parts, tmp_path) -> None:
    found = prune(build(**parts).float(), data=[record()], tolerance=0.3)
    assert found.removed
    assert set(found.removed) | set(found.kept) == set(range(WIDTH))
    save_model(found.model, tmp_path / "model")
    u = signals(30).float()
    assert torch.equal(load_model(tmp_path / "model")(u)[0], found.model(u)[0])


def test_refusals_say_what_was_given() -> None:
    model = build()
    with pytest.raises(ValueError, match="data are missing"):
        prune(model, tolerance=0.1)
    with pytest.raises(ValueError, match="tolerance is 0 or more; given -1"):
        prune(model, tolerance=-1)
    with pytest.raises(ValueError, match="given Mamba"):
        prune(DeepWiener(1, 1, DeepWienerConfig(layer=Mamba.spec(d_state=4))))
    with pytest.raises(TypeError, match="given SequenceModel"):
        prune(SequenceModel(1, 1, SequenceModelConfig((LRU.spec(d_state=2),))))  # type: ignore[arg-type]
