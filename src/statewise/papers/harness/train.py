"""One small training loop for the claims that need a trained network."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from statewise.models import SequenceModel, SequenceModelConfig
from statewise.nn import Layer, parameter_groups
from statewise.papers.harness.tasks import Batch, Task
from statewise.papers.registry import Setting
from statewise.train.modes import cpu_threads, evaluating

TRAIN, TEST = 0, 1
"""Streams of one seed: what is trained on and what is judged are drawn apart."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a network is trained: AdamW, warm-up, decay to 0.

    Attributes:
        steps: steps, or the most of them.
        length: length of the sequences, or several of which one is drawn for each step.
        seconds: stop after this time, too; the course then depends on the machine.
        batch: sequences in a step.
        lr: largest learning rate of the maps.
        weight_decay: weight decay of the maps.
        dynamics_factor: learning rate of the dynamics relative to ``lr``.
        warmup: share of the course in which the rate rises.
        decay: "cosine", "linear" or "constant": how the rate falls to 0 behind the warm-up.
        clip: largest norm of the gradient.
        betas: of AdamW.
    """

    steps: int
    length: int | tuple[int, ...]
    seconds: float | None = None
    batch: int = 32
    lr: float = 3e-3
    weight_decay: float = 0.0
    dynamics_factor: float = 1.0
    warmup: float = 0.05
    decay: str = "cosine"
    clip: float = 1.0
    betas: tuple[float, float] = (0.9, 0.98)

    def __post_init__(self) -> None:
        if self.decay not in ("cosine", "linear", "constant"):
            raise ValueError(
                f'the decay of a Recipe is "cosine", "linear" or "constant"; given {self.decay!r}'
            )
        if self.steps < 1 or self.batch < 1 or not 0 <= self.warmup < 1:
            raise ValueError(
                f"a Recipe needs steps and batch of at least 1 and a warm-up in [0, 1); given "
                f"{self.steps}, {self.batch} and {self.warmup}"
            )

    def rate(self, done: float) -> float:
        """Factor of the learning rate when the share ``done`` of the course is over."""
        if done < self.warmup:
            return done / self.warmup
        left = (1 - done) / (1 - self.warmup)
        if self.decay == "constant":
            return 1.0
        return left if self.decay == "linear" else 0.5 - 0.5 * math.cos(math.pi * left)


@dataclasses.dataclass(frozen=True)
class Course:
    """How a training run went.

    Attributes:
        losses: the loss of every step; a run ends early where it is not finite.
        seconds: how long it took.
    """

    losses: tuple[float, ...]
    seconds: float


@dataclasses.dataclass(frozen=True)
class Trial:
    """One seed of a trained network, judged.

    Attributes:
        seed: seed of the start, the training data and the test data.
        model: the trained network.
        course: how training went.
        scores: by length, see :func:`evaluate`.
    """

    seed: int
    model: SequenceModel
    course: Course
    scores: dict[int, float]


def loss_of(task: Task, outputs: Tensor, batch: Batch) -> Tensor:
    """The mean loss over the judged samples.

    Args:
        task: names the loss.
        outputs: of the model, (B, L, n_outputs), or (B, n_outputs) with a pooled head.
        batch: what was asked.
    """
    said, wanted = _judged(outputs, batch)
    if task.loss == "classes":
        return nn.functional.cross_entropy(said, wanted)
    if task.loss == "bits":
        return nn.functional.binary_cross_entropy_with_logits(said, wanted)
    return nn.functional.mse_loss(said, wanted)


def _judged(outputs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    if batch.mask is not None:
        return outputs[batch.mask], batch.targets[batch.mask]
    if outputs.ndim == 3 and batch.targets.ndim == 2:
        return outputs.flatten(0, 1), batch.targets.flatten()
    return outputs, batch.targets


def train(
    model: Layer,
    task: Task,
    recipe: Recipe,
    *,
    seed: int = 0,
    setting: Setting | None = None,
    label: str = "",
) -> Course:
    """Train a model in place; equal arguments give equal bits on one type of machine.

    Args:
        model: a model in the layer contract; it stays on the device of the setting.
        task: what it must learn.
        recipe: how.
        seed: seed of the sequences and of dropout.
        setting: device and where to tell the progress; None for the CPU and nowhere.
        label: what the progress is called.

    Returns:
        The losses and the time.
    """
    setting = Setting() if setting is None else setting
    model.to(setting.device).train()
    rng = np.random.default_rng([seed, TRAIN])
    lengths = (recipe.length,) if isinstance(recipe.length, int) else recipe.length
    groups = parameter_groups(model, recipe.lr, recipe.weight_decay, recipe.dynamics_factor)
    optimiser = torch.optim.AdamW(groups, betas=recipe.betas)
    schedule = [(group, group["lr"]) for group in optimiser.param_groups]
    losses: list[float] = []
    begun, told = time.perf_counter(), 0
    devices = [torch.cuda.current_device()] if setting.device == "cuda" else []
    with cpu_threads(model, None), torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        for step in range(recipe.steps):
            done = (step + 1) / (recipe.steps + 1)
            if recipe.seconds is not None:
                done = max(done, (time.perf_counter() - begun) / recipe.seconds)
            if done >= 1:
                break
            for group, base in schedule:
                group["lr"] = base * recipe.rate(done)
            length = int(rng.choice(lengths))
            batch = task.draw(recipe.batch, length, rng).to(setting.device)
            outputs, _ = model(batch.inputs, reset=batch.reset, lengths=batch.lengths)
            loss = loss_of(task, outputs, batch)
            optimiser.zero_grad()
            loss.backward()
            losses.append(float(loss.detach()))
            if not math.isfinite(losses[-1]):
                setting.say(f"{label} seed {seed}: the loss is not finite at step {step}")
                break
            nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            optimiser.step()
            if int(5 * done) > told:
                told = int(5 * done)
                recent = statistics.fmean(losses[-20:])
                setting.say(f"{label} seed {seed}: {done:.0%}, loss {recent:.3g}")
    return Course(tuple(losses), time.perf_counter() - begun)


def evaluate(
    model: Layer,
    task: Task,
    lengths: Sequence[int],
    *,
    seed: int = 0,
    sequences: int = 256,
    device: str = "cpu",
) -> dict[int, float]:
    """Judge a model on sequences that it was not trained on.

    Args:
        model: a trained model.
        task: what is asked.
        lengths: lengths to judge at.
        seed: seed of the sequences.
        sequences: how many for each length, all in one batch.
        device: where the model is.

    Returns:
        By length: the share of judged samples (or bits) that are right, or for a task with squares
        the mean square error.
    """
    scores = {}
    with torch.no_grad(), evaluating(model), cpu_threads(model, None):
        for length in lengths:
            rng = np.random.default_rng([seed, TEST, length])
            batch = task.held_out(sequences, length, rng).to(device)
            outputs, _ = model(batch.inputs, reset=batch.reset, lengths=batch.lengths)
            said, wanted = _judged(outputs, batch)
            if task.loss == "squares":
                score = (said - wanted).square()
            elif task.loss == "bits":
                score = (said > 0) == (wanted > 0.5)
            else:
                score = said.argmax(-1) == wanted
            scores[length] = float(score.double().mean())
    return scores


def trials(
    config: SequenceModelConfig,
    task: Task,
    recipe: Recipe,
    lengths: Sequence[int],
    *,
    seeds: Sequence[int] = (0, 1, 2),
    sequences: int = 256,
    setting: Setting | None = None,
    label: str = "",
) -> list[Trial]:
    """Train and judge a network from several seeds, one after another.

    Args:
        config: the network.
        task: what it must learn.
        recipe: how.
        lengths: lengths to judge at.
        seeds: of the start, the training data and the test data.
        sequences: how many are judged for each length.
        setting: device and where to tell the progress.
        label: what the progress is called.
    """
    setting = Setting() if setting is None else setting
    found = []
    for seed in seeds:
        model = SequenceModel(task.n_inputs, task.n_outputs, config, seed=seed)
        course = train(model, task, recipe, seed=seed, setting=setting, label=label)
        scores = evaluate(
            model, task, lengths, seed=seed, sequences=sequences, device=setting.device
        )
        said = ", ".join(f"{length}: {score:.3f}" for length, score in scores.items())
        setting.say(f"{label} seed {seed}: {said} ({course.seconds:.0f} s)")
        found.append(Trial(seed, model, course, scores))
    return found


def median(found: Sequence[Trial], length: int) -> float:
    """The median score of the seeds at a length."""
    return statistics.median(trial.scores[length] for trial in found)


def details(found: Sequence[Trial], label: str = "") -> dict[str, float]:
    """The scores of every seed and length by name, for :class:`~statewise.papers.Measured`."""
    lead = f"{label}, " if label else ""
    return {
        f"{lead}length {length}, seed {trial.seed}": score
        for trial in found
        for length, score in trial.scores.items()
    }
