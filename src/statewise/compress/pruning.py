"""Fewer channels in a trained deep Wiener model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from statewise.data.record import Record
from statewise.models import DeepWiener
from statewise.nn import LTI, Block
from statewise.nn.coupling import BankCoupling
from statewise.nn.static import ChebyshevSeries, GatedUnit, LinearAndMap
from statewise.train import InitialState, free_run

_BY_CHANNEL = (nn.Identity, nn.ELU, nn.Tanh, nn.GELU, ChebyshevSeries)


@dataclasses.dataclass(frozen=True, eq=False)
class Pruning:
    """What :func:`prune` gives back.

    Attributes:
        model: the smaller model.
        kept: channels that stayed, as they were counted before.
        removed: channels that went.
        bound: largest relative change of the simulated outputs, √mean_c(mean Δ²/var y_c): 0 for
            every input where only channels without influence went, else as measured on the data.
        largest: largest change of a simulated output on the data, normalised; None without data.
        exact: whether all removed channels have no influence on any input.
        parameters_before: trained numbers before.
        parameters_after: trained numbers after.
    """

    model: DeepWiener
    kept: tuple[int, ...]
    removed: tuple[int, ...]
    bound: float
    largest: float | None
    exact: bool
    parameters_before: int
    parameters_after: int


def prune(
    model: DeepWiener,
    *,
    data: Iterable[Record] | None = None,
    tolerance: float = 0.0,
    initial_state: InitialState | None = None,
) -> Pruning:
    """Take out the channels between the blocks that have no influence on the output.

    A channel goes through the whole stack, and goes as a whole. It has no influence for any input
    where weights of exactly 0 hide it: nothing writes it or nothing reads it. With ``tolerance``
    and data, channels of little influence go too: each is taken out alone and the model simulated;
    those that change the output least are then taken out together, as many as the tolerance lets.
    With a normalisation between the blocks no channel is without influence, and only the second
    way is left. The model that is given is not changed.

    Args:
        model: the model; its layers must be linear ones (``LTI``, LRU, S4D, S5).
        data: normalised records, needed for a tolerance above 0.
        tolerance: largest relative change √mean_c(mean Δ²/var y_c) of the outputs on the data.
        initial_state: where free runs start, as in :func:`~statewise.train.free_run`.

    Returns:
        The smaller model and what its outputs differ by.

    Raises:
        ValueError: other layers, a negative tolerance, or one without data.
        TypeError: another model.
    """
    if not isinstance(model, DeepWiener):
        raise TypeError(f"prune takes a DeepWiener; given {type(model).__name__}")
    others = {type(b.layer).__name__ for b in _blocks(model) if not isinstance(b.layer, LTI)}
    if others:
        raise ValueError(f"prune knows linear layers (LTI); given {', '.join(sorted(others))}")
    records = None if data is None else list(data)
    if not tolerance >= 0:
        raise ValueError(f"tolerance is 0 or more; given {tolerance}")
    if tolerance > 0 and records is None:
        raise ValueError("a tolerance is a change of simulated outputs, and data are missing")
    width = model.config.d_model
    with torch.no_grad():
        # At least one channel stays.
        dead = without_influence(model)[: width - 1]
        removed, bound, largest = list(dead), 0.0, None
        if records is not None:
            change = _Change(model, records, initial_state)
            if tolerance > 0:
                removed = _cut(model, dead, change, tolerance)
            smaller = _sliced(model, removed)
            found, largest = change(smaller)
            bound = found if len(removed) > len(dead) else 0.0
        else:
            smaller = _sliced(model, removed)
    gone = set(removed)
    return Pruning(
        model=smaller,
        kept=tuple(c for c in range(width) if c not in gone),
        removed=tuple(sorted(gone)),
        bound=bound,
        largest=largest,
        exact=len(removed) == len(dead),
        parameters_before=model.n_parameters,
        parameters_after=smaller.n_parameters,
    )


def without_influence(model: DeepWiener) -> list[int]:
    """Channels between the blocks that weights of 0 hide from the output, for every input."""
    if model.config.norm is not None:
        return []
    width, blocks = model.config.d_model, _blocks(model)
    unread = (model.output_map.weight == 0).all(0)
    silent = torch.ones_like(unread)
    if model.input_map is not None:
        silent = _zero_rows(model.input_map.weight) & (model.input_map.bias == 0)
    confined = torch.ones_like(unread)
    for index, block in enumerate(blocks):
        layer = cast(LTI, block.layer)
        no_output = _silent_outputs(layer)
        if index or model.input_map is not None:
            unread &= _unread_inputs(layer)
        writes_zero, reads_none = _static(block.static, no_output, width)
        silent &= writes_zero
        confined &= reads_none | no_output
        if block.F is not None:
            silent &= _zero_rows(block.F)
    return ((unread | silent) & confined).nonzero()[:, 0].tolist()


def _blocks(model: DeepWiener) -> list[Block]:
    return cast("list[Block]", list(model.blocks))


def _zero_rows(M: Tensor) -> Tensor:
    return (M.flatten(1) == 0).all(1)


def _unread_inputs(layer: LTI) -> Tensor:
    """Inputs of a layer that only the output of the same index depends on, or none."""
    if isinstance(layer.coupling, BankCoupling):
        return torch.ones(layer.d_input, dtype=torch.bool, device=layer.coupling.B.device)
    unread = _zero_rows(layer.coupling.B.transpose(0, 1))
    if layer.D is not None and layer.D.ndim == 2:
        unread = unread & (layer.D == 0).all(0)
    return unread


def _silent_outputs(layer: LTI) -> Tensor:
    """Outputs of a layer that are 0 for every input."""
    silent = _zero_rows(layer.coupling.C)
    if layer.D is not None:
        silent = silent & (layer.D.unsqueeze(-1) if layer.D.ndim == 1 else layer.D).eq(0).all(-1)
    return silent if layer.bias is None else silent & (layer.bias == 0)


def _static(static: nn.Module, no_output: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Outputs of a static map that are 0, and inputs that no other output depends on."""
    if isinstance(static, LinearAndMap):
        writes_zero, reads_none = _static(static.map, no_output, width)
        unused = static.weight == 0
        writes_zero = (unused | writes_zero) & (no_output | (static.linear == 0))
        return writes_zero, reads_none | unused.all()
    if isinstance(static, GatedUnit | nn.Sequential):
        first = static.mix if isinstance(static, GatedUnit) else cast(nn.Linear, static[0])
        last = static.mix if isinstance(static, GatedUnit) else cast(nn.Linear, static[-1])
        writes_zero = _zero_rows(last.weight[:width]) & (last.bias[:width] == 0)
        return writes_zero, (first.weight == 0).all(0)
    if not isinstance(static, _BY_CHANNEL):
        return torch.zeros_like(no_output), torch.zeros_like(no_output)
    at_zero = static(torch.zeros(width, device=no_output.device))
    return no_output & (at_zero == 0), torch.ones_like(no_output)


