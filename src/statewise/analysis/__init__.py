"""Questions asked of any model or of what it leaves unexplained."""

from __future__ import annotations

from statewise.analysis.residuals import (
    InputCorrelation,
    ResidualTest,
    Whiteness,
    input_residual_correlation,
    whiteness,
)

__all__ = [
    "InputCorrelation",
    "ResidualTest",
    "Whiteness",
    "input_residual_correlation",
    "whiteness",
]
