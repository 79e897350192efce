"""GPU back end of the Kalman filter and smoother: Triton kernels in float64, a lane a series.

Models of more states or outputs than registers hold are left to the reference.
"""

# Kernels are called in a way of Triton's own, which a checker of Python cannot follow.
# pyright: reportCallIssue=false, reportArgumentType=false
from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from statewise.ops.gpu import cdiv, refuses_gpu
from statewise.ops.kalman_filter._gpu_back import backward_kernel
from statewise.ops.kalman_filter._gpu_kernels import filter_kernel, smoother_kernel
from statewise.ops.kalman_filter.reference import Parameters, not_positive

STATES, OUTPUTS = 4, 4
"""Models of no more states and outputs than this fit into the registers of a lane."""
HELD = 4
"""With no more states than this, parameters that do not vary in time stay in registers."""
LANES = 32
KEPT = 2**27
"""Numbers of moments that are found again at a time for the gradient of a likelihood."""
EPSILON = 2.0**-52


def supports(device: str, dtype: torch.dtype) -> str | None:
    """None when this back end computes on such tensors, else a sentence that says why not."""
    return refuses_gpu("kalman_filter", device, dtype, (torch.float32, torch.float64))


def fits(states: int, outputs: int) -> str | None:
    """None when a model of this size fits into registers, else a sentence that says why not."""
    if states <= STATES and outputs <= OUTPUTS:
        return None
    return (
        f"the gpu back end of kalman_filter takes models of at most {STATES} states and {OUTPUTS} "
        f"outputs, not of {states} and {outputs}"
    )


def _on(x: Tensor) -> Any:
    """The device of a tensor as the current one, where kernels are launched."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def _strides(parameters: tuple[Tensor | None, ...]) -> list[int]:
    """Numbers from one series, and from one step, to the next; 0 where one serves all."""
    found = []
    for x in parameters:
        if x is None:
            found += [0, 0]
            continue
        series, steps, *rest = x.shape
        size = 1
        for k in rest:
            size *= k
        found += [size * steps if series > 1 else 0, size if steps > 1 else 0]
    return found


def _varies(x: Tensor | None) -> bool:
    return x is not None and x.shape[1] > 1


class _Call:
    """A problem as the kernels take it."""

    def __init__(
        self,
        y: Tensor,
        parameters: Parameters,
        start: tuple[Tensor, Tensor],
        observed: Tensor | None,
        lengths: Tensor | None,
        moves_first: bool,
    ) -> None:
        self.batch, self.length, self.p = y.shape
        self.n = parameters[0].shape[-1]
        self.like = y
        given = (y, observed, lengths, *parameters, *start)
        # A kernel does not touch what is not given, but wants a pointer.
        self.tensors = [y if x is None else x.contiguous() for x in given]
        self.sizes = [self.batch, self.length, *_strides(parameters)]
        self.varies = [_varies(x) for x in parameters]
        hold = not any(self.varies) and self.n <= HELD
        offsets = (parameters[4] is not None, parameters[5] is not None)
        flags = (observed is not None, lengths is not None, *offsets, moves_first)
        self.constants = (self.n, self.p, hold, *flags)
        self.grid = (cdiv(self.batch, LANES),)

    def filter(self, stores: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Moments, which are empty where they are not stored, and log-likelihoods."""
        y, n, shape = self.like, self.n, (self.batch, self.length)
        m = y.new_empty((*shape, n) if stores else 0)
        P = y.new_empty((*shape, n, n) if stores else 0)
        ll = y.new_empty(shape)
        failed = torch.zeros(self.batch, dtype=torch.int32, device=y.device)
        with _on(y):
            filter_kernel[self.grid](
                *(*self.tensors, m, P, ll, failed, *self.sizes, *self.constants, stores, LANES),
                num_warps=LANES // 32,
            )
            self.check(failed)
        return m, P, ll

    def check(self, failed: Tensor) -> None:
        """Say at which step the filter stopped, if it did; a graph that is captured cannot."""
        if failed.is_cuda and torch.cuda.is_current_stream_capturing():
            return
        series = int(failed.argmax())
        step = int(failed[series])
        if step:
            raise not_positive(series, step - 1)

    def gradients(
        self,
        gradients: tuple[Tensor | None, Tensor | None, Tensor | None],
        parameters: Parameters,
        found: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, ...]:
        """Those of y, of each series' own parameters, and of the start."""
        y = self.like
        each = [y.new_empty(0 if x is None else (self.batch, *x.shape[1:])) for x in parameters]
        ends = [y.new_empty(x.shape) for x in self.tensors[-2:]]
        dy = y.new_empty(y.shape)
        given = [y if x is None else x.contiguous() for x in gradients]
        with _on(y):
            backward_kernel[self.grid](
                *(*given, *self.tensors, *(x.contiguous() for x in found), dy, *each, *ends),
                *(*self.sizes, *self.constants, *(x is not None for x in gradients)),
                *(*self.varies, LANES),
                num_warps=LANES // 32,
            )
        return (dy, *each, *ends)


