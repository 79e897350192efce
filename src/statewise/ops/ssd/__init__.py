"""State-space duality: the selective recurrence with one decay per head and step."""

from statewise.ops.ssd.op import linear_attention, ssd

__all__ = ["linear_attention", "ssd"]
