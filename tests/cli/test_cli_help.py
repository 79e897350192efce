from __future__ import annotations

import subprocess
import sys

import pytest
from conftest_cli import Run

import statewise
from statewise.cli.app import COMMANDS

EVERY = [["--help"], *([*name.split(), "--help"] for name in COMMANDS)]
