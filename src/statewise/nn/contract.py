"""The layer contract: what every layer and model promises, and helpers to keep it.

``y, state = layer(u, state=None, *, dt=None, mask=None, reset=None, lengths=None)`` over time,
``y_t, state = layer.step(u_t, state, *, dt=None, mask=None)`` for one sample,
``layer.init_state(batch)`` for the state of rest. A state is a tensor or a (named) tuple of states.
"""

from __future__ import annotations

import abc
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from statewise.nn.layer_spec import LayerSpec

_GIVEN_BY_THE_MODEL = frozenset({"d_input", "d_output", "seed", "rng"})

State = Any
"""A tensor whose first axis is the batch, or a (named) tuple of states."""


class Layer(nn.Module, abc.ABC):
    """A causal map from input sequences to output sequences with an explicit state.

    Attributes:
        d_input: number of input channels.
        d_output: number of output channels.
    """

    d_input: int
    d_output: int

    @classmethod
    def spec(cls, **options: Any) -> LayerSpec:
        """This kind of layer with these options, as data.

        Args:
            options: keyword arguments of the class, without sizes that the model gives and
                without the seed.

        Returns:
            A specification to put into a block, a model or a file.

        Raises:
            TypeError: an option that the class does not take.
        """
        check_options(cls, options)
        return LayerSpec(cls.__name__, options)

    @abc.abstractmethod
    def forward(
        self,
        u: Tensor,
        state: State = None,
        *,
        dt: Tensor | None = None,
        mask: Tensor | None = None,
        reset: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        """Run over a sequence.

        Args:
            u: input (B, L, d_input).
            state: state before the first sample, or None for the state of rest.
            dt: step from the previous sample to this one, relative to the nominal sampling
                interval, (B, L) or (L,); None means 1 everywhere.
            mask: True where the input was observed, (B, L) or (B, L, d_input); an input that was
                not observed enters as 0.
            reset: True where the state is set to rest before that sample, (B, L).
            lengths: number of valid samples of each sequence, (B,); outputs behind it are 0 and the
                state returned is the one after the last valid sample.

        Returns:
            Output (B, L, d_output) and the state after the last sample.
        """

    @abc.abstractmethod
    def step(
        self, u: Tensor, state: State, *, dt: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Run one sample.

        Args:
            u: input (B, d_input).
            state: state before the sample.
            dt: relative step (B,), or None for 1.
            mask: True where the input was observed, (B,) or (B, d_input).

        Returns:
            Output (B, d_output) and the state after the sample.
        """

    @abc.abstractmethod
    def init_state(self, batch: int) -> State:
        """The state of rest for ``batch`` sequences, on the layer's device."""


def check_options(cls: type[Layer], options: Mapping[str, Any]) -> None:
    """Raise a sentence about the first option that the constructor of ``cls`` does not take."""
    accepted = inspect.signature(cls).parameters
    names = [
        name
        for name, parameter in accepted.items()
        if parameter.default is not parameter.empty and name not in _GIVEN_BY_THE_MODEL
    ]
    for name in options:
        if name not in names:
            raise TypeError(
                f"{cls.__name__} has no option {name!r}; its options are: {', '.join(names)}"
            )


def map_state(fn: Callable[..., Tensor], state: State, *others: State) -> State:
    """Apply ``fn`` to every tensor of a state (and to those in the same places of the others)."""
    if isinstance(state, Tensor):
        return fn(state, *others)
    if isinstance(state, tuple):
        items = [map_state(fn, *parts) for parts in zip(state, *others, strict=True)]
        return type(state)(*items) if hasattr(state, "_fields") else tuple(items)
    raise TypeError(f"a state is a tensor or a tuple of states, not {type(state).__name__}")


def state_tensors(state: State) -> list[Tensor]:
    """The tensors of a state, in a fixed order."""
    found: list[Tensor] = []
    map_state(lambda tensor: found.append(tensor) or tensor, state)
    return found


def check_sequence(
    layer: Layer,
    u: Tensor,
    dt: Tensor | None,
    mask: Tensor | None,
    reset: Tensor | None,
    lengths: Tensor | None,
) -> None:
    """Raise a sentence about the first argument whose shape breaks the contract."""
    name = type(layer).__name__
    if u.ndim != 3 or u.shape[-1] != layer.d_input:
        raise ValueError(
            f"{name} takes an input of shape (batch, length, {layer.d_input}); given "
            f"{tuple(u.shape)}"
        )
    batch, length = u.shape[:2]
    if length < 1:
        raise ValueError(f"{name} needs at least one sample; given an input of length 0")
    if dt is not None and tuple(dt.shape) not in ((batch, length), (length,)):
        _refuse(name, "dt", f"({batch}, {length}) or ({length},)", dt)
    if mask is not None and tuple(mask.shape) not in ((batch, length), tuple(u.shape)):
        _refuse(name, "mask", f"({batch}, {length}) or {tuple(u.shape)}", mask)
    if reset is not None and tuple(reset.shape) != (batch, length):
        _refuse(name, "reset", f"({batch}, {length})", reset)
    if lengths is not None and tuple(lengths.shape) != (batch,):
        _refuse(name, "lengths", f"({batch},)", lengths)
    for label, flags in (("mask", mask), ("reset", reset)):
        _check_flags(name, label, flags)
    if lengths is not None:
        _check_lengths(name, lengths, length)


def check_sample(layer: Layer, u: Tensor, dt: Tensor | None, mask: Tensor | None) -> None:
    """Raise a sentence about the first argument of ``step`` whose shape breaks the contract."""
    name = f"{type(layer).__name__}.step"
    if u.ndim != 2 or u.shape[-1] != layer.d_input:
        raise ValueError(
            f"{name} takes an input of shape (batch, {layer.d_input}); given {tuple(u.shape)}"
        )
    batch = u.shape[0]
    if dt is not None and tuple(dt.shape) != (batch,):
        _refuse(name, "dt", f"({batch},)", dt)
    if mask is not None and tuple(mask.shape) not in ((batch,), tuple(u.shape)):
        _refuse(name, "mask", f"({batch},) or {tuple(u.shape)}", mask)
    _check_flags(name, "mask", mask)


def _check_flags(name: str, label: str, flags: Tensor | None) -> None:
    if flags is not None and flags.dtype != torch.bool:
        raise TypeError(f"{name} takes a {label} of dtype bool; given {flags.dtype}")


def _check_lengths(name: str, lengths: Tensor, length: int) -> None:
    if lengths.dtype.is_floating_point or lengths.dtype.is_complex or lengths.dtype == torch.bool:
        raise TypeError(f"{name} takes lengths of an integer dtype; given {lengths.dtype}")
    # The values of a tensor are not known while a graph is traced.
    if lengths.numel() and not torch.compiler.is_compiling():
        low, high = (int(bound) for bound in lengths.aminmax())
        if low < 0 or high > length:
            raise ValueError(
                f"{name} takes lengths from 0 to {length} for this input; given lengths from "
                f"{low} to {high}"
            )


def _refuse(name: str, argument: str, expected: str, given: Tensor) -> NoReturn:
    raise ValueError(
        f"{name} takes {argument} of shape {expected} for this input; given {tuple(given.shape)}"
    )


def mask_input(u: Tensor, mask: Tensor | None) -> Tensor:
    """Set inputs that were not observed to 0; NaN there does no harm."""
    if mask is None:
        return u
    if mask.ndim < u.ndim:
        mask = mask.unsqueeze(-1)
    return torch.where(mask, u, torch.zeros_like(u))


def valid_steps(lengths: Tensor, length: int) -> Tensor:
    """True for samples before the end of their sequence: (B, L) from lengths (B,)."""
    return torch.arange(length, device=lengths.device) < lengths.unsqueeze(-1)


def at_last(sequence: Tensor, before: Tensor, lengths: Tensor) -> Tensor:
    """Entry ``lengths − 1`` of each sequence (B, L, ...), or ``before`` where the length is 0."""
    index = (lengths.long() - 1).clamp_min(0).view(-1, *[1] * (sequence.ndim - 1))
    picked = sequence.gather(1, index.expand(-1, 1, *sequence.shape[2:])).squeeze(1)
    empty = (lengths == 0).view(-1, *[1] * (before.ndim - 1))
    return torch.where(empty, before.to(picked.dtype), picked)
