"""Random numbers that are a function of a counter and a key."""

from statewise.ops.philox.op import philox_normal, philox_uniform

__all__ = ["philox_normal", "philox_uniform"]
