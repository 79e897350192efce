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
        pad_vocab_size_multiple: vectors and logits are padded to a multiple of this.
        tie_embeddings: read logits out with the vectors of the tokens.
        residual_in_fp32: keep the sum over the layers in float32 at least.
    """

    vocab_size: int
    d_model: int
    n_layer: int
    layer: LayerSpec = dataclasses.field(default_factory=lambda: LayerSpec("Mamba"))
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
        if not isinstance(self.layer, LayerSpec):
            raise TypeError(
                f"LanguageModel takes a layer as data, such as Mamba2.spec(); given {self.layer!r}"
            )

    @property
    def padded_vocab_size(self) -> int:
        """Number of vectors and logits."""
        multiple = self.pad_vocab_size_multiple
        return -(-self.vocab_size // multiple) * multiple
