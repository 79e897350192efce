"""The diagonal bank under the op contract: discrete poles, and each kind of step and rule."""

from __future__ import annotations

import pytest
import torch

from contracts.op_suite import OpContract
from statewise.ops import diagonal_ssm, use_backend

N = 3


def _draw(shape, dtype, generator):
    return torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype)


class _Bank(OpContract):
    op = "diagonal_ssm"
    timed = ("u",)
    rule: str | None = None
    # A single number may be the difference of large ones, and has no size to measure errors by.
    gpu_shapes = [(3, 1, 2), (2, 5, 3)]  # noqa: RUF012 - as the contract has it
    device_shapes = [(3, 1, 2), (3, 130, 33), (2, 1025, 70), (1, 4097, 16)]  # noqa: RUF012

    def poles(self, D, generator):
        """Inside the unit disc, one of them zero."""
        radius = 0.5 + 0.48 * torch.rand((D, N), dtype=torch.float64, generator=generator)
        angle = 6.3 * torch.rand((D, N), dtype=torch.float64, generator=generator)
        radius[0, 0] = 0
        return torch.polar(radius, angle)

    def steps(self, B, L, D, generator):
        return None

    def inputs(self, B, L, D, dtype, generator):
        found = {
            "u": _draw((B, L, D), dtype, generator),
            "a": torch.view_as_real(self.poles(D, generator)).to(dtype),
            "b": _draw((D, N, 2), dtype, generator),
            "c": _draw((D, N, 2), dtype, generator),
            "d": _draw((D,), dtype, generator),
        }
        steps = self.steps(B, L, D, generator)
        return found if steps is None else {**found, "dt": steps.to(dtype)}

    def state(self, B, D, dtype, generator):
        return _draw((B, D, N, 2), dtype, generator)

    def apply(self, inputs, h0=None, **options):
        return diagonal_ssm(**inputs, h0=h0, rule=self.rule, **options)

    def samples(self):
        forward = torch.ops.statewise.diagonal_ssm.default
        backward = torch.ops.statewise.diagonal_ssm_backward.default
        for full in (True, False):
            inputs, h0, options = self.case((2, 5, 3), state=full, reset=full, reverse=full)
            u, a, b, c, d = (inputs[name] for name in "uabcd")
            dt = inputs.get("dt")
            dt = dt[..., None].repeat(1, 1, 3) if dt is not None and dt.dim() == 2 else dt
            tensors = (u, a, b, c, d if full else None, h0, dt, options.get("reset"))
            rule = self.rule or ""
            if full:
                leaves = [
                    x.requires_grad_() if x is not None and x.is_floating_point() else x
                    for x in tensors
                ]
                yield forward, (*leaves, rule, full, True)
            else:
                bounds = forward(*tensors, rule, full, True)[2]
                yield backward, (u, None, *tensors, bounds, rule, full, True, None)


class TestDiscrete(_Bank):
    gpu_shapes = [(3, 1, 2), (2, 5, 3), (1, 67, 2)]  # noqa: RUF012 - as the contract has it


class _Continuous(_Bank):
    def poles(self, D, generator):
        """In the left half plane; one is 0 and one nearly so, where (e^z − 1)/z needs care."""
        re = -torch.rand((D, N), dtype=torch.float64, generator=generator)
        im = 5 * torch.randn((D, N), dtype=torch.float64, generator=generator)
        found = torch.complex(re, im)
        found[0, 0] = 0
        found[-1, -1] = 1e-4j
        return found


class TestZOH(_Continuous):
    rule = "zoh"

    def steps(self, B, L, D, generator):
        return torch.rand(D, dtype=torch.float64, generator=generator)


class TestZOHVarying(_Continuous):
    rule = "zoh"
    timed = ("u", "dt")

    def steps(self, B, L, D, generator):
        return torch.rand(B, L, D, dtype=torch.float64, generator=generator)


class TestBilinearShared(_Continuous):
    """Steps (B, L) that all channels share."""

    rule = "bilinear"
    timed = ("u", "dt")

    def steps(self, B, L, D, generator):
        return 0.1 + torch.rand(B, L, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("suite", [TestZOHVarying(), TestBilinearShared(), TestZOH()])
def test_kernels_over_several_chunks(suite):
    case = suite.case((1, 67, 2), state=True, reset=True, reverse=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    suite.hold(device, case, torch.float64, "reference")


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
@pytest.mark.parametrize("suite", [TestDiscrete(), TestZOHVarying()])
def test_gradients_of_inputs_alone_skip_the_parameters(suite, backend):
    inputs, h0, options = suite.case((2, 6, 3), state=True, reset=True, reverse=False)
    expected = suite.run(inputs, h0, options, "reference")
    leaf, start = inputs["u"].clone().requires_grad_(), h0.clone().requires_grad_()
    device = "cuda" if backend == "gpu" and torch.cuda.is_available() else "cpu"

    def move(x):
        return x.to(device)

    with use_backend(backend):
        moved = {n: move(leaf if n == "u" else x) for n, x in inputs.items()}
        reset = move(options["reset"])
        y, last = suite.apply(moved, move(start), reset=reset, reverse=False)
    assert y.grad_fn.saved_tensors[-1].numel() == 0
    generator = torch.Generator().manual_seed(1)
    weights = [
        torch.randn(x.shape, dtype=torch.float64, generator=generator).to(device) for x in (y, last)
    ]
    du, dh0 = torch.autograd.grad((y, last), (leaf, start), weights)
    torch.testing.assert_close(du, expected["du"], rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(dh0, expected["dh0"], rtol=1e-11, atol=1e-12)
