"""Size and parts of a sequence model, as data."""

from __future__ import annotations

import dataclasses

from statewise._config import register
from statewise.nn.layer_spec import BlockSpec, LayerSpec
from statewise.nn.specs import Norm, RMSNorm


@register
@dataclasses.dataclass(frozen=True)
class Signals:
    """Inputs are signals (B, L, n_inputs), mapped to the channels by a trained linear map."""


@register
@dataclasses.dataclass(frozen=True)
class Tokens:
    """Inputs are whole numbers (B, L) below n_inputs, each with a trained vector.

    Attributes:
        std: standard deviation of the vectors at the start.
    """

    std: float = 1.0

    def __post_init__(self) -> None:
        if self.std <= 0:
            raise ValueError(f"Tokens needs std > 0; given {self.std}")


@register
@dataclasses.dataclass(frozen=True)
class PerSample:
    """An output for every sample: regression, or the logits of the next token.

    Attributes:
        tied: use the vectors of :class:`Tokens` as the output map, without a bias.
    """

    tied: bool = False


@register
@dataclasses.dataclass(frozen=True)
class Pooled:
    """One output for a sequence: its class logits or a value.

    Attributes:
        pool: "mean" over the samples since the last reset, or "last" for the last sample alone.
    """

    pool: str = "mean"

    def __post_init__(self) -> None:
        if self.pool not in ("mean", "last"):
            raise ValueError(f'the pool of Pooled is "mean" or "last"; given {self.pool!r}')


_KINDS: dict[str, tuple[type, ...]] = {
    "encoder": (Signals, Tokens),
    "head": (PerSample, Pooled),
    "norm": (Norm, type(None)),
}


@register
@dataclasses.dataclass(frozen=True)
class SequenceModelConfig:
    """Size and parts of a :class:`SequenceModel`.

    Attributes:
        blocks: the blocks of one round, in order; a layer stands for a block around it with its
            usual settings.
        repeat: rounds.
        d_model: channels between the blocks.
        encoder: what inputs are: ``Signals()`` or ``Tokens()``.
        head: what outputs are: ``PerSample()`` or ``Pooled()``.
        norm: normalisation before the head, or None.
    """

    blocks: tuple[BlockSpec, ...]
    repeat: int = 1
    d_model: int = 64
    encoder: Signals | Tokens = dataclasses.field(default_factory=Signals)
    head: PerSample | Pooled = dataclasses.field(default_factory=PerSample)
    norm: Norm | None = dataclasses.field(default_factory=RMSNorm)

    def __post_init__(self) -> None:
        given = self.blocks
        parts = (given,) if isinstance(given, BlockSpec | LayerSpec) else tuple(given)
        if not parts:
            raise ValueError("SequenceModel needs at least one block; given none")
        blocks = tuple(BlockSpec(one) if isinstance(one, LayerSpec) else one for one in parts)
        for block in blocks:
            if not isinstance(block, BlockSpec):
                raise TypeError(
                    f"SequenceModel takes blocks of type BlockSpec or LayerSpec; given {block!r}"
                )
        object.__setattr__(self, "blocks", blocks)
        for name in ("repeat", "d_model"):
            if getattr(self, name) < 1:
                raise ValueError(f"SequenceModel needs {name} >= 1; given {getattr(self, name)}")
        for name, kinds in _KINDS.items():
            if not isinstance(getattr(self, name), kinds):
                expected = " or ".join(kind.__name__ for kind in kinds)
                raise TypeError(
                    f"SequenceModel takes {name} of type {expected}; given {getattr(self, name)!r}"
                )
        if getattr(self.head, "tied", False) and not isinstance(self.encoder, Tokens):
            raise ValueError(
                f"PerSample(tied=True) uses the vectors of Tokens(); given the encoder "
                f"{self.encoder!r}"
            )
