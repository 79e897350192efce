"""What a model's functions compute for one particle, read off by running them on one or two.

A function is called with small tensors while every operation that reaches torch is noted, number
by number: an entry of a tensor is a line of a program, so that views, stackings and products with
matrices need no rule of their own. What does not depend on the state is a constant of the formula.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from statewise.inference.trace_rules import MOVES, RULES, SHAPED, Lines, Refused
from statewise.ops.particle_loop import Program

MOST = 2000
"""Lines of a program at most: longer ones are matrix products, which torch does faster."""

LEAVING = frozenset(
    [
        "numpy",
        "tolist",
        "data_ptr",
        "storage",
        "untyped_storage",
        "__array__",
        "__dlpack__",
        "__reduce_ex__",
    ]
)
"""Methods of tensors that hand their numbers to others, without an operation of torch."""


class Step:
    """A step's number that knows whether anybody looked at it."""

    def __init__(self, t: int) -> None:
        self._t, self.used = t, False

    @property
    def __class__(self) -> type:  # pyright: ignore[reportIncompatibleVariableOverride]
        """That of a whole number, for those who ask before they look."""
        self.used = True
        return int

    def __getattr__(self, name: str) -> Any:
        self.used = True
        return getattr(self._t, name)


def _looking(name: str) -> Callable[..., Any]:
    def look(self: Step, *others: Any) -> Any:
        self.used = True
        return getattr(self._t, name)(*others)

    return look


_ARITHMETIC = [
    "add",
    "sub",
    "mul",
    "truediv",
    "floordiv",
    "mod",
    "pow",
    "lshift",
    "rshift",
    "and",
    "or",
    "xor",
    "divmod",
]
_ALONE = [
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "hash",
    "bool",
    "int",
    "float",
    "index",
    "neg",
    "pos",
    "abs",
    "invert",
    "repr",
    "str",
    "round",
    "format",
]
for _name in (*_ARITHMETIC, *(f"r{name}" for name in _ARITHMETIC), *_ALONE):
    setattr(Step, f"__{_name}__", _looking(f"__{_name}__"))


class Traced(NamedTuple):
    """A program, and its constants (R, C)."""

    program: Program
    constants: np.ndarray


