"""The op contract as tests: a new operator inherits them all by saying how to make its inputs.

    class TestMine(OpContract):
        op = "mine"
        timed = ("b",)

        def inputs(self, B, L, D, dtype, generator):
            return {"a": torch.rand(D, ...), "b": torch.randn(B, L, D, ...)}

        def state(self, B, D, dtype, generator):
            return torch.randn(B, D, ...)

        def apply(self, inputs, h0=None, **options):
            return mine(**inputs, h0=h0, **options)

``inputs`` are the differentiable tensors by name, all but the state; ``timed`` names those with
time on axis 1. What the suite proves: every back end agrees with the reference in float64 and is
close to it in narrower types; the reference's gradient is right by finite differences; states
carry, resets separate, memory is never read before it is written; torch sees the operator.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from contracts.device_suite import MODES, DeviceContract
from contracts.forward_suite import ForwardContract
from statewise import ops

SHAPES = [(1, 1, 1), (2, 7, 3), (5, 12, 13), (2, 70, 33)]
TOLERANCE = {
    torch.float64: 1e-12,
    torch.float32: 5e-6,
    torch.bfloat16: 2e-2,
    torch.float16: 3e-3,
    torch.complex64: 5e-6,
}
"""Largest error accepted, relative to the largest value."""


def widest(dtype: torch.dtype) -> torch.dtype:
    """The double-precision type, real or complex as the given one is."""
    return torch.complex128 if dtype.is_complex else torch.float64


def error(given: Tensor, expected: Tensor) -> float:
    """Largest deviation relative to the largest value expected; NaN when there is one."""
    assert given.shape == expected.shape
    wide = widest(expected.dtype)
    difference = (given.to(wide) - expected.to(wide)).abs().max().item()
    return difference / max(expected.to(wide).abs().max().item(), 1e-30)


def differentiable(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies that gradients are taken with respect to."""
    return {name: x.detach().clone().requires_grad_() for name, x in inputs.items()}


