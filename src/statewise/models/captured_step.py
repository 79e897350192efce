"""A decoding step of a language model as a CUDA graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from statewise.nn.contract import State, map_state, state_tensors
from statewise.nn.fused import overwriting

if TYPE_CHECKING:
    from statewise.models.language_model import LanguageModel

WARM_UP = 3
"""Steps before the capture: kernels are compiled and libraries choose their algorithms in them."""


class CapturedStep:
    """:meth:`LanguageModel.step` for a fixed number of rows, recorded once and replayed as a whole.

    A step of a small model is hundreds of kernels of a few microseconds, and starting them one by
    one takes longer than running them; replaying the record starts all of them at once. It reads
    and writes memory of its own: a call puts tokens there and moves the state that is there by one
    token. :meth:`load` puts another state in its place, and :meth:`save` gives a copy of it, to
    keep, to fork, or to go on from with the model itself:

        step = CapturedStep(model, batch=2)
        logits, state = model.prefill(prompts)
        step.load(state)
        logits = step(tokens)
        state = step.save()

    The record holds the model's parameters as they lie in memory: it follows training in place, and
    does not follow a move to another device or type. It runs without gradients and in the mode
    (evaluation or training) that the model is in at the capture.

    Args:
        model: the model, on a CUDA device.
        batch: number of rows.

    Raises:
        ValueError: a batch below 1, a model that is not on a CUDA device, or one whose state grows
            with every token (attention without a window).
    """

    def __init__(self, model: LanguageModel, batch: int) -> None:
        if batch < 1:
            raise ValueError(f"CapturedStep needs a batch of at least 1; given {batch}")
        device = next(model.parameters()).device
        if device.type != "cuda":
            raise ValueError(
                f"CapturedStep records a CUDA graph, so the model must be on a CUDA device; its "
                f"parameters are on {device}"
            )
        self.batch = batch
        # In inference mode the memory made here could not be written to outside of it.
        with torch.inference_mode(False), torch.no_grad(), torch.cuda.device(device):
            self._tokens = torch.zeros(batch, dtype=torch.long, device=device)
            self._state = map_state(torch.clone, model.init_state(batch))
            self._check_growth(model)
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(WARM_UP):
                    self._advance(model)
            torch.cuda.current_stream().wait_stream(side)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._logits = self._advance(model)
            self.load(model.init_state(batch))

    @torch.no_grad()
    def __call__(self, tokens: Tensor) -> Tensor:
        """Read one token of each row and move the state on.

        Args:
            tokens: whole numbers (B,) below the padded size of the vocabulary. Their values are not
                checked here, which would wait for the device.

        Returns:
            Logits of the next token (B, V); the next call overwrites them.

        Raises:
            ValueError: a shape other than (B,).
        """
        if tuple(tokens.shape) != (self.batch,):
            raise ValueError(
                f"this CapturedStep takes tokens of shape ({self.batch},); given "
                f"{tuple(tokens.shape)}"
            )
        self._tokens.copy_(tokens)
        self._graph.replay()
        return self._logits

    @torch.no_grad()
    def load(self, state: State) -> None:
        """Go on from this state, which is copied.

        Raises:
            ValueError: a state whose parts have other shapes.
        """
        given = [tuple(part.shape) for part in state_tensors(state)]
        expected = [tuple(part.shape) for part in state_tensors(self._state)]
        if given != expected:
            raise ValueError(_differ("CapturedStep.load", expected, given))
        _copy(state_tensors(self._state), state_tensors(state))

    def save(self) -> State:
        """A copy of the state after the last token."""
        return map_state(torch.clone, self._state)

    def _advance(self, model: LanguageModel) -> Tensor:
        with overwriting():
            logits, after = model.advance(self._tokens, self._state)
        _copy(state_tensors(self._state), state_tensors(after))
        return logits

    def _check_growth(self, model: LanguageModel) -> None:
        _, after = model.advance(self._tokens, map_state(torch.clone, self._state))
        expected = [tuple(part.shape) for part in state_tensors(self._state)]
        given = [tuple(part.shape) for part in state_tensors(after)]
        if given != expected:
            raise ValueError(
                "CapturedStep needs a state of constant size; "
                + _differ("a step of this model", expected, given)
            )


def _copy(places: list[Tensor], parts: list[Tensor]) -> None:
    """Copy tensors that lie elsewhere to their places, all by one call."""
    moved = [(here, new) for here, new in zip(places, parts, strict=True) if here is not new]
    if moved:
        here, new = zip(*moved, strict=True)
        torch._foreach_copy_(here, new)  # pyright: ignore[reportPrivateImportUsage]


class EagerStep:
    """What :class:`CapturedStep` does, by calls of the model one by one; on any device."""

    def __init__(self, model: LanguageModel) -> None:
        self._model, self._state = model, None

    def __call__(self, tokens: Tensor) -> Tensor:
        """Logits of the next token."""
        logits, self._state = self._model.advance(tokens, self._state)
        return logits

    def load(self, state: State) -> None:
        """Go on from this state."""
        self._state = state

    def save(self) -> State:
        """The state after the last token; later calls leave it as it is."""
        return self._state


def _differ(name: str, expected: list, given: list) -> str:
    """A sentence about the first part whose shape is another one."""
    if len(expected) != len(given):
        return f"{name} takes a state of {len(expected)} tensors; given {len(given)}"
    place = next(k for k, (one, two) in enumerate(zip(expected, given, strict=True)) if one != two)
    return (
        f"{name} takes a state whose part {place} has shape {expected[place]}; given {given[place]}"
    )
