"""Resettable S5 for agents with memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from statewise.papers.registry import Claim, Measured, Paper, Setting, at_least, at_most

if TYPE_CHECKING:
    from statewise.models import SequenceModelConfig
    from statewise.nn import LayerSpec

CHAINS = (50, 100)
"""Waits of the memory chain: the first is trained at."""

STREAM = 128
"""Samples of a stream of episodes."""


def _network(layer: LayerSpec, width: int = 32, tokens: bool = False) -> SequenceModelConfig:
    from statewise.models import SequenceModelConfig, Signals, Tokens
    from statewise.nn import GLU, BlockSpec

    block = BlockSpec(layer, static=GLU())
    return SequenceModelConfig(
        (block,), repeat=1, d_model=width, encoder=Tokens() if tokens else Signals()
    )


def _reset_scan(setting: Setting) -> Measured:
    import numpy as np
    import torch

    from statewise.nn import S5

    whole, loop, leak = 0.0, 0.0, 0.0
    for seed in range(3):
        layer = S5(4, d_state=16, seed=seed).double()
        rng = np.random.default_rng(seed)
        u = torch.from_numpy(rng.standard_normal((1, 300, 4))).requires_grad_()
        starts = [0, *sorted(rng.choice(np.arange(1, 300), 9, replace=False).tolist())]
        reset = torch.zeros(1, 300, dtype=torch.bool)
        reset[0, starts[1:]] = True
        y, _ = layer(u, reset=reset)
        with torch.no_grad():
            pieces = [u[:, a:b] for a, b in zip(starts, [*starts[1:], 300], strict=True)]
            runs = [layer(piece) for piece in pieces]
            apart = torch.cat([out for out, _ in runs], 1)
            whole = max(whole, float((y - apart).abs().max()))
            state = layer.init_state(1)
            for t in range(300):
                state = layer.init_state(1) if reset[0, t] else state
                y_t, state = layer.step(u[:, t], state)
                loop = max(loop, float((y[:, t] - y_t).abs().max()))
        (gradient,) = torch.autograd.grad(y[0, -1].sum(), u)
        leak = max(leak, float(gradient[0, : starts[-1]].abs().max()))
    return Measured(
        max(whole, loop, leak),
        {"episodes apart": whole, "one step after the other": loop, "gradient": leak},
        seeds=3,
    )


def _repeat_first(setting: Setting) -> Measured:
    from statewise.nn import S5
    from statewise.papers.harness.episodes import RepeatFirst
    from statewise.papers.harness.train import Recipe, details, evaluate, median, trials

    recipe = Recipe(steps=500, length=STREAM, batch=32, lr=4e-3)
    config, more = _network(S5.spec(d_state=32), tokens=True), {}
    for resets in (True, False):
        label = "resets" if resets else "no resets"
        found = trials(
            config, RepeatFirst(resets=resets), recipe, [256], setting=setting, label=label
        )
        if resets:
            value = median(found, 256)
        early = RepeatFirst(resets=resets, judged=5)
        for trial in found:
            scores = evaluate(trial.model, early, [256], seed=trial.seed, device=setting.device)
            more[f"{label}, first 5 samples of an episode, seed {trial.seed}"] = scores[256]
        more |= details(found, label)
    return Measured(
        value,
        more,
        seeds=3,
        remark="Median over the seeds, trained on streams of 128 samples, judged on 256.",
    )


def _memory_chain(setting: Setting) -> Measured:
    from statewise.nn import GRU, S5
    from statewise.papers.harness.episodes import MemoryChain
    from statewise.papers.harness.train import Recipe, details, median, trials

    recipe = Recipe(steps=300, length=CHAINS[0], batch=64, lr=3e-3)
    layers = {"S5": S5.spec(d_state=32), "GRU": GRU.spec()}
    found = {
        name: trials(_network(layer), MemoryChain(), recipe, CHAINS, setting=setting, label=name)
        for name, layer in layers.items()
    }
    return Measured(
        median(found["S5"], CHAINS[0]),
        details(found["S5"], "S5") | details(found["GRU"], "GRU"),
        seeds=3,
        remark="Median over the seeds, trained by example at a wait of 50; chance is 0.5.",
    )


def _speed(setting: Setting) -> Measured:
    import statistics
    import time

    import torch

    from statewise.models import SequenceModel
    from statewise.nn import GRU, S5
    from statewise.train.modes import cpu_threads

    models = {
        "S5": SequenceModel(3, 2, _network(S5.spec(d_state=32), 64)),
        "GRU": SequenceModel(3, 2, _network(GRU.spec(), 64)),
    }
    u = torch.randn(8, 1024, 3, generator=torch.Generator().manual_seed(0))
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(8):
        for name, model in models.items():
            begun = time.perf_counter()
            with cpu_threads(model, 1):
                model(u)[0].square().mean().backward()
            # The first turn compiles.
            if turn:
                seconds[name].append(time.perf_counter() - begun)
    middle = {name: statistics.median(times) for name, times in seconds.items()}
    sizes = {f"parameters, {name}": model.n_parameters for name, model in models.items()}
    return Measured(
        middle["GRU"] / middle["S5"],
        {f"seconds, {name}": value for name, value in middle.items()} | sizes,
        remark="Median of seven turns of both in exchange; the GRU is a loop over time.",
    )


PAPER = Paper(
    name="s5-rl",
    title="Structured State Space Models for In-Context Reinforcement Learning",
    identifier="arXiv:2303.03982",
    year=2023,
    says=(
        "An S5 layer whose state can be reset inside its parallel scan is the memory of an agent: "
        "it learns faster and remembers longer than a recurrent network, at several times the "
        "speed."
    ),
    uses=("nn.S5", "ops.linear_scan_pairs"),
    claims=(
        Claim(
            name="reset-scan",
            statement=(
                "A scan with resets is the same as running every episode apart and as running it "
                "step by step, and no gradient passes a reset: largest difference in float64."
            ),
            measure=_reset_scan,
            must=at_most(1e-12),
        ),
        Claim(
            name="repeat-first",
            statement=(
                "One S5 layer of 32 channels with resets says at every sample of a stream of "
                "episodes what the current one began with: share of right samples."
            ),
            measure=_repeat_first,
            must=at_least(0.99),
            minutes=2,
        ),
        Claim(
            name="memory-chain",
            statement=(
                "Trained on the actions of a perfect agent, one S5 layer acts rightly on what it "
                "was shown 50 samples ago: share of right actions."
            ),
            measure=_memory_chain,
            must=at_least(0.95),
            minutes=1,
        ),
        Claim(
            name="speed",
            statement=(
                "An update over 1024 samples is more than five times as fast as with a recurrent "
                "network of equal width, a GRU run step by step: ratio of the times."
            ),
            measure=_speed,
            must=at_least(5.0),
            published=5.0,
            unit="×",
        ),
    ),
)
