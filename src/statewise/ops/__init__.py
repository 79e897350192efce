"""Recurrences: pure functions on tensors, each with a readable reference and fast back ends.

Importing this package compiles nothing.
"""

from statewise.ops.block_scan import block_scan
from statewise.ops.cauchy_kernel import cauchy_kernel, cauchy_product
from statewise.ops.causal_conv1d import causal_conv1d
from statewise.ops.companion_kernel import companion_kernel, reciprocal_series
from statewise.ops.diagonal_ssm import diagonal_ssm
from statewise.ops.dispatch import (
    BackendError,
    BackendStatus,
    backends,
    operators,
    status,
    use_backend,
    warm,
)
from statewise.ops.fft_conv import fft_conv
from statewise.ops.hidden_markov import hidden_markov, hidden_markov_smoother
from statewise.ops.kalman_filter import kalman_filter, kalman_likelihood, rts_smoother
from statewise.ops.linear_scan import linear_scan, linear_scan_pairs
from statewise.ops.mamba_step import Mamba2Weights, MambaWeights, mamba2_step, mamba_step
from statewise.ops.matvec import matvec
from statewise.ops.newton_scan import (
    Blocks,
    Cell,
    Damped,
    Dense,
    Diagonal,
    Newton,
    NewtonScan,
    ParaGRUCell,
    ParaLSTMCell,
    QuasiNewton,
    gru_cell,
    lstm_cell,
    newton_scan,
    para_gru,
    para_lstm,
)
from statewise.ops.particle_loop import (
    Formula,
    LoopResult,
    Program,
    particle_formula,
    particle_loop,
)
from statewise.ops.particle_step import ParticleSteps, ancestors, particle_steps
from statewise.ops.philox import philox_normal, philox_uniform
from statewise.ops.scan2d import scan2d
from statewise.ops.selective_scan import selective_scan
from statewise.ops.ssd import linear_attention, ssd
from statewise.ops.stack_step import BlockStack, stack_step
from statewise.ops.vandermonde_kernel import vandermonde_kernel

__all__ = [
    "BackendError",
    "BackendStatus",
    "BlockStack",
    "Blocks",
    "Cell",
    "Damped",
    "Dense",
    "Diagonal",
    "Formula",
    "LoopResult",
    "Mamba2Weights",
    "MambaWeights",
    "Newton",
    "NewtonScan",
    "ParaGRUCell",
    "ParaLSTMCell",
    "ParticleSteps",
    "Program",
    "QuasiNewton",
    "ancestors",
    "backends",
    "block_scan",
    "cauchy_kernel",
    "cauchy_product",
    "causal_conv1d",
    "companion_kernel",
    "diagonal_ssm",
    "fft_conv",
    "gru_cell",
    "hidden_markov",
    "hidden_markov_smoother",
    "kalman_filter",
    "kalman_likelihood",
    "linear_attention",
    "linear_scan",
    "linear_scan_pairs",
    "lstm_cell",
    "mamba2_step",
    "mamba_step",
    "matvec",
    "newton_scan",
    "operators",
    "para_gru",
    "para_lstm",
    "particle_formula",
    "particle_loop",
    "particle_steps",
    "philox_normal",
    "philox_uniform",
    "reciprocal_series",
    "rts_smoother",
    "scan2d",
    "selective_scan",
    "ssd",
    "stack_step",
    "status",
    "use_backend",
    "vandermonde_kernel",
    "warm",
]
