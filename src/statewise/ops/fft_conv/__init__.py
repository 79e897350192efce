"""The causal convolution: ``fft_conv``."""

from statewise.ops.fft_conv.op import fft_conv

__all__ = ["fft_conv"]
