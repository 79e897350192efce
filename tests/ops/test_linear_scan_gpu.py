"""Triton kernels of the linear scan over several tiles, chained and in two passes."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from statewise.ops import linear_scan, linear_scan_pairs
from statewise.ops.linear_scan import reference

if importlib.util.find_spec("triton") is None:
    pytest.skip("the kernels need Triton", allow_module_level=True)

from statewise.ops.linear_scan import gpu
from statewise.ops.linear_scan.gpu import Plan, plan

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CHAINED, TWO_PASSES = Plan(2, 2, 16, 1), Plan(2, 2, 16, 1, chained=False)
CUTS = pytest.mark.parametrize("how", [CHAINED, TWO_PASSES], ids=["chained", "two passes"])


def _error(given_tensor, expected):
    assert given_tensor.shape == expected.shape
    assert given_tensor.dtype == expected.dtype
    if not expected.numel():
        return 0.0
    difference = (given_tensor.double().cpu() - expected.double()).abs().max()
    return (difference / expected.double().abs().max().clamp_min(1e-30)).item()


def _problem(shape, a_shape, dtype, pairs, state, reset, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pair = (2,) if pairs else ()
    acc = torch.promote_types(dtype, torch.float32)

    def draw(*size):
        return torch.randn(*size, *pair, dtype=torch.float64, generator=generator)

    a = 0.6 * torch.tanh(draw(*a_shape))
    h0 = draw(shape[0], shape[2]).to(acc) if state else None
    flags = torch.rand(shape[:2], generator=generator) < 0.2 if reset else None
    gradients = draw(*shape).to(dtype), draw(shape[0], shape[2]).to(acc)
    return a.to(dtype), draw(*shape).to(dtype), h0, flags, gradients


def _hold(how, problem, reverse, pairs, bound, need_a=True):
    a, b, h0, flags, (grad_h, grad_last) = problem
    tail = (reverse, pairs)
    expected = reference.forward(a, b, h0, flags, *tail)
    h = expected[0]
    expected += reference.backward(grad_h, grad_last, a, h, h0, flags, *tail, need_a)

    def move(*tensors):
        return [None if x is None else x.to(DEVICE) for x in tensors]

    found = gpu.forward(*move(a, b, h0, flags), *tail, how)
    found += gpu.backward(*move(grad_h, grad_last, a, h, h0, flags), *tail, need_a, how)
    for name, x, y in zip(("h", "last", "da", "db", "dh0"), found, expected, strict=True):
        assert _error(x, y) <= bound, name


@CUTS
@pytest.mark.parametrize(
    ("shape", "a_shape", "pairs", "state", "reset", "reverse"),
    [
        ((1, 9, 18), (1, 9, 18), False, False, False, False),
        ((1, 9, 3), (1, 9, 3), True, True, True, True),
        ((1, 9, 3), (1, 1, 3), False, True, False, True),
        ((2, 6, 3), (2, 1, 3), False, False, True, False),
        ((2, 6, 3), (1, 6, 3), True, False, False, False),
    ],
)
def test_tiles_hand_the_state_on(how, shape, a_shape, pairs, state, reset, reverse):
    problem = _problem(shape, a_shape, torch.float64, pairs, state, reset)
    _hold(how, problem, reverse, pairs, 1e-12)


def test_whole_tiles_in_half_precision():
    problem = _problem((1, 8, 16), (1, 8, 16), torch.bfloat16, False, True, False)
    _hold(CHAINED, problem, False, False, 2e-2, need_a=False)


@CUTS
@pytest.mark.filterwarnings("ignore:overflow encountered", "ignore:invalid value encountered")
def test_overflowing_decay_leaves_a_zero_state_alone(how):
    """Padding before an unstable sequence: 0 · ∞ must not enter."""
    a = torch.full((1, 8, 1), 1e30, device=DEVICE)
    b = torch.zeros(1, 8, 1, device=DEVICE)
    b[:, 7] = 3.0
    h, last = gpu.forward(a, b, None, None, False, False, how)
    assert h.flatten().tolist() == [0.0] * 7 + [3.0]
    assert last.item() == 3.0


@pytest.mark.filterwarnings("ignore:invalid value encountered")
def test_a_state_that_looks_unwritten_is_handed_on():
    """All bits set are a NaN too; the next tile must not wait for it for ever."""
    b = torch.ones(1, 8, 1)
    b.view(torch.int32)[0, 3] = -1
    reset = torch.zeros(1, 8, dtype=torch.bool)
    reset[0, 3] = True
    a = torch.ones(1, 8, 1, device=DEVICE)
    h, _ = gpu.forward(a, b.to(DEVICE), None, reset.to(DEVICE), False, False, CHAINED)
    assert h.flatten().isnan().tolist() == [False] * 3 + [True] * 5


@given(
    batch=st.integers(1, 64),
    length=st.integers(1, 200_000),
    channels=st.integers(1, 5000),
    parts=st.sampled_from([1, 2]),
    itemsize=st.sampled_from([2, 4, 8]),
    lean=st.booleans(),
)
def test_plans_fit_the_machine(batch, length, channels, parts, itemsize, lean):
    how = plan(batch, length, channels, parts, itemsize, lean)
    assert all(n & (n - 1) == 0 for n in how[:4])
    assert 1 <= how.steps <= 16
    elements = how.groups * how.channels * parts
    assert elements >= 32 * how.warps
    bytes_held = how.steps * elements // (32 * how.warps) * max(itemsize, 4)
    assert bytes_held <= 128
    assert how.warps <= (4 if lean else 8)
    assert how.channels < 2 * max(channels, 16)


@pytest.mark.gpu
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("how", [None, Plan(8, 16, 32, 4), Plan(4, 8, 32, 4, chained=False)])
def test_long_sequences_on_the_device(how, pairs, seed):
    """Thousands of tiles at once, where order and visibility of memory count."""
    shape = (2, 6000, 1030)
    generator = torch.Generator().manual_seed(seed)
    pair = (2,) if pairs else ()
    a = 0.7 * torch.rand(*shape, *pair, generator=generator)
    b = torch.randn(*shape, *pair, generator=generator)
    weight = torch.randn(b.shape, generator=generator)
    scan = linear_scan_pairs if pairs else linear_scan
    leaves = [x.requires_grad_() for x in (a, b)]
    h, last = scan(*leaves)
    expected = [h, last, *torch.autograd.grad(h, leaves, weight)]
    a, b, weight = (x.detach().to(DEVICE) for x in (a, b, weight))
    for _ in range(3):
        found = gpu.forward(a, b, None, None, False, pairs, how)
        found += gpu.backward(weight, None, a, found[0], None, None, False, pairs, True, how)
        for x, y in zip(found[:4], expected, strict=True):
            assert _error(x, y.detach()) <= 1e-5