def _sliced(model: DeepWiener, removed: Sequence[int]) -> DeepWiener:
    """The model without some channels."""
    width = model.config.d_model
    gone = set(removed)
    kept = torch.tensor([c for c in range(width) if c not in gone])
    config = dataclasses.replace(model.config, d_model=len(kept))
    made = DeepWiener(model.d_input, model.d_output, config)
    weights = model.state_dict()
    chosen: dict[str, Tensor] = {}
    for name, like in made.state_dict().items():
        value = weights[name]
        # An axis whose size differs runs over the channels, once or several times.
        for axis, (before, after) in enumerate(zip(value.shape, like.shape, strict=True)):
            if before != after:
                index = _along(kept, before // width, width, inner=".poles." in name)
                value = value.index_select(axis, index.to(value.device))
        chosen[name] = value
    parameter = next(model.parameters())
    made.to(device=parameter.device, dtype=parameter.dtype)
    made.load_state_dict(chosen)
    return made.train(model.training)


def _along(kept: Tensor, copies: int, width: int, *, inner: bool) -> Tensor:
    """Indices of the kept channels on an axis with several numbers for each.

    The poles of a bank are grouped by channel (``inner``); the two halves of a gate are not.
    """
    count = torch.arange(copies)
    grid = kept[:, None] * copies + count if inner else count[:, None] * width + kept
    return grid.flatten()


class _Change:
    """How far the outputs of another model are from those of this one, on records."""

    def __init__(
        self, model: DeepWiener, records: list[Record], initial_state: InitialState | None
    ) -> None:
        self.records, self.initial_state = records, initial_state
        self.y = self._run(model)
        variance = self.y.var(axis=0)
        self.variance = np.where(variance > 0, variance, 1.0)

    def _run(self, model: DeepWiener) -> np.ndarray:
        return np.concatenate(free_run(model, self.records, initial_state=self.initial_state))

    def __call__(self, model: DeepWiener) -> tuple[float, float]:
        """The relative and the largest change."""
        change = self._run(model) - self.y
        relative = np.sqrt(((change**2).mean(axis=0) / self.variance).mean())
        return float(relative), float(np.abs(change).max())


def _cut(model: DeepWiener, dead: list[int], change: _Change, tolerance: float) -> list[int]:
    """The most channels, least influence first, that change the output by no more."""
    width = model.config.d_model
    alive = [c for c in range(width) if c not in set(dead)]
    alone = {c: change(_sliced(model, [*dead, c]))[0] for c in alive if len(dead) < width - 1}
    ranked = [*dead, *sorted(alone, key=lambda c: alone[c])]
    low, high = len(dead), width
    while high - low > 1:
        middle = (low + high) // 2
        if change(_sliced(model, ranked[:middle]))[0] <= tolerance:
            low = middle
        else:
            high = middle
    return ranked[:low]
