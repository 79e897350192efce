"""Linear systems: discretisation rules and the HiPPO operators.

The names below are imported on first use, so that settings are at hand without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from statewise._lazy import attach

if TYPE_CHECKING:
    from statewise.lti.discretise import (
        ZOH,
        Bilinear,
        Discretisation,
        DiscretisedPoles,
        Euler,
        Trapezoid,
    )
    from statewise.lti.hippo import legs, legs_normal

_LAZY = {
    "Bilinear": "discretise",
    "Discretisation": "discretise",
    "DiscretisedPoles": "discretise",
    "Euler": "discretise",
    "Trapezoid": "discretise",
    "ZOH": "discretise",
    "legs": "hippo",
    "legs_normal": "hippo",
}

__all__ = [
    "ZOH",
    "Bilinear",
    "Discretisation",
    "DiscretisedPoles",
    "Euler",
    "Trapezoid",
    "legs",
    "legs_normal",
]

__getattr__, __dir__ = attach(__name__, _LAZY)
