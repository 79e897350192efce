"""Readers of binary files: Parquet to a table, NPZ and MAT (v5) to named arrays."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np

from statewise._errors import DataError
from statewise.data.frames import frame_table
from statewise.data.table import Table


def parquet_table(data: bytes, source: str) -> Table:
    """Read a Parquet file into a table.

    Raises:
        DataError: bytes that are no Parquet file.
    """
    import polars as pl

    size = int.from_bytes(data[-8:-4], "little")
    if len(data) < 12 or data[:4] != b"PAR1" or data[-4:] != b"PAR1" or size > len(data) - 12:
        raise DataError(f"{source} is no Parquet file, or it is damaged or cut short")
    try:
        frame = pl.read_parquet(io.BytesIO(data))
    except (Exception, pl.exceptions.PanicException) as error:
        # Damaged files make the decoder fail in many ways, a panic of its own among them.
        raise DataError(f"{source} cannot be read as Parquet ({_sentence(error)})") from error
    return frame_table(frame, None, source)


def npz_arrays(data: bytes, source: str) -> dict[str, Any]:
    """Read the arrays of an NPZ file; object arrays, which would need pickle, are refused.

    Raises:
        DataError: bytes that are no NPZ file, no arrays, object arrays.
    """
    if not data.startswith(b"PK"):
        raise DataError(f"{source} cannot be read as NPZ: it is no zip archive")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with np.load(io.BytesIO(data), allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
    except Exception as error:
        # numpy, zipfile, zlib, ast and struct all have their say about a damaged archive.
        reason = _sentence(error)
        if "allow_pickle" in reason or "Object arrays" in reason:
            raise DataError(
                f"{source} holds an object array, which only pickle could read; save plain "
                "numeric arrays"
            ) from error
        raise DataError(f"{source} cannot be read as NPZ ({reason})") from error
    found: dict[str, Any] = {}
    for name, value in arrays.items():
        if not isinstance(value, np.ndarray):
            continue
        if value.dtype.names:
            found |= {f"{name}.{field}": value[field] for field in value.dtype.names}
        else:
            found[name] = value
    if not found:
        raise DataError(f"{source} holds no arrays")
    return found


def mat_arrays(data: bytes, source: str) -> dict[str, Any]:
    """Read the variables of a MAT file (v4 to v7); fields of structs are named "data.u".

    Raises:
        DataError: a v7.3 (HDF5) file, or bytes that are no MAT file.
    """
    import scipy.io

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            raw = scipy.io.loadmat(io.BytesIO(data), simplify_cells=True)
    except NotImplementedError as error:
        raise hdf5_error(source) from error
    except Exception as error:
        # The reader raises almost anything on damaged files.
        raise DataError(f"{source} cannot be read as a MAT file ({_sentence(error)})") from error
    found: dict[str, Any] = {}
    for name, value in raw.items():
        if not name.startswith("__"):
            _flatten(name, value, found)
    if not found:
        raise DataError(f"{source} holds no variables")
    return found


def hdf5_error(source: str) -> DataError:
    """The error for a MAT file of version 7.3."""
    return DataError(
        f"{source} is a MAT file of version 7.3 (HDF5), which is not read here; save it in MATLAB "
        "with the option -v7"
    )


def _flatten(name: str, value: Any, found: dict[str, Any], depth: int = 0) -> None:
    if isinstance(value, dict) and depth < 8:
        for key, item in value.items():
            _flatten(f"{name}.{key}", item, found, depth + 1)
    elif isinstance(value, np.ndarray) and value.dtype == object and value.ndim == 1:
        found[name] = list(value)
    elif isinstance(value, int | float | str | list | np.ndarray | np.generic):
        found[name] = value


def _sentence(error: BaseException) -> str:
    return (str(error).strip().split("\n")[0] or type(error).__name__).rstrip(".")
