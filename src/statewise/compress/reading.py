"""Which layers of a model are linear systems that can be reduced, and why others are not."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from statewise.compress.methods import ModalTruncation, Plant, ReductionMethod
from statewise.lti.diagonal_form import DiagonalForm
from statewise.models import DeepWiener, SequenceModel
from statewise.nn import LTI, S4, Block, Gated, Layer
from statewise.nn.systems import layer_systems

MARGIN = 1e-12
"""Least distance of a pole from the unit circle: Gramians grow with its inverse."""


class LinearLayer(NamedTuple):
    """A layer that is linear and time-invariant, with its systems.

    Attributes:
        names: where it stands in the model.
        layer: the layer.
        plants: its system, or one for each channel of a bank.
        bank: whether it is one.
        states: stored states, per channel for a bank.
    """

    names: list[str]
    layer: Layer
    plants: list[Plant]
    bank: bool
    states: int


def linear_layers(
    model: nn.Module, method: ReductionMethod
) -> tuple[list[LinearLayer], tuple[str, ...]]:
    """The layers of a model that a method can reduce, and the others.

    A layer that is not of class ``LTI`` is looked at where it stands alone, in a block or in the
    shell ``Gated``: one inside another layer may be used there in ways of its own. In a model with
    a prescribed gain it stays, because the layer in its place would have no bound for every value
    of its parameters.

    Args:
        model: the model.
        method: how they are to be reduced; a method of modes needs independent ones.

    Returns:
        The layers in the order of the model, and the layers of blocks that stay as they are, with
        their kind and, for a linear one, the reason.
    """
    found: dict[int, LinearLayer] = {}
    kept: dict[int, str] = {}
    closed: dict[str, str] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if not isinstance(module, Layer):
            continue
        if id(module) in found:
            found[id(module)].names.append(name)
            continue
        around = [why for one, why in closed.items() if not one or name.startswith(f"{one}.")]
        if isinstance(module, LTI) or not around:
            read = _read(name, module, method)
            if isinstance(read, LinearLayer):
                found[id(module)] = read
                continue
            kept[id(module)] = read
        else:
            kept[id(module)] = around[-1]
        if isinstance(module, DeepWiener) and module.config.gain is not None:
            closed[name] = ", in a model with a prescribed gain"
        elif not isinstance(module, Block | Gated | DeepWiener | SequenceModel):
            closed[name] = ""
    untouched = [
        f"{name}.layer ({type(block.layer).__name__}{kept.get(id(block.layer), '')})"
        for name, block in model.named_modules()
        if isinstance(block, Block) and not any(id(part) in found for part in block.layer.modules())
    ]
    return list(found.values()), tuple(untouched)


def _read(name: str, layer: Layer, method: ReductionMethod) -> LinearLayer | str:
    """The systems of a layer; or what to say behind its kind where it cannot be reduced."""
    systems = layer_systems(layer)
    if systems is None:
        return ""
    if isinstance(systems, DiagonalForm):
        poles, states = systems.poles, systems.poles.shape[-1]
        bank = poles.ndim == 2
        plants = [Plant(one) for one in _singles(systems)]
    else:
        poles, states = torch.linalg.eigvals(systems.A), systems.n_states
        bank = poles.ndim == 2
        plants = [Plant(systems[k]) for k in range(len(poles))] if bank else [Plant(systems)]
    if not states:
        return ", no states"
    if not isinstance(layer, LTI) and not (poles.abs() < 1 - MARGIN).all():
        return ", not stable"
    if isinstance(method, ModalTruncation):
        try:
            for plant in plants:
                _ = plant.form
        except ValueError:
            return ", modes nearly dependent"
    stored = layer.d_state if isinstance(layer, S4) else states
    return LinearLayer([name], layer, plants, bank, stored)


def _singles(form: DiagonalForm) -> list[DiagonalForm]:
    """The systems of a batch (H,), or the only one."""
    if form.poles.ndim == 1:
        return [form]
    parts = zip(form.poles, form.B, form.C, form.D, strict=True)
    return [DiagonalForm(*part, dt=form.dt, half=True) for part in parts]
