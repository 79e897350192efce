"""The coupled linear recurrence over two axes, time and variates."""

from statewise.ops.scan2d.op import scan2d

__all__ = ["scan2d"]