class OpContract(DeviceContract, ForwardContract):
    """Tests of one operator; see the module for what a subclass supplies."""

    op: ClassVar[str]
    timed: ClassVar[tuple[str, ...]]
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.float32, torch.bfloat16, torch.float16)

    def inputs(
        self, B: int, L: int, D: int, dtype: torch.dtype, generator: torch.Generator
    ) -> dict[str, Tensor]:
        raise NotImplementedError

    def state(self, B: int, D: int, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
        raise NotImplementedError

    def apply(
        self, inputs: dict[str, Tensor], h0: Tensor | None = None, **options: Any
    ) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    # -- what the tests are made of ------------------------------------------------------------

    def case(
        self,
        shape: tuple[int, int, int],
        *,
        state: bool,
        reset: bool,
        reverse: bool,
        dtype: torch.dtype = torch.float64,
        seed: int = 0,
    ) -> tuple[dict[str, Tensor], Tensor | None, dict[str, Any]]:
        generator = torch.Generator().manual_seed(seed)
        B, L, D = shape
        h0 = self.state(B, D, dtype, generator) if state else None
        options: dict[str, Any] = {"reverse": reverse}
        if reset:
            options["reset"] = torch.rand(B, L, generator=generator) < 0.3
        return self.inputs(B, L, D, dtype, generator), h0, options

    def run(
        self,
        inputs: dict[str, Tensor],
        h0: Tensor | None,
        options: dict[str, Any],
        backend: str,
        *,
        use: str = "both",
        weight: float = 1.0,
    ) -> dict[str, Tensor]:
        """Outputs, and gradients of a fixed random reading of the outputs that ``use`` names."""
        leaves = differentiable(inputs)
        if h0 is not None:
            leaves["h0"] = h0.detach().clone().requires_grad_()
        arguments = {name: leaves[name] for name in inputs}
        with ops.use_backend(backend):
            h, last = self.apply(arguments, leaves.get("h0"), **options)
        generator = torch.Generator().manual_seed(1)
        read = [x for x, name in ((h, "h"), (last, "last")) if use in (name, "both")]
        weights = [torch.randn(x.shape, dtype=torch.float64, generator=generator) for x in read]
        weights = [(weight * w).to(x) for w, x in zip(weights, read, strict=True)]
        gradients = torch.autograd.grad(read, list(leaves.values()), weights)
        found = {"h": h.detach(), "last": last.detach()}
        return found | {f"d{name}": g for name, g in zip(leaves, gradients, strict=True)}

    def agree(self, given: dict[str, Tensor], expected: dict[str, Tensor], bound: float) -> None:
        for name, off in self.errors(given, expected).items():
            assert off <= bound, name

    def errors(self, given: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
        """Each output's and gradient's largest deviation relative to its largest value."""
        assert given.keys() == expected.keys()
        return {name: error(given[name], expected[name]) for name in expected}

    @pytest.fixture
    def fast(self) -> list[str]:
        """Back ends for CPU tensors, the reference aside; with none, nothing would be tested."""
        assert "cpu" in ops.backends(self.op)
        return ["cpu"]

    # -- numbers -------------------------------------------------------------------------------

    @pytest.mark.parametrize(("state", "reset", "reverse"), MODES)
    def test_back_ends_agree_with_the_reference(self, fast, state, reset, reverse):
        for seed, shape in enumerate(SHAPES):
            case = self.case(shape, state=state, reset=reset, reverse=reverse, seed=seed)
            expected = self.run(*case, "reference")
            for backend in fast:
                self.agree(self.run(*case, backend), expected, TOLERANCE[torch.float64])

    @pytest.mark.parametrize("use", ["h", "last"])
    @pytest.mark.parametrize("state", [False, True])
    def test_gradient_of_either_output_alone(self, fast, use, state):
        case = self.case((2, 9, 5), state=state, reset=True, reverse=False)
        expected = self.run(*case, "reference", use=use)
        for backend in fast:
            self.agree(self.run(*case, backend, use=use), expected, TOLERANCE[torch.float64])

    def test_narrow_types_are_close_to_float64(self, fast):
        for dtype in self.dtypes:
            inputs, h0, options = self.case(
                (3, 40, 11), state=True, reset=True, reverse=False, dtype=dtype
            )
            wide = {name: x.to(widest(dtype)) for name, x in inputs.items()}
            h0 = h0.to(torch.promote_types(dtype, torch.float32))
            expected = self.run(wide, h0.to(widest(dtype)), options, "reference")
            for backend in ["reference", *fast]:
                found = self.run(inputs, h0, options, backend)
                self.agree(found, expected, TOLERANCE[dtype])
                assert found["h"].dtype == dtype
                assert found["last"].dtype == torch.promote_types(dtype, torch.float32)
                for name, x in inputs.items():
                    assert found[f"d{name}"].dtype == x.dtype

    @pytest.mark.parametrize("reverse", [False, True])
    def test_gradient_against_finite_differences(self, fast, reverse):
        inputs, h0, options = self.case((2, 5, 3), state=True, reset=True, reverse=reverse)
        leaves = [x.requires_grad_() for x in (*inputs.values(), h0)]

        def function(*tensors: Tensor) -> tuple[Tensor, Tensor]:
            return self.apply(dict(zip(inputs, tensors[:-1], strict=True)), tensors[-1], **options)

        for backend in ["reference", *fast]:
            with ops.use_backend(backend):
                assert torch.autograd.gradcheck(function, leaves)

    @given(data=st.data())
    @settings(suppress_health_check=list(HealthCheck))
    def test_any_shape(self, fast, data):
        shape = (
            data.draw(st.integers(1, 6), "B"),
            data.draw(st.integers(1, 70), "L"),
            data.draw(st.integers(1, 40), "D"),
        )
        flags = {name: data.draw(st.booleans(), name) for name in ("state", "reset", "reverse")}
        case = self.case(shape, **flags, seed=data.draw(st.integers(0, 99), "seed"))
        expected = self.run(*case, "reference")
        for backend in fast:
            self.agree(self.run(*case, backend), expected, TOLERANCE[torch.float64])

    def test_repeats_bit_for_bit(self, fast):
        case = self.case((3, 33, 12), state=True, reset=True, reverse=False, dtype=torch.float32)
        for backend in fast:
            first, second = (self.run(*case, backend) for _ in range(2))
            assert all(torch.equal(first[name], second[name]) for name in first)

    # -- states --------------------------------------------------------------------------------

    @pytest.mark.parametrize("carry", [True, False], ids=["split-and-carry", "reset"])
    @pytest.mark.parametrize("state", [False, True])
    @pytest.mark.parametrize("reverse", [False, True])
    def test_parts_are_the_whole(self, fast, reverse, state, carry):
        """A sequence cut in parts, the state carried over the cuts, or zeroed at them."""
        for backend in ["reference", *fast]:
            with ops.use_backend(backend):
                whole, parts = (
                    self.in_parts([0, 4, 5, 17, 30], reverse, state, carry, split)
                    for split in (False, True)
                )
            self.agree(parts, whole, TOLERANCE[torch.float64])

    def in_parts(self, bounds, reverse, state, carry, split):
        """Outputs and gradients of one call on all, or of one call on each part."""
        inputs, h0, _ = self.case((3, bounds[-1], 5), state=state, reset=False, reverse=reverse)
        leaves = differentiable(inputs)
        if split:
            pieces: list[Tensor] = []
            ranges = list(pairwise(bounds))
            for start, stop in reversed(ranges) if reverse else ranges:
                part = {n: x[:, start:stop] if n in self.timed else x for n, x in leaves.items()}
                h, last = self.apply(part, h0, reverse=reverse)
                pieces.append(h)
                h0 = last if carry else None
            h = torch.cat(pieces[::-1] if reverse else pieces, dim=1)
        else:
            reset = torch.zeros(3, bounds[-1], dtype=torch.bool)
            reset[:, [cut - reverse for cut in bounds[1:-1]]] = not carry
            h, last = self.apply(leaves, h0, reverse=reverse, reset=reset)
        weight = torch.randn(h.shape, generator=torch.Generator().manual_seed(2))
        reading = (h * weight).sum() + last.sum()
        reading = reading.real + reading.imag if reading.is_complex() else reading
        gradients = torch.autograd.grad(reading, list(leaves.values()))
        found = {"h": h.detach(), "last": last.detach()}
        return found | {f"d{n}": g for n, g in zip(leaves, gradients, strict=True)}

    @pytest.mark.parametrize("reverse", [False, True])
    def test_reset_stops_nan_and_infinity(self, fast, reverse):
        L, cut = 12, 6
        inputs, h0, _ = self.case((2, L, 5), state=True, reset=False, reverse=reverse)
        bad = slice(cut, L) if reverse else slice(0, cut)
        good = slice(0, cut) if reverse else slice(cut, L)
        poisoned = {name: x.detach().clone() for name, x in inputs.items()}
        for name in self.timed:
            poisoned[name][0, bad] = float("nan")
            poisoned[name][1:, bad] = float("inf")
        reset = torch.zeros(2, L, dtype=torch.bool)
        reset[:, cut - 1 if reverse else cut] = True
        for backend in ["reference", *fast]:
            found = []
            for given_inputs in (inputs, poisoned):
                leaves = differentiable(given_inputs)
                with ops.use_backend(backend):
                    h, last = self.apply(leaves, h0, reverse=reverse, reset=reset)
                reading = h[:, good].abs().sum() + last.abs().sum()
                timed = [leaves[name] for name in self.timed]
                gradients = torch.autograd.grad(reading, timed)
                found.append([h[:, good], last, *(g[:, good] for g in gradients)])
                assert not torch.isfinite(h[:, bad]).all() or given_inputs is inputs
            for expected, given_tensor in zip(*found, strict=True):
                assert torch.equal(expected, given_tensor)

    # -- memory --------------------------------------------------------------------------------

    @pytest.fixture
    def poisoned_memory(self) -> Iterator[None]:
        """New tensors that nobody filled hold NaN."""
        before = torch.are_deterministic_algorithms_enabled()
        filled = torch.utils.deterministic.fill_uninitialized_memory
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = True
        assert torch.empty(3).isnan().all()
        yield
        torch.use_deterministic_algorithms(before)
        torch.utils.deterministic.fill_uninitialized_memory = filled

    @pytest.mark.parametrize(("state", "reset", "reverse"), MODES)
    def test_memory_is_written_before_it_is_read(
        self, fast, poisoned_memory, state, reset, reverse
    ):
        for shape in SHAPES[:3]:
            case = self.case(shape, state=state, reset=reset, reverse=reverse)
            for backend in ["reference", *fast]:
                for name, x in self.run(*case, backend).items():
                    assert torch.isfinite(x).all(), (backend, name)

    def test_inputs_are_left_alone(self, fast):
        case = self.case((2, 9, 5), state=True, reset=True, reverse=False)
        tensors = [*case[0].values(), case[1], case[2]["reset"]]
        copies = [x.clone() for x in tensors]
        for backend in fast:
            self.run(*case, backend)
            assert all(torch.equal(x, y) for x, y in zip(tensors, copies, strict=True))

    def test_any_strides(self, fast):
        inputs, h0, options = self.case((3, 8, 6), state=True, reset=True, reverse=False)

        def spread(x: Tensor) -> Tensor:
            room = x.new_full((*x.shape, 2), float("nan"))
            room[..., 1] = x
            return room[..., 1]

        def turned(x: Tensor) -> Tensor:
            return x.transpose(0, 1).contiguous().transpose(0, 1) if x.dim() > 1 else x

        def shifted(x: Tensor) -> Tensor:
            return torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape)

        options = {**options, "reset": options["reset"].t().contiguous().t()}
        expected = self.run(inputs, h0, options, "reference")
        for change in (spread, turned, shifted):
            for backend in ["reference", *fast]:
                leaves = differentiable(inputs)
                with ops.use_backend(backend):
                    h, last = self.apply(
                        {n: change(x) for n, x in leaves.items()}, change(h0), **options
                    )
                    (change(h).abs().sum() + last.abs().sum()).backward()
                assert error(h.detach(), expected["h"]) <= TOLERANCE[torch.float64]
                assert error(last.detach(), expected["last"]) <= TOLERANCE[torch.float64]
                assert all(torch.isfinite(x.grad).all() for x in leaves.values())

    def test_expanded_inputs(self, fast):
        inputs, h0, options = self.case((3, 8, 6), state=True, reset=True, reverse=False)
        for name, x in inputs.items():
            for axis in range(x.dim()):
                narrow = x.narrow(axis, 0, 1)
                expanded = {**inputs, name: narrow.expand(x.shape)}
                copied = {**inputs, name: narrow.expand(x.shape).contiguous()}
                expected = self.run(copied, h0, options, "reference")
                for backend in ["reference", *fast]:
                    with ops.use_backend(backend):
                        h, last = self.apply(expanded, h0, **options)
                    assert error(h, expected["h"]) <= TOLERANCE[torch.float64]
                    assert error(last, expected["last"]) <= TOLERANCE[torch.float64]

    # -- torch ---------------------------------------------------------------------------------

    def samples(self) -> Iterator[tuple[Any, tuple]]:
        """Registered operators with arguments for ``torch.library.opcheck``."""
        raise NotImplementedError

    def test_opcheck(self):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # raised inside torch
            for operator, arguments in self.samples():
                torch.library.opcheck(operator, arguments)

    def test_compiles_as_one_graph(self):
        case = self.case((2, 9, 5), state=True, reset=True, reverse=False, dtype=torch.float32)

        def loss(inputs: dict[str, Tensor], h0: Tensor, reset: Tensor) -> Tensor:
            h, last = self.apply(inputs, h0 * 2, reset=reset)
            return h.abs().square().sum() + last.abs().sum()

        torch.compiler.reset()
        results = []
        for function in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
            leaves = differentiable(case[0])
            h0 = case[1].detach().clone().requires_grad_()
            value = function(leaves, h0, case[2]["reset"])
            gradients = torch.autograd.grad(value, [*leaves.values(), h0])
            results.append([value.detach(), *gradients])
        for expected, given_tensor in zip(*results, strict=True):
            assert error(given_tensor, expected) <= TOLERANCE[torch.float32]

    def test_exports(self):
        inputs, h0, options = self.case(
            (2, 9, 5), state=True, reset=True, reverse=True, dtype=torch.float32
        )
        suite, names = self, list(inputs)

        class Wrapper(torch.nn.Module):
            def forward(self, h0: Tensor, reset: Tensor, *tensors: Tensor):
                arguments = dict(zip(names, tensors, strict=True))
                return suite.apply(arguments, h0, reset=reset, reverse=True)

        arguments = (h0, options["reset"], *inputs.values())
        program = torch.export.export(Wrapper(), arguments)
        expected = self.apply(inputs, h0, **options)
        for one, other in zip(program.module()(*arguments), expected, strict=True):
            assert torch.equal(one, other)

    def test_second_derivative_is_refused(self):
        inputs, _, _ = self.case((1, 4, 2), state=False, reset=False, reverse=False)
        leaves = differentiable(inputs)
        h, _ = self.apply(leaves)
        (gradient, *_) = torch.autograd.grad(
            h.abs().square().sum(), list(leaves.values()), create_graph=True
        )
        with pytest.raises(RuntimeError, match=f"{self.op} has no second derivative"):
            gradient.abs().sum().backward()
