"""Records as checked tensors, and the triangular factor of their stacked block-Hankel data.

Everything has a leading batch dimension: of one for several records of one system, of all series
where many systems are identified at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from statewise.lti.state_space import as_tensor

FACTORS = ("auto", "qr", "gram")
# Below this ratio of pivots, squaring the condition would cost more than half of the digits.
PIVOTS = 3e-4
ROWS = 1024


@dataclasses.dataclass(frozen=True)
class Records:
    """Scaled records of equal channels, each u (B, T, m) and y (B, T, p).

    Attributes:
        u: inputs of each record, in units of ``u_scale``.
        y: outputs of each record, in units of ``y_scale``.
        u_scale: root mean square of each input, (B, m).
        y_scale: root mean square of each output, (B, p).
    """

    u: list[Tensor]
    y: list[Tensor]
    u_scale: Tensor
    y_scale: Tensor

    @property
    def n_inputs(self) -> int:
        """Number of inputs m."""
        return self.u[0].shape[-1]

    @property
    def n_outputs(self) -> int:
        """Number of outputs p."""
        return self.y[0].shape[-1]

    @property
    def lengths(self) -> list[int]:
        """Samples of each record."""
        return [y.shape[1] for y in self.y]

    def part(self, index: slice | Tensor) -> Records:
        """Some series of the batch."""
        return Records(
            [u[index] for u in self.u],
            [y[index] for y in self.y],
            self.u_scale[index],
            self.y_scale[index],
        )


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the blocks stand among the columns [U_f, U_p, Y_p, Y_f] of the data.

    Attributes:
        past: block rows of the past.
        future: block rows of the future.
        m: inputs.
        p: outputs.
        direct: whether an output may depend on the input of the same sample.
    """

    past: int
    future: int
    m: int
    p: int
    direct: bool = True

    @property
    def width(self) -> int:
        """Number of columns."""
        return (self.past + self.future) * (self.m + self.p)

    @property
    def u_future(self) -> slice:
        """Columns of future inputs."""
        return slice(0, self.future * self.m)

    @property
    def both_past(self) -> slice:
        """Columns of past inputs and outputs."""
        start = self.future * self.m
        return slice(start, start + self.past * (self.m + self.p))

    @property
    def y_future(self) -> slice:
        """Columns of future outputs."""
        return slice(self.width - self.future * self.p, self.width)

    def shifted_past(self) -> list[int]:
        """Columns of the past one sample later."""
        m, p = self.m, self.p
        start = self.future * m
        middle = start + self.past * m
        return [
            *range(start + m, middle),
            *range(m),
            *range(middle + p, middle + (self.past + 1) * p),
        ]


def read_records(u: Any, y: Any) -> Records:
    """Records of one system: arrays (T, channels) or lists of them, inputs or None.

    Raises:
        ValueError: shapes that do not fit together, or values that are not finite.
        TypeError: something that is no array of real numbers.
    """
    many = isinstance(y, (list, tuple)) and len(y) > 0 and _dimensions(y[0]) > 0
    outputs = [_channels(f"y[{k}]", part, 2) for k, part in enumerate(y)] if many else []
    if not many:
        outputs = [_channels("y", y, 2)]
    if u is None:
        inputs = [part.new_zeros(len(part), 0) for part in outputs]
    elif many:
        if not isinstance(u, (list, tuple)) or len(u) != len(outputs):
            count = len(u) if isinstance(u, (list, tuple)) else "one array"
            raise ValueError(f"y has {len(outputs)} records; u must be as many, and is {count}")
        inputs = [_channels(f"u[{k}]", part, 2) for k, part in enumerate(u)]
    else:
        inputs = [_channels("u", u, 2)]
    for name, parts in (("u", inputs), ("y", outputs)):
        counts = [part.shape[-1] for part in parts]
        if len(set(counts)) != 1:
            raise ValueError(f"the records of {name} have different numbers of channels: {counts}")
    for k, (a, b) in enumerate(zip(inputs, outputs, strict=True)):
        if len(a) != len(b):
            raise ValueError(f"record {k} has {len(a)} samples of u and {len(b)} of y")
    return scaled([a[None] for a in inputs], [b[None] for b in outputs])


