"""State-space duality under the op contract: Mamba-2's arguments, and linear attention's."""

from __future__ import annotations

import torch

from contracts.op_suite import OpContract
from statewise.ops import linear_attention, ssd

H, G, N = 4, 2, 3


def _random(shape, dtype, generator):
    return torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype)


class _Ssd(OpContract):
    op = "ssd"
    gpu_shapes = ((1, 1, 1), (2, 7, 3), (2, 21, 9))

    def state(self, B, D, dtype, generator):
        return _random((B, H, D, N), dtype, generator)

    def samples(self):
        forward = torch.ops.statewise.ssd.default
        backward = torch.ops.statewise.ssd_backward.default
        generator = torch.Generator().manual_seed(0)
        shapes = ((2, 5, H, 3), (2, 5, H), (2, 5, H), (2, 5, G, N), (2, 5, G, N), (H, 3))
        shapes = (*shapes, (2, 5, H, 3), (2, H, 3, N))
        every = [_random(shape, torch.float64, generator) for shape in shapes]
        x, log_a, _, B, C, *_ = every
        few = [x, log_a, None, B, C, None, None, None]
        reset = torch.rand(2, 5, generator=generator) < 0.3
        for tensors, restarts, reverse in ((every, reset, True), (few, None, False)):
            leaves = [None if t is None else t.clone().requires_grad_() for t in tensors]
            yield forward, (*leaves, restarts, reverse, reverse)
            y, last, states = forward(*tensors, restarts, reverse, True)
            needs = [t is not None and reverse for t in tensors]
            yield backward, (y, last, *tensors, restarts, states, reverse, needs, None)
        forward = torch.ops.statewise.ssd_steps.default
        backward = torch.ops.statewise.ssd_steps_backward.default
        dt, A, bias = (
            _random(shape, torch.float64, generator) for shape in ((2, 5, H), (H,), (H,))
        )
        for added, soft, low in ((bias, True, 0.2), (None, False, -0.5)):
            leaves = [None if t is None else t.clone().requires_grad_() for t in (dt, A, added)]
            yield forward, (*leaves, soft, low, 1.0)
            yield backward, (dt, dt, dt, A, added, soft, low, 1.0, None)


class TestSelective(_Ssd):
    timed = ("x", "dt", "B", "C", "z")

    def inputs(self, B, L, D, dtype, generator):
        shapes = {
            "x": (B, L, H, D),
            "dt": (B, L, H),
            "A": (H,),
            "B": (B, L, G, N),
            "C": (B, L, G, N),
            "D": (H, D),
            "z": (B, L, H, D),
            "dt_bias": (H,),
        }
        found = {name: _random(shape, dtype, generator) for name, shape in shapes.items()}
        return found | {"A": -found["A"].abs() - 0.1}

    def apply(self, inputs, h0=None, **options):
        return ssd(**inputs, h0=h0, softplus=True, **options)


class TestLinearAttention(_Ssd):
    timed = ("q", "k", "v", "log_decay")

    def inputs(self, B, L, D, dtype, generator):
        shapes = {"q": (B, L, N), "k": (B, L, N), "v": (B, L, H, D), "log_decay": (B, L, H)}
        found = {name: _random(shape, dtype, generator) for name, shape in shapes.items()}
        return found | {"log_decay": -found["log_decay"].abs()}

    def apply(self, inputs, h0=None, **options):
        return linear_attention(**inputs, h0=h0, scale=0.4, **options)
