"""Closed-form learning curves of linear state-space layers with fixed poles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from statewise.papers.registry import Claim, Measured, Paper, Setting, at_least, at_most

if TYPE_CHECKING:
    from torch import Tensor

    from statewise.nn import LTI

POLE, GAIN = 0.8, 1.7


def _teacher(layer: LTI, seed: int, loudness: float = 1.0) -> tuple[Tensor, Tensor, float, float]:
    """Input, target, s_yx and s_xx of a teacher with one pole and a gain of 1.7."""
    import numpy as np
    import torch

    from statewise.papers.harness.trained_systems import filtered

    noise = np.random.default_rng(seed).standard_normal((1, 64, 1))
    u = torch.from_numpy(loudness * noise)
    z = filtered(layer, u)
    power = float(z.square().mean())
    return u, GAIN * z, GAIN * power, power


def _half_time(
    states: int, start: float = 0.05, loudness: float = 1.0, rate: float | None = None
) -> tuple[float, float, float]:
    """Time to half the teacher's gain: of training, by the formula; and s_yx."""
    import numpy as np

    from statewise.papers.harness.flows import crossing, time_to
    from statewise.papers.harness.trained_systems import descend, one_pole_layer

    layer = one_pole_layer(POLE, states, start)
    u, y, strength, power = _teacher(layer, 0, loudness)
    formula = time_to(GAIN / 2, states * start**2, strength, power)
    rate = 1e-3 / strength if rate is None else rate
    path = descend([layer], u, y, rate, int(1.05 * formula / rate))
    curve = np.array([float((b * c.T).sum()) for ((b, c),) in path])
    return crossing(rate * np.arange(len(curve)), curve, GAIN / 2), formula, strength


def _half_times(setting: Setting) -> Measured:
    worst, details = 0.0, {}
    for states in (1, 4, 16):
        found, formula, _ = _half_time(states)
        worst = max(worst, abs(found / formula - 1))
        details |= {f"trained, N = {states}": found, f"formula, N = {states}": formula}
    return Measured(worst, details, seeds=1)


def _more_states(setting: Setting) -> Measured:
    import math

    times = {states: _half_time(states, start=0.01) for states in (1, 4, 16)}
    expected = math.log(4) / (2 * times[1][2])
    gaps = {
        "1 to 4": times[1][0] - times[4][0],
        "4 to 16": times[4][0] - times[16][0],
    }
    worst = max(abs(gap / expected - 1) for gap in gaps.values())
    return Measured(worst, gaps | {"ln 4 / (2 s)": expected}, seeds=1)


def _louder(setting: Setting) -> Measured:
    quiet, loud = (_half_time(4, loudness=factor, rate=1e-4)[0] for factor in (1.0, 2**0.5))
    return Measured(abs(quiet / loud - 2), {"quiet": quiet, "loud": loud}, seeds=1)


def _plateau(setting: Setting) -> Measured:
    import numpy as np

    from statewise.papers.harness.flows import crossing
    from statewise.papers.harness.trained_systems import descend, one_pole_layer

    logs, times, strength = [], [], 1.0
    for start in (0.02, 0.05, 0.1, 0.2):
        layer = one_pole_layer(POLE, 1, start)
        u, y, strength, _ = _teacher(layer, 0)
        rate = 2e-3 / strength
        path = descend([layer], u, y, rate, int(6 / strength / rate))
        curve = np.array([float(b * c) for ((b, c),) in path])
        logs.append(np.log(GAIN / start**2 - 1))
        times.append(crossing(rate * np.arange(len(curve)), curve, GAIN / 2))
    slope, offset = np.polyfit(logs, times, 1)
    left = np.array(times) - slope * np.array(logs) - offset
    fit = 1 - float(left @ left) / float(np.var(times) * len(times))
    return Measured(fit, {"slope over 1/(2 s)": float(slope * 2 * strength)}, seeds=1)


def _conserved(setting: Setting) -> Measured:
    import numpy as np
    import torch

    from statewise.papers.harness.trained_systems import descend, one_pole_layer

    drift = []
    for rate in (2e-3, 1e-3):
        layer = one_pole_layer(POLE, 3, 0.0)
        u, y, strength, _ = _teacher(layer, 0)
        drawn = torch.from_numpy(0.3 * np.random.default_rng(1).standard_normal((2, 3)))
        with torch.no_grad():
            layer.coupling.B.copy_(drawn[0].view(3, 1))
            layer.coupling.C.copy_(drawn[1].view(1, 3))
        path = descend([layer], u, y, rate / strength, int(3 / rate))
        (first_b, first_c), (last_b, last_c) = path[0][0], path[-1][0]
        before = first_b.flatten() ** 2 - first_c.flatten() ** 2
        after = last_b.flatten() ** 2 - last_c.flatten() ** 2
        drift.append(float((after - before).abs().max()))
    return Measured(drift[1] / drift[0], {"drift": drift[0], "drift at half the step": drift[1]})


