"""Mamba: selective state spaces."""

from __future__ import annotations

from typing import TYPE_CHECKING

from statewise.papers.registry import Claim, Measured, Paper, Setting, at_least, at_most

if TYPE_CHECKING:
    from statewise.models import SequenceModelConfig
    from statewise.papers.harness.train import Trial

COPY_LENGTHS = (32, 64, 128)
"""Positions among which the data lie: the first is trained at."""

RECALL_LENGTHS = (32, 64, 128, 256, 512, 1024)
"""Lengths of the induction task: the first is trained at."""


def _network(selective: bool = True) -> SequenceModelConfig:
    from statewise.models import SequenceModelConfig, Tokens
    from statewise.nn import BlockSpec, Mamba, Selective

    parts = Selective(selective, selective, selective)
    block = BlockSpec(Mamba.spec(d_state=16, selective=parts))
    return SequenceModelConfig((block,), repeat=2, d_model=32, encoder=Tokens())


def _copying(setting: Setting, selective: bool) -> list[Trial]:
    from statewise.papers.harness.tasks import SelectiveCopying
    from statewise.papers.harness.train import Recipe, trials

    recipe = Recipe(steps=2400, length=COPY_LENGTHS[0], batch=32, lr=4e-3)
    label = "S6" if selective else "LTI twin"
    return trials(
        _network(selective),
        SelectiveCopying(symbols=14, count=4),
        recipe,
        COPY_LENGTHS,
        setting=setting,
        label=label,
    )


def _selective_copying(setting: Setting) -> Measured:
    from statewise.papers.harness.train import details, median

    found = _copying(setting, selective=True)
    return Measured(
        median(found, COPY_LENGTHS[-1]),
        details(found),
        seeds=len(found),
        remark="Median over the seeds of the share of right symbols at 128 positions.",
    )


def _time_invariant_copying(setting: Setting) -> Measured:
    from statewise.papers.harness.train import details, median

    found = _copying(setting, selective=False)
    return Measured(
        median(found, COPY_LENGTHS[-1]),
        details(found),
        seeds=len(found),
        remark="The same network, steps and seeds, with constant Δ, B and C.",
    )


def _induction(setting: Setting) -> Measured:
    from statewise.papers.harness.tasks import InductionHeads
    from statewise.papers.harness.train import Recipe, details, median, trials

    found = trials(
        _network(),
        InductionHeads(symbols=15),
        Recipe(steps=1000, length=RECALL_LENGTHS[0], batch=32, lr=1e-2),
        RECALL_LENGTHS,
        setting=setting,
        label="Mamba",
    )
    return Measured(
        median(found, 256),
        details(found),
        seeds=len(found),
        remark="Median over the seeds at length 256; chance is 6.7 %.",
    )


def _gate(setting: Setting) -> Measured:
    import torch

    from statewise.ops import selective_scan

    worst = 0.0
    for seed in range(3):
        draw = torch.Generator().manual_seed(seed)
        x, z = torch.randn(2, 4, 200, 8, dtype=torch.float64, generator=draw)
        one = torch.ones(8, 1, dtype=torch.float64)
        y, _ = selective_scan(x, z, -one, one, one, softplus=True, rule="zoh")
        g, h = torch.sigmoid(z), torch.zeros(4, 8, dtype=torch.float64)
        for t in range(x.shape[1]):
            h = (1 - g[:, t]) * h + g[:, t] * x[:, t]
            worst = max(worst, float((y[:, t] - h).abs().max()))
    return Measured(worst, seeds=3)


def _size(setting: Setting) -> Measured:
    import torch

    from statewise.models import LanguageModel, LanguageModelConfig
    from statewise.nn import Mamba

    config = LanguageModelConfig(
        vocab_size=50277,
        d_model=768,
        n_layer=24,
        layer=Mamba.spec(),
        pad_vocab_size_multiple=8,
    )
    with torch.device("meta"):
        model = LanguageModel(config)
    count = sum(parameter.numel() for parameter in model.parameters())
    return Measured(abs(count - 129_135_360), {"parameters": count})


PAPER = Paper(
    name="mamba",
    title="Mamba: Linear-Time Sequence Modeling with Selective State Spaces",
    identifier="arXiv:2312.00752",
    year=2023,
    says=(
        "A state-space model whose step, input and output vectors depend on the input chooses what "
        "to remember, which a time-invariant one cannot; a fused scan makes up for the lost "
        "convolution."
    ),
    uses=("nn.Mamba", "models.LanguageModel", "nn.Selective", "nn.Gated", "ops.selective_scan"),
    claims=(
        Claim(
            name="size-130m",
            statement=(
                "A language model of the size of the public checkpoint with 130 M has its "
                "129 135 360 parameters: difference."
            ),
            measure=_size,
            must=at_most(0),
        ),
        Claim(
            name="gate",
            statement=(
                "With one state, A = −1, B = 1, the zero-order hold and Δ = softplus(z) the "
                "selective state space is the gated recurrence h_t = (1 − σ(z_t)) h_{t−1} + "
                "σ(z_t) x_t (theorem 1): largest difference in float64."
            ),
            measure=_gate,
            must=at_most(1e-12),
        ),
        Claim(
            name="induction-heads",
            statement=(
                "Two small Mamba blocks trained at length 32 say what followed the first marker "
                "at eight times that length: share of right answers at length 256."
            ),
            measure=_induction,
            must=at_least(0.99),
            published=1.0,
            minutes=2,
        ),
        Claim(
            name="selective-copying",
            statement=(
                "Two small Mamba blocks trained to copy 4 symbols from among 32 positions copy "
                "them from among 128: share of right symbols."
            ),
            measure=_selective_copying,
            must=at_least(0.9),
            minutes=5,
        ),
        Claim(
            name="time-invariant-copying",
            statement=(
                "The same network with constant Δ, B and C, trained for as long, fails at 128 "
                "positions: share of right symbols."
            ),
            measure=_time_invariant_copying,
            must=at_most(0.4),
            minutes=5,
        ),
    ),
)
