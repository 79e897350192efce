"""One step of Mamba and Mamba-2 layers: back ends, and the layers that take it."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from contracts.layer_base import close, fold
from statewise import ops
from statewise.nn import Mamba, Mamba2, map_state
from statewise.nn.fused import overwriting
from statewise.ops import dispatch, mamba2_step, mamba_step


def draw(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype)


def leave_if_kernels_need_a_device(backend: str) -> None:
    """Kernels run on CPU tensors in Triton's interpreter, which is off where a device is."""
    refusal = dispatch._ask("mamba_step", backend, "cpu", torch.float64)[1]
    if backend == "gpu" and refusal is not None:
        pytest.skip(refusal)


def moved(layer: nn.Module) -> nn.Module:
    """The layer in float64, every parameter away from its start."""
    with torch.no_grad():
        for k, parameter in enumerate(layer.double().parameters()):
            parameter += 0.3 * draw(*parameter.shape, seed=k)
    return layer


# Numbers of states that fill the widest packs, narrower ones and none; channels that fill none.
MAMBAS = [
    Mamba(5, d_state=16, dt_max=1.0),
    Mamba(3, d_state=3, d_conv=1, dt_rank=2, expand=3, conv_bias=False),
    Mamba(40, d_state=8, d_conv=2, dt_rank=70, bias=True),
    Mamba(9, d_state=4, dt_rank=17),
]
MAMBA2S = [
    Mamba2(8, headdim=4, d_state=16, dt_max=1.0),
    Mamba2(8, headdim=2, d_state=3, n_groups=2, norm_before_gate=True, D_per_channel=True),
    Mamba2(6, headdim=3, d_state=8, d_ssm=6, rmsnorm=False, d_conv=2, bias=True),
    Mamba2(6, headdim=3, d_state=4, d_ssm=6, conv_bias=False, dt_lowest=0.1, dt_highest=0.9),
    Mamba2(8, headdim=4, d_state=2, d_conv=1, learnable_init_states=True),
]
LAYERS = [moved(layer) for layer in (*MAMBAS, *MAMBA2S)]


@pytest.mark.parametrize(
    ("backend", "batch"),
    [("reference", 1), ("reference", 3), ("cpu", 1), ("cpu", 3), ("gpu", 2)],
)
@pytest.mark.parametrize("layer", LAYERS)
def test_steps_without_gradients_are_the_sequence(layer, batch, backend, monkeypatch) -> None:
    """The small operations run while gradients are asked for, the one operator otherwise."""
    leave_if_kernels_need_a_device(backend)
    u = draw(batch, 6, layer.d_input)
    dt = draw(batch, 6, seed=1).exp()
    mask = draw(batch, 6, seed=2) > -0.5
    start = layer(draw(batch, 4, layer.d_input, seed=3))[1]
    kept = [part.clone() for part in start]
    taken = []
    for name in ("mamba", "mamba2"):
        called = getattr(ops, f"{name}_step")
        note = lambda *a, f=called, **k: taken.append(1) or f(*a, **k)  # noqa: E731
        monkeypatch.setattr(f"statewise.nn.{name}.{name}_step", note)
    for extra in ({}, {"dt": dt}, {"mask": mask}):
        expected, last = layer(u, start, **extra)
        with torch.no_grad(), ops.use_backend(backend):
            y, state = fold(layer, u, start, **extra)
        assert type(state) is type(last)
        close(y, expected, rtol=1e-10, atol=1e-12)
        close(state, last, rtol=1e-10, atol=1e-12)
    assert len(taken) == 18
    fold(layer, u, start)
    assert len(taken) == 18
    close(start, tuple(kept), rtol=0, atol=0)


@pytest.mark.parametrize("layer", [Mamba(64, seed=1), Mamba2(64, headdim=16, seed=1)])
def test_float32(layer) -> None:
    u = draw(2, 30, 64, dtype=torch.float32)
    with torch.no_grad():
        y, state = fold(layer, u, layer.init_state(2))
        assert y.dtype == state.ssm.dtype == torch.float32
        wide, _ = layer.double()(u.double())
    assert (y - wide).norm() < 2e-6 * wide.norm()


