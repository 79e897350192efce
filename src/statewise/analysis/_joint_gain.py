"""One gain for several blocks: linear systems and static maps, by scales of the channels."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from statewise.lti import StateSpace, frequency_response, hinf_norm

GRID = 96
STAGES = ((4.0, 0.1), (32.0, 0.03), (256.0, 0.01))
"""Sharpness of the smooth maximum over frequencies, and rate, of the stages of the search."""
SLACK = 0.01
MARGINS = (1e-6, 1e-4, 3e-3, 0.05, 0.3)
"""How far above the value on the grid an inequality is tried."""
ROUNDS = 8


@dataclasses.dataclass(frozen=True, eq=False)
class Link:
    """y = F u + m η + w with η = G u and |δw| ≤ r |δη| channel by channel.

    Attributes:
        system: G.
        mean: m, (d_output,).
        half: r, (d_output,).
        skip: F, or None.
        shared: whether ‖δw‖ ≤ ‖r ⊙ δη‖ holds for the vectors alone, so that the channels have one
            scale.
    """

    system: StateSpace
    mean: Tensor
    half: Tensor
    skip: Tensor | None
    shared: bool


def joint_gain(
    entry: Tensor, links: list[Link], leave: Tensor, direct: Tensor | None, steps: int
) -> float:
    """A certified γ from u to y = leave · chain(entry · u) + direct · u.

    Args:
        entry: (d, m).
        links: the blocks.
        leave: (p, d').
        direct: (p, m), or None.
        steps: steps of the search for scales.
    """
    system, width, count = _assembled(entry, links, leave, direct)
    p = len(leave)
    if not count:
        return float(hinf_norm(system).upper)
    omega = torch.cat([torch.tensor([0.0]), torch.logspace(-3, 0, GRID - 1)]).double() * math.pi
    at = torch.linalg.eigvals(system.A).angle().abs()
    omega = torch.cat([omega, at]).unique()
    response = frequency_response(system, omega)
    start, tied = _start(links, leave, omega)
    logs, bound = start, math.inf
    for turn in range(ROUNDS):
        stages = STAGES[1:] if turn else STAGES
        logs, guess = _searched(response, p, width, start, logs, tied, stages, steps)
        if not math.isfinite(guess) or guess > bound:
            break
        fresh: list[float] = []
        for margin in MARGINS:
            level = guess * (1 + margin)
            scales = logs[tied].exp()
            top = torch.cat([torch.ones(p, dtype=torch.float64), scales])
            side = torch.cat([torch.full((width,), 1 / level, dtype=torch.float64), 1 / scales])
            A, B, C, D = system.matrices
            scaled = StateSpace(A, B * side, top[:, None] * C, top[:, None] * D * side, system.dt)
            found = hinf_norm(scaled, tolerance=1e-7)
            if float(found.upper) <= 1:
                bound = min(bound, level)
                break
            fresh.append(float(found.frequency))
        if not fresh or bound <= guess * (1 + MARGINS[2]):
            break
        # Frequencies between the points, at which the inequality fails, join them.
        new = torch.tensor(sorted(set(fresh)), dtype=torch.float64)
        response = torch.cat([response, frequency_response(system, new)])
    return bound


def _assembled(
    entry: Tensor, links: list[Link], leave: Tensor, direct: Tensor | None
) -> tuple[StateSpace, int, int]:
    """The system from (u, w) to (y, r η); channels without spread of slopes have no w."""
    width = entry.shape[1]
    kept = [(link.half > 0).nonzero()[:, 0] for link in links]
    count = sum(len(index) for index in kept)
    kind = torch.float64
    A, B = torch.zeros(0, 0, dtype=kind), torch.zeros(0, width + count, dtype=kind)
    C = torch.zeros(len(entry), 0, dtype=kind)
    D = torch.cat([entry, torch.zeros(len(entry), count, dtype=kind)], 1)
    watched: list[tuple[Tensor, Tensor]] = []
    place = width
    for link, index in zip(links, kept, strict=True):
        a, b, c, d = (matrix.to(kind) for matrix in link.system.matrices)
        n = len(a)
        A = torch.cat(
            [
                torch.cat([A, A.new_zeros(len(A), n)], 1),
                torch.cat([b @ C, a], 1),
            ]
        )
        B = torch.cat([B, b @ D])
        eta_C, eta_D = torch.cat([d @ C, c], 1), d @ D
        next_C, next_D = link.mean[:, None] * eta_C, link.mean[:, None] * eta_D
        if link.skip is not None:
            next_C = next_C + link.skip @ torch.cat([C, C.new_zeros(len(C), n)], 1)
            next_D = next_D + link.skip @ D
        if len(index):
            half = link.half[index][:, None]
            watched.append((half * eta_C[index], half * eta_D[index]))
            next_D = next_D.clone()
            next_D[index, place + torch.arange(len(index))] += 1.0
            place += len(index)
        C, D = next_C, next_D
    rows_C, rows_D = [leave @ C], [leave @ D]
    if direct is not None:
        rows_D[0] = rows_D[0].clone()
        rows_D[0][:, :width] += direct
    n = len(A)
    for eta_C, eta_D in watched:
        rows_C.append(torch.cat([eta_C, eta_C.new_zeros(len(eta_C), n - eta_C.shape[1])], 1))
        rows_D.append(eta_D)
    return StateSpace(A, B, torch.cat(rows_C), torch.cat(rows_D), 1.0), width, count


def _searched(
    response: Tensor,
    p: int,
    width: int,
    start: Tensor,
    better: Tensor,
    tied: Tensor,
    stages: tuple[tuple[float, float], ...],
    steps: int,
) -> tuple[Tensor, float]:
    """Logarithms of scales for a small γ on the grid, and that γ, infinite without a start.

    Args:
        response: M at the grid points (F, p + W, m + W).
        p: outputs.
        width: inputs m.
        start: logarithms of free scales.
        better: others to start from where they are feasible, or between the two.
        tied: which of the free scales a channel has (W,).
        stages: sharpness and rate of each stage.
        steps: steps of each stage.
    """
    best, value = start, math.inf
    for part in (1.0, 0.9, 0.7, 0.4, 0.0):
        mixed = start + part * (better - start)
        levels = _levels(mixed[tied], response, p, width)
        if levels is not None:
            best, value = mixed, float(levels.amax())
            break
    if not math.isfinite(value):
        return start, math.inf
    logs = best.clone().requires_grad_()
    for sharpness, rate in stages:
        with torch.no_grad():
            logs.copy_(best)
        optimiser = torch.optim.Adam([logs], lr=rate)
        for _ in range(steps):
            optimiser.zero_grad()
            with torch.enable_grad():
                levels = _levels(logs[tied], response, p, width)
                smooth = None if levels is None else torch.logsumexp(sharpness * levels.log(), 0)
            if levels is None or smooth is None:
                # Out of the feasible set: back to the best point, and slower from there.
                with torch.no_grad():
                    logs.copy_(best)
                for group in optimiser.param_groups:
                    group["lr"] *= 0.5
                optimiser.state.clear()
                continue
            level = float(levels.detach().amax())
            if level < value:
                best, value = logs.detach().clone(), level
            (smooth / sharpness).backward()
            optimiser.step()
    return best, math.sqrt(value)


def _start(links: list[Link], leave: Tensor, omega: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithms of scales that give the product of the bounds ‖m G + F‖ + ‖r G‖ of blocks.

    With a and b for the two, δy² ≤ (1 + b/a) δ(m G u + F u)² + (1 + a/b) δw², and what follows
    multiplies both.

    Returns:
        The logarithms of the free scales, and which of them a channel has (W,).
    """
    found: list[tuple[float, int, bool]] = []
    behind = math.log(max(float(torch.linalg.matrix_norm(leave, 2)), 1e-12))
    for link in reversed(links):
        G = frequency_response(link.system.to(torch.float64), omega)
        mean = link.mean[:, None] * G
        if link.skip is not None:
            mean = mean + link.skip
        a = max(float(torch.linalg.matrix_norm(mean, 2).max()), 1e-12)
        b = max(float(torch.linalg.matrix_norm(link.half[:, None] * G, 2).max()), 1e-12)
        count = int((link.half > 0).sum())
        found.append((0.5 * math.log1p(a / b) + behind + SLACK, count, link.shared))
        behind += math.log(a + b if count else a) + SLACK
    logs: list[float] = []
    tied: list[int] = []
    for value, count, shared in reversed(found):
        free = min(count, 1) if shared else count
        tied += [len(logs) + (0 if shared else k) for k in range(count)]
        logs += [value] * free
    return torch.tensor(logs, dtype=torch.float64), torch.tensor(tied)


def _levels(logs: Tensor, response: Tensor, p: int, width: int) -> Tensor | None:
    """The least γ² at each grid point (F,) for scales, or None where one is not finite.

    γ² is the largest eigenvalue of the Schur complement H_uu + H_uw (D² − H_ww)⁻¹ H_wu, with
    H = M* diag(1, D²) M.
    """
    square = (2 * logs).exp()
    weight = torch.cat([torch.ones(p, dtype=torch.float64), square])
    H = response.mH @ (weight[:, None] * response)
    # Scaled to a unit diagonal, so that the factorisation judges the definite part.
    scale = logs.exp()
    inner = torch.eye(len(logs), dtype=H.dtype) - H[:, width:, width:] / (scale[:, None] * scale)
    factor, info = torch.linalg.cholesky_ex((inner + inner.mH) / 2)
    if bool((info != 0).any()):
        return None
    across = torch.linalg.solve_triangular(
        factor, H[:, width:, :width] / scale[:, None], upper=False
    )
    total = H[:, :width, :width] + across.mH @ across
    return torch.linalg.eigvalsh((total + total.mH) / 2)[:, -1]
