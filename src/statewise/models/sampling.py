"""The next token, from logits."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the next token is chosen: p ∝ exp(logits / temperature) over those that are kept.

    Attributes:
        temperature: 0 for the most likely token.
        top_k: keep this many of the most likely tokens; None for all.
        top_p: keep the fewest most likely tokens whose probabilities sum to this at least.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature is at least 0; given {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k is at least 1, or None for all; given {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is in (0, 1]; given {self.top_p}")

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probability of every token (B, V), float64, from logits (B, V)."""
        logits = logits.double()
        if self.temperature == 0:
            best = logits.argmax(-1, keepdim=True)
            return torch.zeros_like(logits).scatter(-1, best, 1.0)
        ordered, order = (logits / self.temperature).sort(dim=-1, descending=True, stable=True)
        if self.top_k is not None:
            ordered[..., self.top_k :] = -torch.inf
        p = ordered.softmax(-1)
        # A token is kept while the sum before it is short of top_p.
        p = torch.where(p.cumsum(-1) - p < self.top_p, p, torch.zeros_like(p))
        p = p / p.sum(-1, keepdim=True)
        return torch.zeros_like(p).scatter(-1, order, p)

    def draw(self, logits: Tensor, rng: np.random.Generator) -> Tensor:
        """One token for every row (B,), by inversion of the distribution function.

        The uniform numbers come from ``rng``, so the draw does not depend on the device.
        """
        if self.temperature == 0:
            return logits.argmax(-1)
        p = self.probabilities(logits)
        uniform = torch.from_numpy(rng.random(p.shape[0])).to(p.device)
        total = p.cumsum(-1)
        chosen = torch.searchsorted(total, uniform[:, None] * total[:, -1:], right=True)
        # Rounding may leave the last sum at the uniform number; a token of probability 0 is out.
        last = p.shape[-1] - 1 - p.flip(-1).ne(0).int().argmax(-1)
        return torch.minimum(chosen.squeeze(-1), last)
