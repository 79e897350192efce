"""Steps of a chain of blocks: runs of Mamba blocks as one call, where that gives the same."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from itertools import chain, groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from statewise.nn.block import Block
from statewise.nn.contract import Layer, State, check_sample
from statewise.nn.fused import MOST_ROWS, is_overwriting
from statewise.nn.mamba import Mamba, MambaState
from statewise.nn.mamba2 import Mamba2, Mamba2State
from statewise.nn.static import RootMeanSquareNorm
from statewise.ops import BlockStack, stack_step

_log = logging.getLogger("statewise")

_STATES: dict[type, type] = {Mamba: MambaState, Mamba2: Mamba2State}
_CALLED = (nn.Linear, nn.RMSNorm, nn.Identity, nn.Dropout)
"""Parts that a step of a block calls, one by one."""
_SETTINGS = (
    *("prenorm", "adds_input", "rule", "selective", "n_groups", "dt_limit", "norm_before_gate"),
    *("eps", "p"),
)
"""Attributes of modules that say what a step computes."""


class _Run(NamedTuple):
    """Neighbouring blocks that are stepped together."""

    first: int
    stop: int
    stack: BlockStack
    kind: type


class _Plan:
    """How to step some blocks, and what must still be as it was for that to hold."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        self.blocks = list(blocks)
        modules = [one for block in blocks for one in block.modules()]
        parts = [part for one in modules for part in (one._modules, one._parameters)]
        self._parts = [part for part in parts if part]
        # They are held, so that none of their addresses is given to another object.
        self._held = [value for part in self._parts for value in part.values()]
        self._addresses = list(map(id, self._held))
        self._settings = [item for one in modules for item in _settings(one)]
        self._hooks = [
            hooks
            for one in modules
            if isinstance(one, _CALLED)
            for hooks in (one._forward_hooks, one._forward_pre_hooks)
        ]
        self._hooks += [torch_module._global_forward_hooks, torch_module._global_forward_pre_hooks]
        self.runs = list(_runs(blocks))
        self.summary = _summary(blocks, self.runs)

    def holds(self, blocks: Sequence[Block]) -> bool:
        """Whether blocks, parts, parameters and settings are those that were found."""
        if blocks != self.blocks:
            return False
        # Hundreds of looks at every step, at memory that the weights have driven from the caches.
        if list(map(id, chain.from_iterable(map(dict.values, self._parts)))) != self._addresses:
            return False
        return not [1 for where, key, value in self._settings if where.get(key) is not value]

    @property
    def watched(self) -> bool:
        """Whether a hook waits for a call of some part."""
        return any(map(bool, self._hooks))


