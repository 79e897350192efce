"""Recurrences: pure functions on tensors, each with a readable reference and fast back ends.

Importing this package compiles nothing.
"""

from statewise.ops.dispatch import (
    BackendError,
    BackendStatus,
    backends,
    operators,
    status,
    use_backend,
    warm,
)
from statewise.ops.linear_scan import linear_scan, linear_scan_pairs

__all__ = [
    "BackendError",
    "BackendStatus",
    "backends",
    "linear_scan",
    "linear_scan_pairs",
    "operators",
    "status",
    "use_backend",
    "warm",
]
