"""The shipped benchmarks and those that the user registers."""

from __future__ import annotations

import difflib
import functools
import importlib.resources
import importlib.util
import os

from statewise.data.benchmarks.benchmark import ENVIRONMENT, Benchmark, read_descriptions
from statewise.data.benchmarks.official import official
from statewise.data.task import Task

_registered: dict[str, Benchmark] = {}


@functools.cache
def _shipped() -> dict[str, Benchmark]:
    folder = importlib.resources.files("statewise.data.benchmarks") / "descriptions"
    found = [
        benchmark
        for file in sorted(folder.iterdir(), key=lambda file: file.name)
        if file.name.endswith(".toml")
        for benchmark in read_descriptions(file.read_text(encoding="utf-8"), file.name)
    ]
    return {benchmark.name: benchmark for benchmark in found}


def available() -> tuple[str, ...]:
    """Return the names of all benchmarks, whether or not their files are at hand."""
    return tuple(sorted({**_shipped(), **_registered}))


def get(name: str) -> Benchmark:
    """Return the description of a benchmark.

    Raises:
        ValueError: no benchmark has that name; the message suggests the nearest ones.
    """
    known = {**_shipped(), **_registered}
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3) or sorted(known)
        raise ValueError(f"no benchmark is called {name!r}; did you mean one of {near}?")
    return known[name]


def register_benchmark(benchmark: Benchmark, *, replace: bool = False) -> None:
    """Add a description to those that :func:`load` and :func:`available` know.

    Args:
        benchmark: the description.
        replace: allow a name that is taken.

    Raises:
        TypeError: not a :class:`Benchmark`.
        ValueError: the name is taken and ``replace`` is False.
    """
    if not isinstance(benchmark, Benchmark):
        raise TypeError(f"expected a Benchmark, got {type(benchmark).__name__}")
    if not replace and benchmark.name in available():
        raise ValueError(f"a benchmark is already called {benchmark.name!r}; pass replace=True")
    _registered[benchmark.name] = benchmark


def load(
    name: str,
    folder: str | os.PathLike[str] | None = None,
    *,
    valid_fraction: float | None = None,
    valid_context: int | None = None,
) -> Task:
    """Load a benchmark as a task.

    The files are read from ``folder``, from the folder of the description, or from the folder that
    the environment variable ``STATEWISE_DATA`` names. When there is none of the three, and the
    package ``nonlinear_benchmarks`` is installed and has the benchmark, it is asked for the data.

    Args:
        name: one of :func:`available`.
        folder: data folder.
        valid_fraction: part at the end of each training record for validation; the description's
            when None.
        valid_context: samples before each validation part for its initial state; the description's
            when None.

    Raises:
        ValueError: an unknown name.
        DataError: no folder, a missing file, column or row; the message says which.
    """
    benchmark = get(name)
    local = folder or benchmark.folder or os.environ.get(ENVIRONMENT)
    if not local and benchmark.official and importlib.util.find_spec("nonlinear_benchmarks"):
        return official(benchmark, valid_fraction=valid_fraction, valid_context=valid_context)
    return benchmark.load(folder, valid_fraction=valid_fraction, valid_context=valid_context)
