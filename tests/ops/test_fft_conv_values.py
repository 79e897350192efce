"""The causal convolution beside numpy's, its plan, its types and its refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from statewise.ops import fft_conv, use_backend
from statewise.ops.fft_conv.plan import Sizes, angles, pieces, points, radices, segments, size


def _direct(u, k):
    y = np.zeros_like(u)
    for b in range(u.shape[0]):
        for d in range(u.shape[2]):
            y[b, :, d] = np.convolve(u[b, :, d], k[d])[: u.shape[1]]
    return y


@pytest.mark.parametrize(
    ("length", "taps"),
    [(1, 1), (2, 2), (9, 9), (13, 40), (64, 64), (100, 7), (321, 321), (1500, 1500), (700, 2000),
     (6000, 33), (4096, 4096), (3000, 500)],
)  # fmt: skip
def test_is_the_convolution_of_numpy(length, taps):
    generator = np.random.default_rng(length)
    u, k = generator.standard_normal((2, length, 5)), generator.standard_normal((5, taps))
    expected = _direct(u, k)
    y, last = fft_conv(torch.from_numpy(u), torch.from_numpy(k))
    assert np.abs(y.numpy() - expected).max() <= 1e-13 * np.abs(expected).max() * 10
    past = np.concatenate([np.zeros((2, taps, 5)), u], 1)[:, length + 1 :]
    assert np.array_equal(last.numpy(), past)
    narrow, _ = fft_conv(torch.from_numpy(u).float(), torch.from_numpy(k).float())
    assert np.abs(narrow.numpy() - expected).max() <= 1e-6 * np.abs(expected).max()


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("channels", [1, 3, 8, 9, 40])
def test_any_number_of_lanes(batch, channels):
    """Packs of channels are filled up, or joined over the batch."""
    generator = np.random.default_rng(channels)
    u = generator.standard_normal((batch, 50, channels))
    k = generator.standard_normal((channels, 20))
    for dtype, bound in ((torch.float32, 1e-6), (torch.float64, 1e-14)):
        leaves = [torch.from_numpy(x).to(dtype).requires_grad_() for x in (u, k)]
        y, _ = fft_conv(*leaves)
        expected = _direct(u, k)
        assert np.abs(y.detach().numpy() - expected).max() <= bound * np.abs(expected).max() * 10
        y.sum().backward()
        lag_sums = u[:, ::-1].cumsum(1)[:, ::-1].sum(0)[0]
        assert np.allclose(leaves[1].grad[:, 0].numpy(), lag_sums, rtol=1e-4 if bound > 1e-9 else 0)


def test_one_tap_needs_no_state():
    u, k = torch.randn(2, 6, 3), torch.randn(3, 1)
    y, last = fft_conv(u, k, torch.ones(3), torch.zeros(2, 0, 3))
    torch.testing.assert_close(y, u * (k[:, 0] + 1))
    assert last.shape == (2, 0, 3)


def test_the_state_may_be_left_out():
    u, k = torch.randn(2, 9, 3, requires_grad=True), torch.randn(3, 4)
    for backend in ("reference", "cpu"):
        with use_backend(backend):
            y, nothing = fft_conv(u, k, need_state=False)
            assert nothing is None
            assert torch.equal(y, fft_conv(u, k)[0])
            y.sum().backward()
    assert u.grad is not None


def test_results_do_not_depend_on_the_number_of_threads(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    u, k = torch.randn(20, 300, 48, generator=generator), torch.randn(48, 300, generator=generator)
    found = []
    for threads in ("1", "3"):
        monkeypatch.setenv("STATEWISE_THREADS", threads)
        leaves = [u.clone().requires_grad_(), k.clone().requires_grad_()]
        y, _ = fft_conv(*leaves)
        (y * u).sum().backward()
        found.append([y.detach(), *(x.grad for x in leaves)])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_gradient_of_half_the_inputs_only():
    u, k = torch.randn(2, 9, 3), torch.randn(3, 4)
    for backend in ("reference", "cpu"):
        with use_backend(backend):
            y, _ = fft_conv(u.requires_grad_(), k)
            (alone,) = torch.autograd.grad(y.sum(), u)
            y, _ = fft_conv(u, k.requires_grad_())
            both = torch.autograd.grad(y.sum(), (u, k))
            y, _ = fft_conv(u.detach(), k)
            (taps,) = torch.autograd.grad(y.sum(), k)
        torch.testing.assert_close(alone, both[0])
        torch.testing.assert_close(taps, both[1])
        u, k = u.detach(), k.detach()


@pytest.mark.parametrize(
    ("u", "k", "out", "state"),
    [
        ("bfloat16", "float32", "bfloat16", "float32"),
        ("float16", "float16", "float16", "float32"),
        ("float32", "float64", "float32", "float32"),
        ("float64", "float32", "float64", "float64"),
    ],
)
def test_types_follow_the_inputs(u, k, out, state):
    x = torch.ones(1, 4, 2, dtype=getattr(torch, u), requires_grad=True)
    taps = torch.ones(2, 3, dtype=getattr(torch, k), requires_grad=True)
    before = torch.ones(1, 2, 2, dtype=torch.float64, requires_grad=True)
    y, last = fft_conv(x, taps, state=before)
    assert (y.dtype, last.dtype) == (getattr(torch, out), getattr(torch, state))
    assert y[0, :, 0].tolist() == pytest.approx([3.0, 3.0, 3.0, 3.0], rel=1e-6)
    y.sum().backward()
    assert [t.grad.dtype for t in (x, taps, before)] == [x.dtype, taps.dtype, torch.float64]


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize(("batch", "channels"), [(0, 3), (2, 0)])
def test_nothing_to_do(backend, batch, channels):
    u = torch.randn(batch, 5, channels, requires_grad=True)
    k = torch.randn(channels, 3, requires_grad=True)
    with use_backend(backend):
        y, last = fft_conv(u, k)
        y.sum().backward()
    assert y.shape == u.shape
    assert last.shape == (batch, 2, channels)
    assert k.grad.abs().sum() == 0


SIZES = [Sizes(), Sizes(cached=8192), Sizes(smallest=4, odd=(1,))]


@given(st.data())
def test_pieces_give_every_output_once_and_nothing_wraps(data):
    length, taps = data.draw(st.integers(1, 3000)), data.draw(st.integers(1, 3000))
    sizes, has_state = data.draw(st.sampled_from(SIZES)), data.draw(st.booleans())
    steps = sorted(data.draw(st.sets(st.integers(0, length - 1), max_size=6)))
    stretches = segments([(1, step) for step in steps], 2, length)
    begins = [0, *steps]
    outputs = {(row, t): 0 for row in range(2) for t in range(length)}
    for (transform, reach), group in pieces(stretches, taps, has_state, sizes).items():
        assert np.prod(radices(transform)) == transform
        for row, start, first, stop in group:
            for t in range(first, stop):
                outputs[row, t] += 1
            begin = max(b for b in begins if b <= first) if row else 0
            carried = has_state and begin == 0 and (row == 0 or 0 not in steps)
            low = 1 - taps if carried else begin
            assert start == max(first - taps + 1, low)
            # All that an output needs is there, and the product reaches around to none of them.
            assert reach == taps or reach >= stop - start
            assert stop - start <= 2 * transform
            assert (stop - start) + reach - 1 - 2 * transform <= first - start
    assert set(outputs.values()) == {1}


@pytest.mark.parametrize("count", [2, 6, 10, 16, 96, 160])
def test_the_blocks_of_a_transform_end_at_the_roots_of_i(count):
    radix = radices(count)[-1]
    leaves = (angles(radices(count))[-1][:, None] + np.arange(radix) / radix).reshape(-1)
    roots = np.exp(2j * np.pi * leaves)
    assert np.abs(roots**count - 1j).max() < 1e-12
    assert len(np.unique(np.round(leaves % 1, 9))) == count


def test_transforms_waste_little():
    for inputs in range(2, 5000, 37):
        need = points(inputs, 0, inputs)
        assert need <= size(need, Sizes()) <= need * 4 / 3 + 1
    with pytest.raises(ValueError, match="no transform of 14 points"):
        radices(14)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((torch.ones(3), torch.ones(3, 2)), {}, ValueError, r"u has shape \(3,\); it must be \(B"),
        ((torch.ones(2, 0, 3), torch.ones(3, 2)), {}, ValueError, r"\(2, 0, 3\), no steps"),
        (
            (torch.ones(2, 5, 3), torch.ones(2, 2)),
            {},
            ValueError,
            r"k has shape \(2, 2\).*\(3, K\)",
        ),
        ((torch.ones(2, 5, 3), torch.ones(3, 0)), {}, ValueError, "at least one tap"),
        (
            (torch.ones(2, 5, 3), torch.ones(3, 4), torch.ones(2)),
            {},
            ValueError,
            r"d has shape \(2,\); u of shape \(2, 5, 3\) needs \(3,\)",
        ),
        (
            (torch.ones(2, 5, 3), torch.ones(3, 4), None, torch.ones(2, 4, 3)),
            {},
            ValueError,
            r"state has shape \(2, 4, 3\);.*with 4 taps needs \(2, 3, 3\)",
        ),
        (([1.0], torch.ones(3, 4)), {}, TypeError, "u must be a tensor, and is a list"),
        ((torch.ones(2, 5, 3), torch.ones(3, 4), 1.0), {}, TypeError, "d must be a tensor"),
        ((torch.ones(2, 5, 3).long(), torch.ones(3, 4)), {}, TypeError, "u is torch.int64"),
        ((torch.ones(2, 5, 3), torch.ones(3, 4) * 1j), {}, TypeError, "k is torch.complex64"),
        (
            (torch.ones(2, 5, 3), torch.ones(3, 4)),
            {"reset": torch.ones(2, 5)},
            TypeError,
            "reset is torch.float32; it must be bool",
        ),
    ],
)
def test_errors_say_what_was_given_and_expected(arguments, options, error, message):
    with pytest.raises(error, match=message):
        fft_conv(*arguments, **options)
