"""Every row of the survey that claims to be here is built from data and run."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from contracts.layer_base import fold, gradients
from statewise import ops
from statewise._config import from_dict, to_dict
from statewise.models import SequenceModel, SequenceModelConfig
from statewise.nn import S4ND, ButterflyConv, state_tensors
from statewise.papers import papers
from statewise.papers.survey import Architecture, architectures
from statewise.papers.survey_page import TESTS, coverage_page

STACKS = [row for row in architectures().values() if row.blocks]
MODULES = {
    "nn.S4ND": lambda: S4ND(3, d_state=2, rank=2),
    "nn.ButterflyConv": lambda: ButterflyConv(3, 64),
}
# What an operator is made of, where that is another operator of the library.
INSIDE = {
    "cauchy_kernel": "cauchy_product",
    "linear_attention": "ssd",
    "companion_kernel": "reciprocal_series",
    "newton_scan": "block_scan",
}

stacks = pytest.mark.parametrize("row", STACKS, ids=lambda row: row.key)


class Ran(TorchDispatchMode):
    """Which operators of the library run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        space, _, name = func.name().partition("::")
        if space == "statewise":
            self.names.add(name.partition(".")[0])
        return func(*args, **(kwargs or {}))

    def has(self, operator: str) -> bool:
        return INSIDE.get(operator, operator) in self.names


def build(row: Architecture, width: int = 8) -> SequenceModel:
    config = SequenceModelConfig(row.blocks, d_model=width)
    return SequenceModel(3, 2, config, seed=1).double().eval()


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@stacks
def test_is_one_config(row: Architecture) -> None:
    config = SequenceModelConfig(row.blocks, d_model=8)
    back = from_dict(to_dict(config))
    assert back == config
    one, other = (SequenceModel(3, 2, c, seed=1).state_dict() for c in (config, back))
    assert list(one) == list(other)
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@stacks
def test_sequence_is_the_fold_of_steps(row: Architecture) -> None:
    model, u = build(row), noise(2, 64, 3)
    with torch.no_grad():
        y, state = model(u)
        expected, last = fold(model, u, model.init_state(2))
    torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-9)
    for one, other in zip(state_tensors(state), state_tensors(last), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@stacks
def test_gradients_are_finite_and_reach_every_block(row: Architecture) -> None:
    model, u = build(row), noise(2, 64, 3).requires_grad_()
    loss = model(u)[0].square().sum()
    found = gradients(model, loss)
    for name, gradient in found.items():
        assert gradient.isfinite().all(), name
    for index in range(len(row.blocks)):
        own = [g for name, g in found.items() if name.startswith(f"blocks.{index}.layer")]
        assert any(g.any() for g in own)
    (sensitivity,) = torch.autograd.grad(loss, u)
    assert sensitivity.isfinite().all()
    assert sensitivity.any(-1).all()


@stacks
@pytest.mark.parametrize("width", [8, 12])
def test_state_has_the_size_that_is_documented(row: Architecture, width: int) -> None:
    state = build(row, width).init_state(3)
    assert sum(part[0].numel() for part in state_tensors(state)) == row.numbers(width)


@stacks
def test_operators_that_are_named_run(row: Architecture) -> None:
    model = build(row)
    with torch.no_grad(), Ran() as ran:
        model(noise(1, 80, 3))
    for operator in row.primitives:
        assert operator in ops.__all__
        assert ran.has(operator), f"{operator} does not run; what runs: {ran.names}"


def test_operators_that_are_not_named_are_noticed() -> None:
    model = build(architectures()["lru"])
    with torch.no_grad(), Ran() as ran:
        model(noise(1, 80, 3))
    assert not ran.has("ssd")


@pytest.mark.parametrize(
    "row", [row for row in architectures().values() if row.module], ids=lambda row: row.key
)
def test_maps_of_whole_grids_are_built_and_trained(row: Architecture) -> None:
    module: nn.Module = MODULES[row.module]().double()
    u = noise(2, 64, 3) if row.module == "nn.ButterflyConv" else noise(2, 8, 9, 3)
    with Ran() as ran:
        y = module(u)
    assert y.shape == u.shape
    assert all(ran.has(operator) for operator in row.primitives)
    for name, gradient in gradients(module, y.square().sum()).items():
        assert gradient.isfinite().all(), name
        assert gradient.any(), name


@pytest.mark.parametrize("row", architectures().values(), ids=lambda row: row.key)
def test_a_row_is_complete(row: Architecture) -> None:
    assert 2015 < row.year < 2030
    assert row.definition
    if not row.here:
        assert row.missing.startswith("It needs ") or "not checked" in row.missing
        assert row.missing.endswith(".")
    if row.paper:
        assert row.paper in papers()
    if row.note:
        assert row.note.endswith(".")
    letters = {letter for letter in row.state if letter.isalpha()}
    assert letters <= {"D", *row.sizes}
    assert set(row.sizes) <= letters


def test_mistakes_in_rows_get_a_sentence() -> None:
    given = {"year": 2020, "kind": "gating", "varies": True, "definition": "x", "primitives": ()}
    with pytest.raises(ValueError, match="one of the three; given 0"):
        Architecture("x", **given)
    with pytest.raises(ValueError, match="given 'new'"):
        Architecture("x", **{**given, "kind": "new"}, missing="It needs x.")
    lru = architectures()["lru"]
    with pytest.raises(ValueError, match="needs the size of its state"):
        Architecture("x", **given, blocks=lru.blocks)
    for state in ("2**N", "N/3", "M"):
        row = Architecture("x", **given, blocks=lru.blocks, state=state, sizes={"N": 2})
        with pytest.raises(ValueError, match="a size is a whole number"):
            row.numbers(8)


def test_the_page_has_every_row_and_needs_no_torch() -> None:
    page = coverage_page()
    for row in architectures().values():
        assert f"| **{row.name}** ({row.year}, {row.kind}): " in page
        assert not row.here or f"`{row.key}` |" in page
    assert TESTS in page
    linked = coverage_page({"s4-ptd"})
    assert "| **[S5-PTD](s4-ptd.md)** (2023" in linked
    assert "| **LRU** (2023" in linked
    code = (
        "import sys; from statewise.papers.survey_page import coverage_page; coverage_page(); "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
