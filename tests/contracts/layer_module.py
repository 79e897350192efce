"""The layer as a module: precision, gradients, errors, seeds, copies, files, whole graphs."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from contracts.layer_base import LayerTests, close, gradients, parts, rms
from statewise.nn import Layer, State, map_state, state_tensors


class ModuleContract(LayerTests):
    """All that a layer promises beside what it computes."""

    def test_float32_is_close_to_float64(self) -> None:
        narrow = self.build(torch.float32)
        wide = copy.deepcopy(narrow).double()
        u = self.sequence(narrow, 2, 200)
        expected, last = wide(u.double())
        y, state = narrow(u)
        assert y.dtype == torch.float32
        assert rms(y - expected) < 1e-5 * rms(expected)
        for one, other in zip(state_tensors(state), state_tensors(last), strict=True):
            assert one.dtype == torch.float32
            assert other.dtype == torch.float64
            assert rms(one - other) <= 1e-5 * rms(other)

    def test_bfloat16_parameters_are_close_to_float32(self) -> None:
        half = self.build(torch.float32).bfloat16()
        single = copy.deepcopy(half).float()
        u = self.sequence(half, 2, 64)
        y, state = half(u)
        expected, _ = single(u.float())
        assert y.dtype == torch.bfloat16
        assert all(tensor.dtype == torch.float32 for tensor in state_tensors(state))
        assert rms(y - expected) < 2e-2 * rms(expected)
        stepped, _ = half.step(u[:, 0], half.init_state(2))
        assert stepped.dtype == torch.bfloat16
        assert rms(stepped - expected[:, 0]) < 2e-2 * rms(expected)

    def test_autocast_is_close_to_float32(self) -> None:
        layer = self.build(torch.float32)
        u = self.sequence(layer, 2, 64)
        expected, _ = layer(u)
        with torch.autocast("cpu", torch.bfloat16):
            y, state = layer(u)
        assert all(tensor.dtype == torch.float32 for tensor in state_tensors(state))
        assert rms(y - expected) < 2e-2 * rms(expected)
        loss = y.float().square().mean()
        assert all(g.isfinite().all() for g in gradients(layer, loss).values())

    def test_gradients_are_finite_after_ten_thousand_samples(self) -> None:
        layer = self.build(torch.float32)
        u = self.sequence(layer, 1, 10_000).requires_grad_()
        y, _ = layer(u)
        assert y.isfinite().all()
        for name, gradient in gradients(layer, y.square().mean()).items():
            assert gradient.isfinite().all(), name

    def test_every_parameter_gets_a_gradient(self) -> None:
        layer = self.build()
        y, _ = layer(self.sequence(layer, 3, 12))
        assert dict(layer.named_parameters())
        for name, gradient in gradients(layer, y.square().sum()).items():
            assert gradient.isfinite().all(), name
            assert gradient.any(), f"{name} has no gradient"

    # --- errors

    def refused(self, call: Callable[[], object], *words: str, kind: type = ValueError) -> None:
        with pytest.raises(kind) as caught:
            call()
        message = str(caught.value)
        assert "\n" not in message
        for word in words:
            assert re.search(word, message), f"{word!r} is not in {message!r}"

    def test_wrong_shapes_are_told(self) -> None:
        layer = self.build()
        d, u = layer.d_input, self.sequence(layer, 2, 5)
        bad = [u[0], u[..., None], torch.cat([u, u], -1)]
        for given in bad:
            shape = re.escape(str(tuple(given.shape)))
            self.refused(lambda given=given: layer(given), shape, str(d))
            rest, sample = layer.init_state(2), given[:, 0]
            if sample.ndim != 2 or sample.shape[-1] != d:
                shape = re.escape(str(tuple(sample.shape)))
                self.refused(lambda s=sample, r=rest: layer.step(s, r), shape)
        self.refused(lambda: layer(u[:, :0]), "length 0")
        flags = torch.ones(5, 2, dtype=torch.bool)
        for name, value in (
            ("dt", flags.to(u.dtype)),
            ("mask", flags),
            ("reset", flags),
            ("lengths", torch.tensor([5, 5, 5])),
        ):
            shape = re.escape(str(tuple(value.shape)))
            self.refused(lambda n=name, v=value: layer(u, **{n: v}), name, shape)
        for name, value in (("dt", torch.ones(3, dtype=u.dtype)), ("mask", flags[:3, 0])):
            call = lambda n=name, v=value: layer.step(u[:, 0], layer.init_state(2), **{n: v})  # noqa: E731
            self.refused(call, name, re.escape("(3,)"))

    def test_wrong_kinds_and_values_are_told(self) -> None:
        layer = self.build()
        u = self.sequence(layer, 2, 5)
        numbers = torch.ones(2, 5)
        for name in ("mask", "reset"):
            call = lambda n=name: layer(u, **{n: numbers})  # noqa: E731
            self.refused(call, name, "bool", "float32", kind=TypeError)
        rest = layer.init_state(2)
        call = lambda: layer.step(u[:, 0], rest, mask=numbers[:, 0])  # noqa: E731
        self.refused(call, "mask", "bool", "float32", kind=TypeError)
        call = lambda: layer(u, lengths=torch.tensor([1.0, 2.0]))  # noqa: E731
        self.refused(call, "lengths", "integer", "float32", kind=TypeError)
        self.refused(lambda: layer(u, lengths=torch.tensor([6, 2])), "lengths", "5", "6")
        self.refused(lambda: layer(u, lengths=torch.tensor([3, -1])), "lengths", "-1")

    def test_wrong_states_are_told(self) -> None:
        layer = self.build()
        u = self.sequence(layer, 2, 5)
        for state in (
            layer.init_state(3),
            layer.init_state(1),
            map_state(lambda tensor: tensor[..., :-1], layer.init_state(2)),
        ):
            shape = re.escape(str(tuple(state_tensors(state)[0].shape)))
            self.refused(lambda s=state: layer(u, s), "state", shape)
            self.refused(lambda s=state: layer.step(u[:, 0], s), "state", shape)

    # --- the module as a thing

    def test_seed_decides_everything(self) -> None:
        one, other = self.build().state_dict(), self.build(seed=1).state_dict()
        torch.manual_seed(123)
        again = self.build().state_dict()
        assert all(torch.equal(one[name], again[name]) for name in one)
        assert any(not torch.equal(one[name], other[name]) for name in one)

    def test_global_generators_are_left_alone(self) -> None:
        before, legacy = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
        layer = self.build()
        y, state = layer(self.sequence(layer, 2, 4))
        y.sum().backward()
        layer.step(self.sequence(layer, 2, 1)[:, 0], parts(state, slice(None)))
        assert torch.equal(torch.get_rng_state(), before)
        assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), legacy, strict=True))  # noqa: NPY002

    def test_state_dict_goes_through_safetensors(self) -> None:
        layer, other = self.build(), self.build(seed=1)
        stored = safetensors.torch.save(
            {name: value.contiguous() for name, value in layer.state_dict().items()}
        )
        other.load_state_dict(safetensors.torch.load(stored))
        u = self.sequence(layer, 2, 6)
        close(other(u), layer(u), rtol=0, atol=0)

    def test_copies_are_independent(self) -> None:
        layer = self.build(torch.float32)
        u = self.sequence(layer, 2, 6)
        expected = layer(u)
        twin = copy.deepcopy(layer)
        close(twin(u), expected, rtol=0, atol=0)
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.add_(0.1)
        close(layer(u), expected, rtol=0, atol=0)
        wide = copy.deepcopy(layer).to(torch.float64)
        y, state = wide(u.double())
        assert y.dtype == torch.float64
        assert all(tensor.dtype == torch.float64 for tensor in state_tensors(state))
        assert all(tensor.dtype == torch.float64 for tensor in state_tensors(wide.init_state(1)))

    def test_inference_mode(self) -> None:
        layer = self.build()
        u = self.sequence(layer, 2, 6)
        with torch.inference_mode():
            close(layer(u), layer(u, layer.init_state(2)))
            y, state = layer(u)
        close((y.clone(), map_state(torch.clone, state)), layer(u))


class _Step(nn.Module):
    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, u: Tensor, state: State) -> tuple[Tensor, State]:
        return self.layer.step(u, state)


class TracedContract(LayerTests):
    """Whole graphs: ``torch.compile`` of the sequence, ``torch.export`` of the sample."""

    def test_compiled_is_the_same(self) -> None:
        layer = self.build()
        u, start = self.sequence(layer, 2, 7), self.some_state(layer, 2)
        given = self.arguments(2, 7, u.dtype)
        torch._dynamo.reset()
        compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
        y, state = compiled(u, start, **given)
        expected = layer(u, start, **given)
        close((y, state), expected)
        one = gradients(layer, y.square().sum())
        for name, gradient in gradients(layer, expected[0].square().sum()).items():
            close(one[name], gradient)

    def test_exported_step_is_the_same(self) -> None:
        layer = self.build()
        u, state = self.sequence(layer, 2, 1)[:, 0], self.some_state(layer, 2)
        program = torch.export.export(_Step(layer), (u, state))
        close(program.module()(u, state), layer.step(u, state))