@pytest.mark.parametrize("layer", [MAMBAS[0], MAMBA2S[0]])
def test_watched_or_replaced_parts_are_called(layer) -> None:
    u, state = draw(1, layer.d_input), layer.init_state(1)
    seen = []
    handle = layer.in_proj.register_forward_hook(lambda *given: seen.append(1))
    with torch.no_grad():
        watched = layer.step(u, state)
        handle.remove()
        assert seen
        close(layer.step(u, state), watched, rtol=1e-10, atol=1e-12)

        class Doubled(nn.Linear):
            def forward(self, x):
                return 2 * super().forward(x)

        inner, outer = layer.out_proj.weight.shape[::-1]
        plain = layer.out_proj
        layer.out_proj = Doubled(inner, outer, bias=False).double()
        layer.out_proj.weight = plain.weight
        close(layer.step(u, state)[0], 2 * watched[0], rtol=1e-10, atol=1e-12)
        layer.out_proj = plain
        many = draw(9, layer.d_input)
        rows = [layer.step(many[k : k + 1], state)[0] for k in range(9)]
        close(layer.step(many, layer.init_state(9))[0], torch.cat(rows), rtol=1e-10, atol=1e-12)


def given() -> tuple[list, list]:
    """Arguments of a step of each kind."""
    one, two = MAMBAS[0], MAMBA2S[0]
    found = []
    for layer in (one, two):
        u, state = draw(1, layer.d_input), layer.init_state(1)
        with torch.no_grad():
            found.append([u, *state, layer._fused_weights(u, state)])
    return found[0], found[1]


def test_what_does_not_fit_is_said() -> None:
    first, second = given()
    with pytest.raises(ValueError, match=r"mamba_step has no gradient.*no_grad"):
        mamba_step(*first)
    with torch.no_grad():
        for k, words in ((0, "u has shape"), (1, "window has shape"), (2, "h has shape")):
            for call, arguments in ((mamba_step, first), (mamba2_step, second)):
                wrong = list(arguments)
                wrong[k] = wrong[k][0]
                with pytest.raises(ValueError, match=words):
                    call(*wrong)
        with pytest.raises(TypeError, match=r"u is torch.float32.*torch.float64"):
            mamba_step(first[0].float(), *first[1:])
        with pytest.raises(TypeError, match=r"u is torch.bfloat16"):
            mamba2_step(second[0].bfloat16(), *second[1:])
        short = first[3]._replace(D=first[3].D[1:])
        with pytest.raises(ValueError, match=r"D has shape \(9,\).*\(10,\)"):
            mamba_step(*first[:3], short)
        with pytest.raises(ValueError, match=r"scale has shape \(2,\).*\(1,\)"):
            mamba2_step(*second, scale=draw(2))
        with pytest.raises(ValueError, match="n_groups = 3 that divides H"):
            mamba2_step(*second, n_groups=3)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_nan_stays_in_its_row(backend) -> None:
    with torch.no_grad(), ops.use_backend(backend):
        for layer in LAYERS[:1] + LAYERS[4:5]:
            u = draw(3, layer.d_input)
            y, _ = layer.step(u, layer.init_state(3))
            u[1] = math.nan
            spoiled, _ = layer.step(u, layer.init_state(3))
            assert spoiled[1].isnan().all()
            assert torch.equal(spoiled[[0, 2]], y[[0, 2]])


