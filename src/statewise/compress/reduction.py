"""Fewer states in the linear layers of a trained model."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from statewise.compress.methods import BalancedTruncation, Reduced, ReductionMethod
from statewise.compress.reading import LinearLayer, linear_layers
from statewise.compress.result import BlockReduction, ModelReduction
from statewise.compress.search import largest_cut
from statewise.compress.writing import Place, UnwritableError, layer_spec, written
from statewise.data.record import Record
from statewise.lti import StateSpace, from_diagonal, hinf_norm
from statewise.lti.diagonal_form import DiagonalForm
from statewise.models import DeepWiener, LanguageModel, SequenceModel
from statewise.nn import LTI, Block, Gated, Layer, LayerSpec, WienerBlock
from statewise.nn.modes import layer_modes
from statewise.train import FreeRunError, InitialState

Size = int | float


def reduce(
    model: nn.Module,
    *,
    to: Size | Sequence[Size] | None = None,
    tolerance: float | None = None,
    method: ReductionMethod | None = None,
    data: Iterable[Record] | None = None,
    initial_state: InitialState | None = None,
    certify: bool = True,
) -> ModelReduction:
    """Reduce every linear layer of a trained model, to given orders or to a given loss of fit.

    Layers that are linear and time-invariant are LTI and its relatives (LRU, S4D, S5), S4, DSS,
    LSSL, EMA, Companion, LongConv and L2Bounded. Each is read as the system that it is at its
    nominal step, one for each channel where it is a bank, reduced, then brought to diagonal form
    and written as an :class:`~statewise.nn.LTI` layer, which runs on the same kernels. Systems
    whose modes are hardly independent, as those of S4 and LSSL, are reduced as matrices, and only
    what is left is made diagonal. A layer that keeps its order stays as it is, and so does one that
    is not linear or not stable, that is inside another layer than Gated, or that a method of modes
    cannot read; the result names the layers of blocks that stay. The model that is given is not
    changed. A reduced layer holds its input over other steps than the nominal one as the LRU does;
    the bounds are for the nominal step. The bound on the gain that an L2Bounded layer has for every
    value of its parameters is not kept: the layer in its place has that gain plus the error at
    most, until it is trained on. In a model with a prescribed gain it stays.

    With ``tolerance``, orders are looked for in two ways: by bisection over a common threshold,
    where the values left out are the same fraction of all in every layer, and then greedily, the
    layer first that loses least for each state. Orders at which a system is no layer are passed
    over. Every candidate is simulated in free run on the data, so these must be validation data,
    not those on which the model will be judged.

    Args:
        model: a :class:`~statewise.models.DeepWiener`, a :class:`~statewise.models.SequenceModel`,
            or any module with such layers inside.
        to: the order of every layer: real states to keep, a conjugate pair counting two, or a
            fraction of them below or equal to 1.0; one for all layers or a sequence with one for
            each. For a bank it is that of each channel.
        tolerance: the largest loss of fit on ``data``, in points of FIT; one of this and ``to``.
        method: how to reduce; None is ``BalancedTruncation()``.
        data: normalised validation records.
        initial_state: where free runs start, as in :func:`~statewise.train.free_run`.
        certify: measure the gains and errors of the layers, which takes long for hundreds of
            states; False leaves them NaN.

    Returns:
        The reduced model with values, orders, bounds, errors and fit.

    Raises:
        ValueError: no linear layers, orders out of range, ``tolerance`` without data, or a reduced
            system that cannot be written as a layer.
        TypeError: a model or method of another kind.

    Source: Forgione, Mejari & Piga, Model order reduction of deep structured state-space models
    (2403.14833).
    """
    method = BalancedTruncation() if method is None else method
    if not isinstance(method, ReductionMethod):
        raise TypeError(f"a method such as BalancedTruncation() is needed; given {method!r}")
    if (to is None) == (tolerance is None):
        raise ValueError(
            f"one of to and tolerance is needed; given to={to!r}, tolerance={tolerance!r}"
        )
    if isinstance(model, LanguageModel):
        raise TypeError("a LanguageModel has one layer for all places, and cannot be reduced")
    score = None if data is None else _Fit(data, initial_state)
    with torch.no_grad():
        work = _Work(model, method)
        if tolerance is None:
            orders = work.orders(cast("Size | Sequence[Size]", to))
        else:
            if score is None:
                raise ValueError("tolerance is a loss of fit, and data to measure it are missing")
            if not tolerance >= 0:
                raise ValueError(f"tolerance is 0 or more points of FIT; given {tolerance}")
            orders = largest_cut(work.cut_values, work.built_or_none, score.or_worst, tolerance)
        smaller = work.build(orders)
        return ModelReduction(
            model=smaller,
            method=method,
            blocks=tuple(b.report(n, certify) for b, n in zip(work.blocks, orders, strict=True)),
            fit_before=None if score is None else score(model),
            fit_after=None if score is None else score(smaller),
            parameters_before=_count(model),
            parameters_after=_count(smaller),
            untouched=work.untouched,
        )


class _Fit:
    """100 (1 − NRMSE) % of free runs on some records."""

    def __init__(self, data: Iterable[Record], initial_state: InitialState | None) -> None:
        self.error, self.initial_state = FreeRunError(data), initial_state

    def __call__(self, model: nn.Module) -> float:
        return 100 * (1 - self.error(cast(Layer, model), self.initial_state))

    def or_worst(self, model: nn.Module | None) -> float:
        """The same; −∞ where there is no model."""
        return -math.inf if model is None else self(model)


class _Block:
    """A linear layer, its systems, and its reductions so far."""

    def __init__(self, found: LinearLayer, method: ReductionMethod) -> None:
        self.names, self.layer, self.plants, self.bank, self.states = found
        self.method = method
        self.order = max(plant.system.n_states for plant in self.plants)
        self._found: dict[int, tuple[list[Reduced], LTI]] = {}

    @property
    def values(self) -> np.ndarray:
        """What states are chosen by, (n,); the largest of the channels of a bank."""
        found = np.zeros(self.order)
        for plant in self.plants:
            values = self.method.values(plant).cpu().numpy()
            found[: len(values)] = np.maximum(found[: len(values)], values)
        return found

    def reduced(self, order: int) -> tuple[list[Reduced], LTI]:
        """The reduced systems and their layer."""
        if order not in self._found:
            systems = [
                self.method.reduce(plant, min(order, plant.system.n_states))
                for plant in self.plants
            ]
            try:
                place = Place.of(self.layer, bank=self.bank)
                layer = written([one.system for one in systems], place)
            except UnwritableError as error:
                raise UnwritableError(f"{self.names[0]} at order {order}: {error}") from error
            self._found[order] = systems, layer
        return self._found[order]

    def report(self, order: int, certify: bool) -> BlockReduction:
        """What became of the layer."""
        hankel = np.zeros((len(self.plants), self.order))
        for row, plant in zip(hankel, self.plants, strict=True):
            row[: len(plant.hankel)] = plant.hankel.cpu().numpy()
        gain = max(_size(plant.system) for plant in self.plants) if certify else math.nan
        bound, rounding, error = 0.0, 0.0, 0.0
        after, states = self.order, self.states
        if order < self.order:
            systems, kept = self.reduced(order)
            states = kept.d_state
            ideal = [_real(one.system) for one in systems]
            after = max(system.n_states for system in ideal)
            bounds = [one.bound for one in systems]
            bound = None if None in bounds else max(cast("list[float]", bounds))
            rounding = error = math.nan
            if certify:
                made = from_diagonal(layer_modes(kept))
                alone = [made] if not made.batch_shape else [made[k] for k in range(len(made.A))]
                rounding = max(_size(a - b) for a, b in zip(ideal, alone, strict=True))
                plants = [plant.system for plant in self.plants]
                error = max(_size(a - b) for a, b in zip(plants, alone, strict=True))
        return BlockReduction(
            name=self.names[0],
            values=hankel if self.bank else hankel[0],
            order_before=self.order,
            order_after=after,
            states_before=self.states,
            states_after=states,
            gain=gain,
            bound=bound,
            rounding=rounding,
            error=error,
        )


class _Work:
    """The linear layers of a model, and the model with smaller ones."""

    def __init__(self, model: nn.Module, method: ReductionMethod) -> None:
        self.model = model
        layers, self.untouched = linear_layers(model, method)
        if not layers:
            given = f": it has {', '.join(self.untouched)}" if self.untouched else ""
            raise ValueError(
                f"{type(model).__name__} has no linear layers to reduce{given}; layers that are "
                f"stable and linear are: LTI, LRU, S4D, S5 and their relatives, S4, DSS, LSSL, "
                f"EMA, Companion, LongConv and L2Bounded"
            )
        if "" in layers[0].names:
            raise ValueError("a layer alone was given; a model that holds it is needed")
        self.blocks = [_Block(layer, method) for layer in layers]

    @property
    def cut_values(self) -> list[np.ndarray]:
        """The values of every layer by which states are chosen."""
        return [block.values for block in self.blocks]

    def orders(self, to: Size | Sequence[Size]) -> list[int]:
        """The order of every layer that ``to`` asks for."""
        if isinstance(to, int | float):
            to = [to] * len(self.blocks)
        elif len(to) != len(self.blocks):
            raise ValueError(f"to has {len(to)} orders; the model has {len(self.blocks)} layers")
        return [_order(size, block.order) for size, block in zip(to, self.blocks, strict=True)]

    def built_or_none(self, orders: Sequence[int]) -> Any:
        """The same as :meth:`build`; None where a system of such an order is no layer."""
        try:
            return self.build(orders)
        except UnwritableError:
            return None

    def build(self, orders: Sequence[int]) -> Any:
        """A copy of the model whose layers have these orders."""
        made = copy.deepcopy(self.model)
        specs: dict[str, LayerSpec] = {}
        for block, order in zip(self.blocks, orders, strict=True):
            if order >= block.order:
                continue
            layer = copy.deepcopy(block.reduced(order)[1])
            for name in block.names:
                made.set_submodule(name, layer)
                specs[name] = layer_spec(layer)
        if isinstance(made, DeepWiener | SequenceModel):
            _configure(made, specs)
        if isinstance(made, DeepWiener):
            for part in made.blocks:
                # What it is when the model is built from its config.
                if type(part) is Block and isinstance(part.layer, LTI):
                    part.__class__ = WienerBlock
        return made


def _configure(model: DeepWiener | SequenceModel, specs: dict[str, LayerSpec]) -> None:
    """Let the config of a model say what its layers have become."""
    if not specs:
        return
    given = {f"blocks.{k}.layer": k for k in range(len(model.blocks))}
    within = {f"{name}.inner": k for name, k in given.items() if _is_gated(model.blocks[k])}
    inner = sorted(set(specs) - set(given) - set(within))
    if inner:
        raise ValueError(f"the config of a {type(model).__name__} cannot hold a smaller {inner[0]}")
    if isinstance(model, SequenceModel):
        blocks = list(model.config.blocks * model.config.repeat)
        layers = [block.layer for block in blocks]
    else:
        options = ("d_state", "poles", "coupling", "simulator", "bias")
        usual = LayerSpec("LTI", {name: getattr(model.config, name) for name in options})
        layers = [usual if spec is None else spec for spec in model.config.layers]
    for name, spec in specs.items():
        if name in given:
            layers[given[name]] = spec
        else:
            outer = layers[within[name]]
            layers[within[name]] = LayerSpec(outer.layer, {**outer.options, "inner": spec})
    if isinstance(model, SequenceModel):
        pairs = zip(blocks, layers, strict=True)
        blocks = tuple(dataclasses.replace(block, layer=layer) for block, layer in pairs)
        model.config = dataclasses.replace(model.config, blocks=blocks, repeat=1)
    else:
        model.config = dataclasses.replace(model.config, layer=tuple(layers))


def _is_gated(block: nn.Module) -> bool:
    return isinstance(block, Block) and isinstance(block.layer, Gated)


def _order(size: Size, full: int) -> int:
    if isinstance(size, bool) or not isinstance(size, int | float):
        raise TypeError(f"an order is a number of states or a fraction of them; given {size!r}")
    if isinstance(size, float):
        if not 0 < size <= 1:
            raise ValueError(f"a fraction of the states is in (0, 1]; given {size}")
        return max(1, math.ceil(size * full - 1e-9))
    if size < 1:
        raise ValueError(f"an order is at least 1; given {size}")
    return min(size, full)


def _real(system: StateSpace | DiagonalForm) -> StateSpace:
    return from_diagonal(system) if isinstance(system, DiagonalForm) else system


def _size(system: StateSpace) -> float:
    return float(hinf_norm(system, tolerance=1e-6).upper)


def _count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
