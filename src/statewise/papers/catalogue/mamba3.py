"""Mamba-3: rotating states and a trapezoidal rule."""

from __future__ import annotations

from typing import TYPE_CHECKING

from statewise.papers.registry import Claim, Measured, Paper, Setting, at_least, at_most

if TYPE_CHECKING:
    from statewise.papers.harness.train import Trial

LENGTHS = (40, 64, 128, 256)
"""Numbers of bits of the parity task: the first is trained at."""


def _parity(setting: Setting, rope_fraction: float) -> list[Trial]:
    from statewise.models import SequenceModelConfig, Tokens
    from statewise.nn import BlockSpec, Mamba3
    from statewise.papers.harness.tasks import Parity
    from statewise.papers.harness.train import Recipe, trials

    block = BlockSpec(Mamba3.spec(d_state=16, headdim=16, rope_fraction=rope_fraction))
    return trials(
        SequenceModelConfig((block,), d_model=32, encoder=Tokens()),
        Parity(),
        Recipe(steps=2500, length=LENGTHS[0], batch=64, lr=3e-3, decay="linear"),
        LENGTHS,
        setting=setting,
        label="with rotation" if rope_fraction else "without rotation",
    )


def _rotating_parity(setting: Setting) -> Measured:
    from statewise.papers.harness.train import details

    found = _parity(setting, 0.5)
    return Measured(
        max(trial.scores[LENGTHS[0]] for trial in found),
        details(found),
        seeds=len(found),
        remark="The best of three seeds at the length that is trained at; chance is 50 %.",
    )


def _still_parity(setting: Setting) -> Measured:
    from statewise.papers.harness.train import details

    found = _parity(setting, 0.0)
    return Measured(
        max(trial.scores[LENGTHS[0]] for trial in found),
        details(found),
        seeds=len(found),
        remark="The best of three seeds; the same network, steps and seeds, with no angles.",
    )


def _rotating_state(setting: Setting) -> Measured:
    import torch

    from statewise.nn import Mamba3

    heads, width, states, length = 4, 4, 8, 100
    worst = 0.0
    for seed in range(3):
        layer = Mamba3(
            8, d_state=states, headdim=width, rope_fraction=1.0, dt_max=1.0, seed=seed
        ).double()
        draw = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.add_(
                    0.3 * torch.randn(parameter.shape, dtype=torch.float64, generator=draw)
                )
            u = torch.randn(1, length, 8, dtype=torch.float64, generator=draw)
            sizes = [16, 16, states, states, heads, heads, heads, states // 2]
            z, v, b, c, step, rate, trap, turn = layer.in_proj(u[0]).split(sizes, -1)
            delta = torch.nn.functional.softplus(step + layer.dt_bias)
            decay = torch.where(rate >= 0, 1 + rate, 1 / (1 + rate.abs())).clamp_min(1e-4)
            share, v = torch.sigmoid(trap), v.unflatten(-1, (heads, width))
            pairs = []
            for x, norm, bias in (
                (b, layer.B_norm, layer.B_bias),
                (c, layer.C_norm, layer.C_bias),
            ):
                wide = norm(x).unsqueeze(1) + bias.squeeze(1)
                pairs.append(torch.view_as_complex(wide.unflatten(-1, (-1, 2)).contiguous()))
            k, q = pairs
            # What the state is multiplied with in a step: a decay, and a turn of every pair.
            speed = torch.pi * torch.tanh(turn).unsqueeze(1)
            pole = torch.exp(-delta.unsqueeze(-1) * torch.complex(decay.unsqueeze(-1), speed))
            state = torch.zeros(heads, width, states // 2, dtype=torch.complex128)
            last, outputs = torch.zeros_like(state), []
            for t in range(length):
                written = v[t].unsqueeze(-1) * k[t].unsqueeze(1)
                before = ((1 - share[t]) * delta[t])[:, None, None] * last
                state = pole[t].unsqueeze(1) * (state + before)
                state, last = state + (share[t] * delta[t])[:, None, None] * written, written
                outputs.append((state * q[t].conj().unsqueeze(1)).real.sum(-1))
            y = torch.stack(outputs) + layer.D.unsqueeze(-1) * v
            expected = layer.out_proj(y.flatten(1) * torch.nn.functional.silu(z))
            found = layer(u)[0][0]
        worst = max(worst, float((found - expected).abs().max() / expected.abs().max()))
    return Measured(worst, seeds=3)


def _order(setting: Setting) -> Measured:
    import torch

    from statewise.nn.mamba3 import trapezoid

    errors: dict[float, list[float]] = {0.5: [], 1.0: []}
    for share, found in errors.items():
        for steps in (200, 400):
            width = 4.0 / steps
            time = width * torch.arange(steps + 1, dtype=torch.float64)
            u = torch.sin(3 * time)
            one = torch.ones(1, steps, 1, 1, 1, dtype=torch.float64)
            size = torch.full((1, steps, 1), width, dtype=torch.float64)
            y, _ = trapezoid(
                one,
                one,
                u[1:].view(1, steps, 1, 1, 1),
                -size,
                share * size,
                # The step to come weighs this sample by what is left; none comes behind the last.
                (1 - share) * size * (torch.arange(steps) < steps - 1).view(1, steps, 1),
                ((1 - share) * width * u[0]).view(1, 1, 1, 1),
                None,
            )
            # x' = −x + sin 3t from 0.
            exact = (torch.sin(3 * time) - 3 * torch.cos(3 * time)) / 10 + 0.3 * torch.exp(-time)
            found.append(float((y.flatten() - exact[1:]).abs().max()))
    ratio = {share: found[0] / found[1] for share, found in errors.items()}
    return Measured(
        ratio[0.5],
        {"λ = 1": ratio[1.0], "error of λ = ½": errors[0.5][1], "error of λ = 1": errors[1.0][1]},
        remark="x' = −x + sin 3t over 4 units of time, 200 and 400 steps; 4 is second order.",
    )


PAPER = Paper(
    name="mamba3",
    title="Mamba-3: Improved Sequence Modeling using State Space Principles",
    identifier="arXiv:2603.15569",
    year=2026,
    says=(
        "Three changes of Mamba-2: a rule that weighs both ends of a step, states that rotate by "
        "angles from the input, and several inputs for one state; rotation lets it track what "
        "decaying states cannot, such as parity."
    ),
    uses=("nn.Mamba3", "ops.linear_attention"),
    claims=(
        Claim(
            name="rotating-states",
            statement=(
                "Turning keys and queries by summed angles is a recurrence with complex poles "
                "e^{Δ (A − iθ)} and the trapezoidal rule: largest relative difference of the layer "
                "over 100 samples in float64."
            ),
            measure=_rotating_state,
            must=at_most(1e-11),
        ),
        Claim(
            name="second-order",
            statement=(
                "With λ = ½ the rule is of second order, where λ = 1, that of Mamba-2, is of "
                "first: by how much the error falls when steps are halved."
            ),
            measure=_order,
            must=at_least(3.8),
        ),
        Claim(
            name="parity",
            statement=(
                "One small layer learns the running parity of 40 random bits: share of right "
                "answers, best of three seeds."
            ),
            measure=_rotating_parity,
            must=at_least(0.99),
            minutes=6,
        ),
        Claim(
            name="parity-without-rotation",
            statement=(
                "The same network without rotation, trained for as long, does not: share of right "
                "answers, best of three seeds."
            ),
            measure=_still_parity,
            must=at_most(0.65),
            minutes=5,
        ),
    ),
)
