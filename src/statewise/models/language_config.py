"""Size and parts of a language model, as data."""

from __future__ import annotations

import dataclasses

from statewise._config import register
from statewise.nn.layer_spec import LayerSpec


@register
@dataclasses.dataclass(frozen=True)
class LanguageModelConfig:
    """Size and parts of a :class:`LanguageModel`.

    Attributes:
        vocab_size: number of tokens.
        d_model: channels between the layers.
        n_layer: number of layers.
        layer: which layer, with its options, such as ``Mamba2.spec(d_state=64)``.
        attention: which layer stands at the places ``attention_at`` instead, such as
            ``Attention.spec(window=None)``; None for none.
        attention_at: those places, counted from 0.
        mlp: a layer without memory in a block of its own behind each of these, such as
            ``FeedForward.spec(activation="silu", gated=True)``; None for none.
        pad_vocab_size_multiple: vectors and logits are padded to a multiple of this.
        tie_embeddings: read logits out with the vectors of the tokens.
        residual_in_fp32: keep the sum over the layers in float32 at least.
    """

    vocab_size: int
    d_model: int
    n_layer: int
    layer: LayerSpec = dataclasses.field(default_factory=lambda: LayerSpec("Mamba"))
    attention: LayerSpec | None = None
    attention_at: tuple[int, ...] = ()
    mlp: LayerSpec | None = None
    pad_vocab_size_multiple: int = 8
    tie_embeddings: bool = True
    residual_in_fp32: bool = True

    def __post_init__(self) -> None:
        for name in ("vocab_size", "d_model", "n_layer", "pad_vocab_size_multiple"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"LanguageModel takes {name} as a whole number; given {value!r}")
            if value < 1:
                raise ValueError(f"LanguageModel needs {name} >= 1; given {value}")
        for name in ("tie_embeddings", "residual_in_fp32"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(
                    f"LanguageModel takes {name} as a bool; given {getattr(self, name)!r}"
                )
        for name in ("layer", "attention", "mlp"):
            value = getattr(self, name)
            if not isinstance(value, LayerSpec) and (name == "layer" or value is not None):
                raise TypeError(
                    f"LanguageModel takes {name} as data, such as Mamba2.spec(); given {value!r}"
                )
        object.__setattr__(self, "attention_at", tuple(self.attention_at))
        places = self.attention_at
        if bool(places) != (self.attention is not None):
            raise ValueError(
                f"LanguageModel takes attention and attention_at together; given "
                f"attention = {self.attention!r}, attention_at = {places}"
            )
        inside = all(isinstance(k, int) and 0 <= k < self.n_layer for k in places)
        if not inside or len(set(places)) != len(places):
            raise ValueError(
                f"LanguageModel takes attention_at as different places from 0 to "
                f"{self.n_layer - 1}; given {places}"
            )

    @property
    def layers(self) -> tuple[LayerSpec, ...]:
        """The layer at every place."""
        found = [self.layer] * self.n_layer
        for place in self.attention_at:
            assert self.attention is not None
            found[place] = self.attention
        return tuple(found)

    @property
    def padded_vocab_size(self) -> int:
        """Number of vectors and logits."""
        multiple = self.pad_vocab_size_multiple
        return -(-self.vocab_size // multiple) * multiple
