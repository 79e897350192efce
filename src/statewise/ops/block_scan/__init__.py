"""First-order linear recurrence with small matrices, h_t = A_t h_{t−1} + b_t."""

from statewise.ops.block_scan.op import block_scan

__all__ = ["block_scan"]
