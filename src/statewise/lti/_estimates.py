"""Estimates of one order: dynamics, gain, B, D and first states, and the power of errors."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from statewise.lti._hankel import Records
from statewise.lti._lanes import Lanes, fit_simulation, rest_powers
from statewise.lti._output_fit import fit_outputs, innovations, simulation_rests
from statewise.lti._projections import Decomposition, kalman_gain, reflect, state_model

FOCUS = ("simulation", "prediction", "states")


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Batched estimates in the units of the data; x0 and fits record by record."""

    matrices: tuple[Tensor, Tensor, Tensor, Tensor]
    K: Tensor
    covariance: Tensor
    x0: list[Tensor]
    fit: list[Tensor]
    prediction_fit: list[Tensor]
    focus: str
    stabilised: Tensor


def estimate(
    found: Decomposition,
    records: Records,
    order: int,
    focus: str | None,
    stability: float | None,
    lanes: Lanes | None = None,
) -> Estimate:
    """Estimates of one order, where each system of a batch may call for its own focus."""
    model = state_model(found, order)
    A, C = model.A, model.C
    moved = torch.zeros(len(A), dtype=torch.bool, device=A.device)
    if stability is not None:
        A, moved = reflect(A, stability)
    K = kalman_gain(A, C, model.covariance)
    if focus is None or focus == "states":
        predicted = (torch.linalg.eigvals(A).abs().amax(-1) >= 1) | found.weighting.feedback
    else:
        predicted = torch.full_like(moved, focus == "prediction")
    if focus == "states":
        fits, kind = _regressed(records, A, model.B, C, model.D, K, predicted), focus
    else:
        fits, kind = _fitted(records, A, C, K, predicted, found.layout.direct, lanes)
    covariance = fits.ahead / sum(records.lengths)
    up, out = records.u_scale[:, None], records.y_scale
    return Estimate(
        (A, fits.B / up, C * out[..., None], fits.D * out[..., None] / up),
        K / out[:, None],
        covariance * out[..., None] * out[:, None],
        fits.x0,
        [_fit(y, power) for y, power in zip(records.y, fits.simulated, strict=True)],
        [_fit(y, power) for y, power in zip(records.y, fits.predicted, strict=True)],
        kind,
        moved,
    )


@dataclasses.dataclass(frozen=True)
class Fits:
    """B, D and what is left of the outputs.

    Attributes:
        B: input matrix, (B, n, m).
        D: direct term, (B, p, m).
        x0: first states of each record, (B, n).
        simulated: power of the errors of the simulation of each record, (B, p).
        predicted: the same of one-step predictions.
        ahead: Gram matrix of one-step errors over all records, (B, p, p).
    """

    B: Tensor
    D: Tensor
    x0: list[Tensor]
    simulated: list[Tensor]
    predicted: list[Tensor]
    ahead: Tensor

    def room(self, count: int) -> Fits:
        """Places of the same kind for so many series."""

        def places(x: Tensor) -> Tensor:
            return x.new_zeros(count, *x.shape[1:])

        x0, simulated, predicted = (
            [places(x) for x in parts] for parts in (self.x0, self.simulated, self.predicted)
        )
        return Fits(places(self.B), places(self.D), x0, simulated, predicted, places(self.ahead))

    def put(self, other: Fits, where: Tensor) -> None:
        """Write another one to some series of this one."""
        mine, theirs = (
            (f.B, f.D, *f.x0, *f.simulated, *f.predicted, f.ahead) for f in (self, other)
        )
        for to, given in zip(mine, theirs, strict=True):
            to[where] = given


def _fitted(
    records: Records,
    A: Tensor,
    C: Tensor,
    K: Tensor,
    predicted: Tensor,
    direct: bool,
    lanes: Lanes | None,
) -> tuple[Fits, str]:
    """The fits, to predictions where ``predicted``, and the name of the focus."""
    kind = FOCUS[bool(predicted.all())] if predicted.all() or not predicted.any() else "mixed"
    if lanes is None or kind == FOCUS[1]:
        left, ran = torch.ones_like(predicted), None
    else:
        found = fit_simulation(lanes, A, C, direct)
        simulated, ahead = rest_powers(lanes, A, found.B, C, found.D, K, found.x0)
        ahead_each = ahead.diagonal(dim1=-2, dim2=-1).clone()
        ran = Fits(found.B, found.D, [found.x0], [simulated], [ahead_each], ahead)
        left = predicted | ~found.sound
    for ahead_of in (False, True):
        mask = left & (predicted == ahead_of)
        if mask.all():
            return _fitted_by_qr(records, A, C, K, ahead_of, direct), kind
        if mask.any():
            part = _fitted_by_qr(records.part(mask), A[mask], C[mask], K[mask], ahead_of, direct)
            if ran is None:
                ran = part.room(len(A))
            ran.put(part, mask)
    assert ran is not None
    return ran, kind


def _fitted_by_qr(
    records: Records, A: Tensor, C: Tensor, K: Tensor, predicted: bool, direct: bool
) -> Fits:
    """All series fitted alike, from the orthogonal factor of the regressors."""
    ran = fit_outputs(records, A, C, K if predicted else None, direct)
    system = (A, ran.B, C, ran.D)
    if predicted:
        rests, errors = simulation_rests(records, *system, ran.x0), ran.rests
    else:
        rests, errors = ran.rests, innovations(records, *system, K, ran.x0)
    ahead = [error.mT @ error for error in errors]
    return Fits(
        ran.B,
        ran.D,
        ran.x0,
        [rest.square().sum(1) for rest in rests],
        [error.square().sum(1) for error in errors],
        torch.stack(ahead).sum(0),
    )


def _regressed(
    records: Records, A: Tensor, B: Tensor, C: Tensor, D: Tensor, K: Tensor, predicted: Tensor
) -> Fits:
    """First states and errors of given systems; states run as the predictor where ``predicted``."""
    inner = torch.where(predicted[:, None, None], A - K @ C, A)
    drive = torch.where(predicted[:, None, None], K, 0.0)
    rest = [y.new_zeros(len(A), A.shape[-1]) for y in records.y]
    bare = innovations(records, A, B, C, D, drive, rest)
    quiet = [y.new_zeros(*y.shape[:2], 0) for y in records.y]
    free = Records(quiet, bare, records.u_scale[:, :0], records.y_scale)
    x0 = fit_outputs(free, inner, C, None, False).x0
    rests = simulation_rests(records, A, B, C, D, x0)
    errors = innovations(records, A, B, C, D, K, x0)
    return Fits(
        B,
        D,
        x0,
        [part.square().sum(1) for part in rests],
        [part.square().sum(1) for part in errors],
        torch.stack([part.mT @ part for part in errors]).sum(0),
    )


def _fit(y: Tensor, power: Tensor) -> Tensor:
    """100 (1 − √power/‖y − mean(y)‖), (B, p); of a constant output, against its size."""
    spread = (y - y.mean(1, keepdim=True)).norm(dim=1)
    size = torch.where(spread > 0, spread, y.norm(dim=1))
    return 100 * (1 - power.sqrt() / size.clamp_min(torch.finfo(y.dtype).tiny))
