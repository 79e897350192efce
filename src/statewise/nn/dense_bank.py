"""Banks of dense single-input systems over whole sequences, by convolution and doubling.

x_k = A x_{k−1} + b u_k, y_k = C x_k for each channel, with a real matrix A of n states. All powers
of A come from its repeated squares; the states over time are never stored.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from statewise.nn.contract import valid_steps
from statewise.ops import fft_conv

CHUNK = 64
"""Steps that are taken at once where states are carried along a sequence, a power of 2."""


def repeated_squares(a: Tensor, length: int) -> list[Tensor]:
    """A^(2^i) of the matrices (..., n, n), for every bit i of ``length``."""
    squares = [a]
    for _ in range(length.bit_length() - 1):
        squares.append(squares[-1] @ squares[-1])
    return squares


def krylov(squares: list[Tensor], b: Tensor, length: int) -> Tensor:
    """The columns b, A b, …, A^{length−1} b.

    Args:
        squares: of :func:`repeated_squares`, for ``length`` at least.
        b: (H, n).
        length: number of columns.

    Returns:
        Shape (H, n, length).
    """
    columns, i = b.unsqueeze(-1), 0
    while columns.shape[-1] < length:
        columns = torch.cat([columns, squares[i] @ columns], -1)
        i += 1
    return columns[..., :length]


def taps_of(squares: list[Tensor], columns: Tensor, c: Tensor, length: int) -> Tensor:
    """The taps C A^l b: rows C A^{mT} times T columns, O(H N L) beside the doubling of rows.

    Args:
        squares: of :func:`repeated_squares`, for ``length`` at least.
        columns: of :func:`krylov`, T of them, a power of 2 or at least ``length``.
        c: (H, M, n).
        length: number of taps.

    Returns:
        Shape (H, M, length).
    """
    size = columns.shape[-1]
    rows, i = c.unsqueeze(1), size.bit_length() - 1
    while rows.shape[1] * size < length:
        rows = torch.cat([rows, rows @ squares[i].unsqueeze(1)], 1)
        i += 1
    return (rows @ columns.unsqueeze(1)).transpose(1, 2).flatten(-2)[..., :length]


def row_power(squares: list[Tensor], row: Tensor, exponent: int) -> Tensor:
    """The rows (H, M, n) times A^exponent."""
    for i, square in enumerate(squares):
        if exponent >> i & 1:
            row = row @ square
    return row


def run_bank(
    a: Tensor,
    b: Tensor,
    c: Tensor,
    u: Tensor,
    start: Tensor | None,
    *,
    reset: Tensor | None = None,
    lengths: Tensor | None = None,
    kernel: Callable[[list[Tensor]], Tensor] | None = None,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor]:
    """Outputs and last state of a bank.

    The response to the input is one convolution per output; that to the initial state, and the
    last state, are carried from chunk to chunk. Sums that span the sequence are taken in the type
    of ``u``, matrices and kernels in their own.

    Args:
        a: A, (H, n, n), best in float64.
        b: (H, n).
        c: C, (H, M, n).
        u: input (B, L, H), float32 or float64, 0 behind ``lengths``.
        start: state before the first sample (B, H, n), or None for rest.
        reset: True where the state is zeroed before that sample, (B, L).
        lengths: number of valid samples (B,).
        kernel: how to get the taps (H, M, L) from the repeated squares of A; None for
            :func:`taps_of`.
        chunk: steps of a chunk, a power of 2.

    Returns:
        y (B, L, H, M), and the state (B, H, n) after the last valid sample.
    """
    length, outputs = u.shape[1], c.shape[1]
    squares = repeated_squares(a, max(length, 2))
    size = min(chunk, 1 << (length - 1).bit_length())
    columns = krylov(squares, b, size)
    taps = taps_of(squares, columns, c, length) if kernel is None else kernel(squares)
    signal = u if outputs == 1 else u.repeat_interleave(outputs, -1)
    y, _ = fft_conv(signal, taps.flatten(0, 1).to(u.dtype), reset=reset, need_state=False)
    y = y.unflatten(-1, (-1, outputs))
    squares = [square.to(u.dtype) for square in squares]
    ends = torch.full(u.shape[:1], length, device=u.device) if lengths is None else lengths
    driven, kept = u, None
    if reset is not None:
        valid = reset if lengths is None else reset & valid_steps(lengths, length)
        later = valid.flip(1).cumsum(1).flip(1)
        driven = torch.where((later - valid.to(later.dtype) > 0).unsqueeze(-1), 0, u)
        kept = later[:, 0] == 0
    if lengths is not None:
        driven = _end_together(driven, lengths)
    last = _last_state(squares, columns.to(u.dtype), driven)
    if start is not None:
        before = start if kept is None else torch.where(kept[:, None, None], start, 0)
        free = _free_response(squares, c.to(u.dtype), start, length, size)
        if reset is not None:
            free = torch.where((reset.cumsum(1) > 0)[:, :, None, None], 0, free)
        y = y + free
        last = last + _powers_of(squares, before, ends)
    return y, last


def _end_together(u: Tensor, lengths: Tensor) -> Tensor:
    """Sequences shifted so that all end with the last step, with zeros before them."""
    length = u.shape[1]
    source = torch.arange(length, device=u.device) - (length - lengths.unsqueeze(-1))
    shifted = u.gather(1, source.clamp_min(0).unsqueeze(-1).expand_as(u))
    return torch.where((source < 0).unsqueeze(-1), 0, shifted)


def _last_state(squares: list[Tensor], columns: Tensor, u: Tensor) -> Tensor:
    """Σ_k A^{L−1−k} b u_k, from rest: chunks by their columns, then pairs of chunks."""
    size = columns.shape[-1]
    count = -(-u.shape[1] // size)
    padded = torch.nn.functional.pad(u, (0, 0, count * size - u.shape[1], 0))
    chunks = padded.unflatten(1, (count, size))
    x = torch.einsum("bmth,hnt->bmhn", chunks, columns.flip(-1))
    i = size.bit_length() - 1
    while x.shape[1] > 1:
        if x.shape[1] % 2:
            x = torch.cat([torch.zeros_like(x[:, :1]), x], 1)
        x = x[:, 1::2] + torch.einsum("hij,bmhj->bmhi", squares[i], x[:, ::2])
        i += 1
    return x[:, 0]


def _free_response(
    squares: list[Tensor], c: Tensor, start: Tensor, length: int, size: int
) -> Tensor:
    """C A^{k+1} x for k < length, (B, length, H, M)."""
    states, i = start.unsqueeze(1), size.bit_length() - 1
    while states.shape[1] * size < length:
        states = torch.cat([states, torch.einsum("hij,bmhj->bmhi", squares[i], states)], 1)
        i += 1
    rows, i = (c @ squares[0]).unsqueeze(1), 0
    while rows.shape[1] < size:
        rows = torch.cat([rows, rows @ squares[i].unsqueeze(1)], 1)
        i += 1
    y = torch.einsum("bmhn,hton->bmtho", states, rows)
    return y.flatten(1, 2)[:, :length]


def _powers_of(squares: list[Tensor], x: Tensor, exponents: Tensor) -> Tensor:
    """A^e x, (B, H, n), with an exponent for each sequence (B,)."""
    for i, square in enumerate(squares):
        further = torch.einsum("hij,bhj->bhi", square, x)
        x = torch.where((exponents >> i & 1).bool()[:, None, None], further, x)
    return x
