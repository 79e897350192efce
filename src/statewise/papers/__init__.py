"""The registry of published systems, and the claims that show each one works.

The names below are imported on first use; the registry itself needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from statewise._lazy import attach

if TYPE_CHECKING:
    from statewise.papers.registry import (
        Bound,
        Claim,
        Measured,
        Paper,
        Setting,
        at_least,
        at_most,
        find_paper,
        papers,
    )
    from statewise.papers.results import Record, read_records, write_records
    from statewise.papers.run import check_claim
    from statewise.papers.survey import Architecture, architectures

_LAZY = {
    "Architecture": "survey",
    "Bound": "registry",
    "Claim": "registry",
    "Measured": "registry",
    "Paper": "registry",
    "Record": "results",
    "Setting": "registry",
    "architectures": "survey",
    "at_least": "registry",
    "at_most": "registry",
    "check_claim": "run",
    "find_paper": "registry",
    "papers": "registry",
    "read_records": "results",
    "write_records": "results",
}

__all__ = [
    "Architecture",
    "Bound",
    "Claim",
    "Measured",
    "Paper",
    "Record",
    "Setting",
    "architectures",
    "at_least",
    "at_most",
    "check_claim",
    "find_paper",
    "papers",
    "read_records",
    "write_records",
]

__getattr__, __dir__ = attach(__name__, _LAZY)
