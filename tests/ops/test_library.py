"""When torch is told of an operator's call, and when the function is called as it is."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx

from statewise.ops.library import Operator, is_followed
from statewise.ops.linear_scan._library import scan

A, B = torch.full((2,), 0.5), torch.ones(1, 3, 2)
EXPECTED = torch.tensor([1, 1.5, 1.75]).expand(2, 3).T[None]


def apply(b: torch.Tensor) -> torch.Tensor:
    return scan(torch.full_like(b[0, 0], 0.5), b, None, None, False)[0]


@pytest.fixture
def unseen(monkeypatch):
    """Torch cannot be told."""
    monkeypatch.setattr(scan, "known", None)


def test_plain_tensors_do_not_go_through_torch(unseen):
    parameter = torch.nn.Parameter(B)
    with torch.no_grad():
        assert torch.equal(apply(parameter), EXPECTED)
    assert torch.equal(apply(B), EXPECTED)
    with torch.inference_mode():
        assert torch.equal(apply(B), EXPECTED)


def test_what_is_recorded_goes_through_torch(unseen):
    with pytest.raises(TypeError, match="not callable"):
        apply(B.clone().requires_grad_())


def test_a_trace_holds_the_operator():
    for mode in ("real", "fake", "symbolic"):
        graph = make_fx(apply, tracing_mode=mode)(B)
        assert "statewise.linear_scan" in graph.code
        assert torch.equal(graph(B), EXPECTED)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_script_trace_holds_the_operator():
    traced = torch.jit.trace(apply, (B,))
    assert "statewise::linear_scan" in str(traced.graph)


def test_fake_tensors_stay_fake():
    with FakeTensorMode() as mode:
        assert isinstance(apply(torch.ones(1, 3, 2)), FakeTensor)
    outside = scan(mode.from_tensor(A), mode.from_tensor(B), None, None, False)
    assert isinstance(outside[0], FakeTensor)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_transforms_see_the_operator():
    assert torch.equal(torch.func.vmap(apply)(B.expand(4, 1, 3, 2)), EXPECTED.expand(4, 1, 3, 2))
    with pytest.raises(RuntimeError, match="setup_context"):
        torch.func.grad(lambda b: apply(b).sum())(B)


def test_who_follows():
    leaf = B.clone().requires_grad_()
    assert not is_followed((A, B, None, 3, "zoh"))
    assert is_followed((A, leaf))
    with torch.no_grad():
        assert not is_followed((A, leaf))
    with forward_ad.dual_level():
        assert is_followed((A, B))


def test_results_are_the_same_either_way():
    assert isinstance(scan, Operator)
    for operator in (scan, scan.known):
        assert torch.equal(operator(A, B, None, None, False)[0], EXPECTED)
