"""CPU back end of hidden Markov models: numba kernels, in float64 whatever is given."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from statewise.ops import pool
from statewise.ops.arrays import as_array, refuses_cpu
from statewise.ops.blocks import cut
from statewise.ops.hidden_markov import _kernels
from statewise.ops.hidden_markov.reference import impossible

_NO_LENGTHS = np.empty(0, np.int64)


def supports(device: str, dtype: torch.dtype) -> str | None:
    """None when this back end computes on such tensors, else a sentence that says why not."""
    return refuses_cpu("hidden_markov", device)


def _array(x: Tensor | None, *empty: int) -> np.ndarray:
    return np.empty(empty) if x is None else as_array(x, torch.float64)


def _run(call: Callable[[int, int], None], shape: torch.Size) -> None:
    batch, length, K = shape
    blocks = cut(batch, 1, batch * length * K * K)
    pool.run([partial(call, i0, i1) for i0, i1, _, _ in blocks])


def forward(
    log_initial: Tensor,
    log_transition: Tensor,
    log_emission: Tensor,
    lengths: Tensor | None,
    begins: bool,
) -> tuple[Tensor, Tensor]:
    """The compiled recursion; arguments and results are those of ``reference.forward``."""
    initial, logs, emission = map(_array, (log_initial, log_transition, log_emission))
    ends = _NO_LENGTHS if lengths is None else as_array(lengths, torch.int64)
    filtered, ll = np.empty(emission.shape), np.empty(emission.shape[:2])
    failed, P = np.zeros(len(emission), np.int64), np.exp(logs)
    out = (filtered, ll, failed)

    def call(i0: int, i1: int) -> None:
        _kernels.forward(initial, logs, P, emission, ends, begins, *out, i0, i1)

    _run(call, log_emission.shape)
    if failed.any():
        series = int((failed > 0).argmax())
        raise impossible(series, int(failed[series]) - 1)
    dtype = log_emission.dtype
    return torch.from_numpy(filtered).to(dtype), torch.from_numpy(ll).to(dtype)


def backward(
    gf: Tensor | None,
    gl: Tensor | None,
    log_initial: Tensor,
    log_transition: Tensor,
    log_filtered: Tensor,
    lengths: Tensor | None,
    begins: bool,
    lead: tuple[int, ...],
) -> tuple[Tensor, Tensor, Tensor]:
    """The compiled adjoint; arguments and results are those of ``reference.backward``."""
    initial, logs, filtered = map(_array, (log_initial, log_transition, log_filtered))
    ends = _NO_LENGTHS if lengths is None else as_array(lengths, torch.int64)
    batch, _, K = filtered.shape
    out = np.zeros(initial.shape), np.zeros((batch, lead[1], K, K)), np.zeros(filtered.shape)
    given = (_array(gf, 0, 0, 0), _array(gl, 0, 0), initial, logs, np.exp(logs), filtered, ends)

    def call(i0: int, i1: int) -> None:
        _kernels.backward(*given, begins, *out, i0, i1)

    _run(call, log_filtered.shape)
    d_initial, d_logs, d_emission = (torch.from_numpy(x) for x in out)
    d_logs = d_logs if lead[0] == batch else d_logs.sum(0, keepdim=True)
    dtype = log_filtered.dtype
    return d_initial.to(dtype), d_logs.to(dtype), d_emission.to(dtype)


def warm() -> None:
    """Compile every kernel."""
    x = torch.zeros(1, 2, 2, dtype=torch.float64)
    P = torch.zeros(1, 1, 2, 2, dtype=torch.float64)
    f, ll = forward(x[:, 0], P, x, None, True)
    backward(None, ll, x[:, 0], P, f, None, True, (1, 1))
