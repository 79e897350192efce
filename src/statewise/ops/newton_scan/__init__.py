"""Nonlinear recurrences h_t = f(h_{t−1}, x_t), solved over the whole sequence at once."""

from statewise.ops.newton_scan.cells import (
    ParaGRUCell,
    ParaLSTMCell,
    gru_cell,
    gru_jacobian,
    lstm_cell,
    lstm_jacobian,
)
from statewise.ops.newton_scan.methods import Damped, Newton, QuasiNewton
from statewise.ops.newton_scan.newton import NewtonScan, newton_scan
from statewise.ops.newton_scan.para import para_gru, para_lstm
from statewise.ops.newton_scan.structure import Blocks, Cell, Dense, Diagonal

__all__ = [
    "Blocks",
    "Cell",
    "Damped",
    "Dense",
    "Diagonal",
    "Newton",
    "NewtonScan",
    "ParaGRUCell",
    "ParaLSTMCell",
    "QuasiNewton",
    "gru_cell",
    "gru_jacobian",
    "lstm_cell",
    "lstm_jacobian",
    "newton_scan",
    "para_gru",
    "para_lstm",
]
