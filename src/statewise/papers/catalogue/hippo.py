"""HiPPO: memories that hold coefficients of the past."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from statewise.papers.registry import Claim, Measured, Paper, Setting, at_least, at_most

if TYPE_CHECKING:
    from statewise.lti import HiPPO


def _measures() -> dict[str, HiPPO]:
    from statewise.lti import FouT, LegS, LegT

    return {"LegT": LegT(), "FouT": FouT(), "LegS": LegS()}


def _closed_forms(setting: Setting) -> Measured:
    import numpy as np
    from scipy.linalg import expm

    from statewise.lti import LagT, LegS

    ages, worst = np.linspace(0, 4, 17), {}
    for measure in (LegS(), LagT()):
        a, b = measure.operator(12)
        exact = np.stack([expm(s * a) @ b for s in ages], 1)
        gap = np.abs(measure.kernels(12, ages) - exact).max()
        worst[type(measure).__name__] = float(gap / np.abs(exact).max())
    return Measured(max(worst.values()), worst)


def _orthonormal(setting: Setting) -> Measured:
    import numpy as np

    nodes, weights = np.polynomial.legendre.leggauss(400)
    worst = {}
    for name, measure in _measures().items():
        # LegS lives on ages 0 … ∞, seen as e^{−s} on 0 … 1; the windows on 0 … 1.
        point, mass = (nodes + 1) / 2, weights / 2
        ages = -np.log(point) if name == "LegS" else point
        density = mass / point if name == "LegS" else mass
        basis = measure.basis(16, ages)
        gram = (basis * measure.weight(ages) * density) @ basis.T
        wanted = np.eye(16)
        if name == "FouT":
            wanted[1, 1] = 0
        worst[name] = float(np.abs(gram - wanted).max())
    return Measured(max(worst.values()), worst)


def _window_limit(setting: Setting) -> Measured:
    import numpy as np
    from scipy.linalg import expm

    from statewise.papers.harness.transfer import order

    ages, sizes, details, orders = np.linspace(0.02, 0.98, 49), (32, 128, 512), {}, []
    for name in ("LegT", "FouT"):
        measure, errors = _measures()[name], []
        for n in sizes:
            a, b = measure.operator(n)
            step, x = expm((ages[1] - ages[0]) * a), expm(ages[0] * a) @ b
            rows = [x]
            for _ in ages[1:]:
                rows.append(step @ rows[-1])
            gap = np.stack(rows, 1)[0] - measure.kernels(n, ages)[0]
            errors.append(float(np.sqrt(np.mean(gap**2))))
            details[f"{name}, N = {n}"] = errors[-1]
        orders.append(order(np.array(sizes), np.array(errors)))
    return Measured(min(orders), details, remark="Details: rms error of the first kernel.")


def _energy(setting: Setting) -> Measured:
    import numpy as np
    from scipy.linalg import solve_continuous_lyapunov

    from statewise.lti import legs

    a, b = legs(32)
    gramian = solve_continuous_lyapunov(a, -np.outer(b, b))
    return Measured(float(np.abs(np.diag(gramian) - 0.5).max()))


def _online(measures: tuple[str, ...], ages: tuple[int, ...]) -> dict[str, float]:
    """Relative rms error of read-outs of the past of band-limited noise, by measure and age."""
    import torch

    from statewise.papers.harness.readout import (
        butterworth_noise,
        delayed,
        memory_states,
        readout_error,
    )

    signal = butterworth_noise(20_000, 6, 16 / 1000, 0)
    found = {}
    for name in measures:
        features = memory_states(_measures()[name], 64, 1e-3, signal)
        for age in ages:
            target = torch.from_numpy(delayed(signal, age))
            error = readout_error(features, target, 15_000, skip=2000)
            found[f"{name}, age {age}"] = error**0.5
    return found


def _window_memory(setting: Setting) -> Measured:
    found = _online(("LegT", "FouT", "LegS"), (50, 300, 500, 700, 950))
    value = max(error for name, error in found.items() if name.startswith("LegT"))
    return Measured(value, found, seeds=1, remark="Relative rms error on held-out samples.")


def _fading_memory(setting: Setting) -> Measured:
    found = _online(("LegS",), (50, 300, 500, 700, 950))
    steps = list(found.values())
    growing = all(late > early for early, late in itertools.pairwise(steps))
    return Measured(steps[-1] / steps[1] if growing else 0.0, found, seeds=1)


def _delay(setting: Setting) -> Measured:
    import torch

    from statewise.papers.harness.readout import (
        butterworth_noise,
        delayed,
        memory_states,
        readout_error,
    )

    details, ratios = {}, []
    for lag, corner in ((500, 0.04), (128, 0.1)):
        signal = butterworth_noise(20_000, 4, corner, 0)
        target = torch.from_numpy(delayed(signal, lag))
        for factor in (1.0, 1.3):
            error = {}
            for name, measure in _measures().items():
                features = memory_states(measure, 64, 1 / (factor * lag), signal)
                error[name] = readout_error(features, target, 15_000, skip=2000)
                details[f"{name}, lag {lag}, 1/Δ {factor:g} lags"] = error[name]
            ratios.append(error["LegS"] / min(error["LegT"], error["FouT"]))
    return Measured(min(ratios), details, seeds=1, remark="Details: NMSE on held-out samples.")


PAPER = Paper(
    name="hippo",
    title=(
        "How to Train Your HiPPO: State Space Models with Generalized Orthogonal Basis Projections"
    ),
    identifier="arXiv:2206.12037",
    year=2022,
    says=(
        "The kernels of a good state-space model are orthogonal functions of the age of the "
        "input; LegS fades exponentially, LegT and FouT keep a window, and Δ sets how long."
    ),
    uses=("lti.LegS", "lti.LegT", "lti.LagT", "lti.FouT", "lti.legs", "nn.LSSL"),
    claims=(
        Claim(
            name="closed-forms",
            statement=(
                "e^{tA} B of LegS and LagT are their closed forms for finite N: largest relative "
                "difference."
            ),
            measure=_closed_forms,
            must=at_most(1e-10),
        ),
        Claim(
            name="orthonormal",
            statement=(
                "The bases of LegS, LegT and FouT are orthonormal under their measures: largest "
                "deviation of 16 functions."
            ),
            measure=_orthonormal,
            must=at_most(1e-8),
        ),
        Claim(
            name="windows-in-the-limit",
            statement=(
                "The kernels of LegT and FouT approach their functions on the window as N grows: "
                "smaller order of the rms error over N = 32, 128, 512."
            ),
            measure=_window_limit,
            must=at_least(0.5),
        ),
        Claim(
            name="unit-states",
            statement=(
                "White input gives every state of LegS the power ½ at any N: largest deviation of "
                "32 states."
            ),
            measure=_energy,
            must=at_most(1e-10),
        ),
        Claim(
            name="window-memory",
            statement=(
                "64 states of LegT rebuild noise of 8 cycles a window at every age of it: largest "
                "relative rms error of a linear read-out."
            ),
            measure=_window_memory,
            must=at_most(0.01),
        ),
        Claim(
            name="fading-memory",
            statement=(
                "The error of LegS grows with the age: by 10 or more from 300 to 950 samples where "
                "1/Δ is 1000."
            ),
            measure=_fading_memory,
            must=at_least(10.0),
        ),
        Claim(
            name="windows-beat-fading",
            statement=(
                "A window method keeps a delayed input with a tenth of the error of LegS or less "
                "when 1/Δ is 1 to 1.3 lags: smallest ratio over four settings."
            ),
            measure=_delay,
            must=at_least(10.0),
        ),
    ),
)
