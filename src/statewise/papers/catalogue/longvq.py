"""LongVQ: attention to everything before, through a codebook of fixed size."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING

from statewise.papers.registry import Claim, Measured, Paper, Setting, at_least, at_most

if TYPE_CHECKING:
    from torch import Tensor, nn

    from statewise.models import SequenceModel
    from statewise.nn import BlockSpec, LongVQ
    from statewise.papers.harness.tasks import Task

LENGTH, CODES = 32, 64
"""Samples and code words of the recall task."""


def _noise(seed: int, *shape: int) -> Tensor:
    import torch

    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _layer(seed: int, window: int, codes: int = 16) -> LongVQ:
    """A layer in float64 with a position bias that is not 0."""
    import torch

    from statewise.nn import LongVQ

    layer = LongVQ(8, n_codes=codes, d_key=8, window=window, d_state=4, seed=seed).double()
    with torch.no_grad():
        layer.near.add_(_noise(seed, window))
        layer.scale.mul_(2)
    return layer


def _quadratic(layer: LongVQ, u: Tensor, quantised: bool = True) -> Tensor:
    """The layer with attention of all pairs of samples."""
    import torch
    from torch.nn.functional import silu

    length = u.shape[1]
    mixed = layer.memory(u)[0]
    shared = silu(layer.shared(mixed))
    key, query = (
        shared * scale + shift for scale, shift in zip(layer.scale, layer.shift, strict=True)
    )
    key = key / torch.sqrt(key.square().mean(-1, keepdim=True) + 1e-5)
    if quantised:
        words = layer.codes.expand(u.shape[0], -1, -1)
        key = layer.codes[torch.cdist(key, words).argmin(-1)]
    distance = torch.arange(length).unsqueeze(-1) - torch.arange(length)
    bias = layer.near[distance.clamp(0, layer.window - 1)] * (distance < layer.window)
    score = query @ key.mT / math.sqrt(layer.d_key) + bias
    weight = torch.softmax(score.masked_fill(distance < 0, -math.inf), -1)
    widths = [layer.d_input, layer.d_value, layer.d_input]
    update, reset, fresh = layer.gates(mixed).split(widths, -1)
    inside = layer.leave(silu(reset) * (weight @ silu(layer.enter(u))))
    update = torch.sigmoid(update)
    return update * silu(fresh + inside) + (1 - update) * u


def _factorised(setting: Setting) -> Measured:
    import torch

    found = {}
    with torch.no_grad():
        for seed, window in enumerate((1, 16, 100)):
            layer, u = _layer(seed, window), _noise(seed, 3, 300, 8)
            expected = _quadratic(layer, u)
            gap = (layer(u)[0] - expected).abs().max() / expected.abs().max()
            found[f"window {window}"] = float(gap)
    return Measured(max(found.values()), found, seeds=3)


def _full(setting: Setting) -> Measured:
    import torch

    worst, coarse = 0.0, float("inf")
    with torch.no_grad():
        for seed in range(3):
            u = _noise(seed, 1, 200, 8)
            layer = _layer(seed, 16, codes=200)
            expected = _quadratic(layer, u, quantised=False)
            size = expected.abs().max()
            # Before it holds the keys, the codebook is a random one.
            coarse = min(coarse, float((layer(u)[0] - expected).abs().max() / size))
            layer.codes.copy_(layer.quantise(u).key[0])
            worst = max(worst, float((layer(u)[0] - expected).abs().max() / size))
    return Measured(worst, {"a random codebook, smallest": coarse}, seeds=3)


def _stepped(setting: Setting) -> Measured:
    import torch

    from statewise.nn import state_tensors

    layer, u = _layer(0, 16), _noise(0, 3, 400, 8)
    with torch.no_grad():
        y = layer(u)[0]
        state, steps, sizes = layer.init_state(3), [], set()
        for t in range(u.shape[1]):
            sample, state = layer.step(u[:, t], state)
            steps.append(sample)
            sizes.add(sum(part.numel() for part in state_tensors(state)))
    gap = float((torch.stack(steps, 1) - y).abs().max() / y.abs().max())
    details = {"numbers in the state of a row": max(sizes) / 3}
    return Measured(gap if len(sizes) == 1 else float("inf"), details, seeds=1)


def _means(setting: Setting) -> Measured:
    import torch

    worst = 0.0
    with torch.no_grad():
        for seed in range(3):
            layer, key = _layer(seed, 4, codes=4), _noise(seed, 400, 8)
            # Four clusters, far enough apart to keep their words.
            group = torch.arange(400) % 4
            key = 0.1 * key + 5 * torch.eye(4, 8, dtype=torch.float64)[group]
            layer.codes.copy_(5 * torch.eye(4, 8, dtype=torch.float64))
            layer.sums.copy_(layer.codes)
            mean = torch.stack([key[group == k].mean(0) for k in range(4)])
            first = layer.codes - mean
            for step in range(1, 200):
                layer.learn_codes(key, decay=0.9)
                # The weight of the start, one sample, decays against 100 of the cluster.
                left = 0.9**step
                expected = left / (left + 100 * (1 - left)) * first
                worst = max(worst, float((layer.codes - mean - expected).abs().max()))
    return Measured(worst, seeds=3)


def _growth(setting: Setting) -> Measured:
    import time

    import torch

    from statewise.nn import LongVQ

    found, details = {}, {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for label, lengths in {"codebook": (1024, 4096), "window over all": (512, 2048)}.items():
            seconds = []
            for length in lengths:
                window = 128 if label == "codebook" else length
                layer = LongVQ(32, n_codes=128, d_key=32, window=window, seed=0)
                u, best = _noise(0, 1, length, 32).float(), float("inf")
                for _ in range(5):
                    begun = time.perf_counter()
                    layer.zero_grad()
                    layer(u)[0].square().sum().backward()
                    best = min(best, time.perf_counter() - begun)
                seconds.append(best)
                details[f"{label}, ms at {length}"] = 1e3 * best
            found[label] = seconds[1] / seconds[0]
    finally:
        torch.set_num_threads(threads)
    value, full = found.values()
    return Measured(
        value,
        details | {"growth with a window over all": full},
        seeds=1,
        remark=(
            "Least of five forward and backward passes, 32 channels, 128 code words and a window "
            "of 128, one thread; attention of all pairs would grow sixteenfold."
        ),
    )


def _follow_keys(model: nn.Module, seed: int) -> None:
    """Let codebooks start at keys of the first training batch, then follow those of every one.

    This is done before a layer runs on the batch.
    """
    import numpy as np
    import torch

    from statewise.nn import LongVQ

    rng = np.random.default_rng(seed)
    started: set[LongVQ] = set()

    def follow(layer: LongVQ, inputs: tuple[Tensor, ...]) -> None:
        if layer.training:
            with torch.no_grad():
                key = layer.quantise(inputs[0]).key
            if layer not in started:
                started.add(layer)
                layer.start_codes(key, seed=rng)
            layer.learn_codes(key, seed=rng)

    for module in model.modules():
        if isinstance(module, LongVQ):
            module.register_forward_pre_hook(follow)


def _words_in_use(model: SequenceModel, task: Task, seed: int) -> float:
    """The perplexity of the codes of held-out samples, the least of the layers."""
    import torch

    from statewise.nn import LongVQ

    found: list[float] = []

    def look(layer: LongVQ, inputs: tuple[Tensor, ...]) -> None:
        found.append(float(layer.quantise(inputs[0]).perplexity))

    layers = [module for module in model.modules() if isinstance(module, LongVQ)]
    handles = [layer.register_forward_pre_hook(look) for layer in layers]
    with torch.no_grad():
        model(task.held_out(64, LENGTH, seed).inputs.to(next(model.parameters()).device))
    for handle in handles:
        handle.remove()
    return min(found)


def _block(kind: str) -> BlockSpec:
    from statewise.nn import EMA, GAU, GLU, BlockSpec, LongVQ, SeqBoat

    if kind == "averages alone":
        return BlockSpec(EMA.spec(d_state=4), static=GLU())
    if kind == "full attention":
        inner = GAU.spec(d_key=32, window=LENGTH, base=0.0)
        return BlockSpec(SeqBoat.spec(d_state=4, inner=inner), norm=None, skip="none")
    return BlockSpec(LongVQ.spec(n_codes=CODES, d_key=32, window=8, d_state=4))


def _trained(setting: Setting, kind: str, seed: int) -> tuple[float, float]:
    """The share of right values of a trained network, and the perplexity of its codes or NaN."""
    import torch

    from statewise.models import SequenceModel, SequenceModelConfig, Tokens
    from statewise.nn import SeqBoat
    from statewise.papers.harness.tasks import AssociativeRecall
    from statewise.papers.harness.train import Recipe, evaluate, train

    task = AssociativeRecall(pairs=4, vocabulary=32)
    recipe = Recipe(steps=600, length=(16, LENGTH), batch=32, lr=1e-2)
    config = SequenceModelConfig((_block(kind),), repeat=2, d_model=32, encoder=Tokens())
    model = SequenceModel(task.n_inputs, task.n_outputs, config, seed=seed)
    _follow_keys(model, seed)
    for module in model.modules():
        if isinstance(module, SeqBoat):
            # Its attention sees every sample, for good.
            with torch.no_grad():
                module.route.bias[1] = 1e4
    course = train(model, task, recipe, seed=seed, setting=setting, label=kind)
    score = evaluate(model, task, [LENGTH], seed=seed, device=setting.device)[LENGTH]
    setting.say(f"{kind} seed {seed}: {score:.3f} ({course.seconds:.0f} s)")
    used = _words_in_use(model, task, seed) if kind == "codebook" else math.nan
    return score, used


def _recall(setting: Setting) -> Measured:
    middle: dict[str, float] = {}
    details: dict[str, float] = {}
    for kind in ("codebook", "full attention", "averages alone"):
        scores = []
        for seed in range(3):
            score, used = _trained(setting, kind, seed)
            scores.append(score)
            details[f"{kind}, seed {seed}"] = score
            if kind == "codebook":
                details[f"perplexity of codes, seed {seed}"] = used
        middle[kind] = statistics.median(scores)
    return Measured(
        middle["codebook"] / middle["full attention"],
        details,
        seeds=3,
        remark="Ratio of the medians over the seeds; without the commitment loss.",
    )


def _used(setting: Setting) -> Measured:
    found = [_trained(setting, "codebook", seed)[1] for seed in range(3)]
    return Measured(
        statistics.median(found) / CODES,
        {f"perplexity, seed {seed}": value for seed, value in enumerate(found)},
        seeds=3,
        remark=(
            "Median over the seeds, the layer that uses fewer. Code words start at keys of the "
            "first batch; from random directions instead, most of them far from every key, the "
            "median was 0.26."
        ),
    )


PAPER = Paper(
    name="longvq",
    title="LongVQ: Long Sequence Modeling with Vector Quantization on Structured Memory",
    identifier="arXiv:2404.11163",
    year=2024,
    says=(
        "Keys from a moving average, replaced by the nearest of a fixed number of code words, let "
        "attention reach all of the past at a cost for each sample that does not grow."
    ),
    uses=("nn.LongVQ", "nn.EMA"),
    claims=(
        Claim(
            name="factorised",
            statement=(
                "Sums and counts by code are attention of all pairs of samples to quantised keys: "
                "largest relative difference over 300 samples in float64."
            ),
            measure=_factorised,
            must=at_most(1e-12),
        ),
        Claim(
            name="full-attention",
            statement=(
                "With a code word for every key it is attention without quantisation: largest "
                "relative difference in float64."
            ),
            measure=_full,
            must=at_most(1e-12),
        ),
        Claim(
            name="constant-memory",
            statement=(
                "Stepping through 400 samples with a state of fixed size gives the output of the "
                "whole sequence: largest relative difference in float64."
            ),
            measure=_stepped,
            must=at_most(1e-11),
        ),
        Claim(
            name="codebook-means",
            statement=(
                "Code words go to the means of their keys at the rate of the running mean: largest "
                "deviation from its closed form over 199 updates."
            ),
            measure=_means,
            must=at_most(1e-11),
        ),
        Claim(
            name="linear-cost",
            statement=(
                "A training pass over 4096 samples costs about four times one over 1024: ratio of "
                "the times."
            ),
            measure=_growth,
            must=at_most(4.6),
            unit="×",
        ),
        Claim(
            name="recall",
            statement=(
                "Two small layers with 64 code words recall 4 pairs over 32 samples as well as "
                "with full attention: share of right values, relative to it."
            ),
            measure=_recall,
            must=at_least(0.95),
            minutes=5,
        ),
        Claim(
            name="words-in-use",
            statement=(
                "These networks make use of their codebook: perplexity of the codes of held-out "
                "sequences, in units of its size."
            ),
            measure=_used,
            must=at_least(0.3),
            minutes=3,
        ),
    ),
)
