"""The bundled record: ten years of daily discharge of the river Fulda, with the weather."""

from __future__ import annotations

import csv
import gzip
import importlib.resources
import io

import numpy as np

from statewise.data.experiments import Experiments
from statewise.data.record import Record
from statewise.data.task import Task

FILE = "fulda_climate.csv.gz"
INPUTS = ("Prec", "tmean", "tmax", "tmin")
OUTPUT = "Q"
SOURCE = "spotpy 1.6.7, spotpy/examples/cmf_data/fulda_climate.csv"
LICENCE = "MIT, Copyright (c) 2015 Tobias Houska"
_YEAR = 365


def load_fulda() -> Experiments:
    """Load the bundled record of the river Fulda in Germany.

    One record of 3653 days without gaps, 1 January 1979 to 31 December 1988.

    Returns:
        Experiments with the inputs ``Prec`` (precipitation, mm/day), ``tmean``, ``tmax``, ``tmin``
        (air temperature, °C), the output ``Q`` (discharge, m³/s), ``dt`` = 1 d and the calendar
        start. The data are those of spotpy 1.6.7 (MIT, Copyright (c) 2015 Tobias Houska); the
        licence text lies beside the file.
    """
    bundled = importlib.resources.files("statewise.data") / "bundled"
    packed = (bundled / FILE).read_bytes()
    header, units, *rows = csv.reader(io.StringIO(gzip.decompress(packed).decode("utf-8")))
    column = {name: index for index, name in enumerate(header)}
    values = np.array([[float(cell) for cell in row[1:]] for row in rows])
    day, month, year = rows[0][column["date"]].split(".")
    inputs = [column[name] for name in INPUTS]
    record = Record(
        u=values[:, [index - 1 for index in inputs]],
        y=values[:, [column[OUTPUT] - 1]],
        dt=1.0,
        time_unit="d",
        name="Fulda",
        start=np.datetime64(f"{year}-{month}-{day}"),
    )
    return Experiments(
        (record,),
        input_names=INPUTS,
        output_names=(OUTPUT,),
        input_units=tuple(units[index] for index in inputs),
        output_units=(units[column[OUTPUT]],),
        time_unit="d",
    )


def fulda_task() -> Task:
    """Pose the bundled record as rainfall-runoff simulation in free run, scored by NSE.

    The first 70 % of the days (2557) are for training, the last 365 of them for validation; the
    last 30 % (1096 days) are for testing. Validation and test records carry the 365 days before
    them, inputs and outputs, for the initial state; every day of the last 30 % is scored.

    Returns:
        The task, with the single test set ``"test"``.
    """
    return Task.from_experiments(
        load_fulda(),
        test_fraction=0.3,
        valid_fraction=_YEAR / 2557,
        context=_YEAR,
        name="fulda",
        metric="nse",
        description=(
            "Rainfall and runoff: precipitation and air temperature to the daily discharge of "
            "the river Fulda, 1979 to 1988."
        ),
        source=SOURCE,
        licence=LICENCE,
    )
