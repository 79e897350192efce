"""The part of the op contract that holds Triton kernels, on a GPU or through the interpreter.

Without a CUDA device the kernels run on CPU tensors in Triton's interpreter, on small shapes. Tests
marked ``gpu`` draw larger ones, in several types and with several seeds, because a compiler may
be wrong where an interpreter is right.
"""

from __future__ import annotations

import importlib.util
from itertools import product
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from statewise import ops
from statewise.ops import dispatch

Shape = tuple[int, int, int]

MODES = list(product((False, True), repeat=3))


def _move(x: Any, device: str) -> Any:
    if isinstance(x, Tensor):
        return x.to(device)
    return {name: _move(y, device) for name, y in x.items()} if isinstance(x, dict) else x


class DeviceContract:
    """Tests of the ``gpu`` back end of one operator; a mixin of ``OpContract``."""

    op: ClassVar[str]
    gpu_shapes: ClassVar[list[Shape]] = [(1, 1, 1), (2, 5, 3), (1, 37, 5)]
    """What the interpreter runs; at one step or a channel, and past a chunk or a block."""
    gpu_dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.float32,)
    device_shapes: ClassVar[list[Shape]] = [(1, 1, 1), (3, 130, 33), (2, 1025, 70), (1, 4097, 16)]
    device_dtypes: ClassVar[tuple[torch.dtype, ...]] = (
        torch.float64,
        torch.float32,
        torch.bfloat16,
        torch.float16,
    )
    gpu_tolerance: ClassVar[dict[torch.dtype, float]] = {
        torch.float64: 1e-11,
        torch.float32: 1e-5,
        torch.bfloat16: 2e-2,
        torch.float16: 4e-3,
        torch.complex64: 1e-5,
        torch.complex128: 1e-11,
    }
    """Largest error accepted against float64, relative to the largest value."""

    @pytest.fixture
    def kernels(self) -> str:
        """The device whose tensors the Triton kernels take here."""
        if (self.op, "gpu") not in dispatch._modules:
            pytest.skip(f"{self.op} has no gpu back end")
        if torch.cuda.is_available():
            return "cuda"
        if importlib.util.find_spec("triton") is None:
            pytest.skip("neither a CUDA device nor Triton's interpreter")
        return "cpu"

    def on(
        self, device: str, case: tuple, dtype: torch.dtype, backend: str = "gpu", **how: Any
    ) -> dict[str, Tensor]:
        """Outputs and gradients in ``dtype``, of the kernels if nothing else, as CPU tensors."""
        inputs, h0, options = case
        narrow = {name: self.narrowed(name, x, dtype) for name, x in inputs.items()}
        state = None if h0 is None else self.accumulated(h0, dtype)
        parts = [_move(x, device) for x in (narrow, state, options)]
        return {name: x.cpu() for name, x in self.run(*parts, backend, **how).items()}  # pyright: ignore

    def narrowed(self, name: str, x: Tensor, dtype: torch.dtype) -> Tensor:
        """An input in the type that is tested; an op may keep some in the accumulation type."""
        if x.is_complex():
            return self.accumulated(x, dtype)
        return x.to(dtype) if x.is_floating_point() else x

    @staticmethod
    def accumulated(x: Tensor, dtype: torch.dtype) -> Tensor:
        """A tensor in the accumulation type of ``dtype``, complex if it is."""
        wide = torch.promote_types(dtype, torch.float32)
        return x.to(wide.to_complex() if x.is_complex() else wide)

    def rounded(self, case: tuple, dtype: torch.dtype) -> tuple:
        """The case with inputs that ``dtype`` can hold, in float64: what an exact op would see."""
        inputs, h0, options = case
        wide = {n: self.narrowed(n, x, dtype).to(x.dtype) for n, x in inputs.items()}
        return wide, None if h0 is None else self.accumulated(h0, dtype).to(h0.dtype), options

    def hold(self, device: str, case: tuple, dtype: torch.dtype, yardstick: str) -> None:
        # Sums over time leave the range of float16, as gradients do that nobody scales.
        weight = 2.0**-8 if dtype == torch.float16 else 1.0
        exact = self.rounded(case, dtype)
        expected = self.run(*exact, yardstick, weight=weight)  # pyright: ignore
        found = self.errors(self.on(device, case, dtype, weight=weight), expected)  # pyright: ignore
        bounds = dict.fromkeys(found, self.gpu_tolerance[dtype])
        if device == "cuda" and any(found[name] > bound for name, bound in bounds.items()):
            # Where sums over thousands of steps cancel, no kernel can be better than its inputs.
            moved = self.run(*self.disturbed(exact, dtype), yardstick, weight=weight)  # pyright: ignore
            change = self.errors(moved, expected)  # pyright: ignore
            bounds = {name: max(bound, 4 * change[name]) for name, bound in bounds.items()}
        for name, bound in bounds.items():
            assert found[name] <= bound, name

    def disturbed(self, case: tuple, dtype: torch.dtype) -> tuple:
        """The case with every input and state off by what the hardware's units round to.

        Exponentials keep 22 bits in float32; matrix products of half-precision problems 8 or 11.
        """
        bits = {torch.bfloat16: 8, torch.float16: 11, torch.float32: 22}.get(dtype, 52)
        inputs, h0, options = case
        generator = torch.Generator().manual_seed(2)

        def off(x: Tensor) -> Tensor:
            sign = torch.randint(0, 2, x.shape, generator=generator) * 2 - 1
            return x * (1 + 2.0**-bits * sign)

        moved = {name: off(x) for name, x in inputs.items()}
        return moved, None if h0 is None else off(h0), options

    @pytest.mark.parametrize(("state", "reset", "reverse"), MODES)
    def test_kernels_agree_with_the_reference(self, kernels, state, reset, reverse):
        shapes = self.gpu_shapes
        if kernels == "cpu" and state != reset:
            # The interpreter is slow: half of the modes see the longest sequence there.
            shapes = shapes[:-1]
        for seed, shape in enumerate(shapes):
            case = self.case(shape, state=state, reset=reset, reverse=reverse, seed=seed)  # pyright: ignore
            for dtype in self.gpu_dtypes:
                self.hold(kernels, case, dtype, "reference")

    @pytest.mark.gpu
    def test_kernels_repeat_bit_for_bit(self, kernels):
        case = self.case((2, 37, 5), state=True, reset=True, reverse=False)  # pyright: ignore
        first, second = (self.on(kernels, case, torch.float32) for _ in range(2))
        assert all(torch.equal(first[name], second[name]) for name in first)

    @pytest.mark.gpu
    @pytest.mark.parametrize("dtype_index", range(4))
    @pytest.mark.parametrize(("state", "reset", "reverse"), MODES)
    def test_on_the_device(self, kernels, state, reset, reverse, dtype_index):
        if dtype_index >= len(self.device_dtypes):
            pytest.skip(f"{self.op} is tested in {len(self.device_dtypes)} types")
        dtype = self.device_dtypes[dtype_index]
        if not ops.dispatch._ask(self.op, "gpu", kernels, dtype)[0]:
            pytest.skip(f"the gpu back end of {self.op} does not compute in {dtype}")
        # One number that nearly cancels says nothing about a type of eight bits.
        shapes = self.device_shapes[dtype.itemsize == 2 :]
        for seed, shape in enumerate(shapes):
            case = self.case(shape, state=state, reset=reset, reverse=reverse, seed=seed)  # pyright: ignore
            self.hold(kernels, case, dtype, "cpu")

    @pytest.mark.gpu
    def test_captured_graph_replays(self, kernels):
        inputs, h0, _ = self.case((2, 130, 16), state=True, reset=False, reverse=False)  # pyright: ignore
        inputs = {n: self.narrowed(n, x, torch.float32).to(kernels) for n, x in inputs.items()}
        h0 = self.accumulated(h0, torch.float32).to(kernels)
        with torch.no_grad(), ops.use_backend("gpu"):
            expected = self.apply(inputs, h0)[0].clone()  # pyright: ignore
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                found = self.apply(inputs, h0)[0]  # pyright: ignore
        for _ in range(2):
            found.fill_(float("nan"))
            graph.replay()
            torch.cuda.synchronize()
            assert torch.equal(found, expected)