@pytest.mark.parametrize("backend", ["reference", "gpu"])
@pytest.mark.parametrize("layer", [LAYERS[0], LAYERS[4], LAYERS[5]])
def test_half_types_have_wide_states(layer, backend) -> None:
    """Parameters and signals are rounded, as everywhere; what is kept from step to step is not."""
    leave_if_kernels_need_a_device(backend)
    half = copy.deepcopy(layer).bfloat16()
    u = draw(2, 3, layer.d_input, dtype=torch.bfloat16)
    state = half.init_state(2)
    step, rest = fused(half)
    with torch.no_grad(), ops.use_backend(backend):
        for k in range(3):
            y, *state = step(u[:, k], *state, weights(half), **rest)
            assert y.dtype == torch.bfloat16
            assert all(part.dtype == torch.float32 for part in state)
    with torch.no_grad():
        wide = copy.deepcopy(half).double()
        expected, last = wide(u.double())
    assert (y - expected[:, -1]).norm() < 2e-2 * expected[:, -1].norm()
    assert (state[1] - last.ssm).norm() < 2e-2 * last.ssm.norm()


@pytest.mark.parametrize("backend", ["reference", "cpu", "gpu"])
@pytest.mark.parametrize("layer", [LAYERS[0], LAYERS[4]])
def test_states_are_written_over_where_one_says_so(layer, backend) -> None:
    leave_if_kernels_need_a_device(backend)
    u, before = draw(2, layer.d_input), layer(draw(2, 4, layer.d_input, seed=3))[1]
    before = map_state(torch.Tensor.detach, before)
    with torch.no_grad(), ops.use_backend(backend):
        expected = layer.step(u, before)
        kept = map_state(torch.clone, before)
        with overwriting():
            y, after = layer.step(u, before)
        assert after.ssm is before.ssm
        assert torch.equal(y, expected[0])
        close(after, expected[1], rtol=0, atol=0)
        # Memory that is not in one piece is left alone.
        spread = kept._replace(ssm=torch.stack([kept.ssm, kept.ssm], -1)[..., 0])
        with overwriting():
            y, after = layer.step(u, spread)
        assert torch.equal(spread.ssm, kept.ssm)
        assert torch.equal(y, expected[0])
        step, rest = fused(layer)
        with pytest.raises(ValueError, match="contiguous h"):
            step(u, *spread, weights(layer), overwrite=True, **rest)


def weights(layer):
    """The parameters of a layer as the operator takes them."""
    dtype, wide = next(layer.parameters()).dtype, copy.deepcopy(layer).double()
    with torch.no_grad():
        found = wide._fused_weights(draw(1, layer.d_input), wide.init_state(1))
    return type(found)(*(None if part is None else part.to(dtype) for part in found))


def fused(layer):
    """The operator of a layer, and its settings."""
    if isinstance(layer, Mamba):
        return mamba_step, {}
    norm = layer.norm
    settings = {"n_groups": layer.n_groups, "dt_limit": layer.dt_limit}
    return mamba2_step, settings | {"norm_before_gate": norm is not None and norm.norm_before_gate}


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("batch", [1, 2, 64])
@pytest.mark.parametrize(
    "layer",
    [
        *LAYERS,
        Mamba(96, dt_max=1.0, seed=2),
        Mamba2(96, d_state=64, headdim=32, n_groups=2, dt_max=1.0, seed=2),
        Mamba2(64, dt_max=1.0, seed=2),
    ],
)
def test_on_the_device(layer, batch, dtype) -> None:
    layer = copy.deepcopy(layer).to(dtype)
    tolerance = {torch.float64: 1e-11, torch.float32: 1e-5, torch.bfloat16: 4e-2}.get(dtype, 4e-3)
    u = draw(batch, 4, layer.d_input, dtype=dtype)
    scale = draw(batch, seed=5).exp()
    with torch.no_grad():
        expected, last = fold(
            copy.deepcopy(layer).double(),
            u.double(),
            layer.double().init_state(batch),
            dt=scale[:, None].expand(-1, 4),
        )
        device, state = layer.to("cuda", dtype), layer.init_state(batch)
        for k in range(4):
            y, state = device.step(u[:, k].cuda(), state, dt=scale.cuda())
    assert (y.cpu() - expected[:, -1]).norm() < tolerance * expected[:, -1].norm()
    for part, wide in zip(state, last, strict=True):
        assert part.dtype == torch.promote_types(torch.float32, dtype)
        assert (part.cpu() - wide).norm() <= tolerance * wide.norm()
