"""Programs as instructions for the machine of packs.

What no particle changes is computed once for all of them, in the uniform part; a product that is
only added to something becomes a multiply-add; registers are used again once nothing reads them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from statewise.ops.particle_loop import _machine as m
from statewise.ops.particle_loop.program import Program

_BINARY = {
    "add": m.ADD,
    "sub": m.SUB,
    "mul": m.MUL,
    "div": m.DIV,
    "pow": m.POW,
    "maximum": m.MAXIMUM,
    "minimum": m.MINIMUM,
    "lt": m.LESS,
    "le": m.AT_MOST,
    "eq": m.EQUAL,
}
_UNARY = {
    "neg": m.NEG,
    "abs": m.ABS,
    "sqrt": m.SQRT,
    "exp": m.EXP,
    "log": m.LOG,
    "sin": m.SIN,
    "cos": m.COS,
    "sigmoid": m.SIGMOID,
    "tanh": m.TANH,
    "expm1": m.EXPM1,
    "log1p": m.LOG1P,
    "tan": m.TAN,
    "atan": m.ATAN,
    "sinh": m.SINH,
    "cosh": m.COSH,
    "erf": m.ERF,
    "lgamma": m.LGAMMA,
}
_LEAF = {"x": m.LOAD_X, "z": m.LOAD_Z, "y": m.LOAD_Y, "u": m.LOAD_U, "c": m.LOAD_C}
_WITH_UNIFORM = {
    ("add", 1): m.ADD_S,
    ("add", 0): m.ADD_S,
    ("sub", 1): m.SUB_S,
    ("sub", 0): m.FROM_S,
    ("mul", 1): m.MUL_S,
    ("mul", 0): m.MUL_S,
    ("div", 1): m.DIV_S,
    ("div", 0): m.OVER_S,
}
"""Operations of a register and of a number for all, by which of the two arguments that is."""


class Instructions(NamedTuple):
    """A program for the machine: rows (what, to, from, from, from), registers by their start.

    Attributes:
        uniform: what is done once.
        varying: what is done for every particle.
        room: numbers that all registers take.
    """

    uniform: np.ndarray
    varying: np.ndarray
    room: int


class _Registers:
    """Those of the varying part; one is free again when its last reader has read it."""

    def __init__(self, first: int) -> None:
        self.free: list[int] = []
        self.next = first

    def take(self) -> int:
        if self.free:
            return self.free.pop()
        # A little apart, so that they do not all take the same lines of the cache.
        self.next += m.CHUNK + m.APART
        return self.next - m.CHUNK - m.APART


@lru_cache(maxsize=256)
def lower(program: Program) -> Instructions:
    """The instructions of a program; outputs are stored in order."""
    code = program.code
    varies: list[bool] = []
    for name, args in code:
        leaf = name in _LEAF
        varies.append(name in ("x", "z") if leaf else any(varies[a] for a in args))
    readers = [0] * len(code)
    for name, args in code:
        for a in () if name in _LEAF else args:
            readers[a] += 1
    for k in program.outputs:
        readers[k] += 1

    place: dict[int, int] = {}
    uniform: list[tuple[int, ...]] = []
    for k, (name, args) in enumerate(code):
        if not varies[k]:
            place[k] = m.ROUND * len(place)
            uniform.append(_line(name, place[k], args, place))

    registers = _Registers(m.ROUND * len(place))
    varying: list[tuple[int, ...]] = []
    folded = _products(program, varies, readers)

    def release(k: int) -> None:
        readers[k] -= 1
        if varies[k] and not readers[k]:
            registers.free.append(place[k])

    stored = 0
    for k, (name, args) in enumerate(code):
        if varies[k] and k not in folded:
            reads = args
            product = next((a for a in args if a in folded), None) if name == "add" else None
            place[k] = registers.take()
            if name in _LEAF:
                reads = ()
                varying.append((_LEAF[name], place[k], args[0], 0, 0))
            elif product is not None:
                other = args[1] if args[0] == product else args[0]
                a, b = code[product][1]
                a, b = (b, a) if not varies[a] else (a, b)
                reads = (a, b, other)
                kind = m.MADD if varies[b] else m.MADD_S
                varying.append((kind, place[k], place[a], place[b], place[other]))
            else:
                varying += _varying(name, place[k], args, place, varies, registers)
            for a in reads:
                release(a)
        while stored < len(program.outputs) and program.outputs[stored] <= k:
            out = program.outputs[stored]
            source = place[out]
            if not varies[out]:
                source = registers.take()
                varying.append((m.SPREAD, source, place[out], 0, 0))
                registers.free.append(source)
            varying.append((m.STORE, stored, source, 0, 0))
            release(out)
            stored += 1
    same, other = (np.array(part, np.int64).reshape(-1, 5) for part in (uniform, varying))
    return Instructions(same, other, registers.next + m.CHUNK)


def _products(program: Program, varies: list[bool], readers: list[int]) -> set[int]:
    """Products that one sum alone reads, and which that sum takes over; one for each sum."""
    folded: set[int] = set()
    for k, (name, args) in enumerate(program.code):
        if name == "add" and varies[k] and args[0] != args[1]:
            # The other term has to vary too: the multiply-add reads it from a register.
            fits = [
                a
                for a, other in (args, args[::-1])
                if program.code[a][0] == "mul" and varies[a] and readers[a] == 1 and varies[other]
            ]
            folded.update(fits[-1:])
    return folded


def _line(name: str, to: int, args: tuple[int, ...], place: dict[int, int]) -> tuple[int, ...]:
    if name in _LEAF:
        return (_LEAF[name], to, args[0], 0, 0)
    kind = m.WHERE if name == "where" else _BINARY.get(name, _UNARY.get(name, -1))
    return (kind, to, *(place[a] for a in args), *(0,) * (3 - len(args)))


def _varying(
    name: str,
    to: int,
    args: tuple[int, ...],
    place: dict[int, int],
    varies: list[bool],
    registers: _Registers,
) -> list[tuple[int, ...]]:
    """An operation of which some arguments may be the same for all particles."""
    same = [k for k, a in enumerate(args) if not varies[a]]
    if len(args) == 2 and len(same) == 1 and (name, same[0]) in _WITH_UNIFORM:
        a, s = args[1 - same[0]], args[same[0]]
        return [(_WITH_UNIFORM[name, same[0]], to, place[a], place[s], 0)]
    lines, taken, where = [], [], dict(place)
    for k in same:
        spread = registers.take()
        lines.append((m.SPREAD, spread, place[args[k]], 0, 0))
        where[args[k]] = spread
        taken.append(spread)
    registers.free += taken
    return [*lines, _line(name, to, args, where)]