class Trace(TorchDispatchMode):
    """Notes what becomes of the tensors that it was told of, while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple] = []
        self.numbers: dict[tuple, int] = {}
        self.known: dict[int, Tensor] = {}
        self.alive: list[Tensor] = []
        self.values: list[np.ndarray] = []
        self.refusal: Refused | None = None
        self.wide = False
        self.watch = _Watch(self)

    def __enter__(self) -> Trace:
        self.watch.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.watch.__exit__(*error)

    def line(self, *line: Any) -> int:
        """The number of a line, the same for the same line."""
        found = self.numbers.get(line)
        if found is None:
            found = self.numbers[line] = len(self.lines)
            self.lines.append(line)
        return found

    def leaf(self, name: str, x: Tensor, axes: tuple[int, ...]) -> Tensor:
        """Take the entries of x to be leaves, told apart by their place on these axes."""
        places = np.indices(tuple(x.shape)).reshape(x.dim(), -1).T[:, list(axes)]
        ids = [self.line(name, *map(int, place)) for place in places]
        self.wide = self.wide or (name == "x" and x.dtype is torch.float64)
        self.remember(x, torch.tensor(ids).reshape(x.shape))
        return x

    def remember(self, x: Tensor, ids: Tensor) -> None:
        """Lines of the entries of x."""
        self.known[id(x)] = ids
        self.alive.append(x)

    def ids(self, x: Any) -> Tensor:
        """Lines of a tensor or a number; what is not known yet is constant."""
        if isinstance(x, Lines):
            return x.ids
        if not isinstance(x, Tensor):
            x = torch.tensor(x, dtype=torch.float64)
        found = self.known.get(id(x))
        if found is None:
            if x.numel() > 64 * MOST:
                raise Refused(f"it takes a constant of {x.numel()} numbers")
            which = len(self.values)
            self.values.append(x.detach().double().numpy().reshape(-1))
            places = [self.line("c", which, k) for k in range(x.numel())]
            found = torch.tensor(places, dtype=torch.int64).reshape(x.shape)
            self.remember(x, found)
        return found

    def each(self, name: str, *args: Any) -> Tensor:
        """One operation on all entries of tensors or numbers, shapes as torch has them."""
        given = torch.broadcast_tensors(*(self.ids(x) for x in args))
        columns = [x.reshape(-1).tolist() for x in given]
        found = [self.line(name, *row) for row in zip(*columns, strict=True)]
        return torch.tensor(found, dtype=torch.int64).reshape(given[0].shape)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        try:
            # Before it is done: the eager engine shall find tensors and random numbers untouched.
            _pure(func)
            out = func(*args, **kwargs)
            self._note(func.overloadpacket.__name__, func, args, kwargs, out)
        except Exception as error:
            # A function that catches it does not make the trace any better.
            self.refusal = self.refusal or _refusal(error)
            raise
        return out

    def _note(self, name: str, func: Any, args: tuple, kwargs: dict, out: Any) -> None:
        flat = [one for x in args for one in (x if isinstance(x, list | tuple) else [x])]
        flat += kwargs.values()
        if name in SHAPED or not any(id(x) in self.known for x in flat if isinstance(x, Tensor)):
            return
        # A constant that a rule has met is known too, and what follows from it is no formula yet.
        if not any(self.varies(x) for x in flat if isinstance(x, Tensor)):
            return
        if name in MOVES:
            found = self._moved(func, name, args, kwargs, out)
        elif name in RULES:
            found = RULES[name](self, *args, **kwargs)
        elif name == "_local_scalar_dense":
            raise Refused("it takes a number of the state or of an input out of its tensor")
        else:
            raise Refused(f"it calls {name}, which has no rule")
        if len(self.lines) > 64 * MOST:
            raise Refused(f"it takes more than {64 * MOST} numbers to trace")
        many = isinstance(out, list | tuple)
        for x, ids in zip(out if many else [out], found if many else [found], strict=True):
            if x.dtype not in (torch.float64, torch.float32, torch.bool):
                raise Refused(f"it computes with numbers of {x.dtype}")
            if self.wide and x.dtype is torch.float32 and name in RULES and name != "where":
                raise Refused(f"it computes in float32 ({name}), and states are float64")
            self.remember(x, ids.reshape(x.shape))

    def varies(self, x: Tensor) -> bool:
        """Whether an entry depends on a state, an input or an output."""
        ids = self.known.get(id(x))
        return ids is not None and any(self.lines[k][0] != "c" for k in ids.reshape(-1).tolist())

    def _moved(self, func: Any, name: str, args: tuple, kwargs: dict, out: Any) -> Any:
        """The same move of the numbers of lines."""
        if name in ("view", "_unsafe_view", "clone", "detach", "alias", "contiguous"):
            return self.ids(args[0])
        if name == "_to_copy":
            if out.dtype.itemsize < args[0].dtype.itemsize:
                raise Refused(f"it makes {out.dtype} of {args[0].dtype}")
            return self.ids(args[0])
        first, *rest = args
        many = isinstance(first, list | tuple)
        given = [self.ids(x) for x in first] if many else self.ids(first)
        for x in rest:
            for one in x if isinstance(x, list | tuple) else [x]:
                if isinstance(one, Tensor) and self.varies(one):
                    raise Refused(f"it looks up places that a state decides ({name})")
        return func(given, *rest, **kwargs)

    def program(self, outputs: Tensor) -> Traced:
        """The program of outputs (R, K, q), of which each particle has the same."""
        program, rows = None, []
        for b in range(len(outputs)):
            per = [self._of(tuple(one), b, k) for k, one in enumerate(outputs[b].tolist())]
            program = program or per[0][0]
            if any(found != program for found, _ in per):
                raise Refused("it computes something else for other particles or series")
            alike = (np.array_equal(x, per[0][1], equal_nan=True) for _, x in per)
            if not all(alike):
                raise Refused("it has constants of its own for each particle")
            rows.append(per[0][1])
        assert program is not None
        if len(program.code) > MOST:
            raise Refused(f"it is {len(program.code)} operations long; {MOST} are the most")
        return Traced(program, np.array(rows, np.float64).reshape(len(rows), -1))

    def _of(self, wanted: tuple[int, ...], b: int, k: int) -> tuple[Program, list[float]]:
        """The program of the lines that one particle's outputs need, numbered anew."""
        code: list[tuple[str, tuple[int, ...]]] = []
        place: dict[int, int] = {}
        constants: list[float] = []
        todo = list(reversed(wanted))
        while todo:
            at = todo[-1]
            if at in place:
                todo.pop()
                continue
            name, *args = self.lines[at]
            if name == "c":
                entry = (name, (len(constants),))
                constants.append(float(self.values[args[0]][args[1]]))
            elif name in ("x", "z"):
                if args[:2] != [b, k]:
                    raise Refused("it mixes particles or series")
                entry = (name, (args[2],))
            elif name in ("y", "u"):
                if args[0] != b:
                    raise Refused("it mixes series")
                entry = (name, (args[1],))
            else:
                missing = [a for a in reversed(args) if a not in place]
                if missing:
                    todo += missing
                    continue
                entry = (name, tuple(place[a] for a in args))
            place[at] = len(code)
            code.append(entry)
            todo.pop()
        return Program(tuple(code), tuple(place[a] for a in wanted)), constants


class _Watch(TorchFunctionMode):
    """Sees what a trace cannot: numbers that leave their tensors and come back as constants."""

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self.trace = trace

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in LEAVING and args and self.trace.varies(args[0]):
            refusal = Refused(f"it takes the numbers of a state, an input or an output ({name})")
            self.trace.refusal = self.trace.refusal or refusal
            raise refusal
        return func(*args, **(kwargs or {}))


def _pure(func: Any) -> None:
    """Whether an operation does nothing but give its outcome."""
    name = func.overloadpacket.__name__
    if func._schema.is_mutable:
        raise Refused(f"it writes into a tensor ({name})")
    if torch.Tag.nondeterministic_seeded in func.tags:
        raise Refused(f"it draws random numbers ({name})")


def _refusal(error: Exception) -> Refused:
    return error if isinstance(error, Refused) else Refused(f"{type(error).__name__}: {error}")
