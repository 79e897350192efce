"""The kernel of a companion matrix, and the power series it is made of."""

from statewise.ops.companion_kernel.kernel import companion_kernel
from statewise.ops.companion_kernel.op import reciprocal_series

__all__ = ["companion_kernel", "reciprocal_series"]
