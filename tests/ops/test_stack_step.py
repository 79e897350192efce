"""One step of a stack of residual blocks: back ends, threads, memory that moves."""

from __future__ import annotations

import logging
import math
from importlib import import_module

import pytest
import torch
from torch import Tensor, nn

from statewise import ops
from statewise.ops import BlockStack, Mamba2Weights, MambaWeights, stack_step


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype)


def mamba(width, channels, states, rank, taps, biased, seed) -> MambaWeights:
    shapes = [(2 * channels, width), (2 * channels,), (channels, taps), (channels,)]
    shapes += [(rank + 2 * states, channels), (channels, rank), (channels,), (channels, states)]
    shapes += [(channels,), (width, channels), (width,)]
    parts = [draw(*s, seed=100 * seed + k) / 4 for k, s in enumerate(shapes)]
    if not biased:
        parts[1] = parts[3] = parts[10] = None
    return MambaWeights(*parts)


def mamba2(width, beside, heads, head, states, groups, taps, biased, normed, seed) -> Mamba2Weights:
    wide, rows = heads * head, groups * states
    mixed = wide + 2 * rows
    entering = 2 * beside + wide + mixed + heads
    shapes = [(entering, width), (entering,), (mixed, taps), (mixed,), (heads,), (heads,)]
    shapes += [(heads,) if biased else (wide,), (wide,), (width, beside + wide), (width,)]
    parts = [draw(*s, seed=100 * seed + k) / 4 for k, s in enumerate(shapes)]
    if not biased:
        parts[1] = parts[3] = parts[9] = None
    if not normed:
        parts[7] = None
    return Mamba2Weights(*parts)


# Numbers of states that fill the widest packs, narrower ones and none; widths that fill none.
STACKS = {
    "one block": ([mamba(5, 10, 16, 2, 4, True, 1)], {}),
    "mamba": ([mamba(9, 7, 3, 17, 1, False, k) for k in range(3)], {}),
    "mamba, packs": ([mamba(33, 70, 8, 3, 2, True, k) for k in range(2)], {"norm_eps": 0.3}),
    "mamba2": ([mamba2(9, 0, 3, 4, 16, 1, 4, True, True, k) for k in range(3)], {}),
    "mamba2, beside": (
        [mamba2(6, 5, 4, 17, 3, 2, 2, False, True, k) for k in range(2)],
        {"n_groups": 2, "norm_before_gate": True, "eps": 0.2, "dt_limit": (0.3, 0.9)},
    ),
    "mamba2, no norm": ([mamba2(40, 3, 2, 3, 4, 1, 1, True, False, k) for k in range(2)], {}),
}


def problem(name: str, batch: int, dtype: torch.dtype = torch.float64):
    """x, states and the stack."""
    layers, settings = STACKS[name]
    turn = lambda one: None if one is None else one.to(dtype, copy=True)  # noqa: E731
    layers = [type(one)(*map(turn, one)) for one in layers]
    width = layers[0].in_weight.shape[1]
    norms = [draw(width, seed=k, dtype=dtype).exp() for k in range(len(layers))]
    stack = BlockStack(norms, layers, **settings)
    sizes = stack.sizes
    states = [
        (
            draw(batch, sizes.taps - 1, sizes.mixed, seed=k, dtype=dtype),
            draw(batch, *sizes.state, seed=k + 50, dtype=dtype),
        )
        for k in range(len(layers))
    ]
    return draw(batch, width, dtype=dtype), states, stack


def flat(result) -> list[Tensor]:
    return [result[0], *(part for pair in result[1] for part in pair)]


def reference(x, states, stack, scale=None) -> list[Tensor]:
    with ops.use_backend("reference"):
        return flat(stack_step(x, states, stack, scale=scale))


def close(found, expected, rtol=1e-12, atol=1e-12) -> None:
    assert len(found) == len(expected)
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=rtol, atol=atol)


@pytest.mark.parametrize("batch", [0, 1, 2, 3])
@pytest.mark.parametrize("name", STACKS)
def test_back_ends_agree(name, batch) -> None:
    x, states, stack = problem(name, batch)
    kept = [part.clone() for part in (x, *(p for pair in states for p in pair))]
    for scale in (None, draw(batch, seed=9).exp()):
        found = flat(stack_step(x, states, stack, scale=scale))
        close(found, reference(x, states, stack, scale))
    close([x, *(p for pair in states for p in pair)], kept, rtol=0, atol=0)


@pytest.mark.parametrize("name", STACKS)
def test_float32(name) -> None:
    wide = reference(*problem(name, 2))
    found = flat(stack_step(*problem(name, 2, torch.float32)))
    assert all(part.dtype == torch.float32 for part in found)
    for one, two in zip(found, wide, strict=True):
        assert (one - two).norm() <= 2e-6 * two.norm()


