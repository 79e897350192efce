"""Measured claims as JSON: what was found, when, on which machine, with which versions."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from statewise._errors import DataError
from statewise._files import write_text
from statewise.papers.registry import Claim

SHIPPED = Path(__file__).parent / "measured"
"""Where the results that come with the package are."""


@dataclasses.dataclass(frozen=True)
class Record:
    """The last measurement of a claim.

    Attributes:
        claim: name of the claim.
        value: what was measured.
        details: further numbers by name.
        seeds: independent runs behind the value.
        remark: a sentence for the reader.
        seconds: how long it took.
        date: when, as year-month-day.
        machine: processor, cores and device.
        versions: versions of the packages.
    """

    claim: str
    value: float
    details: Mapping[str, float]
    seeds: int
    remark: str
    seconds: float
    date: str
    machine: str
    versions: Mapping[str, str]

    def verdict(self, claim: Claim) -> str:
        """The word "holds" or "fails", by the bound that the claim has now."""
        return "holds" if claim.must.holds(self.value) else "fails"


def read_records(paper: str, folder: str | os.PathLike[str] | None = None) -> dict[str, Record]:
    """The records of a paper, by claim.

    Args:
        paper: name of the paper.
        folder: where the files are; None for the results that come with the package.

    Returns:
        The records; none where the paper was never measured.

    Raises:
        DataError: a file that holds no records.
    """
    path = (SHIPPED if folder is None else Path(folder)) / f"{paper}.json"
    if not path.is_file():
        return {}
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        records = [_record(item) for item in kept["claims"]]
    except (ValueError, TypeError, KeyError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: expected measured claims as JSON; {error}") from error
    return {record.claim: record for record in records}


def write_records(paper: str, records: Iterable[Record], folder: str | os.PathLike[str]) -> Path:
    """Add records to the file of a paper; those of other claims stay.

    Args:
        paper: name of the paper.
        records: the new records.
        folder: where the file is or will be.

    Returns:
        The path of the file.
    """
    kept = read_records(paper, folder) | {record.claim: record for record in records}
    items = [_item(kept[name]) for name in sorted(kept)]
    path = Path(folder) / f"{paper}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(
        path, json.dumps({"paper": paper, "claims": items}, indent=1, ensure_ascii=False) + "\n"
    )
    return path


def _item(record: Record) -> dict[str, Any]:
    item = dataclasses.asdict(record)
    item["value"] = _number(record.value)
    item["details"] = {name: _number(value) for name, value in record.details.items()}
    return item


def _record(item: dict[str, Any]) -> Record:
    item = dict(item)
    item["value"] = _float(item["value"])
    item["details"] = {name: _float(value) for name, value in item["details"].items()}
    return Record(**item)


def _number(value: float) -> float | str:
    """JSON has no infinity and no NaN: they are kept as words."""
    return value if math.isfinite(value) else str(value)


def _float(value: float | str) -> float:
    return float(value)
