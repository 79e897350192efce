"""The ParaGRU and ParaLSTM scans under the op contract, and what their GPU kernels promise."""

from __future__ import annotations

import pytest
import torch

from contracts.op_suite import OpContract, error
from statewise.ops import para_gru, para_lstm, use_backend
from statewise.ops.newton_scan import gpu, gru_cell, lstm_cell


def _random(shape, dtype, generator, scale=1.0):
    return (scale * torch.randn(shape, dtype=torch.float64, generator=generator)).to(dtype)


class TestParaGRU(OpContract):
    op = "para_gru"
    timed = ("pre",)

    def inputs(self, B, L, D, dtype, generator):
        return {
            "pre": _random((B, L, 3, D), dtype, generator),
            "a": _random((3, D), dtype, generator, 0.7),
        }

    def state(self, B, D, dtype, generator):
        return _random((B, D), dtype, generator)

    def apply(self, inputs, h0=None, **options):
        return para_gru(**inputs, h0=h0, **options)

    def samples(self):
        scan = torch.ops.statewise.para_gru.default
        back = torch.ops.statewise.para_gru_backward.default
        for full in (True, False):
            inputs, h0, options = self.case((2, 5, 3), state=full, reset=full, reverse=full)
            weights, plain = list(inputs.values()), (h0, options.get("reset"), full)
            if full:
                leaves = [x.detach().requires_grad_() for x in (*weights, h0)]
                yield scan, (*leaves, *plain[1:])
            else:
                h = torch.ones(2, 5, 3, dtype=torch.float64)
                yield back, (h, None, *weights, h, *plain, None)


class TestParaLSTM(OpContract):
    op = "para_lstm"
    timed = ("pre",)

    def inputs(self, B, L, D, dtype, generator):
        return {
            "pre": _random((B, L, 3, D), dtype, generator),
            "a": _random((3, D), dtype, generator, 0.7),
            "w": _random((2, D), dtype, generator, 0.7),
        }

    def state(self, B, D, dtype, generator):
        return _random((B, D, 2), dtype, generator)

    def apply(self, inputs, h0=None, **options):
        return para_lstm(**inputs, h0=h0, **options)

    def samples(self):
        scan = torch.ops.statewise.para_lstm.default
        back = torch.ops.statewise.para_lstm_backward.default
        for full in (True, False):
            inputs, h0, options = self.case((2, 5, 3), state=full, reset=full, reverse=full)
            weights, plain = list(inputs.values()), (h0, options.get("reset"), full)
            if full:
                leaves = [x.detach().requires_grad_() for x in (*weights, h0)]
                yield scan, (*leaves, *plain[1:])
            else:
                h = torch.ones(2, 5, 3, dtype=torch.float64)
                yield back, (h, h, None, *weights, h, h, *plain, None)


