"""Settings that every test shares: one thread a process, hypothesis profiles, data, GPU."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# The suites that test classes inherit say what differed, as tests do.
pytest.register_assert_rewrite("contracts")

# Before the first import of numpy or torch: the test workers share the cores.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")
os.environ.setdefault("MPLBACKEND", "Agg")


def _no_gpu() -> str | None:
    """Why tests marked ``gpu`` cannot run here, or None."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a driver that is too old warns; the answer is the same
        return None if torch.cuda.is_available() else "no CUDA device"


# Before the first import of triton, which torch may be the one to do.
if _no_gpu():
    os.environ.setdefault("TRITON_INTERPRET", "1")

_SHARED = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("dev", max_examples=25, **_SHARED)
settings.register_profile("ci", max_examples=25, derandomize=True, print_blob=True, **_SHARED)
settings.register_profile("thorough", max_examples=500, **_SHARED)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("gpu")]
    reason = _no_gpu() if marked else None
    if reason is not None:
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of measured benchmark files, named by ``STATEWISE_DATA``."""
    name = os.environ.get("STATEWISE_DATA")
    if not name:
        pytest.skip("STATEWISE_DATA does not name a folder of benchmark files")
    folder = Path(name)
    if not folder.is_dir():
        pytest.fail(f"STATEWISE_DATA names {name}, which is no folder")
    return folder