def read_batch(u: Any, y: Any) -> Records:
    """Series of many systems: arrays (B, T, channels), inputs or None."""
    outputs = _channels("y", y, 3)
    inputs = outputs.new_zeros(*outputs.shape[:2], 0) if u is None else _channels("u", u, 3)
    if inputs.shape[:2] != outputs.shape[:2]:
        raise ValueError(
            f"u has shape {tuple(inputs.shape)} and y {tuple(outputs.shape)}; they need equal "
            f"numbers of series and of samples"
        )
    return scaled([inputs], [outputs])


def _dimensions(part: Any) -> int:
    return part.ndim if hasattr(part, "ndim") else len(as_tensor("y", part).shape)


def _channels(name: str, value: Any, dimensions: int) -> Tensor:
    # A copy, since columns of data frames may be read-only, against which torch warns.
    value = as_tensor(name, value if isinstance(value, Tensor) else np.array(value))
    shape = tuple(value.shape)
    if value.is_complex():
        raise TypeError(f"{name} is complex; subspace identification needs real data")
    if value.dim() == dimensions - 1:
        value = value[..., None]
    if value.dim() != dimensions or not value.numel():
        wanted = "(T, channels) or (T,)" if dimensions == 2 else "(B, T, channels) or (B, T)"
        raise ValueError(f"{name} has shape {shape}; {wanted} is needed, with at least one entry")
    if not value.isfinite().all():
        raise ValueError(f"{name} holds values that are not finite")
    return value.detach().to(torch.float64)


def scaled(u: list[Tensor], y: list[Tensor]) -> Records:
    scales = []
    for parts in (u, y):
        power = torch.stack([part.square().sum(1) for part in parts]).sum(0)
        size = (power / sum(part.shape[1] for part in parts)).sqrt()
        scales.append(torch.where(size > 0, size, 1.0))
    return Records(
        [part / scales[0][:, None] for part in u],
        [part / scales[1][:, None] for part in y],
        *scales,
    )


