"""Short causal convolution of each channel, with its window as a state."""

from statewise.ops.causal_conv1d.op import causal_conv1d

__all__ = ["causal_conv1d"]
