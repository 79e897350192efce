"""State-space duality against forms of it that share no code with the operator.

The quadratic form is attention with the mask Λ; the chunked form is matrix products within chunks
and a recurrence between them. Both are differentiated by autograd.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from statewise import ops
from statewise.ops import linear_attention, ssd

BACKENDS = ["reference", "cpu"]
F64 = torch.float64


def _draw(B, L, H, P, G, N, seed=0):
    """x, Δ, A, B, C, h0 in double precision, Δ positive and A negative."""
    g = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(shape, dtype=F64, generator=g)

    x, dt, A = randn(B, L, H, P), randn(B, L, H).exp() / 8, -randn(H).exp()
    return [x, dt, A, randn(B, L, G, N), randn(B, L, G, N), randn(B, H, P, N)]


def _segments(log_a: Tensor) -> Tensor:
    """(..., Q) to (..., Q, Q): Σ of log_a over s < j ≤ t, and −∞ for s > t."""
    Q = log_a.shape[-1]
    t = torch.arange(Q)
    terms = log_a[..., :, None].expand(*log_a.shape, Q)
    sums = torch.where(t[:, None] > t, terms, 0.0).cumsum(-2)
    return torch.where(t[:, None] >= t, sums, -torch.inf)


def _heads(x: Tensor, heads: int) -> Tensor:
    return x.repeat_interleave(heads // x.shape[2], 2)


def mask(dt: Tensor, A: Tensor) -> Tensor:
    """Λ (B, H, L, L)."""
    return _segments((dt * A).transpose(1, 2)).exp()


def quadratic(x, dt, A, B, C, h0):
    """Y = (Λ ∘ C Bᵀ) (Δ X), and what the initial state adds."""
    b, c = (_heads(y, x.shape[2]) for y in (B, C))
    M = mask(dt, A) * torch.einsum("bthn,bshn->bhts", c, b)
    u = dt[..., None] * x
    y = torch.einsum("bhts,bshp->bthp", M, u)
    total = (dt * A).cumsum(1)
    y = y + total.exp()[..., None] * torch.einsum("bthn,bhpn->bthp", c, h0)
    last = torch.einsum("bsh,bshp,bshn->bhpn", (total[:, -1:] - total).exp(), u, b)
    return y, last + total[:, -1].exp()[..., None, None] * h0


def chunked(x, dt, A, B, C, h0, Q):
    """Dao and Gu, listing 1, one chunk after another."""
    pieces, h = [], h0
    for k in range(0, x.shape[1], Q):
        part = (slice(None), slice(k, k + Q))
        y, h = quadratic(x[part], dt[part], A, B[part], C[part], h)
        pieces.append(y)
    return torch.cat(pieces, 1), h


def _outputs_and_gradients(function, tensors):
    leaves = [t.clone().requires_grad_() for t in tensors]
    y, last = function(*leaves)
    g = torch.Generator().manual_seed(9)
    weights = [torch.randn(t.shape, dtype=F64, generator=g) for t in (y, last)]
    return [y, last, *torch.autograd.grad([y, last], leaves, weights)]


def _operator(backend, **options):
    def function(x, dt, A, B, C, h0):
        with ops.use_backend(backend):
            return ssd(x, dt, A, B, C, h0=h0, **options)

    return function


def _largest_error(given, expected):
    return max(
        ((a - b).abs().max() / b.abs().max().clamp_min(1e-300)).item()
        for a, b in zip(given, expected, strict=True)
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_recurrent_is_quadratic_is_chunked(backend, groups):
    tensors = _draw(2, 150, 4, 3, groups, 6, seed=groups)
    expected = _outputs_and_gradients(quadratic, tensors)
    found = _outputs_and_gradients(_operator(backend), tensors)
    assert _largest_error(found, expected) < 1e-11
    for Q in (1, 7, 64, 150):
        other = _outputs_and_gradients(lambda *t, Q=Q: chunked(*t, Q), tensors)
        assert _largest_error(other, expected) < 1e-11


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_part_of_the_front_door(backend):
    """Bias, softplus, limits, skip and gate, written out in torch around the quadratic form."""
    x, dt, A, B, C, h0 = _draw(2, 20, 4, 3, 2, 5)
    g = torch.Generator().manual_seed(1)
    D, z, bias = (torch.randn(s, dtype=F64, generator=g) for s in ((4,), x.shape, (4,)))
    raw = torch.randn(dt.shape, dtype=F64, generator=g)

    def written(x, raw, A, B, C, h0, D, z, bias):
        delta = torch.log1p((raw + bias).exp()).clamp(0.3, 1.5)
        y, last = quadratic(x, delta, A, B, C, h0)
        return (y + D[:, None] * x) * z * z.sigmoid(), last

    def operator(x, raw, A, B, C, h0, D, z, bias):
        with ops.use_backend(backend):
            return ssd(x, raw, A, B, C, D, z, bias, h0, softplus=True, dt_limit=(0.3, 1.5))

    tensors = [x, raw, A, B, C, h0, D, z, bias]
    expected = _outputs_and_gradients(written, tensors)
    assert _largest_error(_outputs_and_gradients(operator, tensors), expected) < 1e-12


@pytest.mark.parametrize("backend", BACKENDS)
def test_is_the_selective_scan_with_a_repeated(backend):
    """Mamba-1's recurrence with A constant over states and Δ over the channels of a head."""
    x, dt, A, B, C, h0 = _draw(2, 30, 3, 4, 1, 5)
    batch, length, heads, width = x.shape
    states = B.shape[3]

    def scan(x, dt, A, B, C, h0):
        u = x.reshape(batch, length, heads * width)
        delta = dt.repeat_interleave(width, 2)
        rates = A.repeat_interleave(width)[:, None].expand(-1, states)
        h, y = h0.reshape(batch, heads * width, states), []
        for t in range(length):
            decay = (delta[:, t, :, None] * rates).exp()
            h = decay * h + (delta[:, t] * u[:, t])[..., None] * B[:, t]
            y.append((h * C[:, t]).sum(-1))
        return torch.stack(y, 1).reshape(x.shape), h.reshape(h0.shape)

    tensors = [x, dt, A, B, C, h0]
    expected = _outputs_and_gradients(scan, tensors)
    assert _largest_error(_outputs_and_gradients(_operator(backend), tensors), expected) < 1e-12


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_decay_it_is_causal_linear_attention(backend):
    x, _, _, B, C, _ = _draw(2, 40, 4, 3, 2, 5)
    scores = torch.einsum("bthn,bshn->bhts", _heads(C, 4), _heads(B, 4)).tril()
    expected = torch.einsum("bhts,bshp->bthp", scores, x)
    one = torch.ones(2, 40, 4, dtype=F64)
    with ops.use_backend(backend):
        y, last = ssd(x, one, torch.zeros(4, dtype=F64), B, C)
        attended, state = linear_attention(C, B, x, scale=0.5)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(attended, 0.5 * expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(last, state)


@pytest.mark.parametrize("backend", BACKENDS)
def test_scalar_state_is_a_gated_sum(backend):
    g = torch.Generator().manual_seed(3)
    x, dt = (torch.rand(1, 50, 1, dtype=F64, generator=g) for _ in range(2))
    one = torch.ones(1, 50, 1, dtype=F64)
    with ops.use_backend(backend):
        y, _ = ssd(x[..., None], dt, -torch.ones(1, dtype=F64), one, one)
    total = dt.cumsum(1)
    expected = (-total).exp() * (total.exp() * dt * x).cumsum(1)
    torch.testing.assert_close(y[..., 0], expected, rtol=1e-12, atol=1e-14)


def test_lower_blocks_have_the_rank_of_the_state():
    """M is read off the operator, one impulse a column."""
    L, N = 24, 3
    _, dt, A, B, C, _ = _draw(1, L, 1, 1, 1, N)
    impulses = torch.eye(L, dtype=F64)[:, :, None, None]
    y, _ = ssd(
        *(impulses, dt.expand(L, L, 1), A, B.expand(L, L, 1, N), C.expand(L, L, 1, N)),
    )
    M = y[:, :, 0, 0].t()
    assert torch.equal(M.triu(1), torch.zeros_like(M))
    for i in range(1, L):
        assert torch.linalg.matrix_rank(M[i:, :i], rtol=1e-10) <= N
    assert torch.linalg.matrix_rank(M[12:, :12], rtol=1e-10) == N


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_packed_documents_are_separate_ones(backend, reverse):
    lengths = [1, 16, 33, 2, 130, 18]
    x, dt, A, B, C, _ = _draw(1, sum(lengths), 4, 3, 2, 5)
    ends = torch.tensor(lengths).cumsum(0)
    reset = torch.zeros(1, sum(lengths), dtype=torch.bool)
    reset[0, ends - 1 if reverse else ends[:-1]] = True

    def packed(x, dt, A, B, C):
        with ops.use_backend(backend):
            return ssd(x, dt, A, B, C, reset=reset, reverse=reverse)

    def separate(x, dt, A, B, C):
        with ops.use_backend(backend):
            pieces = [x.split(lengths, 1), dt.split(lengths, 1), B.split(lengths, 1)]
            documents = zip(*pieces, C.split(lengths, 1), strict=True)
            found = [ssd(x, dt, A, B, C, reverse=reverse) for x, dt, B, C in documents]
        return torch.cat([y for y, _ in found], 1), found[0 if reverse else -1][1]

    tensors = [x, dt, A, B, C]
    expected = _outputs_and_gradients(separate, tensors)
    assert _largest_error(_outputs_and_gradients(packed, tensors), expected) < 1e-12


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("rate", [-50.0, -1e-3, 0.0], ids=["strong", "weak", "none"])
def test_long_chunks_stay_exact_and_finite(backend, dtype, rate):
    """Decays of e^−50 a step, whose masked sums would overflow, and none at all, at length 600."""
    x, _, _, B, C, h0 = _draw(1, 600, 2, 3, 1, 4)
    log_a = torch.full((1, 600, 2), rate, dtype=F64)

    def function(x, log_a, B, C, h0):
        with ops.use_backend(backend):
            return linear_attention(C, B, x, log_a, h0)

    def loop(x, log_a, B, C, h0):
        h, y = h0, []
        for t in range(600):
            h = log_a[:, t, :, None, None].exp() * h + x[:, t, :, :, None] * B[:, t, :, None, :]
            y.append((h @ C[:, t, :, :, None]).squeeze(-1))
        return torch.stack(y, 1), h

    tensors = [x, log_a, B, C, h0]
    expected = _outputs_and_gradients(loop, tensors)
    narrow = [t.to(dtype) for t in tensors]
    leaves = [t.requires_grad_() for t in narrow]
    y, last = function(*leaves)
    g = torch.Generator().manual_seed(9)
    weights = [torch.randn(t.shape, dtype=F64, generator=g).to(dtype) for t in (y, last)]
    found = [y, last, *torch.autograd.grad([y, last], leaves, weights)]
    assert all(torch.isfinite(t).all() for t in found)
    # The gradient of log_a is e^−50 small where the decay is strong, and as exact as the others.
    assert _largest_error(found, expected) < (1e-11 if dtype is F64 else 2e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_decay_of_zero_forgets(backend):
    """log_a of −∞ is a decay of 0, with gradients."""
    x, dt, _, B, C, h0 = _draw(1, 20, 2, 3, 1, 4)
    log_a = (-dt).index_fill(1, torch.tensor([7]), -torch.inf).requires_grad_()
    with ops.use_backend(backend):
        y, last = linear_attention(C, B, x, log_a, h0)
        after, last_after = linear_attention(C[:, 7:], B[:, 7:], x[:, 7:], log_a[:, 7:])
    torch.testing.assert_close(y[:, 7:], after, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(last, last_after, rtol=1e-12, atol=1e-13)
    (gradient,) = torch.autograd.grad(y.sum() + last.sum(), log_a)
    assert torch.isfinite(gradient).all()
    assert gradient[0, 7].tolist() == [0.0, 0.0]


def test_results_do_not_depend_on_the_threads(monkeypatch):
    """Groups of ten heads: three parts, whose ∂B and ∂C are added in one order."""
    tensors = [t.float() for t in _draw(2, 300, 10, 16, 1, 16)]
    found = []
    for threads in ("1", "2", "5"):
        monkeypatch.setenv("STATEWISE_THREADS", threads)
        leaves = [t.clone().requires_grad_() for t in tensors]
        y, last = ssd(*leaves[:5], h0=leaves[5])
        found.append([y, last, *torch.autograd.grad([y.sum(), last.sum()], leaves)])
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("wanted", ["x", "dt", "A", "B", "C", "D", "z", "h0"])
def test_one_gradient_alone_is_that_among_all(wanted):
    x, dt, A, B, C, h0 = _draw(2, 40, 4, 3, 2, 5)
    g = torch.Generator().manual_seed(1)
    D, z = (torch.randn(s, dtype=F64, generator=g) for s in ((4, 3), x.shape))
    tensors = {"x": x, "dt": dt, "A": A, "B": B, "C": C, "D": D, "z": z, "h0": h0}
    for t in tensors.values():
        t.requires_grad_()
    (expected,) = torch.autograd.grad(ssd(**tensors)[0].square().sum(), tensors[wanted])
    alone = {name: t if name == wanted else t.detach() for name, t in tensors.items()}
    (found,) = torch.autograd.grad(ssd(**alone)[0].square().sum(), tensors[wanted])
    assert torch.equal(found, expected)
