"""Triton kernels of the Kalman filter and smoother, through the interpreter or on a device."""

from __future__ import annotations

import importlib
import sys

import pytest
import torch
from test_kalman_filter import close, problem

from statewise import ops
from statewise.ops import dispatch, kalman_filter, kalman_likelihood, rts_smoother

# A lane that finds no variance divides by it before it says so.
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")

CASES = [
    {"n": 1, "p": 1, "offsets": False},
    {"n": 3, "p": 2, "gaps": 0.4},
    {"n": 4, "p": 1, "varies": True},
    {"n": 2, "p": 3, "own": True, "ends": True, "gaps": 0.3},
    {"n": 4, "p": 2, "varies": True, "own": True, "ends": True},
]


@pytest.fixture
def device() -> str:
    """Where the kernels take tensors here."""
    if torch.cuda.is_available():
        return "cuda"
    refusal = dispatch._ask("kalman_filter", "gpu", "cpu", torch.float64)[1]
    if refusal is not None:
        pytest.skip(refusal)
    return "cpu"


def moved(tensors, device, dtype=None):
    """Tensors by name on a device; floating ones in a type."""
    return {
        k: x.to(device, dtype if dtype and x.is_floating_point() else None)
        for k, x in tensors.items()
    }


def everything(given, options, backend, use=("m", "P", "log"), moves_first=True):
    """What the operators find, and gradients of a fixed reading of it, on the CPU."""
    leaves = {name: x.clone().requires_grad_() for name, x in given.items()}
    with ops.use_backend(backend):
        m, P, log = kalman_filter(**leaves, **options, moves_first=moves_first)
        found = {"m": m, "P": P, "log": log}
        g = torch.Generator().manual_seed(1)
        weights = {k: torch.randn(x.shape, generator=g).to(x) for k, x in found.items()}
        loss = torch.stack([(weights[k] * found[k]).sum() for k in use]).sum()
        slopes = torch.autograd.grad(loss, list(leaves.values()))
        found["alone"] = kalman_likelihood(**given, **options, moves_first=moves_first)
        kept = (m.detach(), P.detach(), given["F"], given["Q"])
        more = {"c": given.get("c"), "lengths": options.get("lengths")}
        found |= zip(("ms", "Ps", "cross"), rts_smoother(*kept, **more, cross=True), strict=True)
    found |= {f"d{k}": x for k, x in zip(leaves, slopes, strict=True)}
    return {k: x.detach().cpu() for k, x in found.items()}


def agree(found, expected, bound):
    for name, x in expected.items():
        scale = x.abs().max().clamp_min(1e-3)
        close(found[name].to(x) / scale, x / scale, bound)


def disturbed(given, seed):
    """Every input off by a few units of rounding."""
    g = torch.Generator().manual_seed(seed)
    return {
        name: x * (1 + 2.0**-50 * (torch.randint(0, 2, x.shape, generator=g).to(x) * 2 - 1))
        for name, x in given.items()
    }


def launches():
    """What the test of the compiler's front end translates."""
    for case in CASES:
        given, options = problem(2, 3, **case)
        everything(moved(given, "cpu", torch.float32), options, "gpu")
        everything(moved(given, "cpu", torch.float64), options, "gpu", ("log",), False)


@pytest.mark.parametrize("case", CASES)
def test_kernels_agree_with_the_reference(device, case):
    given, options = problem(3, 5, **case)
    there = moved(given, device), moved(options, device)
    for moves_first in (True, False):
        expected = everything(given, options, "reference", moves_first=moves_first)
        agree(everything(*there, "gpu", moves_first=moves_first), expected, 1e-10)


@pytest.mark.parametrize("use", ["m", "P", "log"])
def test_gradient_of_each_output_alone(device, use):
    given, options = problem(2, 4, **CASES[1])
    expected = everything(given, options, "reference", (use,))
    agree(everything(moved(given, device), moved(options, device), "gpu", (use,)), expected, 1e-10)


def test_float32_is_computed_in_float64(device):
    given, options = problem(2, 6, **CASES[1])
    narrow = moved(given, "cpu", torch.float32)
    expected = everything(moved(narrow, "cpu", torch.float64), options, "reference")
    found = everything(moved(narrow, device), moved(options, device), "gpu")
    assert all(x.dtype == torch.float32 for x in found.values())
    agree(found, expected, 2e-6)


