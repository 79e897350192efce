"""The kernel of S4: its Cauchy products, and the identities of its construction."""

from __future__ import annotations

import pytest
import torch

from statewise.ops import cauchy_kernel, cauchy_product, use_backend

PAIRS = torch.view_as_real


def _system(D, N, rank=1, seed=0, dt=(0.01, 0.2)):
    """Poles with conjugates understood, low rank, input, output and steps, in double."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, dtype=torch.complex128, generator=generator)

    real = -0.1 - torch.rand(D, N, dtype=torch.float64, generator=generator)
    poles = torch.complex(real, 3 * draw(D, N).real)
    steps = dt[0] + (dt[1] - dt[0]) * torch.rand(D, dtype=torch.float64, generator=generator)
    return poles, draw(rank, D, N), draw(D, N), draw(D, N), steps


def _both(x, axis=-1):
    return torch.cat([x, x.conj()], axis)


def _matrices(poles, p, dt):
    """Ā and (I − Δ/2 A)^{-1} of all 2N states, (D, 2N, 2N)."""
    low = _both(p)
    A = torch.diag_embed(_both(poles)) - torch.einsum("rdi,rdj->dij", low, low.conj())
    identity = torch.eye(A.shape[-1], dtype=A.dtype)
    half = dt[:, None, None] / 2 * A
    inverse = torch.linalg.inv(identity - half)
    return inverse @ (identity + half), inverse


def _truncated(poles, p, c, dt, length):
    """C̃ = C (I − Ā^L), one of each pair."""
    Ab, _ = _matrices(poles, p, dt)
    power = torch.linalg.matrix_power(Ab, length)
    full = _both(c) - torch.einsum("di,dij->dj", _both(c), power)
    N = poles.shape[1]
    assert (full[:, N:] - full[:, :N].conj()).abs().max() < 1e-12
    return full[:, :N]


def _direct(poles, p, b, c, dt, length):
    """C Ā^l B̄, by the recurrence."""
    Ab, inverse = _matrices(poles, p, dt)
    x = dt[:, None] * torch.einsum("dij,dj->di", inverse, _both(b))
    found = []
    for _ in range(length):
        found.append((_both(c) * x).sum(-1))
        x = torch.einsum("dij,dj->di", Ab, x)
    kernel = torch.stack(found, -1)
    assert kernel.imag.abs().max() < 1e-13 * kernel.abs().max()
    return kernel.real


def _kernel(poles, p, b, tilde, dt, length):
    low = PAIRS(p if p.shape[0] > 1 else p[0])
    return cauchy_kernel(PAIRS(poles), low, PAIRS(b), PAIRS(tilde), dt, length)


def _error(found, expected):
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("length", [1, 2, 3, 16, 33, 130])
def test_is_the_kernel_of_the_recurrence(backend, rank, length):
    poles, p, b, c, dt = _system(3, 4, rank)
    with use_backend(backend):
        found = _kernel(poles, p, b, _truncated(poles, p, c, dt, length), dt, length)
    assert _error(found, _direct(poles, p, b, c, dt, length)) < 1e-12


def test_doubling_the_length():
    """C̃ of 2L is C̃ of L times (I + Ā^L)."""
    poles, p, b, c, dt = _system(2, 5)
    Ab, _ = _matrices(poles, p, dt)
    tilde = _truncated(poles, p, c, dt, 20)
    power = torch.linalg.matrix_power(Ab, 20)
    longer = (_both(tilde) + torch.einsum("di,dij->dj", _both(tilde), power))[:, :5]
    assert _error(longer, _truncated(poles, p, c, dt, 40)) < 1e-12
    found = _kernel(poles, p, b, longer, dt, 40)
    assert _error(found, _direct(poles, p, b, c, dt, 40)) < 1e-12


def test_limit_at_the_last_node():
    """At ω = −1 the generating function is Δ/2 · C̃ B."""
    poles, p, b, c, dt = _system(3, 4)
    found = _kernel(poles, p, b, c, dt, 12)
    alternating = (found * torch.tensor([1.0, -1.0]).repeat(6)).sum(-1)
    assert _error(alternating, dt / 2 * (_both(c) * _both(b)).sum(-1).real) < 1e-12


def test_legs_keeps_its_digits_in_float32():
    """Poles of HiPPO-LegS reach 1300 times their distance from the axis."""
    N = 64
    index = torch.arange(N, dtype=torch.float64)
    low = (index + 0.5).sqrt()
    root = (2 * index + 1).sqrt()
    A = -torch.tril(torch.outer(root, root), -1) - torch.diag(index + 1)
    skew = A + torch.outer(low, low) + 0.5 * torch.eye(N, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(-1j * skew.to(torch.complex128))
    keep = values > 0
    poles = torch.complex(torch.full((N // 2,), -0.5, dtype=torch.float64), values[keep])[None]
    V = vectors[:, keep]
    p, b = (V.mH @ low.to(V.dtype))[None, None], (V.mH @ root.to(V.dtype))[None]
    c = torch.randn(1, N // 2, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    dt = torch.tensor([0.01], dtype=torch.float64)
    assert abs(values.max().item() - 1303.27) < 0.01
    expected = _kernel(poles, p, b, c, dt, 4096)
    narrow = [PAIRS(x).float() for x in (p[0], b, c)]
    with use_backend("cpu"):
        found = cauchy_kernel(PAIRS(poles), *narrow, dt, 4096)
    assert found.dtype == torch.float32
    assert _error(found.double(), expected) < 2e-6


def _product(P, D, N, J, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    v = torch.randn(P, D, N, 2, dtype=torch.float64, generator=generator)
    poles = torch.randn(D, N, 2, dtype=torch.float64, generator=generator)
    poles[..., 0] = -0.1 - poles[..., 0].abs()
    nodes = 6 * torch.rand(J, dtype=torch.float64, generator=generator) - 1
    weight = torch.randn(P, D, J, 2, dtype=torch.float64, generator=generator)
    return v.to(dtype), poles, nodes, weight


def _run(backend, v, poles, nodes, weight):
    v, poles = v.detach().requires_grad_(), poles.detach().requires_grad_()
    with use_backend(backend):
        r = cauchy_product(v, poles, nodes)
    gradients = torch.autograd.grad((r * weight.to(r.dtype)).sum(), (v, poles))
    return [r.detach(), *gradients]


SHAPES = [(1, 1, 1, 1), (4, 3, 5, 70), (9, 2, 3, 64), (4, 1, 33, 3000)]


@pytest.mark.parametrize("shape", SHAPES)
def test_compiled_product_agrees_with_the_reference(shape):
    for dtype, bound in ((torch.float64, 1e-13), (torch.float32, 2e-6)):
        case = _product(*shape, dtype)
        expected = _run("reference", case[0].double(), *case[1:])
        for one, other in zip(_run("cpu", *case), expected, strict=True):
            assert _error(one, other) < bound


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (4, 2, 3, 40), (3, 2, 2, 17)])
def test_triton_product_agrees_with_the_reference(shape):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for dtype, bound in ((torch.float64, 1e-13), (torch.float32, 2e-6)):
        case = _product(*shape, dtype)
        expected = _run("reference", case[0].double(), *case[1:])
        found = _run("gpu", *(x.to(device) for x in case))
        for one, other in zip(found, expected, strict=True):
            assert _error(one.cpu(), other) < bound


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(4, 64, 32, 8193), (1, 3, 7, 1000), (9, 5, 64, 4097)])
@pytest.mark.parametrize("seed", [0, 1])
def test_product_on_the_device(shape, seed):
    for dtype, bound in ((torch.float64, 1e-12), (torch.float32, 5e-6)):
        case = _product(*shape, dtype, seed)
        expected = _run("cpu", case[0].double(), *case[1:])
        found = _run("gpu", *(x.cuda() for x in case))
        for one, other in zip(found, expected, strict=True):
            assert _error(one.cpu(), other) < bound
        again = _run("gpu", *(x.cuda() for x in case))
        assert all(torch.equal(one, other) for one, other in zip(found, again, strict=True))


def test_a_node_beside_a_pole():
    """One part in 10⁶ away from a pole, float32 still has the sum to its own precision."""
    poles = torch.tensor([[[-1e-5, 10.0]]], dtype=torch.float64)
    nodes = torch.tensor([10.0, 10.0 + 1e-5, 10.0 - 3e-6], dtype=torch.float64)
    v = torch.tensor([[[[0.3, -0.7]]]])
    with use_backend("reference"):
        expected = cauchy_product(v.double(), poles, nodes)
    assert _error(cauchy_product(v, poles, nodes).double(), expected) < 1e-6


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_gradient_against_finite_differences(backend):
    v, poles, nodes, _ = _product(2, 2, 3, 5)
    poles_, p, b, c, dt = _system(2, 3, 2)
    leaves = [PAIRS(x).clone().requires_grad_() for x in (poles_, p, b, c)]
    with use_backend(backend):
        assert torch.autograd.gradcheck(
            lambda x, y: cauchy_product(x, y, nodes), (v.requires_grad_(), poles.requires_grad_())
        )
        for length in (5, 6):
            assert torch.autograd.gradcheck(
                lambda *x, length=length: cauchy_kernel(*x, length), (*leaves, dt.requires_grad_())
            )


def test_results_do_not_depend_on_the_number_of_threads(monkeypatch):
    case, found = _product(4, 20, 16, 700, torch.float32), []
    for threads in ("1", "3"):
        monkeypatch.setenv("STATEWISE_THREADS", threads)
        found.append(_run("cpu", *case))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # raised inside torch
def test_opcheck():
    v, poles, nodes, weight = _product(2, 2, 3, 5)
    leaves = (v.requires_grad_(), poles.requires_grad_(), nodes)
    torch.library.opcheck(torch.ops.statewise.cauchy_product.default, leaves)
    plain = (weight, v.detach(), poles.detach(), nodes, None)
    torch.library.opcheck(torch.ops.statewise.cauchy_product_backward.default, plain)


def test_compiles_as_one_graph_and_exports():
    poles, p, b, c, dt = _system(2, 3)
    leaves = [PAIRS(x).clone().requires_grad_() for x in (poles, p[0], b, c)]

    def loss(*arguments):
        return cauchy_kernel(*arguments, 12).square().sum()

    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    found = [torch.autograd.grad(f(*leaves, dt), leaves) for f in (loss, compiled)]
    for one, other in zip(*found, strict=True):
        assert _error(one, other) < 1e-12

    class Wrapper(torch.nn.Module):
        def forward(self, *arguments):
            return cauchy_kernel(*arguments, 12)

    arguments = (*(x.detach() for x in leaves), dt)
    program = torch.export.export(Wrapper(), arguments)
    assert torch.equal(program.module()(*arguments), cauchy_kernel(*arguments, 12))


def test_second_derivative_is_refused():
    v, poles, nodes, _ = _product(1, 1, 2, 3)
    v.requires_grad_()
    (gradient,) = torch.autograd.grad(
        cauchy_product(v, poles, nodes).square().sum(), v, create_graph=True
    )
    with pytest.raises(RuntimeError, match="cauchy_product has no second derivative"):
        gradient.sum().backward()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"v": torch.ones(2, 3, 2)}, ValueError, r"v has shape \(2, 3, 2\); it must be \(P, D"),
        ({"poles": torch.ones(3, 4, 2)}, ValueError, r"poles has shape.*needs \(2, 3, 2\)"),
        ({"frequencies": torch.ones(2, 2)}, ValueError, r"\(2, 2\); it must be \(J,\)"),
        ({"v": torch.ones(1, 2, 3, 2).half()}, TypeError, "v is torch.float16; it must be one of"),
        ({"frequencies": [1.0]}, TypeError, "frequencies must be a tensor, and is a list"),
        ({"frequencies": torch.ones(2, requires_grad=True)}, ValueError, "is a constant here"),
    ],
)
def test_errors_of_the_product(change, error, message):
    given = {
        "v": torch.ones(1, 2, 3, 2),
        "poles": torch.ones(2, 3, 2),
        "frequencies": torch.ones(4),
    }
    with pytest.raises(error, match=message):
        cauchy_product(**(given | change))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"poles": torch.ones(2, 3)},
            ValueError,
            r"poles has shape \(2, 3\); it must be \(D, N, 2",
        ),
        ({"p": torch.ones(4, 2, 4, 2)}, ValueError, r"p has shape.*needs \(4, 2, 3, 2\)"),
        ({"dt": torch.ones(3)}, ValueError, r"dt has shape \(3,\).*needs \(2,\)"),
        ({"length": 0}, ValueError, "length is 0; it must be at least 1"),
        ({"c": None}, TypeError, "c must be a tensor, and is a NoneType"),
    ],
)
def test_errors_of_the_kernel(change, error, message):
    x = torch.ones(2, 3, 2)
    given = {"poles": -x, "p": x, "b": x, "c": x, "dt": torch.ones(2), "length": 4}
    with pytest.raises(error, match=message):
        cauchy_kernel(**(given | change))
