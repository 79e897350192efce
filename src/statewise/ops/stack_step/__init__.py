"""One step of a stack of residual Mamba or Mamba-2 blocks, for a few rows and without gradients."""

from statewise.ops.stack_step.op import BlockStack, stack_step

__all__ = ["BlockStack", "stack_step"]
