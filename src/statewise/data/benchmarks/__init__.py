"""Benchmarks as data: what files, columns, split, window, unit and metric a problem has.

One more benchmark is one more :class:`Benchmark`, written in Python, JSON or TOML, and no code.
"""

from __future__ import annotations

from statewise.data.benchmarks.benchmark import Benchmark, Segment
from statewise.data.benchmarks.official import official
from statewise.data.benchmarks.registry import available, get, load, register_benchmark

__all__ = ["Benchmark", "Segment", "available", "get", "load", "official", "register_benchmark"]
