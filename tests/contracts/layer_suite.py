"""The layer contract as tests: a new layer inherits them all by saying how to build it.

    class TestMine(LayerContract):
        def build(self, dtype=torch.float64, seed=0):
            return Mine(3, 2, seed=seed).to(dtype)

Sizes should be small and awkward. ``refuses`` names the arguments of ``forward`` that the layer
cannot honour: there the suite asks for a sentence that names the argument. ``exact`` is False for
layers whose sums run over the whole sequence, such as convolution by FFT: there, what must not
matter may matter by rounding. Tracing is slow: of a family of layers that share their code, let a
few inherit ``LayerContract`` and the others ``EagerContract``.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from contracts.layer_base import LayerTests, close, fold, gradients, parts, rms
from contracts.layer_device import DeviceLayerContract
from contracts.layer_module import ModuleContract, TracedContract
from statewise.nn import state_tensors

__all__ = ["EagerContract", "LayerContract", "TracedContract"]

SHAPES = [(1, 1), (2, 7), (3, 17)]


class SequenceContract(LayerTests):
    """What a layer computes: state, reset, lengths, mask, steps, causality."""

    # --- sequence, sample, state

    @pytest.mark.parametrize(("batch", "length"), SHAPES)
    def test_scan_is_fold_of_step(self, batch: int, length: int) -> None:
        layer = self.build()
        u = self.sequence(layer, batch, length)
        for start in (layer.init_state(batch), self.some_state(layer, batch)):
            y, state = layer(u, start)
            assert y.shape == (batch, length, layer.d_output)
            assert y.dtype == u.dtype
            expected, last = fold(layer, u, start)
            close(y, expected)
            close(state, last)

    def test_no_state_is_rest(self) -> None:
        layer = self.build()
        u = self.sequence(layer, 2, 6)
        close(layer(u), layer(u, layer.init_state(2)), rtol=0, atol=0)

    def test_state_has_batch_first_and_keeps_its_form(self) -> None:
        layer = self.build()
        for batch in (1, 4):
            rest = layer.init_state(batch)
            _, state = layer(self.sequence(layer, batch, 3), rest)
            _, stepped = layer.step(self.sequence(layer, batch, 1)[:, 0], rest)
            assert len(state_tensors(rest)) >= 1
            for one in (state, stepped):
                assert type(one) is type(rest)
                for new, old in zip(state_tensors(one), state_tensors(rest), strict=True):
                    assert new.shape == old.shape
                    assert new.dtype == old.dtype
            for tensor in state_tensors(rest):
                assert tensor.shape[0] == batch
                assert not tensor.any()

    @pytest.mark.parametrize("cut", [1, 6, 10])
    def test_split_and_carry_is_the_whole_with_gradients(self, cut: int) -> None:
        layer = self.build()
        u = self.sequence(layer, 2, 11)
        whole, last = layer(u)
        first, state = layer(u[:, :cut])
        second, carried = layer(u[:, cut:], state)
        close(torch.cat([first, second], 1), whole)
        close(carried, last)
        one = gradients(layer, second.square().sum())
        for name, expected in gradients(layer, whole[:, cut:].square().sum()).items():
            close(one[name], expected, rtol=1e-8, atol=1e-10)

    def test_reset_starts_a_sequence_anew(self) -> None:
        self.needs("reset")
        layer = self.build()
        u, start = self.sequence(layer, 2, 12), self.some_state(layer, 2)
        reset = torch.zeros(2, 12, dtype=torch.bool)
        reset[0, 4] = reset[0, 9] = reset[1, 0] = True
        y, state = layer(u, start, reset=reset)
        pieces = [layer(u[:1, :4], parts(start, slice(0, 1)))]
        pieces += [layer(u[:1, 4:9]), layer(u[:1, 9:])]
        close(y[:1], torch.cat([piece for piece, _ in pieces], 1))
        close(parts(state, slice(0, 1)), pieces[-1][1])
        anew, last = layer(u[1:])
        close(y[1:], anew)
        close(parts(state, slice(1, 2)), last)

    def test_lengths_are_shorter_sequences(self) -> None:
        self.needs("lengths")
        layer = self.build()
        lengths = torch.tensor([9, 0, 1, 5])
        u, start = self.sequence(layer, 4, 9), self.some_state(layer, 4)
        padded = u.clone()
        for row, length in enumerate(lengths):
            padded[row, length:] = torch.nan
        padded.requires_grad_()
        extra = {}
        if "dt" not in self.refuses:
            extra["dt"] = self.arguments(4, 9, u.dtype)["dt"]
            extra["dt"][2, 1:] = torch.nan
        y, state = layer(padded, start, lengths=lengths, **extra)
        for row, length in enumerate(lengths.tolist()):
            own, one = parts(start, slice(row, row + 1)), slice(row, row + 1)
            assert not y[row, length:].any()
            if length:
                steps = {name: value[one, :length] for name, value in extra.items()}
                expected, own = layer(u[one, :length], own, **steps)
                close(y[one, :length], expected)
            close(parts(state, one), own)
        loss = y.square().sum() + sum(part.square().sum() for part in state_tensors(state))
        for name, gradient in gradients(layer, loss).items():
            assert gradient.isfinite().all(), name
        (sensitivity,) = torch.autograd.grad(loss, padded)
        for row, length in enumerate(lengths):
            assert not sensitivity[row, length:].any()
        assert sensitivity.isfinite().all()

    # --- what was not observed, and when

    @pytest.mark.parametrize("per_channel", [False, True])
    def test_unobserved_inputs_are_zeros(self, per_channel: bool) -> None:
        self.needs("mask")
        layer = self.build()
        u, start = self.sequence(layer, 3, 9), self.some_state(layer, 3)
        shape = tuple(u.shape) if per_channel else (3, 9)
        mask = torch.from_numpy(np.random.default_rng(1).random(shape) < 0.6)
        wide = mask if per_channel else mask.unsqueeze(-1).expand_as(u)
        holes = u.masked_fill(~wide, torch.nan).requires_grad_()
        y, state = layer(holes, start, mask=mask)
        close((y, state), layer(u * wide, start))
        close((y, state), fold(layer, holes, start, mask=mask))
        loss = y.square().sum()
        for name, gradient in gradients(layer, loss).items():
            assert gradient.isfinite().all(), name
        (sensitivity,) = torch.autograd.grad(loss, holes)
        assert sensitivity.isfinite().all()
        assert not sensitivity[~wide].any()

    def test_unit_steps_change_nothing(self) -> None:
        self.needs("dt")
        layer = self.build()
        u, start = self.sequence(layer, 2, 8), self.some_state(layer, 2)
        expected = layer(u, start)
        close(layer(u, start, dt=torch.ones(2, 8, dtype=u.dtype)), expected)
        close(layer(u, start, dt=torch.ones(8, dtype=u.dtype)), expected)
        close(fold(layer, u, start, dt=torch.ones(2, 8, dtype=u.dtype)), expected)

    def test_uneven_steps_are_the_fold_of_step(self) -> None:
        self.needs("dt")
        layer = self.build()
        u, start = self.sequence(layer, 3, 8), self.some_state(layer, 3)
        dt = self.arguments(3, 8, u.dtype)["dt"]
        y, state = layer(u, start, dt=dt)
        close((y, state), fold(layer, u, start, dt=dt))
        close(layer(u, start, dt=dt[0])[0][:1], y[:1])
        assert rms(y - layer(u, start)[0]) > 1e-6 * rms(y)

    def test_all_arguments_together(self) -> None:
        layer = self.build()
        u, start = self.sequence(layer, 3, 10), self.some_state(layer, 3)
        given = self.arguments(3, 10, u.dtype)
        y, state = layer(u, start, **given)
        per_step = {name: given[name] for name in ("dt", "mask") if name in given}
        reset = given.get("reset", torch.zeros(3, 10, dtype=torch.bool))
        lengths = given.get("lengths", torch.full((3,), 10))
        for row in range(3):
            own = parts(start, slice(row, row + 1))
            for k in range(int(lengths[row])):
                own = layer.init_state(1) if reset[row, k] else own
                now = {name: value[row : row + 1, k] for name, value in per_step.items()}
                expected, own = layer.step(u[row : row + 1, k], own, **now)
                close(y[row : row + 1, k], expected)
            close(parts(state, slice(row, row + 1)), own)

    def test_refusals_name_the_argument(self) -> None:
        layer = self.build()
        u = self.sequence(layer, 2, 5)
        everything = {
            "dt": torch.full((2, 5), 0.5, dtype=u.dtype),
            "mask": torch.ones(2, 5, dtype=torch.bool),
            "reset": torch.ones(2, 5, dtype=torch.bool),
            "lengths": torch.tensor([5, 2]),
        }
        assert set(everything) >= self.refuses
        for name, value in everything.items():
            if name in self.refuses:
                with pytest.raises(ValueError, match=rf"\b{name}\b"):
                    layer(u, **{name: value})
            else:
                assert layer(u, **{name: value})[0].isfinite().all()

    # --- causality and independence

    @pytest.mark.parametrize("t", [0, 4])
    def test_the_future_does_not_matter(self, t: int) -> None:
        layer = self.build()
        u = self.sequence(layer, 2, 9).requires_grad_()
        y, _ = layer(u)
        (sensitivity,) = torch.autograd.grad(y[:, t].sum(), u)
        assert sensitivity[:, : t + 1].any()
        if self.exact:
            assert (sensitivity[:, t + 1 :] == 0).all()
            spoiled = u.detach().clone()
            spoiled[:, t + 1 :] = torch.nan
            close(layer(spoiled)[0][:, : t + 1], y[:, : t + 1])
        else:
            assert sensitivity[:, t + 1 :].abs().max() < 1e-13 * sensitivity.abs().max()

    def test_sequences_of_a_batch_do_not_meet(self) -> None:
        layer = self.build()
        u, start = self.sequence(layer, 3, 8), self.some_state(layer, 3)
        y, state = layer(u, start)
        for row in range(3):
            one = slice(row, row + 1)
            close((y[one], parts(state, one)), layer(u[one], parts(start, one)))
        spoiled = u.clone()
        spoiled[1] = torch.nan
        close(layer(spoiled, start)[0][[0, 2]], y[[0, 2]])

    def test_memory_layout_does_not_matter(self) -> None:
        layer = self.build()
        u = self.sequence(layer, 3, 8)
        scattered = u.permute(2, 1, 0).contiguous().permute(2, 1, 0)
        assert not scattered.is_contiguous() or layer.d_input == 1
        close(layer(scattered), layer(u))
        wide = torch.stack([u, u], -1)[..., 0]
        close(layer(wide), layer(u))
        close(layer(u[:1].expand(3, -1, -1))[0][2], layer(u[:1])[0][0])


class EagerContract(SequenceContract, ModuleContract, DeviceLayerContract):
    """All that a layer promises outside of traced graphs."""


class LayerContract(EagerContract, TracedContract):
    """What every layer promises; see the head of this file."""
