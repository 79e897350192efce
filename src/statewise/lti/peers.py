"""Exchange of systems with python-control."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from statewise._errors import require
from statewise.lti.matrices import needs_one
from statewise.lti.state_space import StateSpace
from statewise.lti.transfer_function import TransferFunction, from_transfer_function


def to_control(system: StateSpace) -> Any:
    """A ``control.StateSpace`` with the matrices and the sampling time of one real system.

    Raises:
        ImportError: python-control is not installed (``pip install 'statewise[control]'``).
        ValueError: a batch, or complex matrices.
    """
    control = require("control", extra="control")
    needs_one(system, "to_control")
    if system.is_complex:
        raise ValueError(
            "to_control needs real matrices; from_diagonal(to_diagonal(system), real=True) makes "
            "them where poles come in conjugate pairs"
        )
    matrices = (M.detach().cpu().double().numpy() for M in system.matrices)
    return control.StateSpace(*matrices, 0 if system.dt is None else system.dt)


def from_control(peer: Any, *, dt: float | None = None) -> StateSpace:
    """A system from a ``control.StateSpace`` or ``control.TransferFunction``.

    Args:
        peer: the system of python-control.
        dt: sampling time, where python-control leaves it open (``dt=True``).

    Raises:
        ImportError: python-control is not installed.
        TypeError: another kind of system, such as frequency response data.
        ValueError: an open sampling time and no ``dt``, or a ``dt`` that contradicts it.
    """
    control = require("control", extra="control")
    if not isinstance(peer, (control.StateSpace, control.TransferFunction)):
        raise TypeError(
            f"from_control takes a StateSpace or TransferFunction of python-control; given a "
            f"{type(peer).__name__}"
        )
    step = _sampling_time(peer.dt, dt)
    if isinstance(peer, control.StateSpace):
        return StateSpace(peer.A, peer.B, peer.C, peer.D, step)
    return from_transfer_function(TransferFunction(_padded(peer.num), _padded(peer.den), step))


def _sampling_time(peer: Any, dt: float | None) -> float | None:
    if peer is None or peer is True:
        if peer is True and dt is None:
            raise ValueError("the system is discrete and has no sampling time; give it as dt")
        return dt
    step = float(peer) or None
    if dt is not None and dt != step:
        raise ValueError(f"dt is {dt}, and the system has {step}")
    return step


def _padded(coefficients: Any) -> torch.Tensor:
    """Coefficients of each entry, with leading zeros to one length: (p, m, k)."""
    rows = [[np.atleast_1d(entry) for entry in row] for row in coefficients]
    length = max(len(entry) for row in rows for entry in row)
    wide = [[np.pad(entry, (length - len(entry), 0)) for entry in row] for row in rows]
    return torch.as_tensor(np.array(wide, dtype=float))
