"""The architectures of the field, and how each one is built here, or what is missing.

The rows follow three surveys: "A survey on structured state space sequence models" (2503.18970),
"Mamba-360" (2404.16112), and the line from HiPPO to Mamba. Nothing here needs torch.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from statewise.nn.layer_spec import BlockSpec, LayerSpec
from statewise.nn.specs import LayerNorm
from statewise.nn.static_specs import GLU

KINDS = ("structure", "gating", "recurrence", "hybrid", "attention", "application")


@dataclasses.dataclass(frozen=True)
class Architecture:
    """One row of the survey.

    Attributes:
        name: as it is published.
        year: of the first preprint.
        kind: what carries the idea: "structure" (of the matrix, the kernel, or their start),
            "gating", "recurrence", "hybrid", "attention", or "application" of another row.
        varies: whether the recurrence depends on the input (TV) or not (TI).
        definition: in a line.
        primitives: the operations that run it, by their names in ``statewise.ops``; where they are
            missing here, in words.
        blocks: its blocks in order, as data, for a ``SequenceModelConfig``; empty where it is not
            here as a stack of layers.
        module: the public class of a row that is no layer over time, such as "nn.S4ND".
        state: real numbers that are carried for one sequence, as a formula in D, the width of the
            model, and the letters of ``sizes``.
        sizes: the letters of ``state``, with their values in ``blocks``.
        note: what to know about the configuration.
        paper: its name among :func:`~statewise.papers.papers`, where that is not ``key``.
        missing: a sentence on what is missing, for a row that is not here.
    """

    name: str
    year: int
    kind: str
    varies: bool
    definition: str
    primitives: tuple[str, ...]
    blocks: tuple[BlockSpec, ...] = ()
    module: str = ""
    state: str = ""
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    note: str = ""
    paper: str = ""
    missing: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"a kind is one of {', '.join(KINDS)}; given {self.kind!r}")
        ways = [bool(self.blocks), bool(self.module), bool(self.missing)]
        if sum(ways) != 1:
            raise ValueError(
                f"{self.name} is made of blocks, is a module, or is missing: one of the three; "
                f"given {sum(ways)}"
            )
        if bool(self.blocks) != bool(self.state):
            raise ValueError(f"{self.name} needs the size of its state where it has blocks")

    @property
    def here(self) -> bool:
        """Whether the row can be built."""
        return not self.missing

    @property
    def key(self) -> str:
        """The name up to a bracket in small letters, digits and hyphens: the id of its tests."""
        name = self.name.partition("(")[0].lower()
        words = "".join(c if c.isalnum() else " " for c in name).split()
        return "-".join(words)

    def numbers(self, width: int) -> int:
        """How many real numbers are carried for one sequence.

        Args:
            width: D, the width of the model.

        Raises:
            ValueError: the row has no state, or its formula has another sign or letter.
        """
        return _value(ast.parse(self.state, mode="eval").body, {"D": width, **self.sizes})


@functools.cache
def architectures() -> Mapping[str, Architecture]:
    """Every row by its key, those that are here first, in the order of their years."""
    from statewise.papers.survey_absent import ABSENT
    from statewise.papers.survey_invariant import INVARIANT
    from statewise.papers.survey_varying import VARYING

    rows = sorted([*INVARIANT, *VARYING, *ABSENT], key=lambda row: (not row.here, row.year))
    found = {row.key: row for row in rows}
    if len(found) != len(rows):
        raise ValueError("two architectures of the survey have one name")
    return MappingProxyType(found)


def layer(name: str, **options: Any) -> LayerSpec:
    """A layer as data, without the check of ``Layer.spec``, which needs torch."""
    return LayerSpec(name, options)


def two_parts(*layers: LayerSpec) -> tuple[BlockSpec, ...]:
    """A block with a layer norm in front for each of the layers."""
    return tuple(BlockSpec(one, norm=LayerNorm()) for one in layers)


def glu_block(one: LayerSpec) -> tuple[BlockSpec, ...]:
    """The block of S4, S5 and LRU: a layer norm in front, a gated map behind."""
    return (BlockSpec(one, static=GLU(), norm=LayerNorm()),)


MLP = layer("FeedForward", expand=2)
SWIGLU = layer("FeedForward", expand=2, activation="silu", gated=True, bias=False)


def _value(node: ast.expr, letters: Mapping[str, int]) -> int:
    """The value of a formula of whole numbers and letters; quotients must be whole."""
    match node:
        case ast.Constant(value=int(number)):
            return number
        case ast.Name(id=letter) if letter in letters:
            return letters[letter]
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _value(left, letters) + _value(right, letters)
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            return _value(left, letters) - _value(right, letters)
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return _value(left, letters) * _value(right, letters)
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            whole, rest = divmod(_value(left, letters), _value(right, letters))
            if not rest:
                return whole
    raise ValueError(
        f"a size is a whole number made of +, -, *, / and the letters {', '.join(letters)}; given "
        f"{ast.unparse(node)!r}"
    )
