"""The Vandermonde kernel: against powers, its gradients, its types, and what torch sees of it."""

from __future__ import annotations

import importlib.util
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from statewise.ops import diagonal_ssm, use_backend, vandermonde_kernel

FAST = ["cpu", *(["gpu"] if importlib.util.find_spec("triton") else [])]
TOLERANCE = {torch.float64: 2e-13, torch.float32: 2e-6}


def _device(backend):
    return "cuda" if backend == "gpu" and torch.cuda.is_available() else "cpu"


def _poles(D, N, seed=0):
    generator = torch.Generator().manual_seed(seed)
    radius = 0.5 + 0.499 * torch.rand(D, N, dtype=torch.float64, generator=generator)
    return torch.polar(radius, 6.2 * torch.rand(D, N, dtype=torch.float64, generator=generator))


def _weights(D, N, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(D, N, 2, dtype=torch.float64, generator=generator)


def _inputs(D, N, log, seed=0):
    a = _poles(D, N, seed)
    if not log:
        a[0, 0] = 0
    return torch.view_as_real(a.log() if log else a).clone(), _weights(D, N, seed + 1)


def _run(backend, a, c, length, log, dtype=torch.float64):
    device = _device(backend)
    leaves = [x.to(device, dtype).detach().requires_grad_() for x in (a, c)]
    with use_backend(backend):
        kernel = vandermonde_kernel(*leaves, length, log=log)
    generator = torch.Generator().manual_seed(5)
    weight = torch.randn(kernel.shape, dtype=torch.float64, generator=generator).to(kernel)
    return [kernel.detach().cpu(), *(x.cpu() for x in torch.autograd.grad(kernel, leaves, weight))]


def _agree(found, expected, bound):
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        gap = (one.double() - other.double()).abs().max()
        assert gap <= bound * other.double().abs().max().clamp_min(1e-30)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize(("D", "N", "length"), [(1, 1, 1), (3, 2, 17), (17, 5, 70), (2, 18, 300)])
def test_back_ends_agree_with_the_reference(backend, log, D, N, length):
    a, c = _inputs(D, N, log)
    _agree(_run(backend, a, c, length, log), _run("reference", a, c, length, log), 2e-13)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize(("D", "N", "length"), [(5, 33, 1000), (70, 64, 16384), (3, 7, 100003)])
def test_kernels_on_the_device(dtype, log, D, N, length):
    a, c = (x.to(dtype).double() for x in _inputs(D, N, log))
    expected = _run("cpu", a, c, length, log)
    _agree(_run("gpu", a, c, length, log, dtype), expected, 10 * TOLERANCE[dtype])


@given(
    D=st.integers(1, 20),
    N=st.integers(1, 9),
    length=st.integers(1, 400),
    log=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_shape(D, N, length, log, seed):
    a, c = _inputs(D, N, log, seed)
    _agree(_run("cpu", a, c, length, log), _run("reference", a, c, length, log), 2e-13)


@pytest.mark.parametrize("backend", ["reference", *FAST])
def test_values_are_powers(backend):
    a, c = _poles(2, 3), torch.view_as_complex(_weights(2, 3))
    with use_backend(backend):
        kernel = vandermonde_kernel(a.to(_device(backend)), c.to(_device(backend)), 40).cpu()
    powers = a.unsqueeze(-1) ** torch.arange(40)
    expected = (c.unsqueeze(-1) * powers).real.sum(1)
    torch.testing.assert_close(kernel, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", ["reference", *FAST])
def test_zero_and_one_are_poles_too(backend):
    a = torch.tensor([[0.0, 1.0]], device=_device(backend))
    c = torch.tensor([[5.0, 2.0]], device=_device(backend))
    with use_backend(backend):
        assert vandermonde_kernel(a, c, 4).tolist() == [[7.0, 2.0, 2.0, 2.0]]


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("backend", ["reference", *FAST])
def test_gradient_against_finite_differences(backend, log):
    leaves = [x.to(_device(backend)).requires_grad_() for x in _inputs(2, 2, log)]
    with use_backend(backend):
        assert torch.autograd.gradcheck(lambda a, c: vandermonde_kernel(a, c, 6, log=log), leaves)


def test_is_the_recurrence_over_a_long_time():
    a, c = _poles(3, 4), torch.view_as_complex(_weights(3, 4))
    length = 5000
    u = torch.zeros(1, length, 3, dtype=torch.float64)
    u[:, 0] = 1
    response, _ = diagonal_ssm(u, a, torch.ones_like(a), c)
    kernel = vandermonde_kernel(a, c, length)
    assert (kernel - response[0].T).abs().max() < 1e-13 * kernel.abs().max()


def test_logarithms_keep_the_phase_in_single_precision():
    """An undamped pole over 16384 steps of 0.9 rad: the rounding of a float32 pole turns it."""
    length = 16384
    rate = torch.tensor([[[0.0, 0.9]]])
    one = torch.tensor([[[1.0, 0.0]]])
    exact = torch.cos(rate[0, 0, 1].double() * torch.arange(length))
    kernel = vandermonde_kernel(rate, one, length, log=True)
    assert (kernel[0] - exact).abs().max() < 1e-6
    rounded = torch.tensor([[[rate[0, 0, 1].cos(), rate[0, 0, 1].sin()]]])
    assert (vandermonde_kernel(rounded, one, length)[0] - exact).abs().max() > 1e-5


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("log", [False, True])
def test_single_precision_is_close_to_double(backend, log):
    a, c = (x.float().double() for x in _inputs(5, 6, log))
    found = _run(backend, a, c, 200, log, torch.float32)
    assert all(x.dtype == torch.float32 for x in found)
    _agree(found, _run("reference", a, c, 200, log), TOLERANCE[torch.float32])


def test_forms_and_types():
    a, c = _poles(3, 2), torch.view_as_complex(_weights(3, 2))
    pairs = vandermonde_kernel(torch.view_as_real(a), torch.view_as_real(c), 9)
    assert torch.equal(vandermonde_kernel(a, c, 9), pairs)
    torch.testing.assert_close(vandermonde_kernel(a.conj(), c.conj(), 9), pairs)
    assert (
        vandermonde_kernel(a.to(torch.complex64), c.to(torch.complex64), 9).dtype == torch.float32
    )
    real = torch.rand(3, 2, dtype=torch.bfloat16, requires_grad=True)
    kernel = vandermonde_kernel(real, real, 9)
    assert kernel.dtype == torch.bfloat16
    kernel.sum().backward()
    assert real.grad.dtype == torch.bfloat16
    mixed = vandermonde_kernel(torch.view_as_real(a), torch.view_as_real(c).float(), 9)
    assert mixed.dtype == torch.float64


@pytest.mark.parametrize("backend", ["reference", *FAST])
def test_strides_and_repetition(backend):
    a, c = _inputs(4, 6, False)
    expected = _run(backend, a, c, 33, False)
    turned = [x.transpose(0, 1).contiguous().transpose(0, 1) for x in (a, c)]
    found = _run(backend, *turned, 33, False)
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))
    wide = a[:1].expand(4, 6, 2)
    _agree(_run(backend, wide, c, 33, False), _run(backend, wide.clone(), c, 33, False), 0)


def test_no_channels():
    empty = torch.ones(0, 3, 2, requires_grad=True)
    kernel = vandermonde_kernel(empty, empty, 5)
    assert kernel.shape == (0, 5)
    kernel.sum().backward()
    assert empty.grad.shape == (0, 3, 2)


@pytest.mark.parametrize("log", [False, True])
def test_opcheck(log):
    a, c = (x.requires_grad_() for x in _inputs(2, 3, log))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # raised inside torch
        torch.library.opcheck(torch.ops.statewise.vandermonde_kernel.default, (a, c, 7, log))
        plain = (torch.ones(2, 7, dtype=torch.float64), a.detach(), c.detach(), log, None)
        torch.library.opcheck(torch.ops.statewise.vandermonde_kernel_backward.default, plain)


def test_compiles_as_one_graph_and_exports():
    leaves = [x.requires_grad_() for x in _inputs(2, 3, True)]

    def loss(a, c):
        return vandermonde_kernel(a, 2 * c, 20, log=True).square().sum()

    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    expected = torch.autograd.grad(loss(*leaves), leaves)
    found = torch.autograd.grad(compiled(*leaves), leaves)
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))

    class Wrapper(torch.nn.Module):
        def forward(self, a, c):
            return vandermonde_kernel(a, c, 20)

    program = torch.export.export(Wrapper(), tuple(x.detach() for x in leaves))
    assert torch.equal(program.module()(*leaves), vandermonde_kernel(*leaves, 20))


