"""Which rule should choose among subspace models: judged on generated plants, not on DaISy.

Run ``python benchmarks/subspace_rules.py --first 2000 --plants 9``. Plants have 1 or 2 inputs and
outputs, 2 to 8 states with poles near the circle or not, in an eighth of them an integrator;
inputs that are white, held, coloured or binary; noise of 0 to 30 dB that is white or coloured; some
have noise on the states, a nonlinear input or output, or an output that drifts. Models come from
the first half of 500 or 800 samples, by ``identify_validated``'s methods, horizons and folds; the
error is that of the simulation of the second half, in deviations of the outputs, 3 at most.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import warnings
from collections.abc import Callable

import numpy as np
import torch
import tyro

from statewise.estimators._linear_methods import Settings, constant_outputs
from statewise.lti import CVA, MOESP, N4SID, SSARX, ValidatedCandidate, validated
from statewise.lti._cross_validation import Fold, folds_of, simulation_errors, spread
from statewise.lti._hankel import Records, read_records

Array = np.ndarray
Key = tuple[int, int, int]
METHODS = [validated.regressed(w) for w in (N4SID, MOESP, CVA, SSARX)]
WINDOW = 50
WORST = 3.0
WORK = 300_000
SEARCH = (METHODS, validated.HORIZONS, range(1, 11), True, 1.0)


@dataclasses.dataclass
class Options:
    """What to run."""

    first: int = 2000
    """Seed of the first plant."""
    plants: int = 10


@dataclasses.dataclass(frozen=True)
class Judged:
    """Errors of all settings of one plant: fold by fold, and on the second half."""

    folds: dict[Key, Array]
    late: dict[Key, float]
    best: Key
    refined: dict[str, Array]
    refined_late: dict[str, float]


def plant(seed: int) -> tuple[Array, Array]:
    """Inputs and outputs of a plant."""
    g = np.random.default_rng(seed)
    m, p = int(g.integers(1, 3)), int(g.integers(1, 3))
    n, length, burn = int(g.integers(2, 9)), int(g.choice([500, 800])), 500
    A, k = np.zeros((n, n)), 0
    while k < n:
        radius = 1 - 10 ** g.uniform(-2.7, -0.3)
        if k < n - 1 and g.random() < 0.5:
            pole = radius * np.exp(1j * g.uniform(0.02, 1.5))
            A[k : k + 2, k : k + 2] = [[pole.real, pole.imag], [-pole.imag, pole.real]]
            k += 2
        else:
            A[k, k] = radius
            k += 1
    if g.random() < 0.12:
        A[-1], A[:, -1] = 0.0, 0.0
        A[-1, -1] = 1.0
    slow = np.sqrt(1 - np.minimum(np.abs(np.diag(A)), 0.999) ** 2)
    B, C = g.standard_normal((n, m)) * slow[:, None], g.standard_normal((p, n))
    D = g.standard_normal((p, m)) * (g.random() < 0.4)
    u = drive(g, length + burn, m)
    kind = g.choice(["none", "none", "tanh_in", "quad_in", "sat_out", "quad_out"])
    v = {"tanh_in": np.tanh(u), "quad_in": u + 0.3 * (u**2 - 1)}.get(str(kind), u)
    noise = 0.0 if g.random() < 0.6 else 10 ** g.uniform(-2, -0.7) * np.abs(B).mean()
    x, w = np.zeros(n), np.zeros((len(u), p))
    for t in range(len(u)):
        w[t] = C @ x + D @ v[t]
        x = A @ x + B @ v[t] + noise * g.standard_normal(n)
    size = w.std(0) + 1e-12
    if kind == "sat_out":
        w = size * np.tanh(w / size * 0.8)
    elif kind == "quad_out":
        w = w + 0.2 * w**2 / size
    size = w[burn:].std(0) + 1e-12
    share = 10 ** (-g.uniform(0, 30) / 20)
    colour = coloured(g.standard_normal, g.choice([0, 0.5, 0.9, 0.98]), (len(u), p))
    y = w + share * size * colour / colour.std(0)
    if g.random() < 0.4:
        walk = np.cumsum(g.standard_normal((len(u), p)), 0)
        y = y + size * 10 ** g.uniform(-1.5, -0.2) * walk / walk[burn:].std(0)
    return u[burn:], y[burn:]


def drive(g: np.random.Generator, length: int, m: int) -> Array:
    """White, binary and held, held, or coloured inputs."""
    kind, e = g.integers(0, 4), g.standard_normal((length, m))
    if kind == 0:
        return e
    if kind == 3:
        u = coloured(lambda shape: e, g.uniform(0.6, 0.97), (length, m))
        return u / u.std(0)
    hold = int(g.integers(3, 40) if kind == 1 else g.integers(5, 80))
    levels = np.sign(e[::hold]) if kind == 1 else e[::hold]
    return np.repeat(levels, hold, 0)[:length]


def coloured(draw: Callable[[tuple[int, int]], Array], a: float, shape: tuple[int, int]) -> Array:
    """x_t = a x_{t−1} + e_t from rest."""
    e, x = draw(shape), np.zeros(shape)
    for t in range(1, len(e)):
        x[t] = a * x[t - 1] + e[t]
    return x


def halves(u: Array, y: Array) -> tuple[Records, Records, torch.Tensor]:
    """The first half, the second in its units, and the deviations of the outputs there."""
    half = len(u) // 2
    early = read_records(u[:half], y[:half])
    rest = [torch.as_tensor(z[half:])[None] for z in (u, y)]
    late = Records(
        [rest[0] / early.u_scale], [rest[1] / early.y_scale], early.u_scale, early.y_scale
    )
    window = min(WINDOW, (len(u) - half) // 4)
    return early, late, late.y[0][0][window:].std(0, correction=0)


def judged(u: Array, y: Array, tried: bool) -> Judged:
    """All settings, and with ``tried`` refinements of the one that the present rule chooses."""
    early, late, unit = halves(u, y)
    parts, own = folds_of(early, validated.FOLDS), spread(early)
    found: dict[Key, list[float]] = {}
    for fold in parts:
        for key, error in validated._judged(fold, *SEARCH, own).items():
            found.setdefault(key, []).append(error)
    folds = {key: np.array(e) for key, e in found.items() if len(e) == len(parts)}
    after = validated._judged(Fold(early, late), *SEARCH, unit)
    best = smallest(folds, lambda e: float(e.mean()), validated.NEAR)
    refined, refined_late = {}, {}
    if tried and validated._work(early, best[2]) <= WORK:
        method, rows, n = best
        one = ValidatedCandidate(METHODS[method], rows, n, tuple(folds[best]))
        given = [early.u[0][0]], [early.y[0][0]]
        for kind, e in validated._refinements(parts, one, True, 1.0, own).items():
            start = validated._identified(*given, one, 1.0, True, 1.0)
            with contextlib.suppress(ValueError):
                model = validated._refined(start, *given, kind, True, 1.0, validated.ITERATIONS)
                A, B, C, D = (M[None] for M in model.system.matrices)
                refined_late[kind] = float(simulation_errors(late, (A, B, C, D), unit))
                refined[kind] = np.array(e)
    return Judged(folds, after, best, refined, refined_late)


def smallest(
    folds: dict[Key, Array], score: Callable[[Array], float], near: float, errors: float = 0.0
) -> Key:
    """The smallest order within ``near`` of the best, or within so many standard errors of it."""
    scores = {key: score(e) for key, e in folds.items()}
    best = min(scores, key=lambda key: scores[key])
    kept = []
    for key, e in folds.items():
        gap = e - folds[best]
        close = scores[key] <= scores[best] * (1 + near)
        paired = errors > 0 and gap.mean() <= errors * gap.std(ddof=1) / math.sqrt(len(gap))
        if close or (paired and scores[key] <= 1.1 * scores[best]):
            kept.append(key)
    return min(kept, key=lambda key: (key[2], scores[key]))


def late_error(
    one: Judged,
    score: Callable[[Array], float] = lambda e: float(e.mean()),
    near: float = validated.NEAR,
    errors: float = 0.0,
    takes: Callable[[Array], bool] | None = None,
) -> float:
    """The error on the second half of what a rule chooses."""
    key = smallest(one.folds, score, near, errors)
    if takes is not None and key == one.best:
        for kind, e in sorted(one.refined.items(), key=lambda item: item[1].sum()):
            if takes(one.folds[key] - e):
                return min(one.refined_late[kind], WORST)
    return min(one.late.get(key, WORST), WORST)


def beyond(count: float) -> Callable[[Array], bool]:
    """Whether the mean gain is above so many standard errors."""
    return lambda gain: bool(gain.mean() > count * gain.std(ddof=1) / math.sqrt(len(gain)))


def rules() -> dict[str, Callable[[Judged, Judged], float]]:
    """By name: the error on the second half, with the constant of the outputs, and without."""
    present = beyond(1)

    def by(**options: object) -> Callable[[Judged, Judged], float]:
        return lambda own, bare: late_error(own, **{"takes": present, **options})  # pyright: ignore[reportArgumentType]

    def least(one: Judged) -> float:
        return float(one.folds[one.best].mean())

    return {
        "present": by(),
        "no refinement": by(takes=None),
        "refinement: better on every fold": by(takes=lambda gain: bool((gain > 0).all())),
        "refinement: better by 2 standard errors": by(takes=beyond(2)),
        "refinement: better on the mean": by(takes=beyond(0)),
        "median of the folds": by(score=lambda e: float(np.median(e))),
        "geometric mean": by(score=lambda e: float(np.exp(np.log(e + 1e-9).mean()))),
        "the fold that looks forward counts three times": by(
            score=lambda e: float(e.mean() * len(e) + 2 * e[-1])
        ),
        "mean plus half a deviation": by(score=lambda e: float(e.mean() + 0.5 * e.std())),
        "best, whatever its order": by(near=0.0),
        "smallest within 5 %": by(near=0.05),
        "smallest within one standard error": by(errors=1.0),
        "no constant of the outputs": lambda own, bare: late_error(bare, takes=None),
        "constant where the folds are better for it": lambda own, bare: (
            late_error(own, takes=present)
            if least(own) <= least(bare)
            else late_error(bare, takes=None)
        ),
    }


def main(options: Options) -> None:
    """Judge all rules."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    np.seterr(all="ignore")
    errors: dict[str, list[float]] = {name: [] for name in rules()}
    for seed in range(options.first, options.first + options.plants):
        u, y = plant(seed)
        half = len(u) // 2
        u, y = ((z - z[:half].mean(0)) / z[:half].std(0).clip(1e-12) for z in (u, y))
        settings = Settings(None, "auto", None, 10, 0, None, None)
        constant = constant_outputs([(u[:half], y[:half])], settings)
        own, bare = judged(u, y - constant, True), judged(u, y, False)
        for name, rule in rules().items():
            errors[name].append(rule(own, bare))
    first = np.array(errors["present"])
    print(
        "| rule | mean error | error less than the present one's, per cent | better/worse by 1 % |"
    )
    print("|---|---|---|---|")
    for name, made in errors.items():
        e = np.array(made)
        gain = 100 * np.log(first / e)
        spread_of = gain.std(ddof=1) / math.sqrt(len(e))
        counts = f"{(e < 0.99 * first).sum()}/{(e > 1.01 * first).sum()}"
        print(f"| {name} | {e.mean():.3f} | {gain.mean():.1f} ± {spread_of:.1f} | {counts} |")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