def test_rounded_covariances_make_no_gradients(device):
    """With a prior so vague that float32 cannot hold the covariances that follow."""
    given, _ = problem(3, 20, 3, 1)
    given["P0"], given["R"] = 1e5 * torch.eye(3).expand(3, 3, 3), given["R"] * 1e-2
    given["Q"] = given["Q"] * 1e-3
    wants = {}
    for dtype, backend in ((torch.float64, "reference"), (torch.float32, "gpu")):
        where = "cpu" if backend == "reference" else device
        narrow = moved(moved(given, "cpu", torch.float32), where, dtype)
        leaves = {k: x.clone().requires_grad_() for k, x in narrow.items()}
        for function in (lambda **x: kalman_filter(**x)[2], kalman_likelihood):
            with ops.use_backend(backend):
                found = torch.autograd.grad(function(**leaves).sum(), list(leaves.values()))
            wants.setdefault(backend, []).extend(g.cpu().double() for g in found)
    for exact, rounded in zip(wants["reference"], wants["gpu"], strict=True):
        assert (rounded - exact).abs().max() <= 1e-5 * exact.abs().max()


def test_a_likelihood_is_filtered_again_in_parts(device, monkeypatch):
    """A few series at a time, no fewer than a warp has lanes."""
    gpu = importlib.import_module("statewise.ops.kalman_filter.gpu")
    monkeypatch.setattr(gpu, "KEPT", 1)
    monkeypatch.setattr(gpu, "LANES", 2 if device == "cpu" else 32)
    monkeypatch.setattr(sys.modules[kalman_filter.__module__], "KEPT", 0)
    given, options = problem(3 if device == "cpu" else 70, 3, **CASES[3])
    slopes = {}
    for backend, where in (("reference", "cpu"), ("gpu", device)):
        leaves = {k: x.clone().requires_grad_() for k, x in moved(given, where).items()}
        with ops.use_backend(backend):
            log = kalman_likelihood(**leaves, **moved(options, where))
        found = torch.autograd.grad(log.sum(), list(leaves.values()))
        slopes[backend] = {k: g.cpu() for k, g in zip(leaves, found, strict=True)}
    agree(slopes["gpu"], slopes["reference"], 1e-10)


def test_no_variance_is_said(device):
    given, _ = problem(3, 4, 3, 2, varies=True)
    given["R"][:, 2], given["H"][:, 2] = 0, 0
    with (
        ops.use_backend("gpu"),
        pytest.raises(ValueError, match="series 0 at step 2 is not positive"),
    ):
        kalman_filter(**moved(given, device))


def test_large_models_are_left_to_the_reference(device, caplog, monkeypatch):
    given, _ = problem(2, 3, 5, 2)
    there = moved(given, device)
    with ops.use_backend("gpu"), pytest.raises(ops.BackendError, match="at most 4 states"):
        kalman_filter(**there)
    library = importlib.import_module("statewise.ops.kalman_filter._library")
    kernels = importlib.import_module("statewise.ops.kalman_filter.gpu")
    monkeypatch.setattr(library, "_told", set())
    monkeypatch.setattr(library.dispatch, "select", _choose_for_a_device(kernels))
    with caplog.at_level("WARNING", "statewise"):
        found = [kalman_filter(**there) for _ in range(2)][1]
    assert len([r for r in caplog.records if "at most 4 states" in r.getMessage()]) == 1
    with ops.use_backend("reference"):
        for x, expected in zip(found, kalman_filter(**given), strict=True):
            close(x.cpu(), expected, 1e-12)


def _choose_for_a_device(kernels):
    """The choice of a back end as it is for tensors on a device."""
    select = dispatch.select
    return lambda op, device, dtype, name=None: (
        select(op, device, dtype, name) if name or dispatch.choice() else kernels
    )


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("case", CASES)
def test_on_the_device(device, case, dtype):
    for seed, (B, T) in enumerate([(1, 1), (70, 33), (200, 130)]):
        given, options = problem(B, T, seed=seed, **case)
        given = moved(moved(given, "cpu", dtype), "cpu", torch.float64)
        expected = everything(given, options, "cpu")
        found = everything(moved(given, device, dtype), moved(options, device), "gpu")
        bound = 1e-9 if dtype is torch.float64 else 2e-4
        # A smoother divides by predicted covariances, which may be all but singular.
        off = everything(disturbed(given, seed), options, "cpu")
        for name, x in expected.items():
            scale = x.abs().max().clamp_min(1e-3)
            change = float((off[name] - x).abs().max() / scale)
            agree({name: found[name]}, {name: x}, max(bound, 10 * change))


@pytest.mark.gpu
def test_kernels_repeat_bit_for_bit(device):
    given, options = problem(70, 50, **CASES[1])
    there = moved(given, device), moved(options, device)
    first, second = (everything(*there, "gpu") for _ in range(2))
    assert all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.gpu
def test_captured_graph_replays(device):
    given, _ = problem(70, 50, 4, 2)
    there = moved(given, device)
    expected = [x.clone() for x in kalman_filter(**there)]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = kalman_filter(**there)
    for _ in range(2):
        found[0].fill_(float("nan"))
        graph.replay()
        torch.cuda.synchronize()
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
