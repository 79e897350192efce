"""CPU back end: the whole filter in one compiled call, series shared among threads."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from statewise.ops import pool
from statewise.ops.arrays import as_array, refuses_cpu
from statewise.ops.blocks import cut
from statewise.ops.memory import fresh
from statewise.ops.particle_loop import _kernels
from statewise.ops.particle_loop._lower import Instructions, lower
from statewise.ops.particle_loop.program import Formula, Program
from statewise.ops.particle_loop.reference import LoopResult, Task, steps_at_once
from statewise.ops.particle_step.reference import SCHEMES

WIDE = torch.float64


def supports(device: str, dtype: torch.dtype) -> str | None:
    """None when this back end computes on such tensors, else a sentence that says why not."""
    return refuses_cpu("particle_loop", device)


def formula(given: Formula, t: int, x: Tensor, z: Tensor, y: Tensor, u: Tensor) -> Tensor:
    """Outputs (B, N, q) of a formula; see the reference."""
    B, N, n = x.shape
    what, q = lower(given.program), len(given.program.outputs)
    out = np.empty((B, N * q))
    states, numbers = (as_array(one, WIDE).reshape(B, N * n) for one in (x, z))
    rest = (as_array(one, WIDE) for one in (given.at(t), y, u))
    _kernels.formulas(*what, N, states, numbers, n, *rest, out, q)
    return torch.from_numpy(out.reshape(B, N, q))


def _parts(what: Instructions, given: Formula) -> tuple:
    return (*what, as_array(given.constants, WIDE))


def loop(task: Task) -> LoopResult:
    """Filter; see the reference."""
    B, N, n = task.x.shape
    T = task.y.shape[1]
    steps = T if task.history else 0
    kept = fresh((steps, B, N * n), task.x.dtype)
    logs, rows = fresh((max(steps, 1), B, N), WIDE), fresh((steps, B, N), torch.int64)
    rows[:1] = torch.arange(N)
    shapes = {
        "ll": (T, B),
        "ess": (T, B),
        "means": (0 if task.history else T, B, n),
        "covs": (T if task.covariances else 0, B, n, n),
        "last": (B, N * n),
        "last_logs": (B, N),
    }
    found = {name: np.empty(shape) for name, shape in shapes.items()}
    y, u, seen = (one.transpose(0, 1) for one in (task.y, task.u, task.seen))
    wide = 1 if task.scheme == "systematic" else N
    given = (
        np.uint64(task.key),
        SCHEMES.index(task.scheme),
        task.threshold * N,
        (steps_at_once(B * N * n), steps_at_once(B * wide)),
        n,
        as_array(task.x, WIDE).reshape(B, N * n),
        as_array(y, WIDE),
        as_array(seen, torch.bool),
        as_array(u, WIDE),
        as_array(task.ends, torch.int64),
        *_parts(lower(task.move.program), task.move),
        *_parts(lower(task.weigh.program), task.weigh),
        kept.numpy(),
        logs.numpy(),
        rows.numpy(),
        *found.values(),
    )
    blocks = cut(B, 1, B * N * n * T)
    pool.run([partial(_kernels.filtered, *given, i0, i1) for i0, i1, _, _ in blocks])
    ll, ess, means, covs, last, last_logs = (torch.from_numpy(one) for one in found.values())
    return LoopResult(
        kept.view(T, B, N, n) if task.history else None,
        logs,
        rows if task.history else None,
        ll,
        ess,
        None if task.history else means,
        covs if task.covariances else None,
        last.view(B, N, n).to(task.x.dtype),
        last_logs,
    )


def warm() -> None:
    """Compile the kernel for both types of particles."""
    program = Program((("x", (0,)), ("z", (0,)), ("add", (0, 1))), (2,))
    given = Formula(program, torch.zeros(1, 1, 0, dtype=WIDE))
    y, u = torch.zeros(1, 2, 1, dtype=WIDE), torch.zeros(1, 2, 0, dtype=WIDE)
    seen, ends = torch.ones(1, 2, 1, dtype=torch.bool), torch.ones(1, dtype=torch.int64)
    for dtype in (torch.float32, torch.float64):
        x = torch.zeros(1, 2, 1, dtype=dtype)
        formula(given, 0, x, x, y[:, 0], u[:, 0])
        loop(Task(x, y, u, seen, ends, given, given, 0, "systematic", 0.5, True, False))
