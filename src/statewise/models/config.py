"""Size and parts of a deep Wiener model, as data."""

from __future__ import annotations

import dataclasses

from statewise._config import register
from statewise.nn.layer_spec import LayerSpec
from statewise.nn.specs import (
    FFT,
    GLU,
    Auto,
    Bank,
    Dense,
    DiscreteDiagonal,
    Norm,
    PolesConfig,
    Scan,
    StaticMap,
)

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
    "layer": (LayerSpec, type(None)),
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
            then ``d_state``, ``poles``, ``coupling``, ``bias`` and ``simulator`` say nothing. None
            for the linear system.
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
    layer: LayerSpec | None = None

    def __post_init__(self) -> None:
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
