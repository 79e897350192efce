"""Mamba-2: state-space duality."""

from __future__ import annotations

from typing import TYPE_CHECKING

from statewise.papers.registry import Claim, Measured, Paper, Setting, at_least, at_most

if TYPE_CHECKING:
    from torch import Tensor

LENGTHS = (32, 64, 128)
"""Positions among which the data lie: the first is trained at."""

LENGTH, HEADS, WIDTH, STATE = 300, 4, 3, 8
"""Size of the identities: more samples than a chunk holds."""


def _draw(seed: int, groups: int) -> tuple[Tensor, ...]:
    """Random x, Δ, A, B and C in float64."""
    import torch

    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=draw)

    x, dt = normal(2, LENGTH, HEADS, WIDTH), normal(2, LENGTH, HEADS).exp() / 10
    B, C = (normal(2, LENGTH, groups, STATE) for _ in range(2))
    return x, dt, -normal(HEADS).exp(), B, C


def _duality(setting: Setting) -> Measured:
    import torch

    from statewise.ops import ssd

    worst = {}
    for groups in (1, 2, 4):
        x, dt, A, B, C = _draw(groups, groups)
        y, _ = ssd(x, dt, A, B, C)
        b, c = (part.repeat_interleave(HEADS // groups, 2) for part in (B, C))
        past = torch.cumsum(dt * A, 1)
        exponent = past.unsqueeze(2) - past.unsqueeze(1)
        later = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
        decay = exponent.masked_fill(later[None, :, :, None], -torch.inf).exp()
        matrix = torch.einsum("bthn,bshn->btsh", c, b) * decay
        expected = torch.einsum("btsh,bsh,bshp->bthp", matrix, dt, x)
        error = (y - expected).abs().max() / expected.abs().max()
        worst[f"{groups} groups"] = float(error)
    return Measured(max(worst.values()), worst, seeds=3)


def _is_selective_scan(setting: Setting) -> Measured:
    from statewise.ops import selective_scan, ssd

    worst = {}
    for groups in (1, 2, 4):
        x, dt, A, B, C = _draw(10 + groups, groups)
        y, last = ssd(x, dt, A, B, C)
        rates = A.repeat_interleave(WIDTH).unsqueeze(1).expand(-1, STATE)
        steps = dt.repeat_interleave(WIDTH, 2)
        expected, end = selective_scan(x.flatten(2), steps, rates, B, C)
        worst[f"{groups} groups"] = max(
            float((y.flatten(2) - expected).abs().max() / expected.abs().max()),
            float((last.flatten(1, 2) - end).abs().max() / end.abs().max()),
        )
    return Measured(max(worst.values()), worst, seeds=3)


def _rank(setting: Setting) -> Measured:
    import torch

    from statewise.ops import ssd

    beyond, inside = 0.0, 1.0
    for seed in range(3):
        _, dt, A, B, C = _draw(seed, 1)
        # Channel s has an impulse at time s: the outputs are the columns of the matrix.
        x = torch.eye(LENGTH, dtype=torch.float64)[None, :, None]
        matrix = ssd(x, dt[:1, :, :1], A[:1] / 10, B[:1], C[:1])[0][0, :, 0]
        for row in (20, 150, 280):
            values = torch.linalg.svdvals(matrix[row:, :row])
            beyond = max(beyond, float(values[STATE] / values[0]))
            inside = min(inside, float(values[STATE - 1] / values[0]))
    return Measured(
        beyond,
        {"smallest σ_N / σ_1": inside},
        seeds=3,
        remark="Largest σ_{N+1} / σ_1 of three blocks below the diagonal, N = 8.",
    )


def _selective_copying(setting: Setting) -> Measured:
    from statewise.models import SequenceModelConfig, Tokens
    from statewise.nn import BlockSpec, Mamba2
    from statewise.papers.harness.tasks import SelectiveCopying
    from statewise.papers.harness.train import Recipe, details, median, trials

    block = BlockSpec(Mamba2.spec(d_state=32, headdim=16))
    found = trials(
        SequenceModelConfig((block,), repeat=2, d_model=32, encoder=Tokens()),
        SelectiveCopying(symbols=14, count=4),
        Recipe(steps=2000, length=LENGTHS[0], batch=32, lr=4e-3),
        LENGTHS,
        setting=setting,
        label="Mamba-2",
    )
    return Measured(
        median(found, LENGTHS[0]),
        details(found),
        seeds=len(found),
        remark="Median over the seeds of the share of right symbols at 32 positions.",
    )


def _size(setting: Setting) -> Measured:
    import torch

    from statewise.models import LanguageModel, LanguageModelConfig
    from statewise.nn import Mamba2

    config = LanguageModelConfig(
        vocab_size=50277,
        d_model=768,
        n_layer=24,
        layer=Mamba2.spec(),
        pad_vocab_size_multiple=16,
    )
    with torch.device("meta"):
        model = LanguageModel(config)
    count = sum(parameter.numel() for parameter in model.parameters())
    return Measured(abs(count - 128_989_632), {"parameters": count})


PAPER = Paper(
    name="mamba2",
    title=(
        "Transformers are SSMs: Generalized Models and Efficient Algorithms Through Structured "
        "State Space Duality"
    ),
    identifier="arXiv:2405.21060",
    year=2024,
    says=(
        "With one decay for each head and step a selective state space is attention with a "
        "semiseparable mask; computed in chunks it is mostly matrix products, so that its state "
        "can be large."
    ),
    uses=("nn.Mamba2", "models.LanguageModel", "ops.ssd", "ops.linear_attention"),
    claims=(
        Claim(
            name="size-130m",
            statement=(
                "A language model of the size of the public checkpoint with 130 M has its "
                "128 989 632 parameters: difference."
            ),
            measure=_size,
            must=at_most(0),
        ),
        Claim(
            name="duality",
            statement=(
                "The chunked scan over 300 samples is the quadratic form Y = (L ∘ C Bᵀ) (Δ X) with "
                "the 1-semiseparable mask L: largest relative difference in float64."
            ),
            measure=_duality,
            must=at_most(1e-11),
        ),
        Claim(
            name="is-selective-scan",
            statement=(
                "It is the selective scan of Mamba with A repeated over states and channels and Δ "
                "over channels: largest relative difference of output and last state in float64."
            ),
            measure=_is_selective_scan,
            must=at_most(1e-11),
        ),
        Claim(
            name="semiseparable",
            statement=(
                "Every block of the matrix of the map below the diagonal has rank N at most: "
                "relative size of singular value N + 1."
            ),
            measure=_rank,
            must=at_most(1e-12),
        ),
        Claim(
            name="selective-copying",
            statement=(
                "Two small Mamba-2 blocks learn to copy 4 symbols from among 32 positions: share "
                "of right symbols."
            ),
            measure=_selective_copying,
            must=at_least(0.95),
            minutes=5,
        ),
    ),
)
