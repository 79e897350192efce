"""Linear systems: discretisation rules and the HiPPO operators.

The names below are imported on first use, so that settings are at hand without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

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


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"statewise.lti.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'statewise.lti' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
