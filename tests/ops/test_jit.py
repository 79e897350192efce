"""Compiled kernels are kept on disk, and work where nothing can be written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import statewise
from statewise.ops import jit

CODE = """
import logging
logging.basicConfig(level=logging.INFO, format="%(message)s")
import torch
from statewise.ops import linear_scan, use_backend
with use_backend("cpu"):
    print(linear_scan(0.5, torch.ones(1, 3, 1))[1].item())
from statewise.ops.linear_scan import _kernels
print(sum(_kernels.forward.stats.cache_hits.values()))
"""


def _run(root: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("NUMBA_")}
    done = subprocess.run(
        [sys.executable, "-B", "-c", CODE],
        capture_output=True,
        text=True,
        cwd=root,
        env={**kept, "PYTHONPATH": str(root), **environment},
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A copy of the package whose cache folders can be made by nobody, not even root."""
    source = Path(statewise.__file__).parent
    shutil.copytree(
        source, tmp_path / "statewise", ignore=shutil.ignore_patterns("__pycache__", "*.nb?")
    )
    for folder in (tmp_path / "statewise" / "ops").rglob(""):
        if folder.is_dir():
            (folder / "__pycache__").touch()
    return tmp_path


def test_read_only_package_uses_the_folder_of_the_user(installed, tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    first, second = (_run(installed, NUMBA_CACHE_DIR=str(cache)) for _ in range(2))
    assert first.stdout.split() == ["1.75", "0"]
    assert second.stdout.split() == ["1.75", "1"]
    assert "not kept" not in first.stderr + second.stderr


def test_no_folder_to_write_in(installed):
    done = _run(installed, HOME=os.devnull, XDG_CACHE_HOME=os.devnull, NUMBA_CACHE_DIR=os.devnull)
    assert done.stdout.split() == ["1.75", "0"]
    assert done.stderr.count("compiled CPU kernels are not kept between runs") == 1


def test_other_errors_of_compilation_are_not_hidden(monkeypatch):
    def refuse(**options):
        raise RuntimeError("something else")

    monkeypatch.setattr(jit, "njit", refuse)
    with pytest.raises(RuntimeError, match="something else"):
        jit.kernel(lambda: None)
