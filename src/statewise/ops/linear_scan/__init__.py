"""First-order linear recurrence h_t = a_t ⊙ h_{t−1} + b_t, real and complex."""

from statewise.ops.linear_scan.op import linear_scan, linear_scan_pairs

__all__ = ["linear_scan", "linear_scan_pairs"]
