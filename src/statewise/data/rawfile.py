"""Bytes of a file: opened, unpacked, told apart, decoded."""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path

from statewise._errors import DataError

_MAGIC = (
    (b"PAR1", "parquet"),
    (b"PK\x03\x04", "zip"),
    (b"\x89HDF\r\n\x1a\n", "hdf5"),
    (b"MATLAB 7.3", "hdf5"),
    (b"MATLAB 5.0 MAT-file", "mat"),
    (b"\x93NUMPY", "npy"),
    (b"\xd0\xcf\x11\xe0", "office"),
    (b"ARROW1", "arrow"),
)


def named(path: str | os.PathLike[str]) -> str:
    """How messages call the file.

    Raises:
        TypeError: ``path`` is no path.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path is {type(path).__name__}; expected a string or a Path")
    return f"the file {os.fspath(path)}"


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """All bytes of a file, unpacked when it is gzipped.

    Raises:
        DataError: no such file, a folder, no permission, an empty or a broken file.
    """
    source = named(path)
    try:
        data = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = {FileNotFoundError: "does not exist", IsADirectoryError: "is a folder"}.get(
            type(error), f"cannot be opened ({getattr(error, 'strerror', None) or error})"
        )
        raise DataError(f"{source} {reason}") from error
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(
                f"{source} starts as a gzip file but cannot be unpacked; it is damaged or cut short"
            ) from error
    if not data:
        raise DataError(f"{source} is empty")
    return data


def format_of(path: str | os.PathLike[str], data: bytes) -> str:
    """The format by the first bytes, else by the name: parquet, npz, mat, hdf5, …, or text."""
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    suffix = next((s for s in reversed(suffixes) if s != ".gz"), "")
    for magic, kind in _MAGIC:
        if data.startswith(magic):
            if kind == "zip":
                return "npz" if suffix == ".npz" else "zip"
            return kind
    if data[512:520] == b"\x89HDF\r\n\x1a\n":
        return "hdf5"
    return {".parquet": "parquet", ".pq": "parquet", ".npz": "npz", ".mat": "mat"}.get(
        suffix, "text"
    )


def decode(data: bytes, source: str) -> str:
    """Text with line feeds as line ends, from UTF-8, UTF-16 with BOM, else Windows or Latin-1.

    Raises:
        DataError: bytes that are no text.
    """
    expected = "; expected text (CSV, TSV), Parquet, NPZ or MAT"
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        try:
            text = data.decode("utf-16")
        except UnicodeDecodeError:
            raise DataError(f"{source} is no text file{expected}") from None
    else:
        text = _bytes_to_text(data)
    text = text.replace("\r\n", "\n").replace("\r", "\n").rstrip("\x1a")
    if any(chr(code) in text for code in range(32) if chr(code) not in "\t\n\v\f"):
        raise DataError(f"{source} holds binary data{expected}")
    return text


def _bytes_to_text(data: bytes) -> str:
    for encoding in ("utf-8-sig", "cp1252"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    return data.decode("latin-1")
