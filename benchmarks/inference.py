"""Speed of Kalman filters and smoothers on the CPU, an accuracy gate beside every number.

Run ``python benchmarks/inference.py`` (one thread; ``--threads N`` for more). For each model: the
least milliseconds of ``--repeats`` runs for one series, or per series of a batch; and the largest
error of the last means and of the log-likelihood, relative to a plain float64 loop in NumPy. A
number whose error is above the gate is marked. Peers are measured where they are installed: the
filter of statsmodels without and with its shortcut at convergence, filterpy, pykalman, dynamax and
cuthbert, whose compilation is shown apart. ``--json FILE`` also writes the rows.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from inference_jax import Tools, of_cuthbert, of_dynamax
from statewise import inference
from statewise.ops import warm

GATE = 1e-9
SHAPES = ((4, 2), (32, 8))


@dataclasses.dataclass
class Options:
    """What to measure."""

    threads: int = 1
    repeats: int = 20
    steps: int = 1000
    batch: int = 1000
    long: int = 100_000
    """Steps of a longer series of the smallest model; 0 for none."""
    rivals: bool = True
    """Also measure peers."""
    json: Path | None = None
    """Where to write the rows."""


@dataclasses.dataclass
class Row:
    """One measurement."""

    task: str
    states: int
    outputs: int
    who: str
    milliseconds: float
    error: float


@dataclasses.dataclass
class Problem:
    """A model and a series as arrays, and what a plain loop finds."""

    F: np.ndarray
    H: np.ndarray
    Q: np.ndarray
    R: np.ndarray
    y: np.ndarray
    mean: np.ndarray
    smoothed: np.ndarray
    log_likelihood: float

    def model(self) -> inference.LinearGaussian:
        """The model, its state N(0, I) at the first observation."""
        return inference.LinearGaussian(self.F, self.H, self.Q, self.R, P0=np.eye(len(self.F)))


def make(n: int, p: int, steps: int) -> Problem:
    """A random stable model, filtered and smoothed by the equations of a textbook."""
    rng = np.random.default_rng(n)
    F = 0.95 * np.linalg.qr(rng.normal(size=(n, n)))[0]
    H, Q, R = rng.normal(size=(p, n)), 0.1 * np.eye(n), np.eye(p)
    y = rng.normal(size=(steps, p))
    m, P, total, found = np.zeros(n), np.eye(n), 0.0, []
    for t in range(steps):
        if t:
            m, P = F @ m, F @ P @ F.T + Q
        before = m, P
        S, e = H @ P @ H.T + R, y[t] - H @ m
        K = np.linalg.solve(S, H @ P).T
        total -= 0.5 * (p * math.log(2 * math.pi) + np.linalg.slogdet(S)[1])
        total -= 0.5 * e @ np.linalg.solve(S, e)
        m, P = m + K @ e, P - K @ S @ K.T
        found.append((before, (m, P)))
    s = found[-1][1][0]
    for t in range(steps - 2, -1, -1):
        (ahead, spread), (m, P) = found[t + 1][0], found[t][1]
        s = m + P @ F.T @ np.linalg.solve(spread, s - ahead)
    return Problem(F, H, Q, R, y, found[-1][1][0], s, total)


def off(found: Any, expected: Any) -> float:
    """Largest deviation relative to the largest value expected."""
    expected = np.asarray(expected)
    return float(np.abs(np.asarray(found) - expected).max() / np.abs(expected).max())


def least_ms(function: Callable[[], object], repeats: int) -> float:
    """The least time of a function in milliseconds; what takes a second is not repeated."""
    function()
    best = math.inf
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        best = min(best, 1e3 * (time.perf_counter() - start))
        if best > 1000:
            break
    return best


def of_statewise(problem: Problem, options: Options) -> Iterator[tuple[str, float, float]]:
    """Task, time and error of this package."""
    model, y = problem.model(), torch.as_tensor(problem.y).unsqueeze(0)
    many = y.repeat(options.batch, 1, 1)

    def filtered(y: torch.Tensor) -> inference.FilterResult:
        with torch.no_grad():
            return inference.filter(model, y)

    def smoothed(y: torch.Tensor) -> inference.SmootherResult:
        return inference.smooth(filtered(y))

    names = ("F", "H", "Q", "R")
    leaves = [getattr(model, name).clone().requires_grad_() for name in names]

    def likelihood() -> torch.Tensor:
        with torch.no_grad():
            return inference.log_likelihood(model, y)

    def slope() -> tuple[torch.Tensor, ...]:
        changed = model.replace(**dict(zip(names, leaves, strict=True)))
        return torch.autograd.grad(inference.log_likelihood(changed, y).sum(), leaves)

    one = filtered(y)
    error = max(
        off(one.mean[0, -1], problem.mean),
        off(one.log_likelihood.item(), problem.log_likelihood),
    )
    yield "filter", least_ms(lambda: filtered(y), options.repeats), error
    error = off(smoothed(y).mean[0, 0], problem.smoothed)
    yield "filter and smoother", least_ms(lambda: smoothed(y), options.repeats), error
    error = off(likelihood().item(), problem.log_likelihood)
    yield "likelihood", least_ms(likelihood, options.repeats), error
    analytic, step = slope()[0], 1e-6
    moved = []
    for sign in (1, -1):
        F = problem.F.copy()
        F[0, 0] += sign * step
        moved.append(inference.filter(model.replace(F=F), y).log_likelihood.item())
    error = off(analytic[0, 0, 0, 0].item(), (moved[0] - moved[1]) / (2 * step)) * GATE / 1e-5
    yield "gradient of the likelihood", least_ms(slope, options.repeats), error
    # Chunks keep the covariances of a large batch within memory.
    chunk = max(1, min(options.batch, 200_000_000 // (8 * options.steps * len(problem.F) ** 2)))
    last = filtered(many[:chunk])
    error = off(last.mean[-1, -1], problem.mean)

    def batch() -> None:
        for start in range(0, options.batch, chunk):
            filtered(many[start : start + chunk])

    yield "filter, a series of a batch", least_ms(batch, 3) / options.batch, error


def of_statsmodels(problem: Problem, options: Options) -> Iterator[tuple[str, float, float]]:
    """Task, time and error of statsmodels."""
    from statsmodels.tsa.statespace.kalman_smoother import KalmanSmoother

    n, p = len(problem.F), len(problem.H)
    model = KalmanSmoother(k_endog=p, k_states=n, tolerance=0)
    model.bind(np.ascontiguousarray(problem.y))
    model["design"], model["transition"] = problem.H, problem.F
    model["selection"], model["state_cov"], model["obs_cov"] = np.eye(n), problem.Q, problem.R
    model.initialize_known(np.zeros(n), np.eye(n))
    found = model.filter()
    error = max(
        off(found.filtered_state[:, -1], problem.mean), off(found.llf, problem.log_likelihood)
    )
    yield "filter", least_ms(model.filter, options.repeats), error
    error = off(model.smooth().smoothed_state[:, 0], problem.smoothed)
    yield "filter and smoother", least_ms(model.smooth, options.repeats), error
    model.tolerance = 1e-19
    error = off(model.filter().filtered_state[:, -1], problem.mean)
    yield "filter, until it converges", least_ms(model.filter, options.repeats), error


def of_filterpy(problem: Problem, options: Options) -> Iterator[tuple[str, float, float]]:
    """Task, time and error of filterpy."""
    from filterpy.kalman import KalmanFilter

    def run() -> np.ndarray:
        kalman = KalmanFilter(dim_x=len(problem.F), dim_z=len(problem.H))
        kalman.F, kalman.H, kalman.Q, kalman.R = problem.F, problem.H, problem.Q, problem.R
        kalman.P = np.eye(len(problem.F))
        for t, value in enumerate(problem.y):
            if t:
                kalman.predict()
            kalman.update(value)
        return kalman.x[:, 0]

    yield "filter", least_ms(run, 3), off(run(), problem.mean)


def of_pykalman(problem: Problem, options: Options) -> Iterator[tuple[str, float, float]]:
    """Task, time and error of pykalman."""
    from pykalman import KalmanFilter

    n = len(problem.F)
    kalman = KalmanFilter(
        *(problem.F, problem.H, problem.Q, problem.R),
        initial_state_mean=np.zeros(n),
        initial_state_covariance=np.eye(n),
    )
    error = off(kalman.filter(problem.y)[0][-1], problem.mean)
    yield "filter", least_ms(lambda: kalman.filter(problem.y), 3), error
    error = off(kalman.smooth(problem.y)[0][0], problem.smoothed)
    yield "filter and smoother", least_ms(lambda: kalman.smooth(problem.y), 3), error


WAYS = {
    "statewise": of_statewise,
    "statsmodels": of_statsmodels,
    "filterpy": of_filterpy,
    "pykalman": of_pykalman,
    "dynamax": lambda problem, options: of_dynamax(problem, options, Tools(off, least_ms)),
    "cuthbert": lambda problem, options: of_cuthbert(problem, options, Tools(off, least_ms)),
}
SLOW = ("filterpy", "pykalman")
"""Too slow for the longer series."""


def ways(options: Options) -> list[tuple[str, Callable[[Problem, Options], Any]]]:
    """This package and, where they are wanted, the peers that are installed."""
    here = lambda who: options.rivals and importlib.util.find_spec(who) is not None  # noqa: E731
    return [(who, way) for who, way in WAYS.items() if who == "statewise" or here(who)]


def main(options: Options) -> None:
    """Measure and print."""
    torch.set_num_threads(options.threads)
    warm("kalman_filter")
    rows = []
    print(f"T = {options.steps}, {options.threads} thread(s); the gate is {GATE:g}\n")
    print("| task | n / p | who | ms | error |\n|---|---|---|---|---|")

    def add(task: str, shape: tuple[int, int], who: str, milliseconds: float, error: float) -> None:
        rows.append(Row(task, *shape, who, milliseconds, error))
        mark = "" if error <= GATE else " (above the gate)"
        sizes = f"{shape[0]} / {shape[1]}"
        print(f"| {task} | {sizes} | {who} | {milliseconds:.3f} | {error:.0e}{mark} |", flush=True)

    for shape in SHAPES:
        problem = make(*shape, options.steps)
        for who, way in ways(options):
            for found in way(problem, options):
                add(found[0], shape, who, *found[1:])
    if options.long:
        problem = make(*SHAPES[0], options.long)
        for who, way in ways(options):
            if who not in SLOW:
                name, *found = next(iter(way(problem, dataclasses.replace(options, batch=1))))
                add(f"{name}, {options.long} steps", SHAPES[0], who, *found)
    if options.json is not None:
        text = json.dumps([dataclasses.asdict(row) for row in rows], indent=1)
        options.json.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(tyro.cli(Options))