def test_the_reference_is_a_sum_of_normed_layers() -> None:
    x, states, stack = problem("mamba", 2)
    h = x
    for norm, weights, state in zip(stack.norms, stack.weights, states, strict=True):
        inside = h / (h.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm
        h = h + ops.mamba_step(inside, *state, weights)[0]
    close([stack_step(x, states, stack)[0]], [h])


@pytest.mark.parametrize("name", ["mamba, packs", "mamba2, beside"])
@pytest.mark.parametrize("threads", ["2", "3"])
def test_threads_share_the_products(name, threads, monkeypatch) -> None:
    x, states, stack = problem(name, 2)
    alone = flat(stack_step(x, states, stack))
    monkeypatch.setenv("STATEWISE_THREADS", threads)
    monkeypatch.setattr(import_module("statewise.ops.stack_step.cpu"), "MIN_ELEMENTS", 10)
    close(flat(stack_step(x, states, stack)), alone)


@pytest.mark.parametrize("name", ["mamba, packs", "mamba2, beside"])
def test_tensors_are_read_where_they_are(name) -> None:
    """Values that changed, memory that moved, and memory that is not contiguous."""
    x, states, stack = problem(name, 2)
    before = flat(stack_step(x, states, stack))
    with torch.no_grad():
        for one in stack.tensors:
            one.mul_(1.1)
        changed = flat(stack_step(x, states, stack))
        assert not torch.equal(changed[0], before[0])
        close(changed, reference(x, states, stack))
        for one in stack.tensors:
            one.data = one / 1.1
        close(flat(stack_step(x, states, stack)), before)
        for one in stack.tensors:
            one.data = one.mT.contiguous().mT if one.ndim == 2 else one
        assert not all(one.is_contiguous() for one in stack.tensors)
        close(flat(stack_step(x, states, stack)), before)
        stack.tensors[1].mul_(1.1)
        close(flat(stack_step(x, states, stack)), reference(x, states, stack))
        for one in stack.tensors:
            one.data = one.float()
        with pytest.raises(TypeError, match=r"parameters are torch.float32.* torch.float64"):
            stack_step(x, states, stack)
    scattered = [tuple(part.mT.contiguous().mT for part in pair) for pair in states]
    x, states, stack = problem(name, 2)
    close(flat(stack_step(x.mT.contiguous().mT, scattered, stack)), before)


def test_the_log_says_which_back_end_runs(caplog) -> None:
    ops.dispatch._remembered.clear()
    with caplog.at_level(logging.INFO, logger="statewise"):
        stack_step(*problem("mamba", 1))
    assert "stack_step: the cpu back end runs on float64" in caplog.text


def test_what_does_not_fit_is_said() -> None:
    x, states, stack = problem("mamba", 2)
    one, two = states[0]
    for arguments, error, words in (
        ((x[0], states), ValueError, r"x has shape \(9,\); it must be \(B, 9\)"),
        ((x, states[1:]), ValueError, "a state for each of 3 blocks; given 2"),
        ((x, [(one, two[0]), *states[1:]]), ValueError, r"states of shapes .*given \(\(2, 0, 7\)"),
        ((x.float(), states), TypeError, "parameters are torch.float64 .* torch.float32"),
        ((x, [(one.to("meta"), two), *states[1:]]), TypeError, "a state .* torch.float64 on meta"),
        (([1.0], states), TypeError, "x must be a tensor"),
    ):
        with pytest.raises(error, match=words):
            stack_step(*arguments, stack)
    with pytest.raises(ValueError, match=r"scale has shape \(3,\)"):
        stack_step(x, states, stack, scale=torch.ones(3).double())
    with pytest.raises(ValueError, match="no gradient"):
        stack_step(x.clone().requires_grad_(), states, stack)
    with torch.no_grad():
        stack_step(x.clone().requires_grad_(), states, stack)
    norms, weights = stack.norms, stack.weights
    for arguments, error, words in (
        (((), ()), ValueError, "at least one layer; given 0 norms and 0 layers"),
        ((norms, weights[1:]), ValueError, "given 3 norms and 2 layers"),
        ((norms[:2], (weights[0], STACKS["mamba2"][0][0])), TypeError, "Mamba2Weights, MambaW"),
        ((norms, (*weights[1:], weights[0]._replace(D=norms[0]))), ValueError, r"D has shape"),
        ((norms, (*weights[1:], weights[0]._replace(in_bias=x))), ValueError, "some have none"),
        (([n.float() for n in norms], weights), TypeError, "torch.float32 .* torch.float64"),
        (([n[1:] for n in norms], weights), ValueError, r"in_weight has shape"),
    ):
        with pytest.raises(error, match=words):
            BlockStack(*arguments)
    with pytest.raises(ValueError, match="n_groups is 3; it must divide"):
        BlockStack(problem("mamba2, beside", 1)[2].norms, STACKS["mamba2, beside"][0], n_groups=3)


def test_non_finite_numbers_travel() -> None:
    x, states, stack = problem("mamba", 1)
    x[0, 0] = math.nan
    assert stack_step(x, states, stack)[0].isnan().all()


def test_parameters_are_held() -> None:
    """What is stepped may outlive the module that it came from."""
    x, states, stack = problem("mamba", 1)
    held = [nn.Parameter(one, requires_grad=False) for one in stack.norms]
    expected = flat(stack_step(x, states, stack))
    close(flat(stack_step(x, states, BlockStack(held, stack.weights))), expected)
