"""The official package of the nonlinear benchmarks as a source of data."""

from __future__ import annotations

from typing import Any

import numpy as np

from statewise._errors import DataError, require
from statewise.data.benchmarks.benchmark import Benchmark
from statewise.data.record import Record
from statewise.data.task import Task


def official(
    benchmark: Benchmark | str,
    *,
    valid_fraction: float | None = None,
    valid_context: int | None = None,
) -> Task:
    """Load a benchmark through the package ``nonlinear_benchmarks``, which downloads and splits it.

    Split, sampling interval and initialisation window are those of the package; names, units,
    metric and references come from the description.

    Args:
        benchmark: a description with the field ``official``, or the name of one.
        valid_fraction: part at the end of each training record for validation; the description's
            when None.
        valid_context: samples before each validation part for its initial state; the description's
            when None.

    Raises:
        ImportError: the package is not installed.
        DataError: the package does not have the benchmark, cannot download it, or gives other test
            sets than the description has.
    """
    if isinstance(benchmark, str):
        from statewise.data.benchmarks.registry import get

        benchmark = get(benchmark)
    if not benchmark.official:
        raise DataError(f"benchmark {benchmark.name!r} is not in the package nonlinear_benchmarks")
    package = require("nonlinear_benchmarks", extra="benchmarks")
    loader = getattr(package, benchmark.official, None)
    if loader is None:
        raise DataError(f"this nonlinear_benchmarks has no loader {benchmark.official!r}")
    try:
        train, tests = loader()
    # The package lets through whatever its downloader, unzipper and file reader raise.
    except Exception as error:
        raise DataError(
            f"nonlinear_benchmarks.{benchmark.official} could not get benchmark "
            f"{benchmark.name!r} ({type(error).__name__}: {error}); download it by hand and give "
            f"its folder as an argument or in the environment variable STATEWISE_DATA"
        ) from error
    train, tests = _many(train), _many(tests)
    if len(tests) != len(benchmark.tests):
        raise DataError(
            f"nonlinear_benchmarks.{benchmark.official} gives {len(tests)} test sets, expected "
            f"{list(benchmark.tests)}"
        )
    windows = {int(test.state_initialization_window_length or 0) for test in tests}
    if len(windows) != 1:
        raise DataError(
            f"nonlinear_benchmarks.{benchmark.official} gives test sets with different "
            f"initialisation windows {sorted(windows)}, expected one"
        )
    names = ["train"] if len(train) == 1 else [f"train {i + 1}" for i in range(len(train))]
    return benchmark.task(
        benchmark.experiments(
            [_record(data, benchmark, name) for data, name in zip(train, names, strict=True)]
        ),
        {
            name: benchmark.experiments([_record(data, benchmark, name)])
            for data, name in zip(tests, benchmark.tests, strict=True)
        },
        window=windows.pop(),
        valid_fraction=valid_fraction,
        valid_context=valid_context,
    )


def _many(value: Any) -> list[Any]:
    return list(value) if isinstance(value, tuple | list) else [value]


def _record(data: Any, benchmark: Benchmark, name: str) -> Record:
    dt = benchmark.dt if data.sampling_time is None else float(data.sampling_time)
    return Record(
        y=_columns(data.y), u=_columns(data.u), dt=dt, name=name, time_unit=benchmark.time_unit
    )


def _columns(values: Any) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    return array[:, None] if array.ndim == 1 else array
