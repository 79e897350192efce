"""What the measurements of language models on a GPU share: limits, times, errors, the peer."""

from __future__ import annotations

import gc
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from statewise.models import LanguageModel

GATE32 = 1e-4
"""Largest relative error of our float32 logits with which anything is measured."""
GATE16 = 5e-2
"""Largest relative error of logits in bfloat16 with which a time is reported."""


class Wanted(Protocol):
    """What the settings of ``models.py`` say of a run on a GPU."""

    model: Any
    tasks: tuple[str, ...]
    rounds: int
    rivals: tuple[str, ...]
    precision: Any
    batch: int
    text: int
    rows: tuple[int, ...]
    decoded: int
    patience: float


class OutOfPatienceError(RuntimeError):
    """A library took longer than it may."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Leave the block with an error after some seconds."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise OutOfPatienceError(f"longer than {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def attempt(function: Callable[[], Any], seconds: float) -> tuple[Any, str]:
    """What a function gives and "", or None and why it gave nothing."""
    try:
        with limited(seconds):
            return function(), ""
    except OutOfPatienceError as reason:
        why = str(reason)
    except torch.cuda.OutOfMemoryError:
        why = "out of memory"
    except Exception as reason:  # a peer may fail in any way, and the others go on
        why = f"{type(reason).__name__}: {str(reason).splitlines()[0][:200] if str(reason) else ''}"
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    return None, why


def milliseconds(function: Callable[[], Any]) -> float:
    """Time of a function on the device."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    function()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def distance(given: Tensor, expected: Tensor) -> float:
    """‖given − expected‖ / ‖expected‖."""
    given, expected = given.double(), expected.double()
    return ((given - expected).norm() / expected.norm()).item()


def peer(model: LanguageModel, kind: str) -> nn.Module:
    """The same model of transformers, with the same weights."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        found = getattr(transformers, f"{kind}ForCausalLM").from_pretrained(folder)
    return found.float().cuda()


def ours_of(model: nn.Module, tokens: Tensor) -> Tensor:
    """Our logits."""
    return model(tokens)[0]


def theirs_of(model: nn.Module, tokens: Tensor) -> Tensor:
    """Logits of transformers."""
    return model(tokens, use_cache=False).logits


def tell(row: dict) -> None:
    """Print a row as soon as it is there."""
    head = "{task:8}{way:24}{shape:34}".format(**row)
    if "why" in row:
        print(f"{head}  not measured: {row['why']}", flush=True)
        return
    line = f"{head}{row['ms']:10.3f} ms{row['per_second']:12.0f} tokens/s"
    line += f"  error {row['error']:.1e}" if "error" in row else ""
    print(line + (f"  {row['note']}" if "note" in row else ""), flush=True)
