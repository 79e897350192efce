"""What a published system and its claims are, and where to find them.

A paper is a module of :mod:`statewise.papers.catalogue` with a ``PAPER``. Nothing is imported for a
claim before it is measured, so that the table is printed at once.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib
import math
import pkgutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType


@dataclasses.dataclass(frozen=True)
class Bound:
    """The inequality that a measured value must keep: low ≤ value ≤ high.

    Attributes:
        low: smallest value that keeps it, or None.
        high: largest value that keeps it, or None.
    """

    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        if self.low is None and self.high is None:
            raise ValueError("a bound needs a smallest or a largest value; given neither")

    def holds(self, value: float) -> bool:
        """Whether ``value`` keeps the bound; NaN never does."""
        if math.isnan(value):
            return False
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)

    def __str__(self) -> str:
        if self.high is None:
            return f"≥ {self.low:g}"
        if self.low is None:
            return f"≤ {self.high:g}"
        return f"{self.low:g} … {self.high:g}"


def at_least(low: float) -> Bound:
    """The bound value ≥ ``low``."""
    return Bound(low=low)


def at_most(high: float) -> Bound:
    """The bound value ≤ ``high``."""
    return Bound(high=high)


@dataclasses.dataclass(frozen=True)
class Setting:
    """Where a claim is measured.

    Attributes:
        device: "cpu" or "cuda".
        data: folder with the data sets that claims may ask for, or None.
        say: takes a line about the progress.
    """

    device: str = "cpu"
    data: Path | None = None
    say: Callable[[str], None] = lambda line: None


@dataclasses.dataclass(frozen=True)
class Measured:
    """What measuring a claim gave.

    Attributes:
        value: the number that the bound judges.
        details: further numbers by name, such as those of the baselines.
        seeds: how many independent runs the value comes from; 0 where nothing is random.
        remark: a sentence for the reader.
    """

    value: float
    details: Mapping[str, float] = dataclasses.field(default_factory=dict)
    seeds: int = 0
    remark: str = ""


@dataclasses.dataclass(frozen=True)
class Claim:
    """One statement of a paper and how it is measured here.

    Attributes:
        name: short name, unique in its paper.
        statement: what must be true, one sentence.
        measure: gives the value.
        must: the inequality that the value must keep.
        published: the value in the paper, where it gives one for the same measure.
        unit: unit of the value.
        minutes: how long it may take on two cores, or on one GPU.
        device: "cpu" or "cuda".
        data: folders of the data collection that it needs.
    """

    name: str
    statement: str
    measure: Callable[[Setting], Measured]
    must: Bound
    published: float | None = None
    unit: str = ""
    minutes: float = 1.0
    device: str = "cpu"
    data: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Paper:
    """A published system.

    Attributes:
        name: short name, such as "s4d".
        title: title of the paper.
        identifier: arXiv number or DOI.
        year: of the first version.
        says: what the paper says, in one or two sentences.
        uses: the public names of Statewise that hold the system.
        claims: what is measured here.
    """

    name: str
    title: str
    identifier: str
    year: int
    says: str
    uses: tuple[str, ...]
    claims: tuple[Claim, ...]

    def __post_init__(self) -> None:
        names = [claim.name for claim in self.claims]
        if len(set(names)) != len(names):
            raise ValueError(f"{self.name} has two claims of one name: {', '.join(names)}")

    def claim(self, name: str) -> Claim:
        """The claim of that name.

        Raises:
            ValueError: there is none.
        """
        for one in self.claims:
            if one.name == name:
                return one
        known = ", ".join(one.name for one in self.claims)
        raise ValueError(f"{self.name} has no claim {name!r}; its claims are: {known}")


@functools.cache
def papers() -> Mapping[str, Paper]:
    """Every paper of the catalogue, by name."""
    from statewise.papers import catalogue

    found = {}
    for module in pkgutil.iter_modules(catalogue.__path__):
        paper = importlib.import_module(f"{catalogue.__name__}.{module.name}").PAPER
        found[paper.name] = paper
    return MappingProxyType(dict(sorted(found.items())))


def find_paper(name: str) -> Paper:
    """The paper of that name.

    Raises:
        ValueError: there is none; the message names one that looks alike.
    """
    known = papers()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else f"; the papers are: {', '.join(known)}"
    raise ValueError(f"there is no paper {name!r}{hint}")
