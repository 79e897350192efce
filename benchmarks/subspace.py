"""Subspace identification against independent packages: measured plants, orders, many series.

Run ``python benchmarks/subspace.py`` for all three parts, or ``--parts daisy orders batch``:

- daisy: every set with inputs in ``--data-folder`` (or ``STATEWISE_DATA``). Each channel is centred
  and scaled by the first half, models come from the first half, and the second half is simulated
  with x0 from its first ``--window`` samples (a quarter of it at most), which are not scored.
  "LinearSystem()" is what a user gets who sets nothing; "at the order of sippy_unipi" our search
  over methods and horizons with that order given. "Chosen" is the setting whose model of the first
  two thirds of the first half best simulates its last third: every package tries the same orders
  and horizons with all of its methods, ours N4SID, MOESP and CVA with all matrices from regressed
  states, which is what the peers have. "Best" is the setting with the best score of all, a bound on
  what choosing could do; ours then has further methods and fits. Poles outside the unit circle are
  moved inside in ours, and by the peer that can, as a further try.
- orders: random systems of order 2 to 6, white inputs, white noise at 20 dB on each output,
  and how often the order is found, over all draws and over two kinds that leave some of them out.
- batch: SISO systems of order 4, series of 1000 samples, in one call of ours against loops over
  the peers, of which ``--subset`` series are timed and scaled up, on ``--threads`` threads.

Peers that are not installed (nfoursid, sippy_unipi, control) are left out.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
import os
import platform
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import tyro

from statewise.estimators import LinearSystem
from statewise.lti import (
    StateSpace,
    ValidatedResult,
    era,
    h2_norm,
    h2_reduction,
    hankel_singular_values,
    identify,
    identify_batch,
    identify_validated,
    simulate,
)
from statewise.lti._order import CRITERIA
from statewise.lti.weightings import WEIGHTINGS
from subspace_peers import PEERS, Array, Grid, Matrices, alike, finders, loops, numbers

SAME = "sippy_unipi"
KINDS = ((1, 1), (2, 2), (1, 2), (2, 1))


@dataclasses.dataclass
class Options:
    """What to run."""

    parts: tuple[str, ...] = ("daisy", "orders", "batch")
    data_folder: Path | None = None
    """Folder of data sets; None takes STATEWISE_DATA."""
    sets: tuple[str, ...] = ()
    """DaISy sets; none named means all."""
    orders: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8, 10)
    """Orders that each package tries."""
    horizons: tuple[int, ...] = (3, 5, 10, 20)
    """Block rows that each package tries, where the record is long enough."""
    window: int = 50
    """Samples of the second half from which x0 is estimated."""
    systems: int = 200
    """Random systems whose order is looked for."""
    series: int = 1000
    """Series of the batch."""
    subset: int = 40
    """Of these, the series that peers identify."""
    repeats: int = 5
    threads: int = 1
    out: Path | None = None
    """File to which the tables are appended."""


def simulated_fit(matrices: Matrices, u: Array, y: Array, window: int) -> float:
    """Mean FIT in per cent behind the window, on which x0 is least squares; −∞ if it diverges."""
    if not all(np.isfinite(M).all() for M in matrices):
        return -math.inf
    A, B, C, D = (torch.as_tensor(np.ascontiguousarray(M)) for M in matrices)
    inputs, known = torch.as_tensor(u), torch.as_tensor(y)
    system = StateSpace(A, B, C, D, 1.0)
    n, p = A.shape[0], C.shape[0]
    rows, row = torch.empty(window, p, n, dtype=torch.float64), C
    for k in range(window):
        rows[k], row = row, row @ A
    try:
        rest = known[:window] - simulate(system, inputs[:window])[0]
        x0 = torch.linalg.lstsq(rows.flatten(0, 1), rest.reshape(-1, 1), driver="gelsd").solution
        ran = simulate(system, inputs, x0[:, 0])[0][window:]
    except RuntimeError:
        return -math.inf
    seen = known[window:]
    fits = 100 * (1 - (seen - ran).norm(dim=0) / (seen - seen.mean(0)).norm(dim=0))
    return float(fits.mean()) if fits.isfinite().all() else -math.inf


def daisy(options: Options) -> Iterator[str]:
    """The table of measured and simulated plants."""
    folder = options.data_folder or os.environ.get("STATEWISE_DATA")
    if folder is None:
        raise ValueError("the DaISy sets need --data-folder or STATEWISE_DATA")
    packages = finders(Grid(options.orders, options.horizons))
    tries = [name for name in packages if name != "statewise"]
    margins: dict[str, list[float]] = {}
    both = [f"{name} {kind}" for name in packages for kind in ("chosen", "best")]
    heads = ["set", "u/y/samples", "LinearSystem()", f"at the order of {SAME}", *both]
    yield "| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|"
    for path in sorted((Path(folder) / "daisy").glob("*.csv.gz")):
        name = path.name.removesuffix(".csv.gz")
        if options.sets and name not in options.sets:
            continue
        frame = pd.read_csv(path)
        u, y = (columns(frame, letter) for letter in "uy")
        if not u.shape[1]:
            yield f"| {name} | no inputs: nothing to simulate |" + " |" * (len(heads) - 2)
            continue
        half = len(frame) // 2
        u, y = ((z - z[:half].mean(0)) / z[:half].std(0).clip(1e-12) for z in (u, y))
        window = min(options.window, (len(frame) - half) // 4)
        third = half * 2 // 3
        parts = [(u[i:j], y[i:j]) for i, j in ((0, half), (half, None), (0, third), (third, half))]
        early, late, fitted, held = parts
        short = min(window, len(held[0]) // 4)
        chosen, best = {}, {}
        for package, find in packages.items():
            tried = {label: simulated_fit(M, *held, short) for label, M in find(*fitted)}
            scores = [
                (tried.get(label, -math.inf), simulated_fit(M, *late, window), label)
                for label, M in find(*early)
            ]
            mine = package == "statewise"
            chosen[package] = max(one for one in scores if not mine or alike(one[2]))
            best[package] = max(scores, key=lambda one: one[1])
        default, words = by_default(early, late, window)
        cells = [name, f"{u.shape[1]}/{y.shape[1]}/{len(u)}", shown(default, words)]
        same = -math.inf
        if SAME in chosen:
            order = int(order_of(chosen[SAME][2]))
            found = identify_validated(*early, order)
            same = simulated_fit(numbers(found.model.system), *late, window)
            cells.append(shown(same, described(found)))
        else:
            cells.append("–")
        for package in tries:
            for words, own, other in (
                ("LinearSystem()", default, chosen),
                (f"at the order of {SAME}", same, chosen),
                ("chosen", chosen["statewise"][1], chosen),
                ("best", best["statewise"][1], best),
            ):
                kind = "best" if other is best else "chosen"
                label = f"{words} against {kind} of {package}"
                if SAME not in words or package == SAME:
                    margins.setdefault(label, []).append(own - other[package][1])
        for package in packages:
            cells += [shown(*one[package][1:]) for one in (chosen, best)]
        yield "| " + " | ".join(cells) + " |"
    yield "\n| ours | sets | not below | not below by more than half a point |\n|---|---|---|---|"
    for words, gaps in margins.items():
        counts = [sum(gap >= -allowed for gap in gaps) for allowed in (0.05, 0.5)]
        yield f"| {words} | {len(gaps)} | {counts[0]} | {counts[1]} |"


def by_default(
    early: tuple[Array, Array], late: tuple[Array, Array], window: int
) -> tuple[float, str]:
    """The score of the estimator as it comes, and what it settled on."""
    model = LinearSystem().fit(*early)
    centre = model.normaliser_
    centred = late[0] - centre.u_mean, late[1] - centre.y_mean
    kind = model.how_.partition("; ")[2].replace(", horizon ", " ").split(", refined by ")
    words = "/".join([kind[0], str(model.order_)]) + "".join(f" {word}" for word in kind[1:])
    return simulated_fit(numbers(model.system_), *centred, window), words


def described(found: ValidatedResult) -> str:
    """What a search settled on."""
    one = found.candidates[0]
    words = f"{one.weighting.name} {one.horizon}/{one.order}"
    return words if found.kind == "subspace" else f"{words} {found.kind}"


def shown(score: float, label: str) -> str:
    """A score and what it belongs to."""
    return f"{score:.1f} ({label})" if score > -1000 else f"diverges ({label})"


def order_of(label: str) -> str:
    """The order of a setting."""
    return label.split("/")[1].split()[0]


def columns(frame: pd.DataFrame, letter: str) -> Array:
    """The channels of a set; those of reconstructed outputs and of time are left out."""
    names = [c for c in frame.columns if c.split("_")[0].rstrip("0123456789") == letter]
    if not names and letter == "y":
        names = [c for c in frame.columns if c != "t"]
    return frame[names].to_numpy(np.float64)


def drawn(n: int, m: int, p: int, seed: int) -> StateSpace:
    """A of Gaussians scaled to a spectral radius of 0.9; B, C and D of Gaussians."""
    g = torch.Generator().manual_seed(seed)
    A, B, C, D = (
        torch.randn(*shape, generator=g, dtype=torch.float64)
        for shape in ((n, n), (n, m), (p, n), (p, m))
    )
    return StateSpace(A * (0.9 / torch.linalg.eigvals(A).abs().max()), B, C, D, 1.0)


def noisy(system: StateSpace, length: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """White input, and outputs with white noise of a tenth of their deviation."""
    g = torch.Generator().manual_seed(seed)
    u = torch.randn(length, system.n_inputs, generator=g, dtype=torch.float64)
    y = simulate(system, u)[0]
    return u, y + 0.1 * y.std(0) * torch.randn(y.shape, generator=g, dtype=y.dtype)


def worth(system: StateSpace, noise: torch.Tensor, length: int) -> float:
    """What the last state adds to the log-likelihood, over its price in BIC.

    2 Δ log L = N Σ_i log(1 + ‖(G − G_{n−1})_i‖²/σ_i²) with the H2-optimal G_{n−1}, against
    (2 p + m) log N: below 1 the criterion prefers the smaller order even of exact models.
    """
    n, (p, m) = system.n_states, system.D.shape
    small = h2_reduction(system, n - 1).system
    A = torch.block_diag(system.A, small.A)
    B = torch.cat((system.B, small.B))
    C = torch.cat((system.C, -small.C), -1)
    D = system.D - small.D
    gain = 0.0
    for k in range(p):
        error = float(h2_norm(StateSpace(A, B, C[k : k + 1], D[k : k + 1], 1.0)))
        gain += length * math.log1p(error**2 / float(noise[k]) ** 2)
    return gain / ((2 * p + m) * math.log(length))


def orders(options: Options) -> Iterator[str]:
    """How often the order is found."""
    length = 1000
    select = None
    if find_spec("sippy_unipi"):
        from sippy_unipi.OLSims_methods import select_order_SIM as select
    hits: dict[str, list[bool]] = {}
    kinds: dict[str, list[bool]] = {"all": [], "Hankel values": [], "worth": []}
    for k in range(options.systems):
        n, (m, p) = 2 + k % 5, KINDS[(k // 5) % 4]
        system = drawn(n, m, p, k)
        u, y = noisy(system, length, 10**6 + k)
        sigma = hankel_singular_values(system)
        kinds["all"].append(True)
        kinds["Hankel values"].append(bool(sigma[-1] > 0.1 * sigma[0]))
        kinds["worth"].append(worth(system, 0.1 * y.std(0), length) > 1)
        for name, weighting in WEIGHTINGS.items():
            found = identify(u, y, weighting=weighting)
            for criterion in CRITERIA:
                if criterion != "mdl":
                    hit = found.suggested_orders[criterion] == n
                    hits.setdefault(f"statewise {name}, {criterion}", []).append(hit)
        if select is not None:
            arrays = y.T.numpy(), u.T.numpy()
            for name in ("N4SID", "MOESP", "CVA"):
                for criterion in ("AIC", "BIC"):
                    with contextlib.redirect_stdout(io.StringIO()):
                        A = select(*arrays, 10, name, criterion, [1, 10], D_required=True)[0]
                    label = f"sippy_unipi {name.lower()}, {criterion.lower()}"
                    hits.setdefault(label, []).append(len(A) == n)
    yield (
        "| method, criterion | "
        + " | ".join(f"{name}: {sum(kept)} of {options.systems}" for name, kept in kinds.items())
        + " |\n"
        + "|---" * (len(kinds) + 1)
        + "|"
    )
    for label, found in hits.items():
        cells = []
        for kept in kinds.values():
            right = sum(hit for hit, keep in zip(found, kept, strict=True) if keep)
            cells.append(f"{right} ({100 * right / max(1, sum(kept)):.1f} %)")
        yield f"| {label} | " + " | ".join(cells) + " |"


def batch(options: Options) -> Iterator[str]:
    """Seconds for all series, the ratio to ours, and pole errors."""
    n, length = 4, 1000
    systems = [drawn(n, 1, 1, 5000 + k) for k in range(options.series)]
    data = [noisy(system, length, k) for k, system in enumerate(systems)]
    u, y = (torch.stack(parts) for parts in zip(*data, strict=True))
    true = [torch.linalg.eigvals(system.A).numpy() for system in systems]
    runs: dict[str, Callable[[], list[Array]]] = {}
    for name, rows in (("n4sid", 10), ("moesp", 10), ("cva", 10), ("ssarx", 10), ("cva", 20)):

        def at_once(name: str = name, rows: int = rows) -> list[Array]:
            found = identify_batch(u, y, n, weighting=WEIGHTINGS[name], horizon=rows)
            return list(found.system.A.numpy())

        runs[f"statewise {name} {rows}, all series in one call"] = at_once
    runs["statewise ERA of 42 Markov parameters, all series"] = lambda: realised(u, y, n)
    h = responses(u, y)
    square = h[:, :41, :, None].contiguous()
    runs["statewise ERA of given responses, 20 × 20, all in one call"] = lambda: list(
        era(square, n, rows=20).system.A.numpy()
    )
    runs["statewise ERA of given responses, 20 × 21, all in one call"] = lambda: list(
        era(h[..., None], n, rows=20).system.A.numpy()
    )
    few = range(min(options.subset, options.series))
    for label, one in loops(n).items():

        def loop(one: Callable[[Array, Array], Array] = one) -> list[Array]:
            return [one(u[k].numpy(), y[k].numpy()) for k in few]

        runs[label] = loop
    if find_spec("control"):
        import control

        given = h[: len(few), None, None, :, 0].numpy()[:, 0]

        for columns in (20, 21):

            def by_control(columns: int = columns) -> list[Array]:
                find = control.eigensys_realization
                return [np.asarray(find(x, n, 20, columns)[0].A) for x in given]

            runs[f"control ERA of given responses, 20 × {columns}, loop"] = by_control
    seconds, errors = dict.fromkeys(runs, math.inf), {}
    for run in runs.values():
        run()
    for _ in range(options.repeats):
        for label, run in runs.items():
            started = time.perf_counter()
            found = run()
            spent = (time.perf_counter() - started) * options.series / len(found)
            seconds[label] = min(seconds[label], spent)
            gaps = [
                np.abs(np.linalg.eigvals(A)[:, None] - poles).min(0).max()
                for A, poles in zip(found, true, strict=False)
            ]
            errors[label] = [np.median(part) for part in (gaps[: len(few)], gaps)]
    reference = seconds[next(iter(runs))]
    yield (
        f"| method, horizon | s for {options.series} series | times statewise n4sid | largest pole "
        f"error, median of the first {len(few)} | of all |\n|---|---|---|---|---|"
    )
    for label, spent in seconds.items():
        whole = f"{errors[label][1]:.4f}" if label.startswith("statewise") else "–"
        yield (
            f"| {label} | {spent:.4f} | {spent / reference:.2f} | {errors[label][0]:.4f} | "
            f"{whole} |"
        )


def responses(u: torch.Tensor, y: torch.Tensor, count: int = 42) -> torch.Tensor:
    """Markov parameters, (B, count, 1), as least squares on past inputs, from the Gram matrix."""
    rows = torch.nn.functional.pad(u[..., 0], (count - 1, 0)).unfold(-1, count, 1)
    return torch.linalg.solve(rows.mT @ rows, rows.mT @ y).flip(1)


def realised(u: torch.Tensor, y: torch.Tensor, n: int) -> list[Array]:
    """ERA of Markov parameters by least squares."""
    return list(era(responses(u, y)[..., None], n, rows=20).system.A.numpy())


PARTS = {"daisy": daisy, "orders": orders, "batch": batch}


def versions() -> str:
    """Of everything that takes part."""
    words = []
    for name in ("statewise", "torch", "numpy", "scipy", *PEERS):
        with contextlib.suppress(PackageNotFoundError):
            words.append(f"{name} {version(name)}")
    return ", ".join(words)


def main(options: Options) -> None:
    """Run all parts."""
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore")
    np.seterr(all="ignore")
    for name in options.parts:
        started = time.perf_counter()
        lines = [f"\n## {name}\n"]
        print(lines[0], flush=True)
        for line in PARTS[name](options):
            lines.append(line)
            print(line, flush=True)
        spent = time.perf_counter() - started
        lines.append(f"\n({spent:.0f} s, {platform.machine()}, {versions()})")
        print(lines[-1], flush=True)
        if options.out is not None:
            with options.out.open("a", encoding="utf-8") as stream:
                stream.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