def _depth(setting: Setting) -> Measured:
    import numpy as np
    import torch

    from statewise.papers.harness.flows import deep_flow
    from statewise.papers.harness.trained_systems import descend, filtered, one_pole_layer

    layers = [one_pole_layer(POLE, 1, 0.5) for _ in range(2)]
    rng = np.random.default_rng(0)
    u = torch.from_numpy(rng.standard_normal((1, 64, 1)))
    z = filtered(layers[1], filtered(layers[0], u))
    scale = float(z.square().mean()) ** 0.5
    u, z, power = u / scale, z / scale, 1.0
    rate, steps = 2e-4, 6000
    path = descend(layers, u, GAIN * z, rate, steps)
    found = np.array([float(b1 * c1 * b2 * c2) for (b1, c1), (b2, c2) in path])
    times = rate * np.arange(steps + 1)
    expected = deep_flow(times, 0.5**4, GAIN, power, 4)
    gap = float(np.abs(found - expected).max())
    return Measured(gap, {"W at the end": float(found[-1])}, seeds=1)


def _bands(setting: Setting) -> Measured:
    import numpy as np
    import torch

    from statewise.nn import LTI, DiscreteDiagonal, GivenDiscrete
    from statewise.ops import linear_scan
    from statewise.papers.harness.flows import crossing, time_to
    from statewise.papers.harness.trained_systems import descend

    radius, turns, gains, start = 0.98, (0.5, 1.6), (0.6, 1.5), 0.03
    poles = radius * np.exp(1j * np.array(turns))
    law = GivenDiscrete(tuple(poles.real.tolist()), tuple(poles.imag.tolist()))
    layer = LTI(1, 1, 2, poles=DiscreteDiagonal(law, "none"), feedthrough=False).double()
    layer.poles.requires_grad_(False)
    with torch.no_grad():
        for weight in (layer.coupling.B, layer.coupling.C):
            weight.zero_()
            weight[..., 0] = start
        u = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 512, 1)))
        z = linear_scan(layer.eigenvalues(), u.to(torch.complex128).expand(-1, -1, 2))[0]
        y = (z.real * torch.tensor(gains, dtype=torch.float64)).sum(-1, keepdim=True)
        gram = (z.conj().transpose(-1, -2) @ z)[0].abs()
        overlap = float(gram[0, 1] / (gram[0, 0] * gram[1, 1]).sqrt())
        power = z.abs().square().mean((0, 1)) / 2
        strength = (z.real * y).mean((0, 1))
    rate = 2e-3 / float(strength.max())
    formula = [
        time_to(gain / 2, start**2, gain * float(p), float(p))
        for gain, p in zip(gains, power, strict=True)
    ]
    path = descend([layer], u, y, rate, int(1.2 * max(formula) / rate))
    halves = []
    for k, gain in enumerate(gains):
        curve = [
            float((torch.view_as_complex(b[k]) * torch.view_as_complex(c[:, k])).real)
            for ((b, c),) in path
        ]
        halves.append(crossing(rate * np.arange(len(curve)), np.array(curve), gain / 2))
    ratio, expected = halves[0] / halves[1], formula[0] / formula[1]
    details = {"ratio": ratio, "formula": expected, "overlap": overlap}
    details |= {f"s_yx, band {k + 1}": float(s) for k, s in enumerate(strength)}
    return Measured(abs(ratio / expected - 1), details, seeds=1)


PAPER = Paper(
    name="ssm-learning-dynamics",
    title="Towards a theory of learning dynamics in deep state space models",
    identifier="arXiv:2407.07279",
    year=2024,
    says=(
        "A linear state-space layer with fixed poles learns like a linear network of two factors: "
        "its curve is a sigmoid whose time is set by the covariance of the filtered input with "
        "the target, and more states shorten the plateau."
    ),
    uses=("nn.LTI", "nn.RealDiagonal", "nn.DiscreteDiagonal"),
    claims=(
        Claim(
            name="half-times",
            statement=(
                "Layers of 1, 4 and 16 states trained by gradient descent reach half the gain of "
                "their teacher when the formula says: largest relative deviation."
            ),
            measure=_half_times,
            must=at_most(1e-3),
        ),
        Claim(
            name="more-states-learn-sooner",
            statement=(
                "From small starts a layer of four times the states is there ln 4 / (2 s) earlier: "
                "largest relative deviation of the two differences between 1, 4 and 16 states."
            ),
            measure=_more_states,
            must=at_most(5e-3),
        ),
        Claim(
            name="louder-is-sooner",
            statement=(
                "An input louder by √2 doubles the covariance and halves the time: deviation of "
                "the ratio of times from 2."
            ),
            measure=_louder,
            must=at_most(0.01),
        ),
        Claim(
            name="plateau",
            statement=(
                "The time to half the gain is linear in the logarithm of the start: share of its "
                "variance that the line explains."
            ),
            measure=_plateau,
            must=at_least(0.999),
        ),
        Claim(
            name="conserved",
            statement=(
                "B² − C² of each state is conserved by the flow: halving the step halves its "
                "drift, ratio of the drifts."
            ),
            measure=_conserved,
            must=at_most(0.55),
        ),
        Claim(
            name="two-layers",
            statement=(
                "Two layers follow dW/dt = 4 W^(3/2) (s − W p): largest difference of the gain W "
                "on its way to 1.7."
            ),
            measure=_depth,
            must=at_most(1e-3),
        ),
        Claim(
            name="strong-bands-first",
            statement=(
                "Two resonant states with inputs in both bands learn in the order and at the "
                "ratio of times that their covariances say: relative deviation of the ratio."
            ),
            measure=_bands,
            must=at_most(0.1),
        ),
    ),
)
