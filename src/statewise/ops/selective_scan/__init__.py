"""The selective state-space recurrence of Mamba: step, input and read-out vary over time."""

from statewise.ops.selective_scan.op import selective_scan

__all__ = ["selective_scan"]
