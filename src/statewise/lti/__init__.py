"""Linear systems: discretisation rules, the HiPPO operators and their diagonal forms.

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
    from statewise.lti.hippo import fout, lagt, legs, legs_normal, legt
    from statewise.lti.history import legs_memory, legs_rebuild
    from statewise.lti.measures import FouT, HiPPO, LagT, LegS, LegT
    from statewise.lti.nplr import DPLR, dplr
    from statewise.lti.ptd import PerturbedDiagonal, perturb_then_diagonalise, transfer_gap

_LAZY = {
    "Bilinear": "discretise",
    "DPLR": "nplr",
    "Discretisation": "discretise",
    "DiscretisedPoles": "discretise",
    "Euler": "discretise",
    "FouT": "measures",
    "HiPPO": "measures",
    "LagT": "measures",
    "LegS": "measures",
    "LegT": "measures",
    "PerturbedDiagonal": "ptd",
    "Trapezoid": "discretise",
    "ZOH": "discretise",
    "dplr": "nplr",
    "fout": "hippo",
    "lagt": "hippo",
    "legs": "hippo",
    "legs_memory": "history",
    "legs_normal": "hippo",
    "legs_rebuild": "history",
    "legt": "hippo",
    "perturb_then_diagonalise": "ptd",
    "transfer_gap": "ptd",
}

__all__ = [
    "DPLR",
    "ZOH",
    "Bilinear",
    "Discretisation",
    "DiscretisedPoles",
    "Euler",
    "FouT",
    "HiPPO",
    "LagT",
    "LegS",
    "LegT",
    "PerturbedDiagonal",
    "Trapezoid",
    "dplr",
    "fout",
    "lagt",
    "legs",
    "legs_memory",
    "legs_normal",
    "legs_rebuild",
    "legt",
    "perturb_then_diagonalise",
    "transfer_gap",
]

__getattr__, __dir__ = attach(__name__, _LAZY)
