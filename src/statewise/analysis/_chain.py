"""A model as a chain of blocks: a norm, a layer, a static map and a skip each."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from statewise.analysis.units import InUnits
from statewise.models.deep_wiener import DeepWiener
from statewise.models.sequence_model import SequenceModel
from statewise.nn.block import Block
from statewise.nn.contract import Layer, State


@dataclasses.dataclass(frozen=True, eq=False)
class Stage:
    """y = F u + σ(layer(norm(u))), or the norm of the sum.

    Attributes:
        name: where it stands in the model.
        layer: the layer.
        static: σ, or None.
        norm: the norm, or None.
        prenorm: whether the norm is in front of the layer.
        skip: F, (d_output, d_input), or None.
    """

    name: str
    layer: Layer
    static: nn.Module | None = None
    norm: nn.Module | None = None
    prenorm: bool = True
    skip: Tensor | None = None

    @property
    def unit_skip(self) -> bool:
        """Whether F is the identity."""
        if self.skip is None or self.skip.shape[0] != self.skip.shape[1]:
            return False
        return bool(torch.equal(self.skip, torch.eye(len(self.skip)).to(self.skip)))


@dataclasses.dataclass(frozen=True, eq=False)
class Chain:
    """y = E (stage_L ∘ … ∘ stage_1)(W u) + W_d u.

    Attributes:
        entry: W, (d, m).
        stages: the blocks.
        norm: a norm behind the last block, or None.
        exit: E, (p, d).
        direct: W_d, (p, m), or None.
    """

    entry: Tensor
    stages: tuple[Stage, ...]
    norm: nn.Module | None
    exit: Tensor
    direct: Tensor | None


def chain_of(model: Layer) -> Chain:
    """The blocks of a model; a layer that is none of the known models is one block.

    Raises:
        ValueError: a model whose input is tokens or whose output is pooled over time.
    """
    if isinstance(model, InUnits):
        inner = chain_of(model.model)
        into, out = model.scales(inner.entry)
        direct = None if inner.direct is None else out @ inner.direct @ into
        return Chain(inner.entry @ into, inner.stages, inner.norm, out @ inner.exit, direct)
    if isinstance(model, DeepWiener):
        entry = _unit(model.d_input) if model.input_map is None else _weight(model.input_map)
        scale = _read_scale(model)
        direct = None if model.direct is None else scale * _weight(model.direct)
        leave = scale * _weight(model.output_map)
        return Chain(entry, _stages(model.blocks), None, leave, direct)
    if isinstance(model, SequenceModel):
        if model.tokens or model.pool is not None:
            raise ValueError(
                "a SequenceModel of tokens or with a pooled output is no chain from signals to "
                "signals"
            )
        head = model.encoder.weight if model.head is None else model.head.weight
        assert isinstance(head, Tensor)
        norm = None if isinstance(model.norm, nn.Identity) else model.norm
        exit_ = head.detach().double()
        return Chain(_weight(model.encoder), _stages(model.blocks), norm, exit_, None)
    stage = _stage("layer" if not isinstance(model, Block) else "block", model)
    return Chain(_unit(model.d_input), (stage,), None, _unit(model.d_output), None)


def layer_points(chain: Chain, model: Layer, state: State, u: Tensor) -> list[tuple[Tensor, State]]:
    """Input (d_input,) and state of the layer of every block while a model takes one sample.

    Args:
        chain: the blocks of ``model``.
        model: the model.
        state: its state, batch 1.
        u: the sample (m,).

    Raises:
        ValueError: a layer that the model does not run on sequences.
    """
    seen: dict[int, tuple[Tensor, State]] = {}

    def note(layer: nn.Module, arguments: Any, options: dict[str, Any]) -> None:
        before = arguments[1] if len(arguments) > 1 else options.get("state")
        seen[id(layer)] = (arguments[0].detach()[0, 0], before)

    layers = [stage.layer for stage in chain.stages]
    hooks = [layer.register_forward_pre_hook(note, with_kwargs=True) for layer in layers]
    try:
        with torch.no_grad():
            model(u[None, None], state)
    finally:
        for hook in hooks:
            hook.remove()
    for layer in layers:
        if id(layer) not in seen:
            raise ValueError(f"{type(model).__name__} does not run {type(layer).__name__}")
    return [seen[id(layer)] for layer in layers]


def _stages(blocks: nn.Module) -> tuple[Stage, ...]:
    found = []
    for index, block in enumerate(blocks.children()):
        assert isinstance(block, Layer)
        found.append(_stage(f"block {index + 1}", block))
    return tuple(found)


def _stage(name: str, block: Layer) -> Stage:
    if not isinstance(block, Block):
        return Stage(name, block)
    skip = None
    if block.adds_input:
        skip = _unit(block.d_input)
    elif block.F is not None:
        skip = block.F.detach().double()
    static = None if isinstance(block.static, nn.Identity) else block.static
    norm = None if isinstance(block.norm, nn.Identity) else block.norm
    return Stage(name, block.layer, static, norm, block.prenorm, skip)


def _read_scale(model: DeepWiener) -> float:
    """The factor that a model with a prescribed gain puts on its output map."""
    if model.config.gain is None:
        return 1.0
    with torch.no_grad():
        return min(1.0, model.config.gain / float(model._product_of_gains()))


def _weight(module: nn.Module) -> Tensor:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight.detach().double()


def _unit(size: int) -> Tensor:
    return torch.eye(size, dtype=torch.float64)
