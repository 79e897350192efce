"""A bank of single-input single-output diagonal state-space systems, fused from input to output."""

from statewise.ops.diagonal_ssm.op import diagonal_ssm

__all__ = ["diagonal_ssm"]
