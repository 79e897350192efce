"""SeqBoat: attention only for the samples that a router picks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from statewise.papers.registry import Claim, Measured, Paper, Setting, at_least, at_most

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from statewise.models import SequenceModel
    from statewise.nn import SeqBoat
    from statewise.papers.harness.train import Trial

LENGTHS = (16, 32, 64, 256)
"""Samples of the recall task: all are trained at, the last is judged."""

WINDOW = 16
"""Active samples that attention reaches back in the recall task."""


def _boat(seed: int, lean: float, window: int = 8) -> SeqBoat:
    """A layer in float64 whose router leans to "use" by ``lean``, none of its paths small."""
    import torch

    from statewise.nn import GAU, SeqBoat

    inner = GAU.spec(d_key=8, window=window, base=50.0)
    layer = SeqBoat(8, inner=inner, d_state=4, seed=seed).double()
    with torch.no_grad():
        layer.route.weight.mul_(50)
        layer.bypass.weight.mul_(20)
        layer.route.bias[1] = lean
        assert isinstance(layer.inner, GAU)
        for part in (layer.inner.enter.weight, layer.inner.leave.weight, layer.inner.scale):
            part.mul_(20)
    return layer


def _noise(seed: int, *shape: int) -> Tensor:
    import torch

    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _hidden(layer: SeqBoat, u: Tensor) -> Tensor:
    from torch.nn.functional import silu

    return silu(layer.memory(layer.norm(u))[0])


def _masked_attention(layer: SeqBoat, hidden: Tensor, active: Tensor) -> Tensor:
    """Attention of every sample to the active ones within W active ranks, all pairs computed."""
    import math

    import torch
    from torch.nn.functional import silu

    from statewise.nn import GAU

    gau, length = layer.inner, hidden.shape[1]
    assert isinstance(gau, GAU)
    z, gate, value = silu(gau.enter(hidden)).split([gau.d_key, gau.d_value, gau.d_value], -1)
    speed = gau.base ** -(torch.arange(0, gau.d_key, 2, dtype=z.dtype) / gau.d_key)
    turn = torch.exp(1j * torch.arange(length).unsqueeze(-1) * speed)
    query, key = (
        torch.view_as_complex((z * scale + shift).unflatten(-1, (-1, 2)).contiguous()) * turn
        for scale, shift in zip(gau.scale, gau.shift, strict=True)
    )
    rank = active.cumsum(1)
    near = rank.unsqueeze(2) - rank.unsqueeze(1) <= gau.window
    seen = near & active.unsqueeze(1) & torch.ones(length, length, dtype=torch.bool).tril()
    # An inactive sample may see nothing; its row is not used.
    seen = seen | ~active.unsqueeze(2)
    score = (query @ key.mH).real / math.sqrt(gau.d_key)
    return gau.leave(torch.softmax(score.masked_fill(~seen, -math.inf), -1) @ value * gate)


def _compressed(setting: Setting) -> Measured:
    import torch
    from torch.nn.functional import silu

    worst, shares = 0.0, []
    with torch.no_grad():
        for seed, lean in enumerate((0.0, 0.3, -0.3)):
            layer, u = _boat(seed, lean), _noise(seed, 4, 200, 8)
            active, share = layer.active(u)
            hidden = _hidden(layer, u)
            extra = (share * active).unsqueeze(-1) * _masked_attention(layer, hidden, active)
            expected = silu(u + layer.bypass(hidden) + extra)
            gap = (layer(u)[0] - expected).abs().max() / expected.abs().max()
            worst = max(worst, float(gap))
            shares.append(float(active.double().mean()))
    details = {"smallest active share": min(shares), "largest active share": max(shares)}
    return Measured(worst, details, seeds=3)


def _skipped(setting: Setting) -> Measured:
    from torch.nn.functional import silu

    layer, u = _boat(0, -100.0), _noise(0, 4, 200, 8)
    y = layer(u)[0]
    expected = silu(u + layer.bypass(_hidden(layer, u)))
    y.square().sum().backward()
    slopes = [p.grad for p in layer.inner.parameters()]
    largest = max(0.0 if slope is None else float(slope.abs().max()) for slope in slopes)
    gap = float((y - expected).detach().abs().max())
    others = layer.bypass.weight.grad
    assert others is not None
    details = {"gradient of attention": largest, "gradient of the bypass": float(others.norm())}
    return Measured(max(gap, largest), details, seeds=1)


def _dense(setting: Setting) -> Measured:
    import torch
    from torch.nn.functional import silu

    worst = 0.0
    with torch.no_grad():
        for seed in range(3):
            layer, u = _boat(seed, 100.0, window=200), _noise(seed, 4, 200, 8)
            share, hidden = layer.active(u)[1].unsqueeze(-1), _hidden(layer, u)
            expected = silu(u + layer.bypass(hidden) + share * layer.inner(hidden)[0])
            gap = (layer(u)[0] - expected).abs().max() / expected.abs().max()
            worst = max(worst, float(gap))
    return Measured(worst, seeds=3)


def _stepped(setting: Setting) -> Measured:
    import torch

    from statewise.nn import state_tensors

    layer, u = _boat(0, -0.3), _noise(0, 4, 400, 8)
    with torch.no_grad():
        y = layer(u)[0]
        state, steps, sizes = layer.init_state(4), [], set()
        for t in range(u.shape[1]):
            sample, state = layer.step(u[:, t], state)
            steps.append(sample)
            sizes.add(sum(part.numel() for part in state_tensors(state)))
    gap = float((torch.stack(steps, 1) - y).abs().max() / y.abs().max())
    reach = float(state.inner.age.max())
    details = {
        "numbers in the state of a row": max(sizes) / 4,
        "age of the oldest key in a window of 8": reach,
    }
    return Measured(gap if len(sizes) == 1 else float("inf"), details, seeds=1)


def _cost(setting: Setting) -> Measured:
    import time

    import torch

    from statewise.nn import SeqBoat

    length, seconds = 4096, {}
    layer, u = SeqBoat(64, seed=0), _noise(0, 1, length, 64).float()
    with torch.no_grad():
        odds = torch.logit(layer.active(u)[1].double())
    found: dict[float, float] = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for part in (1.0, 0.1):
            # The margin of the router is moved so that the wanted part lies above 0.
            kept = -1000.0 if part == 1 else float(torch.quantile(odds, 1 - part))
            shift = kept * float(layer.log_temperature.detach().exp())
            with torch.no_grad():
                layer.route.bias[1] = -shift
            found[part] = float(layer.active(u)[0].double().mean())
            best = float("inf")
            for _ in range(6):
                begun = time.perf_counter()
                layer.zero_grad()
                layer(u)[0].square().sum().backward()
                best = min(best, time.perf_counter() - begun)
            seconds[part] = best
    finally:
        torch.set_num_threads(threads)
    return Measured(
        seconds[1.0] / seconds[0.1],
        {f"ms with {found[part]:.1%} active": 1e3 * value for part, value in seconds.items()},
        seeds=1,
        remark="Least of six forward and backward passes, 64 channels, window 128, one thread.",
    )


def _trained(
    setting: Setting, label: str, seed: int, lean: float = 0.0, given: bool = False
) -> Trial:
    """A small network on the recall task, judged.

    Args:
        setting: where.
        label: what the progress is called.
        seed: of the start, the training data and the test data.
        lean: how far routers lean to "use" at the start; a large number is for good.
        given: whether routers are told which samples are to be active: all but blanks.
    """
    import torch

    from statewise.models import SequenceModel, SequenceModelConfig, Tokens
    from statewise.nn import GAU, BlockSpec, SeqBoat
    from statewise.papers.harness.tasks import AssociativeRecall
    from statewise.papers.harness.train import Recipe, Trial, evaluate, train

    task = AssociativeRecall(pairs=4, vocabulary=32)
    inner = GAU.spec(d_key=32, window=WINDOW)
    boat = SeqBoat.spec(d_state=4, inner=inner, positions="local")
    config = SequenceModelConfig(
        (BlockSpec(boat, norm=None, skip="none"),), repeat=2, d_model=32, encoder=Tokens()
    )
    recipe = Recipe(steps=1000, length=LENGTHS, batch=32, lr=1e-2)
    model = SequenceModel(task.n_inputs, task.n_outputs, config, seed=seed)
    with torch.no_grad():
        for layer in _boats(model):
            layer.route.bias[1] = lean
    if given:
        _tell_routers(model)
    course = train(model, task, recipe, seed=seed, setting=setting, label=label)
    scores = evaluate(model, task, LENGTHS, seed=seed, device=setting.device)
    said = ", ".join(f"{length}: {score:.3f}" for length, score in scores.items())
    setting.say(f"{label} seed {seed}: {said} ({course.seconds:.0f} s)")
    return Trial(seed, model, course, scores)


def _tell_routers(model: SequenceModel) -> None:
    """Make every sample but blanks active; how much attention counts there is still learnt."""
    told: list[Tensor] = []

    def look(encoder: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        told[:] = [inputs[0] != 0]

    model.encoder.register_forward_pre_hook(look)
    for layer in _boats(model):
        route = layer._route

        def replaced(
            hidden: Tensor, route: Callable[[Tensor], tuple[Tensor, Tensor]] = route
        ) -> tuple[Tensor, Tensor]:
            return told[0], route(hidden)[1]

        object.__setattr__(layer, "_route", replaced)


def _boats(model: SequenceModel) -> list[SeqBoat]:
    from statewise.nn import SeqBoat

    return [module for module in model.modules() if isinstance(module, SeqBoat)]


def _active_share(model: SequenceModel, seed: int) -> float:
    """The share of held-out samples that attention sees, the mean of the layers."""
    import torch

    from statewise.papers.harness.tasks import AssociativeRecall

    shares: list[float] = []

    def look(layer: SeqBoat, inputs: tuple[Tensor, ...]) -> None:
        shares.append(float(layer.active(inputs[0])[0].double().mean()))

    handles = [layer.register_forward_pre_hook(look) for layer in _boats(model)]
    batch = AssociativeRecall(pairs=4, vocabulary=32).held_out(64, LENGTHS[-1], seed)
    device = next(model.parameters()).device
    with torch.no_grad():
        model(batch.inputs.to(device))
    for handle in handles:
        handle.remove()
    return sum(shares) / len(shares)


def _recall(setting: Setting) -> Measured:
    from statewise.papers.harness.train import details, median

    found = [_trained(setting, "SeqBoat", seed) for seed in range(3)]
    shares = {f"active share, seed {t.seed}": _active_share(t.model, t.seed) for t in found}
    told = [_trained(setting, "told", seed, given=True) for seed in range(3)]
    last = LENGTHS[-1]
    shares |= {f"told what to use, length {last}, seed {t.seed}": t.scores[last] for t in told}
    return Measured(
        median(found, last),
        details(found) | shares,
        seeds=len(found),
        remark=(
            "Median over the seeds at 256 samples; a window holds 17 active ones. The network "
            "learns the task once it is told which samples to use, all but blanks. Its router does "
            "not find them: it learns from what attention adds at a sample alone, not from the use "
            "of that sample as a key, nor from samples that are off. On two other seeds rates of "
            "learning from 0.001 to 0.01 and temperatures of 0.3 and 1 gave at most 0.37 after "
            "2500 steps of 64 sequences."
        ),
    )


def _averages_alone(setting: Setting) -> Measured:
    from statewise.papers.harness.train import details, median

    found = [_trained(setting, "no attention", seed, lean=-1e4) for seed in range(3)]
    return Measured(
        median(found, LENGTHS[-1]),
        details(found),
        seeds=len(found),
        remark="The same network, steps and seeds; no router ever uses attention.",
    )


PAPER = Paper(
    name="seqboat",
    title="Sparse Modular Activation for Efficient Sequence Modeling",
    identifier="arXiv:2306.11197",
    year=2023,
    says=(
        "A linear system always runs, and a router that reads it picks the samples that attention "
        "sees as a shorter sequence: the cost goes by activity, and a window of active samples "
        "reaches as far back as they lie."
    ),
    uses=("nn.SeqBoat", "nn.GAU", "nn.EMA"),
    claims=(
        Claim(
            name="compression",
            statement=(
                "Attention on the compressed sequence is attention of all pairs with the keys "
                "masked to active samples of the window, at their original positions: largest "
                "relative difference in float64."
            ),
            measure=_compressed,
            must=at_most(1e-10),
        ),
        Claim(
            name="all-active",
            statement=(
                "With every sample active the layer is the sum of the gated attention unit and the "
                "path of the moving average: largest relative difference in float64."
            ),
            measure=_dense,
            must=at_most(1e-12),
        ),
        Claim(
            name="none-active",
            statement=(
                "With none active the output is that of the moving average alone, and attention "
                "gets no gradient: largest difference and gradient."
            ),
            measure=_skipped,
            must=at_most(1e-12),
        ),
        Claim(
            name="constant-memory",
            statement=(
                "Stepping through 400 samples with a state of fixed size gives the output of the "
                "whole sequence: largest relative difference in float64."
            ),
            measure=_stepped,
            must=at_most(1e-10),
        ),
        Claim(
            name="cost-by-activity",
            statement=(
                "With a tenth of 4096 samples active a training pass is at least twice as fast as "
                "with all: ratio of the times."
            ),
            measure=_cost,
            must=at_least(2.0),
            unit="×",
        ),
        Claim(
            name="recall",
            statement=(
                "Two small layers recall 4 pairs over 256 samples through a window of 16 active "
                "ones: share of right values."
            ),
            measure=_recall,
            must=at_least(0.95),
            minutes=5,
        ),
        Claim(
            name="averages-alone",
            statement=(
                "The same network with attention off, trained for as long, does not: share of "
                "right values."
            ),
            measure=_averages_alone,
            must=at_most(0.5),
            minutes=4,
        ),
    ),
)
