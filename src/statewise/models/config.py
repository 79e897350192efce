"""Size and parts of a deep Wiener model, as data."""

from __future__ import annotations

import dataclasses
import math

from statewise._config import register
from statewise.nn.layer_spec import LayerSpec
from statewise.nn.specs import FFT, Auto, Bank, Dense, DiscreteDiagonal, Norm, PolesConfig, Scan
from statewise.nn.static_specs import GLU, StaticMap

_KINDS: dict[str, tuple[type, ...]] = {
    "n_layers": (int,),
    "d_model": (int,),
    "d_state": (int,),
    "poles": (PolesConfig,),
    "coupling": (Dense, Bank),
    "static": (StaticMap,),
    "skip": (str,),
    "norm": (Norm, type(None)),
    "prenorm": (bool,),
    "dropout": (float, int),
    "input_map": (bool,),
    "direct": (bool,),
    "bias": (bool,),
    "simulator": (Scan, FFT, Auto),
    "layer": (LayerSpec, tuple, type(None)),
    "gain": (float, int, type(None)),
}


@register
@dataclasses.dataclass(frozen=True)
class DeepWienerConfig:
    """Size and parts of a :class:`DeepWiener`.

    Attributes:
        n_layers: blocks.
        d_model: channels between the blocks.
        d_state: states of each block; per channel for a bank.
        poles: parametrisation of the poles.
        coupling: ``Dense()`` or ``Bank()``.
        static: static map of the blocks.
        skip: "identity", "linear" or "none"; see :class:`~statewise.nn.WienerBlock`.
        norm: normalisation in the blocks, or None.
        prenorm: normalise before the linear system (True) or behind the block.
        dropout: probability of dropout in the blocks.
        input_map: a trained linear map from the inputs to ``d_model`` channels in front; without
            it the first linear system takes the inputs.
        direct: a trained linear map from the inputs to the outputs beside the stack.
        bias: a bias at the output of every linear system.
        simulator: how the linear systems run over a sequence.
        layer: another layer in the place of the linear system, such as ``Mamba.spec(d_state=8)``;
            then ``d_state``, ``poles``, ``coupling``, ``bias`` and ``simulator`` say nothing. A
            sequence of them gives each block its own. None for the linear system.
        gain: a bound of ‖y − y'‖₂ / ‖u − u'‖₂ for the whole model, which output map and direct map
            are scaled down to where the product of the parts is more; it needs parts with a known
            bound, such as ``layer=L2Bounded.spec()`` and ``static=OneLipschitz()``. None for no
            such bound.
    """

    n_layers: int = 3
    d_model: int = 16
    d_state: int = 16
    poles: PolesConfig = dataclasses.field(default_factory=DiscreteDiagonal)
    coupling: Dense | Bank = dataclasses.field(default_factory=Dense)
    static: StaticMap = dataclasses.field(default_factory=GLU)
    skip: str = "identity"
    norm: Norm | None = None
    prenorm: bool = True
    dropout: float = 0.0
    input_map: bool = True
    direct: bool = False
    bias: bool = False
    simulator: Scan | FFT | Auto = dataclasses.field(default_factory=Auto)
    layer: LayerSpec | tuple[LayerSpec, ...] | None = None
    gain: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.layer, list):
            object.__setattr__(self, "layer", tuple(self.layer))
        for name, kinds in _KINDS.items():
            value = getattr(self, name)
            if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
                expected = " or ".join(kind.__name__ for kind in kinds)
                raise TypeError(f"DeepWiener takes {name} of type {expected}; given {value!r}")
        for name in ("n_layers", "d_model", "d_state"):
            if getattr(self, name) < 1:
                raise ValueError(f"DeepWiener needs {name} >= 1; given {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is in [0, 1); given {self.dropout}")
        if self.gain is not None and not 0 < self.gain < math.inf:
            raise ValueError(f"DeepWiener needs a positive gain; given {self.gain}")
        if isinstance(self.layer, tuple):
            if not all(isinstance(one, LayerSpec) for one in self.layer):
                raise TypeError(f"DeepWiener takes layers of type LayerSpec; given {self.layer!r}")
            if len(self.layer) != self.n_layers:
                raise ValueError(
                    f"DeepWiener takes one layer for each of its {self.n_layers} blocks; given "
                    f"{len(self.layer)}"
                )

    @property
    def layers(self) -> tuple[LayerSpec | None, ...]:
        """The layer of every block; None for the linear system of the config."""
        return self.layer if isinstance(self.layer, tuple) else (self.layer,) * self.n_layers
