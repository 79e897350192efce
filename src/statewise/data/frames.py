"""Data frames of any kind that narwhals knows to tables, and experiments to a polars frame."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import narwhals as nw
import numpy as np

from statewise._errors import DataError
from statewise.data.roles import split_unit
from statewise.data.table import Column, Table

if TYPE_CHECKING:
    import polars

    from statewise.data.experiments import Experiments


def frame_table(frame: Any, time: str | int | bool | None, source: str = "the frame") -> Table:
    """Turn a data frame into a table.

    Args:
        frame: any eager or lazy frame that narwhals knows; a lazy one is collected.
        time: the time column asked for, which may be the index of a pandas frame; a date index
            of pandas is a column, too, when no other is asked for.
        source: what messages call the frame.

    Returns:
        The table.

    Raises:
        DataError: repeated column names, or a lazy frame that cannot be collected.
        TypeError: no data frame.
    """
    try:
        data = nw.from_native(_with_index(frame, time))
    except TypeError as error:
        raise TypeError(
            f"expected a data frame (pandas, polars, pyarrow, …), got {type(frame).__name__}"
        ) from error
    except Exception as error:
        # Narwhals and each library have exceptions of their own, above all for repeated names.
        _check_names([str(name) for name in getattr(frame, "columns", ())], source)
        raise DataError(f"{source} cannot be read ({_sentence(error)})") from error
    if isinstance(data, nw.LazyFrame):
        try:
            data = data.collect()
        except Exception as error:
            # Whatever the lazy engine raises, the user asked for data and got none.
            raise DataError(f"{source} cannot be collected ({_sentence(error)})") from error
    names = [str(name) for name in data.columns]
    _check_names(names, source)
    columns = tuple(
        _column(data.get_column(key), name) for key, name in zip(data.columns, names, strict=True)
    )
    return Table(source, columns, len(data), lambda i: f"row {i} (counting from 0)")


def to_frame(experiments: Experiments) -> polars.DataFrame:
    """A long polars frame: ``record``, ``time``, inputs, outputs; null where missing.

    ``time`` holds dates where every record has them, else numbers in the time unit.
    """
    import polars as pl

    dates = [record.dates() for record in experiments]
    dated = all(one is not None for one in dates)
    parts = []
    for i, record in enumerate(experiments):
        name = record.name or str(i)
        date = dates[i]
        time = record.times() if date is None or not dated else date.astype("datetime64[us]")
        data: dict[str, Any] = {"record": [name] * len(record), "time": time}
        if record.u is not None:
            data |= dict(zip(experiments.input_names, record.u.T, strict=True))
        data |= dict(zip(experiments.output_names, record.y.T, strict=True))
        parts.append(pl.DataFrame(data, nan_to_null=True))
    return pl.concat(parts)


def _with_index(frame: Any, time: str | int | bool | None) -> Any:
    """A pandas frame with its index as a column, where the index is the time axis."""
    index = getattr(frame, "index", None)
    if index is None or not hasattr(frame, "reset_index") or not hasattr(index, "names"):
        return frame
    names = list(index.names)
    wanted = isinstance(time, str) and time in names and time not in frame.columns
    dated = time is None and len(names) == 1 and getattr(index.dtype, "kind", "") == "M"
    if not wanted and not dated:
        return frame
    if dated and (names[0] is None or names[0] in frame.columns):
        index = index.rename("ds" if "ds" not in frame.columns else "index time")
        frame = frame.set_axis(index, axis=0)
    return frame.reset_index()


def _check_names(names: Sequence[str], source: str) -> None:
    for name, count in Counter(names).items():
        if count > 1:
            raise DataError(
                f"{source} has the column name {name!r} {'twice' if count == 2 else 'repeatedly'}; "
                "expected distinct names"
            )


def _column(series: nw.Series, header: str) -> Column:
    name, unit = split_unit(header)
    name = name or header
    dtype = series.dtype
    try:
        if dtype.is_numeric() or dtype == nw.Boolean:
            return Column(name, _numbers(series), unit, header)
        if dtype in (nw.Datetime, nw.Date):
            return Column(name, _stamps(series), unit, header)
        if dtype == nw.Duration:
            values = np.asarray(series.to_numpy(), dtype="timedelta64[us]")
            return Column(name, values, unit, header)
        if dtype in (nw.String, nw.Categorical, nw.Object) or isinstance(dtype, nw.Enum):
            return Column(name, _text(series), unit, header)
    except Exception as error:
        # A column that no library can convert only matters when it is asked for.
        return Column(name, np.empty(0), unit, header, f"values that fail ({_sentence(error)})")
    return Column(name, np.empty(0), unit, header, f"values of type {dtype}")


def _numbers(series: nw.Series) -> np.ndarray:
    if not series.is_null().any():
        values = np.asarray(series.to_numpy())
        if values.dtype.kind in "biuf":
            return values
    return (
        np.array(
            [np.nan if value is None else float(value) for value in series.to_list()],
            dtype=np.float64,
        )
        if series.dtype.is_decimal()
        else _filled(series)
    )


def _filled(series: nw.Series) -> np.ndarray:
    missing = np.asarray(series.is_null().to_numpy(), dtype=bool)
    values = np.asarray(series.cast(nw.Float64).fill_null(0.0).to_numpy(), dtype=np.float64).copy()
    values[missing] = np.nan
    return values


def _stamps(series: nw.Series) -> np.ndarray:
    if series.dtype == nw.Date:
        return np.asarray(series.to_numpy()).astype("datetime64[us]")
    zone = getattr(series.dtype, "time_zone", None)
    if zone is not None:
        series = series.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    values = np.asarray(series.to_numpy())
    return values if values.dtype.kind == "M" else values.astype("datetime64[us]")


def _text(series: nw.Series) -> polars.Series:
    import polars as pl

    cells = [None if _is_none(value) else str(value).strip() for value in series.to_list()]
    return pl.Series(cells, dtype=pl.String)


def _is_none(value: Any) -> bool:
    return value is None or (isinstance(value, float) and np.isnan(value))


def _sentence(error: BaseException) -> str:
    return (str(error).strip().split("\n")[0] or type(error).__name__).rstrip(".")