def _gathered(found: tuple[Tensor, ...], parameters: Parameters, batch: int) -> tuple[Tensor, ...]:
    """Gradients of parameters that all series share, summed."""
    summed = [
        g if x is None or x.shape[0] == batch else g.sum(0, keepdim=True)
        for g, x in zip(found[1:7], parameters, strict=True)
    ]
    return (found[0], *summed, *found[7:])


def forward(
    y: Tensor,
    F: Tensor,
    H: Tensor,
    Q: Tensor,
    R: Tensor,
    c: Tensor | None,
    d: Tensor | None,
    m0: Tensor,
    P0: Tensor,
    observed: Tensor | None,
    lengths: Tensor | None,
    moves_first: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The filter; arguments and results are those of ``reference.forward``."""
    call = _Call(y, (F, H, Q, R, c, d), (m0, P0), observed, lengths, moves_first)
    return *call.filter(True), torch.zeros(y.shape[:2], dtype=torch.bool, device=y.device)


def likelihood(
    y: Tensor,
    F: Tensor,
    H: Tensor,
    Q: Tensor,
    R: Tensor,
    c: Tensor | None,
    d: Tensor | None,
    m0: Tensor,
    P0: Tensor,
    observed: Tensor | None,
    lengths: Tensor | None,
    moves_first: bool,
) -> Tensor:
    """The filter without its moments; see ``reference.likelihood``."""
    return _Call(y, (F, H, Q, R, c, d), (m0, P0), observed, lengths, moves_first).filter(False)[2]


def backward(
    gradients: tuple[Tensor | None, Tensor | None, Tensor | None],
    y: Tensor,
    parameters: Parameters,
    start: tuple[Tensor, Tensor],
    observed: Tensor | None,
    lengths: Tensor | None,
    found: tuple[Tensor, Tensor, Tensor],
    moves_first: bool,
) -> tuple[Tensor, ...]:
    """The adjoint; arguments and results are those of ``reference.backward``."""
    dtype, moments = y.dtype, found[:2]
    if dtype is not torch.float64:
        # Rounded moments may give gains that have nothing to do with those of the filter.
        y, parameters, start, gradients = map(_wide, (y, parameters, start, gradients))
        moments = _Call(y, parameters, start, observed, lengths, moves_first).filter(True)[:2]
    call = _Call(y, parameters, start, observed, lengths, moves_first)
    sums = _gathered(call.gradients(gradients, parameters, moments), parameters, len(y))
    return tuple(x.to(dtype) for x in sums)


def _wide(x: Any) -> Any:
    """Tensors in float64, alone or in a tuple that may hold None."""
    if isinstance(x, tuple):
        return tuple(map(_wide, x))
    return None if x is None else x.to(torch.float64)


def likelihood_backward(
    gll: Tensor,
    y: Tensor,
    parameters: Parameters,
    start: tuple[Tensor, Tensor],
    observed: Tensor | None,
    lengths: Tensor | None,
    moves_first: bool,
) -> tuple[Tensor, ...]:
    """The adjoint of ``likelihood``, which filters a few series again at a time."""
    dtype = y.dtype
    gll, y, parameters, start = map(_wide, (gll, y, parameters, start))
    batch, length, n = len(y), y.shape[1], parameters[0].shape[-1]
    few = max(LANES, KEPT // (length * n * (n + 1)))
    parts = []
    for i in range(0, batch, few):
        cut = slice(i, i + few)
        some: Any = [x if x is None or len(x) == 1 else x[cut] for x in parameters]
        seen = None if observed is None else observed[cut]
        ends = None if lengths is None else lengths[cut]
        call = _Call(y[cut], some, (start[0][cut], start[1][cut]), seen, ends, moves_first)
        m, P, _ = call.filter(True)
        parts.append(call.gradients((None, None, gll[cut]), some, (m, P)))
    whole = parts[0] if len(parts) == 1 else tuple(map(torch.cat, zip(*parts, strict=True)))
    return tuple(x.to(dtype) for x in _gathered(whole, parameters, batch))


def smooth(
    m: Tensor,
    P: Tensor,
    F: Tensor,
    Q: Tensor,
    c: Tensor | None,
    lengths: Tensor | None,
    cross: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The smoother; arguments and results are those of ``reference.smooth``."""
    batch, length, n = m.shape
    ms, Ps = m.new_empty(m.shape), m.new_empty(P.shape)
    both = m.new_zeros(P.shape if cross else 0)
    parameters = (F, Q, c)
    given = [m if x is None else x.contiguous() for x in (m, P, lengths, *parameters)]
    hold = not any(map(_varies, parameters)) and n <= HELD
    with _on(m):
        smoother_kernel[(cdiv(batch, LANES),)](
            *(*given, ms, Ps, both, batch, length, *_strides(parameters)),
            *(n, hold, lengths is not None, c is not None, cross, 4 * n * EPSILON, LANES),
            num_warps=LANES // 32,
        )
    return ms, Ps, both
