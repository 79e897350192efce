"""The linear map of a few rows beside torch's own."""

from __future__ import annotations

import pytest
import torch

from statewise import ops
from statewise.ops import matvec


def problem(batch, inner, outer, dtype=torch.float64):
    generator = torch.Generator().manual_seed(inner)
    shapes = ((batch, inner), (outer, inner), (outer,))
    return [torch.randn(s, dtype=torch.float64, generator=generator).to(dtype) for s in shapes]


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("batch", [0, 1, 3])
@pytest.mark.parametrize("inner", [0, 1, 7, 16, 33, 64, 100, 768])
def test_equals_the_product_of_torch(backend, batch, inner):
    for dtype, bound in ((torch.float64, 1e-13), (torch.float32, 5e-6)):
        x, weight, bias = problem(batch, inner, 9, dtype)
        for offset in (None, bias):
            wide = None if offset is None else offset.double()
            expected = torch.nn.functional.linear(x.double(), weight.double(), wide)
            with ops.use_backend(backend):
                y = matvec(x, weight, offset)
            assert y.dtype == dtype
            torch.testing.assert_close(y.double(), expected, rtol=bound, atol=10 * bound)


@pytest.mark.parametrize("threads", ["1", "2", "3"])
def test_threads_share_the_rows(threads, monkeypatch):
    monkeypatch.setenv("STATEWISE_THREADS", threads)
    x, weight, bias = problem(2, 1000, 2001)
    expected = torch.nn.functional.linear(x, weight, bias)
    torch.testing.assert_close(matvec(x, weight, bias), expected, rtol=1e-12, atol=1e-12)


def test_memory_layout_does_not_matter():
    x, weight, bias = problem(3, 20, 30)
    scattered = [part.mT.contiguous().mT for part in (x, weight)]
    assert not scattered[1].is_contiguous()
    assert torch.equal(matvec(*scattered, bias), matvec(x, weight, bias))


def test_torch_knows_the_operator():
    for offset in (True, False):
        x, weight, bias = (part.requires_grad_() for part in problem(2, 5, 3))
        given = (x, weight, bias if offset else None)
        torch.library.opcheck(torch.ops.statewise.matvec.default, given)
        assert torch.autograd.gradcheck(matvec, given)


def test_types_promote():
    x, weight, bias = problem(2, 5, 3)
    assert matvec(x.float(), weight, bias).dtype == torch.float64
    y = matvec(x.bfloat16(), weight.bfloat16())
    assert torch.equal(y, torch.nn.functional.linear(x.bfloat16(), weight.bfloat16()))


X, W = torch.ones(2, 5), torch.ones(3, 5)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((X[0], W), ValueError, r"x has shape \(5,\) .* \(B, K\) and \(M, K\)"),
        ((X, W.mT), ValueError, r"weight has shape \(5, 3\); x of \(2, 5\) needs \(5, 5\)"),
        ((X, W, X), ValueError, r"bias has shape \(2, 5\); .* needs \(3,\)"),
        ((X.int(), W), TypeError, "x is torch.int32"),
        ((X, [1.0]), TypeError, "weight must be a tensor, and is a list"),
    ],
)
def test_what_does_not_fit_is_said(arguments, error, message):
    with pytest.raises(error, match=f"matvec: {message}"):
        matvec(*arguments)
