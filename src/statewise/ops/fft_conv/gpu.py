"""GPU back end of the convolution: Triton passes over one buffer of transforms."""

# The types that Triton declares are not those of the language it compiles.
# pyright: reportArgumentType=false

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from statewise.ops.fft_conv import _triton
from statewise.ops.fft_conv.plan import Piece, Sizes, angles, plan
from statewise.ops.fft_conv.state import carry_back, last_state
from statewise.ops.gpu import cdiv, next_power_of_2, refuses_gpu
from statewise.ops.precision import accumulation_dtype

SIZES = Sizes(smallest=4, odd=(1,))
"""Powers of two, of at least two passes."""


def supports(device: str, dtype: torch.dtype) -> str | None:
    """None when this back end computes on such tensors, else a sentence that says why not."""
    return refuses_gpu("fft_conv", device, dtype)


@lru_cache(maxsize=256)
def passes(points: int, itemsize: int) -> tuple[int, ...]:
    """Radix of each pass, the last of at most 16, since it works on three sets of registers.

    In float32 a pass holds 32 points, 64 registers; in float64 16. Fewer and larger passes move
    fewer bytes, and that is all the time there is.
    """
    levels, most, last = int(math.log2(points)), 5 if itemsize == 4 else 4, 4
    count = max(2, 1 + cdiv(levels - last, most))
    final = min(last, max(1, levels // count))
    rest = levels - final
    shares = [rest // (count - 1) + (i < rest % (count - 1)) for i in range(count - 1)]
    return tuple(2**share for share in [*shares, final])


@lru_cache(maxsize=64)
def _heap(points: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Factors of every split by two, (M, 2), node i of the heap in row i."""
    turns = np.concatenate([np.zeros(1), *angles((2,) * int(math.log2(points)))])
    table = np.stack([np.cos(2 * np.pi * turns), np.sin(2 * np.pi * turns)], 1)
    return torch.from_numpy(table).to(device, dtype)


@lru_cache(maxsize=64)
def _items(pieces: tuple[Piece, ...], device: torch.device) -> Tensor:
    return torch.tensor(pieces, dtype=torch.int64).to(device)


class _Transform:
    """Launches of one size of transform on ``D`` channels in (rows, L, D) tensors."""

    def __init__(self, points: int, like: Tensor, taps: int, reverse: bool) -> None:
        self.dtype, self.device = accumulation_dtype(like.dtype), like.device
        self.points, self.taps, self.reverse = points, taps, reverse
        self.length, self.channels = like.shape[1], like.shape[2]
        self.radices = passes(points, self.dtype.itemsize)
        self.heap = _heap(points, self.dtype, self.device)
        tile = min(128, max(32, next_power_of_2(self.channels)))
        self.tiles = cdiv(self.channels, tile)
        self.options = {"C": tile, "num_warps": tile // 32}

    def _grid(self, items: int, radix: int) -> tuple[int]:
        return (items * (self.points // radix) * self.tiles,)

    def _radix(self, radix: int) -> dict[str, int]:
        return {"R": radix, "LEVELS": radix.bit_length() - 1, **self.options}

    def load(
        self,
        x: Tensor,
        state: Tensor | None,
        pieces: list[Piece],
        scale: float = 1.0,
        past: bool = True,
        finish: bool = False,
    ) -> Tensor:
        """Transforms of the pieces, all but the last pass unless ``finish``."""
        D, M = self.channels, self.points
        buf = torch.empty((len(pieces), M, 2, D), dtype=self.dtype, device=self.device)
        items = _items(tuple(pieces), self.device)
        _triton.load_pass[self._grid(len(pieces), self.radices[0])](
            *(x, x if state is None else state, items, self.heap, buf, scale),
            *(x.shape[1], self.taps, D, M),
            PAST=past,
            BOTH=max(piece.stop - piece.start for piece in pieces) > M,
            REVERSE=self.reverse,
            STATE=state is not None,
            **self._radix(self.radices[0]),
        )
        m = M // self.radices[0]
        for radix in self.radices[1:] if finish else self.radices[1:-1]:
            m //= radix
            _triton.forward_pass[self._grid(len(pieces), radix)](
                buf, self.heap, D, M, m, **self._radix(radix)
            )
        return buf

    def spectrum(self, k: Tensor, taps: int) -> Tensor:
        """Transform of the first taps of k (D, K), divided by M, (1, M, 2, D)."""
        columns = k[:, :taps].t().contiguous()[None]
        forwards = _Transform(self.points, columns, 1, False)
        return forwards.load(columns, None, [Piece(0, 0, 0, taps)], 1.0 / self.points, finish=True)

    def multiply(self, buf: Tensor, spec: Tensor) -> None:
        """The last pass, the product with the spectrum, and the last pass undone, in place."""
        radix = self.radices[-1]
        _triton.product_pass[self._grid(buf.shape[0], radix)](
            buf, spec, self.heap, self.channels, self.points, **self._radix(radix)
        )

    def multiply_back(
        self, g: Tensor, x: Tensor | None, spec: Tensor | None, total: Tensor | None
    ) -> None:
        """The same for gradients, in place; their correlation with the inputs goes to ``total``."""
        radix = self.radices[-1]
        _triton.product_back[self._grid(1, radix)](
            *(g, g if x is None else x, g if spec is None else spec, g if total is None else total),
            *(self.heap, self.channels, self.points, g.shape[0]),
            NEED_X=spec is not None,
            NEED_K=total is not None,
            **self._radix(radix),
        )

    def store(
        self,
        buf: Tensor,
        y: Tensor,
        dstate: Tensor | None,
        skip: tuple[Tensor, Tensor] | None,
        pieces: list[Piece],
        scale: float = 1.0,
    ) -> None:
        """The other passes undone, and the positions written; ``skip`` is (x, d)."""
        D, M = self.channels, self.points
        m = 1
        for index in range(len(self.radices) - 2, 0, -1):
            m *= self.radices[index + 1]
            radix = self.radices[index]
            _triton.inverse_pass[self._grid(buf.shape[0], radix)](
                buf, self.heap, D, M, m, **self._radix(radix)
            )
        x, d = (y, y) if skip is None else skip
        _triton.store_pass[self._grid(buf.shape[0], self.radices[0])](
            *(buf, y, y if dstate is None else dstate, x, d),
            *(_items(tuple(pieces), self.device), self.heap, scale),
            *(y.shape[1], self.taps, D, M),
            BOTH=max(piece.stop - piece.start for piece in pieces) > M,
            SKIP=skip is not None,
            REVERSE=self.reverse,
            STATE=dstate is not None,
            **self._radix(self.radices[0]),
        )


def forward(
    u: Tensor,
    k: Tensor,
    d: Tensor | None,
    state: Tensor | None,
    reset: Tensor | None,
    reverse: bool,
    need_state: bool,
) -> tuple[Tensor, Tensor]:
    """The convolution by Triton; arguments and results are those of ``reference.forward``."""
    u, K = u.contiguous(), k.shape[1]
    last = last_state(u, state, reset, reverse, K, need_state)
    y = torch.empty_like(u)
    if u.numel():
        state = None if state is None else state.contiguous()
        skip = None if d is None else (u, d.contiguous())
        work = plan(u.shape[0], u.shape[1], K, state is not None, reset, reverse, SIZES)
        for (points, reach), pieces in work.items():
            transform = _Transform(points, u, K, reverse)
            spec = transform.spectrum(k, reach)
            buf = transform.load(u, state, pieces)
            transform.multiply(buf, spec)
            transform.store(buf, y, None, skip, pieces)
    return y, last


def backward(
    grad_y: Tensor | None,
    grad_last: Tensor | None,
    u: Tensor,
    k: Tensor,
    d: Tensor | None,
    state: Tensor | None,
    reset: Tensor | None,
    reverse: bool,
    need_u: bool,
    need_k: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The adjoint by Triton; arguments and results are those of ``reference.backward``."""
    u, K, dtype = u.contiguous(), k.shape[1], accumulation_dtype(u.dtype)
    with_state = need_u and state is not None

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=u.device)

    du = zeros(*u.shape) if need_u and grad_y is None else zeros(0)
    dk = zeros(K, u.shape[2]) if need_k else zeros(0)
    dstate = zeros(u.shape[0], K - 1, u.shape[2]) if with_state else zeros(0)
    if grad_y is not None and u.numel():
        g = grad_y.contiguous()
        if need_u:
            # Rounded once: in the type of u when nothing is to be added.
            du = torch.empty_like(u, dtype=u.dtype if grad_last is None else dtype)
        state = None if state is None else state.contiguous()
        skip = None if d is None else (g, d.contiguous())
        work = plan(u.shape[0], u.shape[1], K, state is not None, reset, reverse, SIZES)
        for (points, reach), pieces in work.items():
            transform = _Transform(points, u, K, reverse)
            spec = transform.spectrum(k, reach) if need_u else None
            buf = transform.load(g, None, pieces, past=False)
            inputs = transform.load(u, state, pieces) if need_k else None
            total = torch.empty_like(buf[:1]) if need_k else None
            transform.multiply_back(buf, inputs, spec, total)
            if need_u:
                transform.store(buf, du, dstate if with_state else None, skip, pieces)
            if total is not None:
                part = torch.empty((1, reach, u.shape[2]), dtype=dtype, device=u.device)
                taps = _Transform(points, part, 1, False)
                taps.store(total, part, None, None, [Piece(0, 0, 0, reach)], 1.0 / points)
                dk[:reach] += part[0]
    if grad_last is not None:
        wanted = (du if need_u else None, dstate if with_state else None)
        carry_back(grad_last, u.shape[1], *wanted, reset, reverse)
    # The gradient of the skip is that of the tap at lag 0: both are Σ ȳ_t u_t.
    dd = dk[0].clone() if need_k and d is not None else zeros(0)
    return du.to(u.dtype), dk.t().contiguous() if need_k else dk, dd, dstate