def _problem(scale, B=1, L=70, D=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    pre = _random((B, L, 3, D), dtype, generator)
    return pre, _random((3, D), dtype, generator, scale), _random((2, D), dtype, generator, scale)


def _device():
    return "cuda" if torch.cuda.is_available() else "cpu"


def _solve(lstm, pre, a, w):
    """h, the last state, and the report of the kernels."""
    if lstm:
        h, _, last, report = gpu.solve_lstm(pre, a, w, None, None, False)
        return h, last, report
    return gpu.solve_gru(pre, a, None, None, False)


@pytest.mark.parametrize("lstm", [False, True])
def test_stretches_of_a_contracting_cell_take_few_walks(lstm):
    pre, a, w = (x.to(_device()) for x in _problem(0.5))
    assert gpu.plan(1, 70, 3).stretches == 4
    with use_backend("reference"):
        expected = para_lstm(pre, a, w) if lstm else para_gru(pre, a)
    h, last, report = _solve(lstm, pre, a, w)
    assert error(h, expected[0]) <= 1e-12
    assert error(last, expected[1]) <= 1e-12
    assert 2 <= report.walks.max() <= 3
    assert report.residual.max() <= gpu.TOLERANCE * torch.finfo(torch.float64).eps


@pytest.mark.parametrize("lstm", [False, True])
def test_stretches_of_any_cell_end_at_the_sequential_walk(lstm, monkeypatch):
    """Chaotic weights, where back ends differ by amplified rounding: the same walk in one."""
    pre, a, w = (x.to(_device()) for x in _problem(8.0))
    h, last, report = _solve(lstm, pre, a, w)
    monkeypatch.setattr(gpu, "LANES", 1)
    assert gpu.plan(1, 70, 3).stretches == 1
    whole, whole_last, _ = _solve(lstm, pre, a, w)
    assert report.walks.max() <= 4
    if _device() == "cpu":
        assert torch.equal(h, whole)
        assert torch.equal(last, whole_last)
    # A compiler may fuse other multiply-adds in a walk that also carries derivatives.
    assert error(h, whole) <= 1e-6


@pytest.mark.parametrize("lstm", [False, True])
def test_nan_passes_from_stretch_to_stretch_until_a_reset(lstm):
    pre, a, w = (x.to(_device()) for x in _problem(0.5))
    pre[:, 5] = float("nan")
    reset = torch.zeros(1, 70, dtype=torch.bool, device=pre.device)
    reset[:, 60] = True
    with use_backend("gpu"):
        h, _ = para_lstm(pre, a, w, reset=reset) if lstm else para_gru(pre, a, reset=reset)
    assert torch.isfinite(h[:, :5]).all()
    assert h[:, 5:60].isnan().all()
    assert torch.isfinite(h[:, 60:]).all()


@pytest.mark.parametrize("lstm", [False, True])
def test_nan_in_one_sequence_leaves_the_gradient_of_the_packed_one_before(lstm):
    pre, a, w = (x.to(_device()) for x in _problem(0.5))
    pre[:, 65] = float("nan")
    pre.requires_grad_()
    reset = torch.zeros(1, 70, dtype=torch.bool, device=pre.device)
    reset[:, 60] = True
    with use_backend("gpu"):
        h, _ = para_lstm(pre, a, w, reset=reset) if lstm else para_gru(pre, a, reset=reset)
    (gradient,) = torch.autograd.grad(h.sum(), pre)
    assert torch.isfinite(gradient[:, :60]).all()
    assert gradient[:, 60:66].isnan().any()


def test_the_plan_covers_the_length_and_fills_the_device():
    for shape in [(1, 1, 1), (8, 2048, 256), (1, 65536, 64), (64, 512, 1536), (2, 17, 5)]:
        batch, length, channels = shape
        cut = gpu.plan(*shape)
        assert (cut.stretches - 1) * cut.steps < length <= cut.stretches * cut.steps
        assert cut.stretches == 1 or cut.steps >= gpu.SHORTEST
        assert cut.stretches <= gpu.STRETCHES
        assert cut.stretches * batch * channels <= max(gpu.LANES, batch * channels)
    assert gpu.plan(8, 2048, 256).stretches == 32
    assert gpu.plan(64, 512, 1536).stretches == 1


@pytest.mark.gpu
@pytest.mark.parametrize("lstm", [False, True])
@pytest.mark.parametrize("scale", [0.5, 2.0, 8.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_stretches_on_the_device(lstm, scale, seed):
    """As many stretches as there can be, which cross warps, with weights that do not contract."""
    generator = torch.Generator().manual_seed(seed)
    pre = _random((3, 1029, 3, 37), torch.float64, generator)
    a = _random((3, 37), torch.float64, generator, scale)
    w = _random((2, 37), torch.float64, generator, scale)
    assert gpu.plan(3, 1029, 37).stretches == gpu.STRETCHES
    pre, a, w = (x.cuda() for x in (pre, a, w))
    if lstm:
        h, c, last = gpu.lstm_forward(pre, a, w, None, None, False)
        states = torch.stack([c, h], -1)
    else:
        h, last = gpu.gru_forward(pre, a, None, None, False)
        states = h
    before = torch.cat([torch.zeros_like(states[:, :1]), states[:, :-1]], 1)
    after = lstm_cell(before, pre, a, w) if lstm else gru_cell(before, pre, a)
    assert (after - states).abs().max() <= 1e-12
    assert torch.equal(last, states[:, -1])
    if scale < 1:
        expected = para_lstm(*(x.cpu() for x in (pre, a, w)))[0] if lstm else None
        expected = para_gru(pre.cpu(), a.cpu())[0] if expected is None else expected
        assert error(h.cpu(), expected) <= 1e-11


def test_one_step_is_the_cell():
    generator = torch.Generator().manual_seed(0)
    pre, a, w = _problem(1.0, B=2, L=1)
    h0 = _random((2, 3), torch.float64, generator)
    pairs = _random((2, 3, 2), torch.float64, generator)
    h, last = para_gru(pre, a, h0)
    torch.testing.assert_close(h[:, 0], gru_cell(h0, pre[:, 0], a), rtol=0, atol=1e-14)
    assert torch.equal(h[:, 0], last)
    h, last = para_lstm(pre, a, w, pairs)
    expected = lstm_cell(pairs, pre[:, 0], a, w)
    torch.testing.assert_close(last, expected, rtol=0, atol=1e-14)
    assert torch.equal(h[:, 0], last[..., 1])


@pytest.mark.parametrize(
    ("pre", "a", "h0", "out", "state"),
    [
        ("bfloat16", "float32", None, "bfloat16", "float32"),
        ("bfloat16", "bfloat16", "float32", "bfloat16", "float32"),
        ("float32", "float64", None, "float64", "float64"),
        ("float16", "float32", "float64", "float64", "float64"),
    ],
)
def test_weights_do_not_widen_half_types(pre, a, h0, out, state):
    def make(name, shape):
        return torch.ones(shape).to(getattr(torch, name))

    h, last = para_gru(make(pre, (1, 2, 3, 4)), make(a, (3, 4)), h0 and make(h0, (1, 4)))
    assert (h.dtype, last.dtype) == (getattr(torch, out), getattr(torch, state))


_PRE, _A, _W = torch.ones(2, 4, 3, 5), torch.ones(3, 5), torch.ones(2, 5)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: para_gru(None, _A), TypeError, "para_gru: pre must be a tensor"),
        (lambda: para_gru(_PRE.long(), _A), TypeError, "pre is torch.int64"),
        (lambda: para_gru(_PRE[0], _A), ValueError, r"pre has shape \(4, 3, 5\); it must be"),
        (lambda: para_gru(_PRE[:, :0], _A), ValueError, "L must be at least 1"),
        (lambda: para_gru(_PRE, _W), ValueError, r"a has shape \(2, 5\); .* needs \(3, 5\)"),
        (lambda: para_gru(_PRE, _A, _W[:, :4]), ValueError, r"h0 has shape \(2, 4\)"),
        (lambda: para_gru(_PRE, _A, reset=_W), TypeError, "reset is torch.float32"),
        (lambda: para_lstm(_PRE, _A, None), TypeError, "para_lstm: w must be a tensor"),
        (lambda: para_lstm(_PRE, _A, _A), ValueError, r"w has shape \(3, 5\); .* needs \(2, 5\)"),
        (lambda: para_lstm(_PRE, _A, _W, _W), ValueError, r"needs \(2, 5, 2\)"),
    ],
)
def test_what_does_not_fit_is_refused(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


@pytest.mark.parametrize("backend", ["reference", "cpu", "gpu"])
def test_nothing_to_scan(backend):
    with use_backend(backend):
        pre = torch.zeros(0, 4, 3, 5, device=_device() if backend == "gpu" else "cpu")
        pre.requires_grad_()
        h, last = para_gru(pre, _A.to(pre.device))
        h.sum().backward()
    assert (h.shape, last.shape, pre.grad.shape) == ((0, 4, 5), (0, 5), pre.shape)
