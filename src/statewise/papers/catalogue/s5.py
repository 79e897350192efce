"""S5: one diagonal system with many inputs and outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from statewise.papers.registry import Claim, Measured, Paper, Setting, at_least, at_most

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from statewise.nn import LTI


def _sum_of_banks(setting: Setting) -> Measured:
    import torch

    from statewise.nn import S5
    from statewise.ops import diagonal_ssm

    channels, states = 5, 12
    layer = S5(channels, channels, states, dt_min=0.02, dt_max=0.02, seed=0).double()
    u = torch.randn(2, 300, channels, dtype=torch.float64, generator=_generator(1))
    with torch.no_grad():
        final = torch.view_as_complex(layer(u)[1])
        b = torch.view_as_complex(layer.coupling.B).T.contiguous()
        poles = torch.view_as_real(_continuous(layer)).expand(channels, -1, -1)
        read = torch.zeros(channels, states, 2, dtype=torch.float64)
        step = torch.exp(layer.get_parameter("poles.log_dt"))[:channels]
        _, last = diagonal_ssm(u, poles, torch.view_as_real(b), read, dt=step, rule="zoh")
        summed = torch.view_as_complex(last).sum(1)
    return Measured(float((summed - final).abs().max() / final.abs().max()))


def _one_input(setting: Setting) -> Measured:
    import torch

    from statewise.nn import S4D, S5

    s5 = S5(1, 1, 16, dt_min=0.01, dt_max=0.01, seed=0).double()
    s4d = S4D(1, 16, dt_min=0.01, dt_max=0.01, seed=1).double()
    u = torch.randn(1, 1000, 1, dtype=torch.float64, generator=_generator(2))
    with torch.no_grad():
        for name in ("poles.log_decay", "poles.frequency", "coupling.C"):
            s4d.get_parameter(name).copy_(s5.get_parameter(name))
        s4d.get_parameter("poles.log_dt").copy_(s5.get_parameter("poles.log_dt")[:1])
        s4d.get_parameter("coupling.B").copy_(s5.coupling.B.permute(1, 0, 2))
        s4d.get_parameter("D").copy_(s5.get_parameter("D").flatten())
        first, second = s5(u)[0], s4d(u)[0]
    return Measured(float((first - second).abs().max() / first.abs().max()))


def _irregular(setting: Setting) -> Measured:
    import torch

    from statewise.nn import S5

    layer = S5(2, 2, 16, seed=0).double()
    steps = torch.randint(1, 6, (1, 200), generator=_generator(3))
    u = torch.randn(1, 200, 2, dtype=torch.float64, generator=_generator(4))
    held = u[0].repeat_interleave(steps[0], 0).unsqueeze(0)
    with torch.no_grad():
        sparse = layer(u, dt=steps.double())[0]
        dense = layer(held)[0][:, steps[0].cumsum(0) - 1]
    return Measured(float((sparse - dense).abs().max() / dense.abs().max()))


def _random_times(setting: Setting) -> Measured:
    import numpy as np
    import torch

    from statewise.nn import S5
    from statewise.papers.harness.readout import ridge
    from statewise.papers.harness.signals import pendulums

    ratios, details = [], {}
    for seed in range(3):
        angle, velocity = pendulums(3000, 1000, period=150, damping=2e-3, amplitude=1.5, seed=seed)
        rng = np.random.default_rng(seed)
        times = np.sort(np.stack([rng.permutation(1000)[:50] for _ in angle]), 1)
        seen = np.sin(np.take_along_axis(angle, times, 1))
        gaps = torch.from_numpy(np.diff(times, axis=1, prepend=0) / 20)
        target = torch.from_numpy(np.take_along_axis(velocity, times, 1))[:, 10:]
        layer = S5(1, 64, 32, dt_min=0.05, dt_max=1.0, seed=seed).double()
        error = {}
        for name, dt in (("with times", gaps), ("without", None)):
            with torch.no_grad():
                y = layer(torch.from_numpy(seen).unsqueeze(-1), dt=dt)[0][:, 10:]
            weight = ridge(y[:2000].flatten(0, 1), target[:2000].flatten())
            left = target[2000:] - y[2000:] @ weight
            error[name] = float(left.square().mean() / target[2000:].square().mean())
        ratios.append(error["without"] / error["with times"])
        details |= {f"{name}, seed {seed}": value for name, value in error.items()}
    return Measured(min(ratios), details, seeds=3, remark="Details: NMSE on 1000 new pendulums.")


def _half_rate(setting: Setting) -> Measured:
    import torch

    from statewise.nn import S5
    from statewise.papers.harness.readout import butterworth_noise, delayed, ridge

    lag, train, found = 64, 30_000, {}
    for seed in range(3):
        signal = butterworth_noise(40_000, 4, 0.05, seed)
        target = torch.from_numpy(delayed(signal, lag))
        layer = S5(1, 64, 32, dt_min=1 / 128, dt_max=1 / 32, seed=seed).double()
        u = torch.from_numpy(signal).view(1, -1, 1)
        with torch.no_grad():
            weight = ridge(layer(u)[0][0, 2000:train], target[2000:train])
            half = u[:, train::2]
            step = torch.full(half.shape[:2], 2.0, dtype=torch.float64)
            answers = {
                "full rate": layer(u[:, train:])[0][0],
                "half rate, Δ doubled": layer(half, dt=step)[0][0],
                "half rate": layer(half)[0][0],
            }
        for name, features in answers.items():
            aim = target[train:] if name == "full rate" else target[train::2]
            left = (aim - features @ weight)[1000:]
            error = float(left.square().mean() / aim[1000:].square().mean())
            found.setdefault(name, []).append(error)
    mean = {name: sum(values) / 3 for name, values in found.items()}
    return Measured(mean["half rate"] / mean["half rate, Δ doubled"], mean, seeds=3)


def _hippo_start(setting: Setting) -> Measured:
    import numpy as np
    import torch

    from statewise.nn import LTI, S5, ContinuousDiagonal, GivenContinuous
    from statewise.papers.harness.readout import butterworth_noise, delayed, readout_error, states

    lag, ratios, details = 200, [], {}
    for seed in range(3):
        signal = butterworth_noise(20_000, 4, 0.05, seed)
        target = torch.from_numpy(delayed(signal, lag))
        low, high = 1 / (2 * lag), 1 / lag
        frequency = np.exp(np.random.default_rng(seed).standard_normal(32))
        law = GivenContinuous((-0.5,) * 32, tuple(frequency.tolist()))
        poles = ContinuousDiagonal(law, dt_min=low, dt_max=high, per_state=True)
        layers = {
            "LegS": S5(1, 1, 32, dt_min=low, dt_max=high, seed=seed),
            "random": LTI(1, 1, 32, poles=poles),
        }
        error = {
            name: readout_error(states(layer.double(), signal), target, 15_000, skip=2000)
            for name, layer in layers.items()
        }
        ratios.append(error["random"] / error["LegS"])
        details |= {f"{name}, seed {seed}": value for name, value in error.items()}
    return Measured(min(ratios), details, seeds=3, remark="Details: NMSE on held-out samples.")


def _continuous(layer: LTI) -> Tensor:
    """λ of a layer, (S,)."""
    import torch

    decay = torch.exp(layer.get_parameter("poles.log_decay"))
    return torch.complex(-decay, layer.get_parameter("poles.frequency"))


def _generator(seed: int) -> Generator:
    import torch

    return torch.Generator().manual_seed(seed)


PAPER = Paper(
    name="s5",
    title="Simplified State Space Layers for Sequence Modeling",
    identifier="arXiv:2208.04933",
    year=2022,
    says=(
        "One diagonal system with many inputs and outputs, run by a scan, replaces the bank of "
        "systems of S4, and irregular sampling times come for free."
    ),
    uses=("nn.S5", "nn.LegSBlocks", "ops.linear_scan_pairs"),
    claims=(
        Claim(
            name="sum-of-banks",
            statement=(
                "With one time step the state of an S5 layer is the sum over its inputs of the "
                "states of one-input systems: largest relative difference in float64."
            ),
            measure=_sum_of_banks,
            must=at_most(1e-12),
        ),
        Claim(
            name="one-input-is-s4d",
            statement=(
                "With one input and one output the layer is S4D with a zero-order hold: largest "
                "relative difference over 1000 samples in float64."
            ),
            measure=_one_input,
            must=at_most(1e-12),
        ),
        Claim(
            name="irregular-steps",
            statement=(
                "A sample with a step of n is n samples of one step with the same input: largest "
                "relative difference over random steps of 1 to 5 in float64."
            ),
            measure=_irregular,
            must=at_most(1e-12),
        ),
        Claim(
            name="random-times",
            statement=(
                "The sine of a pendulum's angle is seen at 50 random times of 1000: a read-out of "
                "its velocity from frozen states has less than half the error where the layer is "
                "given the times: smallest ratio of the errors."
            ),
            measure=_random_times,
            must=at_least(2.0),
        ),
        Claim(
            name="half-rate",
            statement=(
                "A read-out that was fitted at one sampling rate serves every second sample when "
                "the step is doubled, with a tenth of the error or less that it has without."
            ),
            measure=_half_rate,
            must=at_least(10.0),
        ),
        Claim(
            name="hippo-start",
            statement=(
                "Poles of HiPPO-LegS keep an input 200 samples ago better than random stable "
                "ones: smallest ratio of the errors of a read-out from frozen states."
            ),
            measure=_hippo_start,
            must=at_least(1.0),
        ),
    ),
)
