"""Training steps of language models on a GPU.

A step is logits, loss, gradients and AdamW, in bfloat16 as ``precision`` says: ``autocast`` keeps
the parameters in float32, ``parameters`` has them in bfloat16. A peer that runs out of memory or of
patience is measured on smaller batches, then with its layers computed again in the backward pass,
then on shorter texts; and ours beside it on that shape too.
"""

from __future__ import annotations

import copy
import dataclasses
import gc
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from models_gpu import Wanted, attempt, milliseconds, ours_of, tell, theirs_of
from statewise.models import LanguageModel


@dataclasses.dataclass(frozen=True)
class Shape:
    """A batch of texts to train on."""

    batch: int
    length: int
    checkpoints: bool = False
    """Whether layers are computed again in the backward pass, to save memory."""

    def __str__(self) -> str:
        again = ", layers computed again" if self.checkpoints else ""
        return f"B {self.batch}, L {self.length}{again}"


def trained(
    model: nn.Module, logits: Callable[[nn.Module, Tensor], Tensor], text: Tensor, precision: str
) -> Callable[[], Tensor]:
    """A step of training: logits, loss, gradients, AdamW."""
    model = copy.deepcopy(model).train()
    if precision == "parameters":
        model = model.bfloat16()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> Tensor:
        cast = torch.autocast("cuda", torch.bfloat16)
        with cast if precision == "autocast" else nullcontext():
            found = logits(model, text[:, :-1])
        loss = cross_entropy(found.flatten(0, 1).float(), text[:, 1:].flatten())
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def train_times(step: Callable[[], Tensor], rounds: int, patience: float) -> dict:
    """Median milliseconds of a step behind the first, and the first loss."""
    torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    loss, times = step().item(), []
    while len(times) < rounds and (not times or time.perf_counter() - start < patience / 2):
        times.append(milliseconds(step))
    memory = torch.cuda.max_memory_allocated() / 2**30
    return {"ms": statistics.median(times), "rounds": times, "loss": loss, "GiB": memory}


def shapes(options: Wanted) -> list[Shape]:
    """What a peer is tried on, until one is possible."""
    batches = [options.batch]
    while batches[-1] > 1:
        batches.append(batches[-1] // 2)
    found = [Shape(batch, options.text) for batch in batches]
    found += [Shape(batch, options.text, True) for batch in (batches[0], 1)]
    return found + [Shape(1, options.text // k, True) for k in (2, 4, 8) if options.text >= 16 * k]


def train(options: Wanted, ours: LanguageModel, theirs: nn.Module | None) -> list[dict]:
    """Rows of the training step."""
    generator = torch.Generator().manual_seed(0)
    size = ours.config.vocab_size
    text = torch.randint(0, size, (options.batch, options.text + 1), generator=generator).cuda()

    def run(model: nn.Module, logits: Callable, shape: Shape, patience: float) -> tuple[Any, str]:
        part = text[: shape.batch, : shape.length + 1]

        def call() -> dict:
            step = trained(model, logits, part, options.precision)
            return train_times(step, options.rounds, patience)

        found = attempt(call, patience)
        gc.collect()
        torch.cuda.empty_cache()
        return found

    rows: list[dict] = []

    def report(way: str, shape: Shape, found: dict | None, why: str) -> None:
        row: dict = {"task": "train", "way": way, "shape": str(shape)}
        if found is None:
            row["why"] = why
        else:
            rate = 1e3 * shape.batch * shape.length / found["ms"]
            row |= {"per_second": rate, "note": f"{found['GiB']:.1f} GiB", **found}
        rows.append(row)
        tell(row)

    full = Shape(options.batch, options.text)
    report("statewise", full, *run(ours, ours_of, full, options.patience))
    if theirs is None:
        return rows
    end = time.perf_counter() + 3 * options.patience
    for shape in shapes(options):
        left = end - time.perf_counter()
        if left < 1:
            break
        if shape.checkpoints:
            theirs.gradient_checkpointing_enable()  # pyright: ignore
        found, why = run(theirs, theirs_of, shape, min(left, options.patience))
        report("transformers", shape, found, why)
        if found is not None:
            if shape != full:
                plain = dataclasses.replace(shape, checkpoints=False)
                report("statewise", plain, *run(ours, ours_of, plain, options.patience))
            break
    return rows
