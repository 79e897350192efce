"""Measuring a claim."""

from __future__ import annotations

import datetime
import os
import platform
import time
from pathlib import Path

from statewise._version import __version__
from statewise.papers.registry import Claim, Setting
from statewise.papers.results import Record


class UnmeasurableError(RuntimeError):
    """A claim that cannot be measured here; the message says why."""


def check_claim(claim: Claim, setting: Setting) -> Record:
    """Measure a claim.

    Args:
        claim: the claim.
        setting: device, data and where to tell the progress.

    Returns:
        What was found.

    Raises:
        UnmeasurableError: the claim needs a device or data that are not there.
    """
    import numpy
    import torch

    reason = obstacle(claim, setting)
    if reason is not None:
        raise UnmeasurableError(reason)
    begun = time.perf_counter()
    measured = claim.measure(setting)
    seconds = time.perf_counter() - begun
    versions = {
        "statewise": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": numpy.__version__,
    }
    return Record(
        claim=claim.name,
        value=float(measured.value),
        details={name: float(value) for name, value in measured.details.items()},
        seeds=measured.seeds,
        remark=measured.remark,
        seconds=round(seconds, 2),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        machine=_machine(setting.device),
        versions=versions,
    )


def obstacle(claim: Claim, setting: Setting) -> str | None:
    """Why a claim cannot be measured here, or None."""
    if claim.device == "cuda" and setting.device != "cuda":
        return "it needs a GPU (--gpu)"
    for name in claim.data:
        if setting.data is None:
            return f"it needs the data set {name} (STATEWISE_DATA names the folder that has it)"
        if not (Path(setting.data) / name).is_dir():
            return f"{setting.data} has no folder {name}"
    return None


def _machine(device: str) -> str:
    import torch

    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"{platform.machine()}, {os.cpu_count()} cores"
