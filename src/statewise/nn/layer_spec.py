"""Layers and blocks as data: what a model is made of, to be saved and read back.

Nothing here needs torch until a layer is built.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from statewise._config import register, to_dict
from statewise.nn.specs import Norm, RMSNorm
from statewise.nn.static_specs import Identity, StaticMap

if TYPE_CHECKING:
    from statewise.nn.block import Block
    from statewise.nn.contract import Layer


@register
@dataclasses.dataclass(frozen=True)
class LayerSpec:
    """A layer as data: the name of its class in ``statewise.nn`` and its options.

    ``Mamba2.spec(d_state=64)`` makes one and checks the options at once.

    Attributes:
        layer: name of the class.
        options: its keyword arguments, without sizes that the model gives and without the seed;
            numbers, strings, None and registered settings, so that they can be saved.
    """

    layer: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.layer, str) or not isinstance(self.options, Mapping):
            raise TypeError(
                f"LayerSpec takes the name of a layer and its options by name; given "
                f"{self.layer!r} and {self.options!r}"
            )
        object.__setattr__(self, "options", MappingProxyType(dict(self.options)))

    def __hash__(self) -> int:
        return hash((self.layer, json.dumps(to_dict(dict(self.options)), sort_keys=True)))

    def __reduce__(self) -> tuple[Any, ...]:
        # A mapping proxy can be neither copied nor pickled.
        return type(self), (self.layer, dict(self.options))

    def check(self) -> type[Layer]:
        """The class of the layer, when it exists and takes the options.

        Raises:
            ValueError: no layer of that name.
            TypeError: an option that the layer does not take.
        """
        from statewise import nn
        from statewise.nn.contract import Layer, check_options

        public = {name: getattr(nn, name) for name in nn.__all__}
        layers = {
            name: kind
            for name, kind in public.items()
            if isinstance(kind, type)
            and issubclass(kind, Layer)
            and "seed" in inspect.signature(kind).parameters
        }
        if self.layer not in layers:
            raise ValueError(
                f"there is no layer {self.layer!r}; the layers are: {', '.join(sorted(layers))}"
            )
        check_options(layers[self.layer], self.options)
        return layers[self.layer]

    def build(self, d_input: int, rng: np.random.Generator, d_output: int | None = None) -> Layer:
        """Make the layer.

        Args:
            d_input: input channels.
            rng: source of the initial draw.
            d_output: output channels; None for as many as inputs.

        Raises:
            ValueError: no layer of that name, or other widths than the layer can have.
            TypeError: an option that the layer does not take.
        """
        cls = self.check()
        widths: dict[str, int] = {}
        if d_output is not None and d_output != d_input:
            if "d_output" not in inspect.signature(cls).parameters:
                raise ValueError(
                    f"{self.layer} has as many outputs as inputs; asked for {d_input} inputs and "
                    f"{d_output} outputs (an input map in front makes the widths equal)"
                )
            widths = {"d_output": d_output}
        return cls(d_input, **widths, **self.options, seed=rng)


@register
@dataclasses.dataclass(frozen=True)
class BlockSpec:
    """A :class:`~statewise.nn.Block` as data: y = u + dropout(σ(layer(norm(u)))).

    Attributes:
        layer: what is inside.
        static: the static map σ behind it.
        norm: normalisation, or None.
        prenorm: normalise the input of the block (True) or its output.
        skip: "identity" or "none".
        dropout: probability with which an output of σ is zeroed in training.
    """

    layer: LayerSpec
    static: StaticMap = dataclasses.field(default_factory=Identity)
    norm: Norm | None = dataclasses.field(default_factory=RMSNorm)
    prenorm: bool = True
    skip: str = "identity"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.layer, LayerSpec):
            raise TypeError(
                f"BlockSpec takes a layer as data, such as Mamba2.spec(); given {self.layer!r}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is in [0, 1); given {self.dropout}")

    def build(self, d_model: int, rng: np.random.Generator) -> Block:
        """Make the block for ``d_model`` channels, its layer drawn first."""
        from statewise.nn.block import Block

        return Block(
            self.layer.build(d_model, rng),
            self.static,
            skip=self.skip,
            norm=self.norm,
            prenorm=self.prenorm,
            dropout=self.dropout,
            rng=rng,
        )
