"""Parts of records to identify on and to judge free-run simulations on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from statewise.lti._hankel import Records
from statewise.lti._output_fit import states_before

# Samples of a held part, at most, from which its first state is estimated, and that do not count.
SETTLING = 50
SHORTEST = 20
# Errors beyond this many deviations of the output count as so many.
WORST = 100.0


@dataclasses.dataclass(frozen=True)
class Fold:
    """Some parts of the records to identify on, and the others to judge on."""

    train: Records
    held: Records


def folds_of(records: Records, count: int) -> list[Fold]:
    """Each of ``count`` blocks of samples held once, and the last third from the rest before it.

    A record is cut where a block ends; parts of fewer than 20 samples are left out. The last fold
    looks forward only, as the use of a model does.
    """
    total = sum(records.lengths)
    cuts = [(total * k // count, total * (k + 1) // count) for k in range(count)]
    folds = []
    for start, stop in (*cuts, (total * 2 // 3, total)):
        train, held, first = [], [], 0
        for index, length in enumerate(records.lengths):
            a, b = (min(max(at - first, 0), length) for at in (start, stop))
            train += [(index, 0, a), (index, b, length)]
            held.append((index, a, b))
            first += length
        parts = [[(k, a, b) for k, a, b in some if b - a >= SHORTEST] for some in (train, held)]
        if all(parts):
            folds.append(Fold(*(_cut(records, part) for part in parts)))
    return folds


def _cut(records: Records, parts: Sequence[tuple[int, int, int]]) -> Records:
    return Records(
        [records.u[k][:, a:b] for k, a, b in parts],
        [records.y[k][:, a:b] for k, a, b in parts],
        records.u_scale,
        records.y_scale,
    )


def spread(records: Records) -> Tensor:
    """Deviation of each output over all records, (p,)."""
    deviation = torch.cat(records.y, 1)[0].std(0, correction=0)
    return torch.where(deviation > 0, deviation, 1.0)


def simulation_errors(
    held: Records, systems: tuple[Tensor, Tensor, Tensor, Tensor], unit: Tensor
) -> Tensor:
    """Root mean squares of simulations in units of ``unit``, mean over the outputs, (S,).

    Args:
        held: one series of records, to be simulated by all systems; first states come from their
            first samples by least squares.
        systems: A, B, C and D of S systems, in units of the records.
        unit: (p,).
    """
    A, B, C, D = systems
    power, samples = C.new_zeros(len(A), len(unit)), 0
    sound = torch.stack([M.isfinite().flatten(1).all(1) for M in systems]).all(0)
    A = torch.where(sound[:, None, None], A, 0.0)
    for u, y in zip(held.u, held.y, strict=True):
        window = min(SETTLING, y.shape[1] // 4)
        ran = _simulated(A, B, C, D, u, C.new_zeros(len(A), A.shape[-1]))
        rest = (y - ran)[:, :window]
        rows = [C]
        for _ in range(window - 1):
            rows.append(rows[-1] @ A)
        table, target = torch.cat(rows, 1), rest.flatten(1)[..., None]
        usable = table.isfinite().flatten(1).all(1) & target.isfinite().flatten(1).all(1)
        sound = sound & usable
        table = torch.where(usable[:, None, None], table, 0.0)
        target = torch.where(usable[:, None, None], target, 0.0)
        x0 = torch.linalg.lstsq(table, target, driver="gelsd").solution[..., 0]
        errors = (y - _simulated(A, B, C, D, u, x0))[:, window:]
        power += errors.square().sum(1)
        samples += errors.shape[1]
    size = (power / max(samples, 1)).sqrt() / unit
    size = torch.where(size.isfinite() & sound[:, None], size, WORST).clamp_max(WORST)
    return size.mean(1)


def _simulated(A: Tensor, B: Tensor, C: Tensor, D: Tensor, u: Tensor, x0: Tensor) -> Tensor:
    drive = (u @ B.mT)[:, :, None]
    return states_before(A, drive, x0[:, None])[:, :, 0] @ C.mT + u @ D.mT