def test_second_derivative_is_refused():
    leaves = [x.requires_grad_() for x in _inputs(1, 2, False)]
    gradient, _ = torch.autograd.grad(
        vandermonde_kernel(*leaves, 4).square().sum(), leaves, create_graph=True
    )
    with pytest.raises(RuntimeError, match="vandermonde_kernel has no second derivative"):
        gradient.sum().backward()


_A = torch.ones(3, 2, 2)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((_A[0, 0], _A, 4), {}, ValueError, r"a has shape \(2,\); it must be \(D, N, 2\) or"),
        ((torch.ones(3, 2, 3), _A, 4), {}, ValueError, r"a has shape \(3, 2, 3\)"),
        ((_A, _A[:2], 4), {}, ValueError, r"c has shape \(2, 2, 2\).*needs \(3, 2, 2\)"),
        ((_A, _A, 0), {}, ValueError, "length is 0; it must be at least 1"),
        ((_A[..., 0], _A[..., 0], 4), {"log": True}, ValueError, "it is real"),
        ((_A, torch.view_as_complex(_A), 4), {}, TypeError, "c is torch.complex64; it must be"),
        ((_A.int(), _A, 4), {}, TypeError, "a is torch.int32; it must be one of"),
        (([1.0], _A, 4), {}, TypeError, "a must be a tensor, and is a list"),
    ],
)
def test_errors_say_what_was_given_and_expected(arguments, options, error, message):
    with pytest.raises(error, match=message):
        vandermonde_kernel(*arguments, **options)
