"""Triton's compiler takes every kernel, which its interpreter does not tell."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SUITES = sorted(
    path.stem
    for path in HERE.glob("test_*.py")
    if re.search(
        r"^class \w+\(.*OpContract\)|^def launches\(", path.read_text("utf-8"), re.MULTILINE
    )
)


@pytest.mark.parametrize("suite", SUITES)
def test_the_compiler_takes_the_kernels(suite: str) -> None:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("needs triton")
    folders = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    run = subprocess.run(
        [sys.executable, "-m", "contracts.kernel_front_end", suite],
        env=os.environ | {"TRITON_INTERPRET": "0", "PYTHONPATH": folders},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    assert int(run.stdout.splitlines()[-1]) > 0, f"{suite} has no kernels"
