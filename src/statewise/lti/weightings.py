"""What distinguishes the subspace methods of one engine: their weights, as plain values."""

from __future__ import annotations

import dataclasses

from statewise._config import register


@register
@dataclasses.dataclass(frozen=True)
class Weighting:
    """A member of the family of subspace methods W₁ O W₂ = U S Vᵀ.

    Attributes:
        name: how it is called.
        future: how the effect of future inputs is removed from future outputs: "projection", by
            regression on them, which needs inputs that do not depend on the noise; "arx", by
            the coefficients of a long ARX model, which allows feedback.
        orthogonal: whether the past is weighted after future inputs are projected out of it.
        whiten: whether future outputs are weighted to unit covariance, so that the singular
            values are canonical correlations.
        dynamics: where A comes from: "shift", the shift invariance of the observability matrix;
            "states", a regression of the next states on the present ones.
        feedback: whether the method is consistent for data from a closed loop. B and D of such a
            method are fitted to one-step predictions, since a simulation is not.
    """

    name: str
    future: str = "projection"
    orthogonal: bool = True
    whiten: bool = False
    dynamics: str = "shift"
    feedback: bool = False

    def __post_init__(self) -> None:
        """Refuse what the engine does not know."""
        for field, choices in (
            ("future", ("projection", "arx")),
            ("dynamics", ("shift", "states")),
        ):
            if getattr(self, field) not in choices:
                raise ValueError(
                    f"{field} of a weighting is {getattr(self, field)!r}; it must be one of "
                    f"{choices}"
                )
        if self.future == "arx" and (self.orthogonal or self.dynamics == "shift"):
            raise ValueError(
                'a weighting with future="arx" needs orthogonal=False and dynamics="states": its '
                "observability matrix is that of the predictor"
            )


N4SID = Weighting("n4sid", orthogonal=False)
"""Oblique projection (Van Overschee & De Moor 1994)."""

MOESP = Weighting("moesp")
"""Past outputs and inputs as instruments, PO-MOESP (Verhaegen 1994)."""

CVA = Weighting("cva", whiten=True)
"""Canonical variates (Larimore 1990)."""

SSARX = Weighting(
    "ssarx", future="arx", orthogonal=False, whiten=True, dynamics="states", feedback=True
)
"""Canonical variates after a long ARX model, for data from closed loops (Jansson 2003)."""

WEIGHTINGS = {weighting.name: weighting for weighting in (N4SID, MOESP, CVA, SSARX)}
"""By name, for command lines."""
