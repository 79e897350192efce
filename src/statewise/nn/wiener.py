"""The Wiener block: a linear system, a static map and a skip."""

from __future__ import annotations

from typing import Any

import numpy as np

from statewise.nn.block import Block
from statewise.nn.lti import LTI
from statewise.nn.static_specs import StaticMap


class WienerBlock(Block):
    """y = F u + dropout(σ(LTI(norm(u)))): a linear system, a static map and a skip.

    Source: Bonassi et al., Structured state-space models are deep Wiener models (2312.06211).

    Args:
        lti: the linear system.
        static: the static map σ; None for the identity.
        options: as for :class:`Block`.
    """

    layer: LTI

    def __init__(
        self,
        lti: LTI,
        static: StaticMap | None = None,
        *,
        rng: np.random.Generator,
        **options: Any,
    ) -> None:
        super().__init__(lti, static, rng=rng, **options)

    @property
    def lti(self) -> LTI:
        """The linear system."""
        return self.layer
