"""The convolution kernel of a diagonal bank: a Vandermonde product that is never formed."""

from statewise.ops.vandermonde_kernel.op import vandermonde_kernel

__all__ = ["vandermonde_kernel"]
