"""A linear map of a few rows, bound by reading its matrix."""

from statewise.ops.matvec.op import matvec

__all__ = ["matvec"]
