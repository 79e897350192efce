"""Cauchy products, and the convolution kernel of S4 made of them."""

from statewise.ops.cauchy_kernel.kernel import cauchy_kernel
from statewise.ops.cauchy_kernel.op import cauchy_product

__all__ = ["cauchy_kernel", "cauchy_product"]
