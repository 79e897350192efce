"""One step of a whole Mamba or Mamba-2 layer, for a few rows and without gradients."""

from statewise.ops.mamba_step.op import Mamba2Weights, MambaWeights, mamba2_step, mamba_step

__all__ = ["Mamba2Weights", "MambaWeights", "mamba2_step", "mamba_step"]