def layout_of(
    records: Records, horizon: int | tuple[int, int] | None, order: int, direct: bool = True
) -> Layout:
    """The horizons that are given, or those of the rule, checked against the data.

    The rule: 10 block rows, or ⌈order/p⌉ + 2 if that is more, but no more than leave three windows
    for each column of the data.

    Raises:
        ValueError: records that are too short, or horizons that are for the order.
    """
    m, p = records.n_inputs, records.n_outputs
    least = -(-order // p) + 1
    if horizon is None:
        total = sum(records.lengths)
        want = max(10, least + 1)
        fair = total // (2 * (3 * (m + p) + len(records.lengths)))
        past = future = max(least, min(want, fair))
    else:
        past, future = (horizon, horizon) if isinstance(horizon, int) else horizon
    if past < 1 or future < least:
        raise ValueError(
            f"the horizons are {past} past and {future} future block rows; order {order} with {p} "
            f"outputs needs at least 1 and {least}"
        )
    layout = Layout(past, future, m, p, direct)
    windows = sum(max(0, n - past - future + 1) for n in records.lengths)
    if windows < layout.width:
        raise ValueError(
            f"the records are too short: horizons of {past} + {future} samples with {m} inputs "
            f"and {p} outputs need {layout.width} windows, that is one record of "
            f"{layout.width + past + future - 1} samples; given lengths {records.lengths} have "
            f"{windows} windows"
        )
    return layout


def triangular_factor(
    records: Records, layout: Layout, factor: str, gram: Callable[[], Tensor] | None = None
) -> Tensor:
    """R of the QR factorisation of all windows, divided by √windows: (B, width, width).

    "qr" folds blocks of windows into R one after another, so that memory does not grow with the
    records. "gram" is the Cholesky factor of the Gram matrix, whose block diagonals are running
    sums; it squares the condition. "auto" is "gram" for the series where that is harmless. ``gram``
    computes the Gram matrix in another way.
    """
    if factor not in FACTORS:
        raise ValueError(f"factor is {factor!r}; it must be one of {FACTORS}")
    windows = sum(max(0, n - layout.past - layout.future + 1) for n in records.lengths)
    if factor == "qr":
        return _by_qr(records, layout) / windows**0.5
    found = _gram(records, layout) if gram is None else gram()
    lower, info = torch.linalg.cholesky_ex(found / windows)
    if factor == "gram" and info.any():
        raise ValueError(
            'the Gram matrix of the data is singular to working precision; use factor="qr"'
        )
    pivots = lower.diagonal(dim1=-2, dim2=-1)
    poor = (info != 0) | ~(pivots.amin(-1) > PIVOTS * pivots.amax(-1))
    R = lower.mT.contiguous()
    if factor == "auto" and poor.any():
        R[poor] = _by_qr(records.part(poor), layout) / windows**0.5
    return R


def columns(layout: Layout) -> list[int]:
    """The columns [U_f, U_p, Y_p, Y_f] among those of the blocks (u_t, y_t)."""
    m, p = layout.m, layout.p
    total = layout.past + layout.future

    def at(block: int, start: int, count: int) -> range:
        return range(block * (m + p) + start, block * (m + p) + start + count)

    blocks = [*range(layout.past, total), *range(layout.past)]
    return [k for b in blocks for k in at(b, 0, m)] + [k for b in range(total) for k in at(b, m, p)]


def _by_qr(records: Records, layout: Layout) -> Tensor:
    total = layout.past + layout.future
    order = columns(layout)
    step = max(ROWS, 8 * layout.width)
    R: Tensor | None = None
    for u, y in zip(records.u, records.y, strict=True):
        z = torch.cat((u, y), -1)
        for start in range(0, z.shape[1] - total + 1, step):
            block = z[:, start : start + step + total - 1].unfold(1, total, 1).mT
            block = block.reshape(*block.shape[:2], -1)[..., order]
            R = fold(R, block)
    if R is None:
        raise ValueError("no record is long enough for one window")
    return R


def fold(R: Tensor | None, rows: Tensor) -> Tensor:
    """R of the QR factorisation of the rows behind an earlier R."""
    rows = rows if R is None else torch.cat((R, rows), -2)
    return torch.linalg.qr(rows, mode="r").R


def _gram(records: Records, layout: Layout) -> Tensor:
    """Σ h hᵀ over all windows h, by running sums along the block diagonals."""
    total, c = layout.past + layout.future, layout.m + layout.p
    first = records.y[0]
    gram = first.new_zeros(len(first), total, c, total, c)
    for u, y in zip(records.u, records.y, strict=True):
        z = torch.cat((u, y), -1)
        count = z.shape[1] - total + 1
        if count < 1:
            continue
        head, tail = z[:, :total], z[:, count:]
        block = z.unfold(1, count, 1)
        row = torch.einsum("bcj,bwdj->bcwd", block[:, 0], block)
        gram[:, 0] += row
        for k in range(1, total):
            width = total - k
            late, early = tail[:, k - 1 : total - 1], head[:, k - 1 : total - 1]
            row = row[:, :, :width] + late[:, 0, :, None, None] * late[:, None]
            row = row - early[:, 0, :, None, None] * early[:, None]
            gram[:, k, :, k:] += row
    flat = gram.reshape(len(first), total * c, total * c)
    # Block rows hold what is right of the diagonal; the diagonal blocks are whole.
    upper = torch.triu(flat)
    flat = upper + torch.triu(flat, 1).mT
    order = columns(layout)
    return flat[:, order][:, :, order]
