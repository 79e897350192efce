"""The selective scan under the op contract, for each kind of state, input rule and B and C."""

from __future__ import annotations

import torch

from contracts.op_suite import OpContract
from statewise.ops import selective_scan


def _random(shape, dtype, generator):
    x = torch.randn(shape, dtype=torch.float64, generator=generator)
    if dtype.is_complex:
        x = torch.complex(x, torch.randn(shape, dtype=torch.float64, generator=generator))
    return x.to(dtype)


def _dynamics(shape, dtype, generator):
    """Decaying, one of them not at all."""
    A = -2 * torch.rand(shape, dtype=torch.float64, generator=generator)
    if dtype.is_complex:
        A = torch.complex(A, 3 * torch.randn(shape, dtype=torch.float64, generator=generator))
    A[0, 0] = 0
    return A.to(dtype)


class _Selective(OpContract):
    op = "selective_scan"
    timed = ("u", "dt", "B", "C", "z")
    N = 3
    rule = "euler"
    softplus = True

    def groups(self, D):
        return next(g for g in (3, 2, 1) if D % g == 0)

    def row_shape(self, B, L, D):
        return (B, L, self.N)

    def inputs(self, B, L, D, dtype, generator):
        real = dtype.to_real()
        return {
            "u": _random((B, L, D), real, generator),
            "dt": _random((B, L, D), real, generator),
            "A": _dynamics((D, self.N), dtype, generator),
            "B": _random(self.row_shape(B, L, D), dtype, generator),
            "C": _random(self.row_shape(B, L, D), dtype, generator),
            "D": _random((D,), real, generator),
            "z": _random((B, L, D), real, generator),
            "dt_bias": _random((D,), real, generator),
        }

    def state(self, B, D, dtype, generator):
        return _random((B, D, self.N), dtype, generator)

    def apply(self, inputs, h0=None, **options):
        return selective_scan(**inputs, h0=h0, rule=self.rule, softplus=self.softplus, **options)

    def samples(self):
        scan = torch.ops.statewise.selective_scan.default
        back = torch.ops.statewise.selective_scan_backward.default
        for full in (True, False):
            inputs, h0, options = self.case((2, 5, 6), state=full, reset=full, reverse=full)
            tensors = {
                name: torch.view_as_real(x) if x.is_complex() else x for name, x in inputs.items()
            }
            for name in ("B", "C"):
                if inputs[name].dim() == 3:
                    tensors[name] = tensors[name].unsqueeze(2)
            u = tensors["u"]
            if h0 is not None and h0.is_complex():
                h0 = torch.view_as_real(h0)
            if not full:
                tensors |= dict.fromkeys(("D", "z", "dt_bias"))
            plain = (options.get("reset"), self.softplus, self.rule == "zoh", full)
            arguments = [*tensors.values(), h0]
            leaves = [None if x is None else x.detach().requires_grad_(full) for x in arguments]
            yield scan, (*leaves, *plain, full)
            with torch.no_grad():
                y, last, states = scan(*arguments, *plain, True)
            needs = [x is not None for x in arguments]
            yield back, (y, last, *arguments, plain[0], states, *plain[1:], needs, None)
            assert y.shape == u.shape


class _Complex(_Selective):
    N = 2
    dtypes = (torch.complex64,)

    def case(self, shape, *, dtype=torch.float64, **options):
        dtype = dtype if dtype.is_complex else torch.promote_types(dtype, torch.complex64)
        return super().case(shape, dtype=dtype, **options)

    def test_narrow_types_are_close_to_float64(self, fast):
        """Complex states keep the inputs and outputs real, so the types differ from the suite's."""
        inputs, h0, options = self.case(
            (3, 40, 11), state=True, reset=True, reverse=False, dtype=torch.complex64
        )
        wide = {n: x.to(torch.promote_types(x.dtype, torch.float64)) for n, x in inputs.items()}
        expected = self.run(wide, h0.to(torch.complex128), options, "reference")
        for backend in ["reference", *fast]:
            found = self.run(inputs, h0, options, backend)
            self.agree(found, expected, 5e-6)
            assert found["h"].dtype == torch.float32
            assert found["last"].dtype == torch.complex64
            assert all(found[f"d{name}"].dtype == x.dtype for name, x in inputs.items())


class TestMamba(_Selective):
    """What Mamba computes: real, one group, Euler, everything present."""


class TestGroupedZoh(_Selective):
    rule = "zoh"
    softplus = False

    def row_shape(self, B, L, D):
        return (B, L, self.groups(D), self.N)

    def inputs(self, B, L, D, dtype, generator):
        found = super().inputs(B, L, D, dtype, generator)
        return found | {"dt": found["dt"].abs(), "dt_bias": found["dt_bias"].abs()}


class TestComplex(_Complex):
    def row_shape(self, B, L, D):
        return (B, L, self.groups(D), self.N)


class TestComplexZohConstant(_Complex):
    rule = "zoh"
    timed = ("u", "dt", "z")

    def row_shape(self, B, L, D):
        return (D, self.N)