class Stepper:
    """Steps a chain of blocks; it remembers which of them run as one call.

    Runs of neighbouring :class:`Block` with a plain Mamba or Mamba-2 layer, an RMS norm in front
    and nothing else inside go to :func:`~statewise.ops.stack_step`, where no gradient is asked for
    and rows are few, on the CPU; all others are stepped by themselves. Parts and parameters may be
    changed or replaced at any time: every step looks whether they are those it knows.
    The logger ``statewise`` tells which way was taken and why, once.
    """

    def __init__(self) -> None:
        self._plan: _Plan | None = None
        self._told: set[str] = set()

    def __deepcopy__(self, memo: dict) -> Stepper:
        return Stepper()

    def __reduce__(self) -> tuple:
        return Stepper, ()

    def __call__(
        self,
        name: str,
        blocks: Sequence[Block],
        h: Tensor,
        states: Sequence[State],
        dt: Tensor | None = None,
    ) -> tuple[Tensor, tuple[State, ...]]:
        """What the last block gives for one sample, and the next state of every block.

        Args:
            name: what is stepped, for the log.
            blocks: the blocks.
            h: what goes into the first block, (B, D).
            states: the state of every block.
            dt: relative step (B,), or None for 1.
        """
        if torch.compiler.is_compiling():
            return _one_by_one(blocks, h, states, dt)
        reason = _refusal(h)
        if reason is None:
            plan = self._plan
            if plan is None or not plan.holds(blocks):
                plan = self._plan = _Plan(blocks)
            if not plan.watched:
                self._tell(name, plan.summary)
                return self._planned(name, plan, h, states, dt)
            reason = "a hook waits for calls of their parts"
        self._tell(name, f"blocks are stepped one by one, because {reason}")
        return _one_by_one(blocks, h, states, dt)

    def _tell(self, name: str, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            _log.info("%s: %s", name, text)

    def _planned(
        self, name: str, plan: _Plan, h: Tensor, states: Sequence[State], dt: Tensor | None
    ) -> tuple[Tensor, tuple[State, ...]]:
        after, here = [], 0
        for run in plan.runs:
            h, last = _one_by_one(plan.blocks[here : run.first], h, states[here : run.first], dt)
            after += last
            blocks, before = plan.blocks[run.first : run.stop], states[run.first : run.stop]
            reason = _misfit(run, h, before, dt)
            if reason is None:
                check_sample(blocks[0], h, dt, None)
                scale = None if dt is None else dt.to(h.dtype)
                h, last = stack_step(h, before, run.stack, scale=scale)
                last = [run.kind(*parts) for parts in last]
            else:
                where = f"blocks {run.first} to {run.stop - 1} are stepped one by one"
                self._tell(name, f"{where}, because {reason}")
                h, last = _one_by_one(blocks, h, before, dt)
            after += last
            here = run.stop
        h, last = _one_by_one(plan.blocks[here:], h, states[here:], dt)
        return h, (*after, *last)


def _one_by_one(
    blocks: Sequence[Block], h: Tensor, states: Sequence[State], dt: Tensor | None
) -> tuple[Tensor, tuple[State, ...]]:
    after = []
    for block, before in zip(blocks, states, strict=True):
        h, last = block.step(h, before, dt=dt)
        after.append(last)
    return h, tuple(after)


def _refusal(h: Tensor) -> str | None:
    """Why no block can be stepped together with others on this sample; None where it can."""
    if h.device.type != "cpu" or type(h) is not Tensor:
        return f"the sample is a {type(h).__name__} on {h.device}"
    if h.dtype not in (torch.float32, torch.float64):
        return f"numbers are {h.dtype}"
    if h.shape[0] > MOST_ROWS:
        return f"there are more than {MOST_ROWS} rows"
    if torch.is_autocast_enabled("cpu"):
        return "autocast is on"
    if is_overwriting():
        return "states are overwritten"
    return None


def _misfit(run: _Run, h: Tensor, states: Sequence[State], dt: Tensor | None) -> str | None:
    """Why a run cannot be stepped as one from these states; None where it can."""
    sizes, tensors = run.stack.sizes, run.stack.tensors
    tails = ((sizes.taps - 1, sizes.mixed), sizes.state)
    shapes = [torch.Size((h.shape[0], *tail)) for tail in tails]
    if any(one.dtype is not h.dtype for one in tensors):
        return f"the sample is {h.dtype}, and not every parameter is"
    for state in states:
        if type(state) is not run.kind:
            return f"a state is a {type(state).__name__}"
        for part, shape in zip(state, shapes, strict=True):
            if type(part) is not Tensor or part.dtype is not h.dtype or part.shape != shape:
                return "a state has another shape or type"
            if part.device != h.device:
                return f"a state is on {part.device}"
    if torch.is_grad_enabled():
        given = [h, *tensors, *(part for state in states for part in state)]
        given += [] if dt is None else [dt]
        if any(one.requires_grad for one in given):
            return "gradients are asked for"
    return None


def _settings(module: nn.Module) -> Iterator[tuple[dict[str, Any], str, Any]]:
    """Attributes of a module that say what it computes; None stands for one that is not there."""
    own = vars(module)
    keys = [key for key in _SETTINGS if key in own]
    keys += ["training"] if isinstance(module, nn.Dropout) else []
    keys += ["step"] if isinstance(module, Layer) else []
    keys += ["forward"] if isinstance(module, _CALLED) else []
    for key in keys:
        yield own, key, own.get(key)


def _runs(blocks: Sequence[Block]) -> Iterator[_Run]:
    """Runs of neighbouring blocks with layers of one kind, size and setting."""
    first = 0
    for kind, group in groupby(blocks, _kind):
        run = list(group)
        if kind is not None:
            norms: list[Any] = [block.norm for block in run]
            layers: list[Any] = [block.layer for block in run]
            stack = BlockStack(
                [norm.weight for norm in norms],
                [layer.step_weights() for layer in layers],
                norm_eps=norms[0].eps,
                **layers[0].step_settings(),
            )
            yield _Run(first, first + len(run), stack, _STATES[type(layers[0])])
        first += len(run)


def _kind(block: Block) -> tuple | None:
    """What blocks of one run have in common; None where a block must be stepped by itself."""
    if _alone(block) is not None:
        return None
    layer: Any = block.layer
    tensors = [block.norm.weight, *layer.step_weights()]
    shapes = tuple(None if one is None else (one.shape, one.dtype) for one in tensors)
    return type(layer), shapes, block.norm.eps, *layer.step_settings().items()


def _alone(block: Block) -> str | None:
    """Why a block must be stepped by itself; None where it may be stepped with others."""
    layer: Any = block.layer
    if type(block) is not Block or type(layer) not in _STATES:
        return f"its layer is {type(layer).__name__}"
    weights = layer.step_weights()
    if weights is None:
        return "no operator knows this kind of Mamba"
    if type(block.norm) is not RootMeanSquareNorm or not block.prenorm:
        return "it has no RMS norm in front"
    if block.norm.eps is None:
        return "its norm adds what the type of the sample says"
    drop: nn.Module = block.dropout
    quiet = type(drop) is nn.Identity or (
        type(drop) is nn.Dropout and not (drop.training and drop.p)
    )
    if type(block.static) is not nn.Identity or not block.adds_input or not quiet:
        return "it does more than to add what the layer gives"
    maps = [one for one in layer.children() if isinstance(one, nn.Linear)]
    if any(type(one) is not nn.Linear for one in maps):
        return "a map of its layer is not a plain nn.Linear"
    if any(name in vars(one) for one in block.modules() for name in ("forward", "step")):
        return "a method of one of its parts was replaced"
    norm, own = block.norm.weight, set(map(id, block.parameters()))
    for one in (norm, *weights):
        if one is None:
            continue
        if id(one) not in own:
            return "a parameter is computed from others"
        if type(one) not in (Tensor, nn.Parameter):
            return f"a parameter is a {type(one).__name__}"
        if one.device.type != "cpu" or one.dtype not in (torch.float32, torch.float64):
            return f"a parameter is {one.dtype} on {one.device}"
        if one.dtype is not norm.dtype:
            return f"parameters are {norm.dtype} and {one.dtype}"
    return None


def _summary(blocks: Sequence[Block], runs: Sequence[_Run]) -> str:
    """What is stepped together, and what not, as a line for the log."""
    together = sum(run.stop - run.first for run in runs)
    calls = "1 call" if len(runs) == 1 else f"{len(runs)} calls"
    line = f"{together} of {len(blocks)} blocks are stepped in {calls} of stack_step"
    for k, block in enumerate(blocks):
        reason = _alone(block)
        if reason is not None:
            return f"{line}; block {k} is stepped by itself, because {reason}"
    return line
