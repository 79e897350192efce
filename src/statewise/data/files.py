"""The door for files: from a path to the arguments of experiments."""

from __future__ import annotations

import os
from typing import Any

from statewise._errors import DataError
from statewise.data.archive import HEADER, archive_parts
from statewise.data.arrayfile import Arrays, array_parts
from statewise.data.binaryfile import hdf5_error, mat_arrays, npz_arrays, parquet_table
from statewise.data.rawfile import format_of, named, read_bytes
from statewise.data.table import Choice, Table
from statewise.data.textfile import text_table

_REFUSED = {
    "zip": "is a zip archive or a spreadsheet (.xlsx); save the table as CSV",
    "office": "is an old spreadsheet (.xls); save the table as CSV",
    "npy": "is a single NumPy array (.npy); save inputs and outputs by name with numpy.savez",
    "arrow": "is an Arrow or Feather file; read it into a frame, or save it as Parquet",
}


def open_file(
    path: str | os.PathLike[str], *, separator: str | None = None, decimal: str | None = None
) -> tuple[str, Table | Arrays]:
    """Read a file into a table (text, Parquet) or named arrays (NPZ, MAT).

    Args:
        path: the file; gzipped ones are unpacked.
        separator: separator of a text file, or None to find it.
        decimal: decimal mark of a text file, or None to find it.

    Returns:
        The format ("text", "parquet", "npz", "mat") and the content.

    Raises:
        DataError: a file that cannot be read.
    """
    source = named(path)
    data = read_bytes(path)
    kind = format_of(path, data)
    if kind == "text":
        return kind, text_table(data, source, separator=separator, decimal=decimal)
    if kind == "parquet":
        return kind, parquet_table(data, source)
    if kind == "npz":
        return kind, npz_arrays(data, source)
    if kind == "mat":
        return kind, mat_arrays(data, source)
    if kind == "hdf5":
        raise hdf5_error(source)
    raise DataError(f"{source} {_REFUSED[kind]}")


def load_parts(
    path: str | os.PathLike[str],
    choice: Choice,
    *,
    separator: str | None = None,
    decimal: str | None = None,
) -> dict[str, Any]:
    """Arguments of ``Experiments`` for a file; see ``Experiments.from_file``."""
    _, content = open_file(path, separator=separator, decimal=decimal)
    if isinstance(content, Table):
        return content.parts(choice)
    if HEADER in content:
        return archive_parts(content, named(path))
    return array_parts(content, choice, named(path))
