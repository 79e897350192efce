"""Experiments to an NPZ file and back, exactly: plain arrays and a JSON header, no pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from statewise._errors import DataError
from statewise._files import atomic_write
from statewise.data.binaryfile import npz_arrays
from statewise.data.rawfile import named, read_bytes
from statewise.data.record import Record

if TYPE_CHECKING:
    from statewise.data.experiments import Experiments

#: Name of the array that holds the JSON header.
HEADER = "statewise_experiments"
_META = ("input_names", "output_names", "input_units", "output_units")


def write_archive(experiments: Experiments, path: str | os.PathLike[str]) -> None:
    """Write all records, names and units to the NPZ file ``path``."""
    arrays: dict[str, Any] = {}
    records = []
    for i, record in enumerate(experiments):
        for key in ("u", "y", "t"):
            value = getattr(record, key)
            if value is not None:
                arrays[f"{key}_{i}"] = value
        about = {key: getattr(record, key) for key in ("name", "dt", "skip", "t0", "nominal_dt")}
        if record.start is not None:
            about["start"] = [str(record.start), np.datetime_data(record.start.dtype)[0]]
        records.append(about)
    header = {"version": 1, "time_unit": experiments.time_unit, "records": records}
    header |= {key: list(getattr(experiments, key)) for key in _META}
    arrays[HEADER] = np.array(json.dumps(header))
    with atomic_write(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **arrays)


def read_archive(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Arguments of the ``Experiments`` that ``path`` holds.

    Raises:
        DataError: no such file, or one that :func:`write_archive` did not write.
    """
    source = named(path)
    arrays = npz_arrays(read_bytes(path), source)
    if HEADER not in arrays:
        raise DataError(f"{source} was not written by Experiments.to_npz; expected its header")
    return archive_parts(arrays, source)


def archive_parts(arrays: Mapping[str, np.ndarray], source: str) -> dict[str, Any]:
    """Arguments of the ``Experiments`` that the arrays of an archive hold.

    Raises:
        DataError: a header of another version, or arrays that do not go with it.
    """
    try:
        header = json.loads(str(arrays[HEADER]))
        if header["version"] != 1:
            raise DataError(
                f"{source} has format version {header['version']}; this version reads 1"
            )
        records = []
        for i, about in enumerate(header["records"]):
            start = about.pop("start", None)
            records.append(
                Record(
                    y=arrays[f"y_{i}"],
                    u=arrays.get(f"u_{i}"),
                    t=arrays.get(f"t_{i}"),
                    start=None if start is None else np.datetime64(*start),
                    time_unit=header["time_unit"],
                    **about,
                )
            )
        return {
            "records": records,
            "time_unit": header["time_unit"],
            **{key: header[key] for key in _META},
        }
    except DataError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{source} has a header that does not go with its arrays ({type(error).__name__}: "
            f"{error})"
        ) from error
