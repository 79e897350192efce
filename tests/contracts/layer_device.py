"""The layer on a GPU: what a device computes is what the processor computes in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from contracts.layer_base import LayerTests, gradients, rms
from statewise.nn import Layer, State, state_tensors


def _loss(y: Tensor, state: State) -> Tensor:
    """A number that every output and every part of the state enters."""
    parts = [y, *(tensor for tensor in state_tensors(state) if tensor.is_floating_point())]
    return sum((part * (1.0 + torch.sin(part))).mean() for part in parts)  # pyright: ignore


class DeviceLayerContract(LayerTests):
    """Forward, state, gradients and steps on a CUDA device."""

    def _pair(self) -> tuple[Layer, Layer]:
        layer = self.build(torch.float32)
        return copy.deepcopy(layer).cuda(), layer.double()

    @pytest.mark.gpu
    @pytest.mark.parametrize("everything", [False, True])
    def test_device_is_close_to_float64(self, everything: bool) -> None:
        fast, exact = self._pair()
        given = self.arguments(3, 70, torch.float32) if everything else {}
        u = self.sequence(fast, 3, 70)
        wide = {n: x.double() if x.is_floating_point() else x for n, x in given.items()}
        expected, last = exact(u.double(), **wide)
        y, state = fast(u.cuda(), **{n: x.cuda() for n, x in given.items()})
        assert rms(y.cpu() - expected) < 2e-5 * rms(expected)
        for one, other in zip(state_tensors(state), state_tensors(last), strict=True):
            assert rms(one.cpu() - other) <= 2e-5 * rms(other)
        wanted = gradients(exact, _loss(expected, last))
        found = gradients(fast, _loss(y, state))
        floor = 1e-6 * max(map(rms, wanted.values()))
        for name, gradient in found.items():
            assert rms(gradient.cpu() - wanted[name]) <= 5e-4 * rms(wanted[name]) + floor, name

    @pytest.mark.gpu
    def test_steps_on_the_device_are_its_scan(self) -> None:
        fast, _ = self._pair()
        u = self.sequence(fast, 2, 12).cuda()
        with torch.no_grad():
            expected, last = fast(u)
            state = fast.init_state(2)
            outputs = []
            for k in range(u.shape[1]):
                y, state = fast.step(u[:, k], state)
                outputs.append(y)
        assert rms(torch.stack(outputs, 1) - expected) < 2e-5 * rms(expected)
        for one, other in zip(state_tensors(state), state_tensors(last), strict=True):
            assert rms(one - other) <= 2e-5 * rms(other)

    @pytest.mark.gpu
    def test_half_precision_on_the_device(self) -> None:
        fast, _ = self._pair()
        u = self.sequence(fast, 2, 64).cuda()
        expected, _ = fast(u)
        with torch.autocast("cuda", torch.bfloat16):
            y, state = fast(u)
        assert all(x.dtype == torch.float32 for x in state_tensors(state) if x.is_floating_point())
        assert rms(y - expected) < 3e-2 * rms(expected)
        found = gradients(fast, y.float().square().mean())
        assert all(gradient.isfinite().all() for gradient in found.values())
