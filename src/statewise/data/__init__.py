"""Measured data: records, experiments, readers of files and frames, scaling, tasks, metrics.

Importing this package imports neither torch nor pandas.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from statewise._lazy import attach
from statewise.data.experiments import Experiments
from statewise.data.normalise import Normaliser
from statewise.data.record import Record

if TYPE_CHECKING:
    from statewise.data import benchmarks, generators, metrics
    from statewise.data.describe import ColumnDescription, FileDescription, describe_file
    from statewise.data.fulda import fulda_task, load_fulda
    from statewise.data.task import Task

_LAZY = {
    "ColumnDescription": "statewise.data.describe",
    "FileDescription": "statewise.data.describe",
    "Task": "statewise.data.task",
    "describe_file": "statewise.data.describe",
    "fulda_task": "statewise.data.fulda",
    "load_fulda": "statewise.data.fulda",
}
_MODULES = ("benchmarks", "generators", "metrics")

__all__ = [
    "ColumnDescription",
    "Experiments",
    "FileDescription",
    "Normaliser",
    "Record",
    "Task",
    "benchmarks",
    "describe_file",
    "fulda_task",
    "generators",
    "load_fulda",
    "metrics",
]

__getattr__, __dir__ = attach(__name__, _LAZY, modules=_MODULES, ready=__all__)
