"""The Linear Recurrent Unit."""

from __future__ import annotations

import math

from statewise.papers.registry import Claim, Measured, Paper, Setting, at_least, at_most

#: Rings (r_min, r_max, largest phase) of the delay claim; the first is the one that fits.
RINGS = {
    "ring [0.99, 0.9999], phase < π/10": (0.99, 0.9999, math.pi / 10),
    "ring [0, 1], phase < 2π": (0.0, 1.0, 2 * math.pi),
    "ring [0.9, 0.999], phase < 2π": (0.9, 0.999, 2 * math.pi),
}


def _delay(setting: Setting) -> Measured:
    import numpy as np
    import torch

    from statewise.nn import LRU
    from statewise.papers.harness.readout import delayed, low_passed_noise, readout_error, states

    lag, train, samples = 500, 15_000, 20_000
    found: dict[str, list[float]] = {name: [] for name in RINGS}
    for seed in range(3):
        signal = low_passed_noise(samples, 0.04, seed)
        target = torch.from_numpy(delayed(signal, lag))
        for name, (r_min, r_max, phase) in RINGS.items():
            layer = LRU(1, 1, 128, r_min=r_min, r_max=r_max, phase_max=phase, seed=seed).double()
            found[name].append(readout_error(states(layer, signal), target, train, skip=2000))
    error = {name: float(np.median(values)) for name, values in found.items()}
    matched, *others = error
    return Measured(
        error[matched],
        {name: error[name] for name in others},
        seeds=3,
        remark="Median NMSE on held-out samples; only the first ring fits lag and bandwidth.",
    )


def _stationary(setting: Setting) -> Measured:
    import torch

    from statewise.nn import LRU

    layer = LRU(1, 1, 64, r_min=0.5, r_max=0.9, seed=0).double()
    with torch.no_grad():
        a, gain, _ = layer.poles.discretise()
        b = torch.view_as_complex(layer.coupling.B).squeeze(-1)
        worst = 0.0
        for seed in range(3):
            u = torch.randn(
                1, 400_000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
            )
            from statewise.ops import linear_scan_pairs

            x, _ = linear_scan_pairs(torch.view_as_real(a), layer.coupling.drive(u, gain))
            power = x[0, 200:].square().sum(-1).mean(0)
            worst = max(worst, float((power / b.abs().square() - 1).abs().max()))
    return Measured(worst, seeds=3, remark="Largest relative deviation over 64 states.")


def _stable(setting: Setting) -> Measured:
    import torch

    from statewise.nn import LRU

    layer = LRU(1, 1, 4096, seed=0).double()
    with torch.no_grad():
        layer.poles.get_parameter("nu").copy_(torch.linspace(-30, 5, 4096, dtype=torch.float64))
        modulus = layer.eigenvalues().abs()
    return Measured(float((modulus < 1).double().mean()), {"largest modulus": float(modulus.max())})


def _copy(setting: Setting) -> Measured:
    from statewise.models import SequenceModelConfig
    from statewise.nn import GLU, LRU, BlockSpec
    from statewise.papers.harness.tasks import CopyBits
    from statewise.papers.harness.train import Recipe, details, trials

    recipe, found = Recipe(steps=600, length=8, batch=32, lr=4e-3), {}
    for name, (r_min, r_max) in {"ring": (0.9, 0.999), "disc": (0.0, 1.0)}.items():
        block = BlockSpec(LRU.spec(d_state=64, r_min=r_min, r_max=r_max), static=GLU())
        config = SequenceModelConfig((block,), repeat=2, d_model=64)
        found[name] = trials(
            config, CopyBits(bits=7, count=20), recipe, [8], setting=setting, label=name
        )
    return Measured(
        min(trial.scores[8] for trial in found["ring"]),
        details(found["ring"], "ring [0.9, 0.999]") | details(found["disc"], "disc [0, 1]"),
        seeds=3,
        remark="Worst seed, 256 held-out patterns each; the disc is trained for as long.",
    )


PAPER = Paper(
    name="lru",
    title="Resurrecting Recurrent Neural Networks for Long Sequences",
    identifier="arXiv:2303.06349",
    year=2023,
    says=(
        "A linear recurrence with complex diagonal poles, a stable exponential parametrisation, "
        "a ring as its start and a normalised input is all that a recurrent network needs to reach "
        "deep state-space models on long sequences."
    ),
    uses=("nn.LRU", "nn.LTI", "nn.DiscreteDiagonal"),
    claims=(
        Claim(
            name="delay-500",
            statement=(
                "Frozen ring dynamics of 128 states and a linear read-out recover a low-passed "
                "signal 500 samples ago when the ring fits the lag and the bandwidth: the "
                "normalised error on held-out samples is small, and that of a full disc is 1."
            ),
            measure=_delay,
            must=at_most(0.05),
            minutes=1,
        ),
        Claim(
            name="unit-gain",
            statement=(
                "With γ = √(1 − |λ|²) white input of variance 1 gives each state the variance "
                "|B_j|²: largest relative deviation over 400 000 samples."
            ),
            measure=_stationary,
            must=at_most(0.05),
        ),
        Claim(
            name="always-stable",
            statement="Every value of ν from −30 to 5 gives a pole inside the unit circle.",
            measure=_stable,
            must=at_least(1.0),
        ),
        Claim(
            name="copy-bits",
            statement=(
                "Two LRU blocks of 64 channels and states, started on the ring [0.9, 0.999], learn "
                "to copy 20 rows of 7 bits after a pause of 8 samples: share of right bits."
            ),
            measure=_copy,
            must=at_least(1.0),
            minutes=3,
        ),
    ),
)
