"""A model as two formulas, if it is one: how a state moves, and how likely an output is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from statewise.inference.particle_laws import FLOATS, numbers, root
from statewise.inference.particle_trace import Step, Trace, Traced
from statewise.inference.quiet_laws import unchecked
from statewise.inference.trace_rules import Lines, Refused
from statewise.ops import particle_formula, philox_normal
from statewise.ops.particle_loop import Formula

if TYPE_CHECKING:
    from statewise.inference.particle import StateSpaceModel

TABLE = 50_000
"""Particles of all series from which it is worth tracing a function at every step."""

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5}
"""Of what is traced beside what the function gives, relative to the largest of an output."""


class Formulas(NamedTuple):
    """What the compiled filter needs of a model.

    Attributes:
        move: of x_{t−1} and normal numbers.
        weigh: log-densities of the outputs that are independent, or of all of them together.
        whole: whether outputs are observed together or not at all.
    """

    move: Formula
    weigh: Formula
    whole: bool


class Data(NamedTuple):
    """What a model is asked with.

    Attributes:
        x: particles of the first step (B, N, n).
        y: outputs (B, T, p), where missing 0.
        u: inputs (B, T, m), or None.
    """

    x: Tensor
    y: Tensor
    u: Tensor | None

    def given(self, t: int) -> tuple[Tensor, ...]:
        """Inputs of a step."""
        return () if self.u is None else (self.u[:, t : t + 1],)

    def few(self, particles: int, moved: bool) -> Data:
        """So many particles of each series; if ``moved``, all numbers are others."""
        x = self.x[:, torch.arange(particles) % self.x.shape[1]]
        if not moved:
            return self._replace(x=x)
        # Counts stay counts.
        return Data(1.5 * x + 0.25, self.y + 1, None if self.u is None else 1.5 * self.u + 0.25)

    def first(self, series: int) -> Data:
        """The first series, so many."""
        u = None if self.u is None else self.u[:series]
        return Data(self.x[:series], self.y[:series], u)


Build = Callable[[Any, int, Data], Traced]


def formulas(model: StateSpaceModel, data: Data) -> Formulas:
    """The model as formulas.

    Raises:
        Refused: it is none, or none that the compiled filter knows; with the reason.
    """
    if data.x.dtype not in FLOATS:
        raise Refused(f"states are {data.x.dtype}, not float32 or float64")
    joint: list[bool] = []

    def move(step: Any, t: int, few: Data) -> Traced:
        return _moved(model, step, t, few)

    def weigh(step: Any, t: int, few: Data) -> Traced:
        found, whole = _weighed(model, step, t, few)
        joint.append(whole)
        return found

    with unchecked():
        weighed = _at_all_steps("observation", weigh, data, 0)
        moved = _at_all_steps("transition", move, data, 1)
    found = Formulas(moved, weighed, joint[0])
    _compare(model, data, found)
    return found


def _at_all_steps(name: str, build: Build, data: Data, start: int) -> Formula:
    """One series is enough to trace, unless constants differ from series to series."""
    try:
        return _traced(name, build, 1, data, start)
    except Refused:
        if len(data.x) == 1:
            raise
        return _traced(name, build, len(data.x), data, start)


def _traced(name: str, build: Build, series: int, data: Data, start: int) -> Formula:
    steps = data.y.shape[1]
    step = Step(start)
    first = _ask(name, build, step, start, data.first(series).few(1, False))
    # Others in number too, so that what counts particles or series gives itself away.
    others = data.first(max(series, 2)).few(2, True)
    if step.used:
        return _table(name, build, data.first(series), others, data, start)
    assert not isinstance(first, Exception)
    other = _ask(name, build, Step(start), min(start + 1, steps - 1), others)
    if isinstance(other, Exception) or not _same(first, other):
        raise Refused(
            f"the {name} is not the same formula each time it is called, or for other numbers of "
            "particles or series"
        )
    return Formula(first.program, torch.from_numpy(first.constants).unsqueeze(0))


def _table(name: str, build: Build, given: Data, others: Data, data: Data, start: int) -> Formula:
    """A formula with constants for each step."""
    B, N, _ = data.x.shape
    if B * N < TABLE:
        raise Refused(
            f"the {name} depends on t, and to look at every step is not worth it for {B * N} "
            f"particles; it is from {TABLE}"
        )
    steps = data.y.shape[1]
    turns = given.few(2, False), given.few(2, True)
    found = [_ask(name, build, t, t, turns[t % 2]) for t in range(start, steps)]
    again = _ask(name, build, steps - 1, steps - 1, others)
    if not _same(found[-1], again) or any(x.program != found[0].program for x in found):
        raise Refused(f"the {name} is not the same formula at every step")
    constants = np.stack([*[found[0].constants] * start, *(x.constants for x in found)])
    return Formula(found[0].program, torch.from_numpy(constants))


def _ask(name: str, build: Build, step: Any, t: int, few: Data) -> Any:
    """What is traced; an error where the number of the step was looked at."""
    try:
        return build(step, t, few)
    except Exception as error:
        if isinstance(step, Step) and step.used:
            return error
        if isinstance(error, Refused):
            raise Refused(f"the {name} is no formula: {error}") from None
        raise Refused(f"the {name} cannot be traced ({type(error).__name__}: {error})") from None


def _same(a: Traced, b: Traced) -> bool:
    """Whether b is a, for other series perhaps."""
    if a.program != b.program:
        return False
    return np.array_equal(*np.broadcast_arrays(a.constants, b.constants), equal_nan=True)


def _entered(few: Data, t: int) -> tuple[Trace, Tensor, tuple[Tensor, ...]]:
    """A trace that knows states and inputs."""
    trace = Trace()
    x = trace.leaf("x", few.x, (0, 1, 2))
    given = tuple(trace.leaf("u", u.clone(), (0, 2)) for u in few.given(t))
    return trace, x, given


def _shown(trace: Trace) -> None:
    if trace.refusal is not None:
        raise trace.refusal


def _moved(model: StateSpaceModel, step: Any, t: int, few: Data) -> Traced:
    trace, x, given = _entered(few, t)
    with trace:
        law = model.transition(x, step, *given)
    _shown(trace)
    known, L = numbers(law), root(law)
    if known is None and L is None:
        raise Refused(
            f"its law is {_called(law)}; only Normal, Independent of that and MultivariateNormal "
            "with one covariance are drawn from"
        )
    loc = known.loc if known is not None else law.loc  # pyright: ignore[reportAttributeAccessIssue]
    if loc.shape != x.shape or loc.dtype is not x.dtype:
        raise Refused(
            f"its law is {loc.dtype} of shape {tuple(loc.shape)}; states are {x.dtype} of shape "
            f"{tuple(x.shape)}"
        )
    z = trace.leaf("z", torch.zeros_like(x), (0, 1, 2))
    if known is not None:
        noise = Lines(trace.each("mul", known.scale, z))
        return trace.program(trace.each("add", loc, noise))
    lines, factors, noise = trace.ids(loc), trace.ids(L), trace.ids(z)
    columns = []
    for d in range(loc.shape[-1]):
        total = lines[..., d]
        for j in range(d + 1):
            part = trace.each("mul", Lines(factors[d, j]), Lines(noise[..., j]))
            total = trace.each("add", Lines(total), Lines(part))
        columns.append(total)
    return trace.program(torch.stack(columns, -1))


def _weighed(model: StateSpaceModel, step: Any, t: int, few: Data) -> tuple[Traced, bool]:
    trace, x, given = _entered(few, t)
    y = trace.leaf("y", few.y[:, :1].clone(), (0, 2))
    with trace:
        found = model.observation(x, step, *given).log_prob(y)
    _shown(trace)
    p = y.shape[-1]
    if (
        found.dim() not in (2, 3)
        or found.shape[:2] != x.shape[:2]
        or found.shape[2:] not in ((), (p,))
    ):
        raise Refused(
            f"its log-density has shape {tuple(found.shape)} for states {tuple(x.shape)} and "
            f"outputs {tuple(y.shape)}"
        )
    lines = trace.ids(found)
    return trace.program(lines if found.dim() == 3 else lines.unsqueeze(-1)), found.dim() == 2


def _called(law: Distribution) -> str:
    return type(law).__name__


def _compare(model: StateSpaceModel, data: Data, found: Formulas) -> None:
    """What is traced beside what the functions give, for all particles."""
    last = data.y.shape[1] - 1
    # At the first step arguments of laws are checked, and what is wrong with them is the user's.
    _compare_at(model, data, found, data.x, 0, min(1, last))
    try:
        with unchecked():
            z = philox_normal(0, 1, data.x.numel()).view(data.x.shape).to(data.x.dtype)
            elsewhere = 1.5 * data.x + 0.25 + 0.1 * z
            _compare_at(model, data, found, elsewhere, last, last)
    except Refused:
        raise
    except Exception as error:
        raise Refused(
            f"the model fails at t = {last} for other states ({type(error).__name__}: {error})"
        ) from None


def _compare_at(
    model: StateSpaceModel, data: Data, found: Formulas, x: Tensor, seen: int, t: int
) -> None:
    y, u = data.y[:, seen], None if data.u is None else data.u[:, seen]
    law = model.observation(x, seen, *data.given(seen))
    expected = law.log_prob(y.unsqueeze(1))
    gained = particle_formula(found.weigh, x, t=seen, y=y, u=u)
    _close("observation", gained.squeeze(-1) if found.whole else gained, expected, x.dtype)
    u = None if data.u is None else data.u[:, t]
    law = model.transition(x, t, *data.given(t))
    z = philox_normal(0, 0, x.numel()).view(x.shape)
    known, L = numbers(law), root(law)
    if known is not None:
        expected = known.loc.double() + known.scale.double() * z
    elif L is not None:
        expected = law.loc.double() + z @ L.double().mT  # pyright: ignore[reportAttributeAccessIssue]
    else:
        raise Refused(f"the transition is {_called(law)} at t = {t}, and was not before")
    _close("transition", particle_formula(found.move, x, t=t, z=z, u=u), expected, x.dtype)


def _close(name: str, found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    expected = expected.double()
    fits = found.shape == expected.shape
    if fits:
        # Each output by its own size: a large one says nothing of a small one. Log-densities are
        # added to others, so of them small errors are small whatever they are.
        size = expected.nan_to_num(0.0, 0.0, 0.0).abs().amax((0, 1))
        size = size.clamp_min(1.0) if name == "observation" else size
        near = (found - expected).abs() <= TOLERANCE[dtype] * size
        fits = bool((near | (found == expected) | (found.isnan() & expected.isnan())).all())
    if not fits:
        raise Refused(f"the formula read off the {name} gives other numbers than the {name}")
