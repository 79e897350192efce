from __future__ import annotations

import re
import subprocess
import sys

import pytest
from cli_runs import Run

import statewise
from statewise.cli.app import COMMANDS

HELPS = [["--help"], *([*name.split(), "--help"] for name in COMMANDS), ["fit", "--help-all"]]


def test_version(run: Run) -> None:
    outcome = run("--version")
    assert (outcome.status, outcome.out) == (0, f"statewise {statewise.__version__}\n")


def test_help_lists_every_command(run: Run) -> None:
    outcome = run("--help")
    assert outcome.status == 0
    for name, (_, summary) in COMMANDS.items():
        assert f"  {name:<17} {summary}\n" in outcome.out
    assert run().out == outcome.out


@pytest.mark.parametrize("words", HELPS, ids=" ".join)
def test_help_fits_a_terminal(run: Run, words: list[str]) -> None:
    outcome = run(*words)
    assert outcome.status == 0
    assert outcome.err == ""
    assert max(len(line) for line in outcome.out.splitlines()[1:]) <= 80
    assert "``" not in outcome.out
    assert ":class:" not in outcome.out


def test_help_shows_common_options_first_and_the_rest_on_demand(run: Run) -> None:
    brief, full = run("fit", "--help").out, run("fit", "--help-all").out
    assert "--inputs COL ..." in brief
    assert "--model" not in brief
    assert "--help-all" in brief
    for option in ("--inputs", "--model.d-state", "--training.steps", "--transform"):
        assert re.search(rf"^\W+{option} ", full, re.MULTILINE)


def test_help_shows_the_settings_of_the_recipe(run: Run) -> None:
    river, plain = (run("fit", "--help-all", "--recipe", n).out for n in ("river", "default"))
    assert "SignedPower(floor=0.0)" in river
    assert "SignedPower(floor=0.0)" not in plain


def test_help_of_a_group_is_that_of_its_command(run: Run) -> None:
    assert run("data", "--help").out == run("data", "describe", "--help").out


@pytest.mark.parametrize("words", [["--version"], *HELPS], ids=" ".join)
def test_help_loads_nothing_heavy(words: list[str]) -> None:
    heavy = "{'torch', 'scipy', 'numba', 'polars', 'matplotlib', 'pandas', 'sklearn'}"
    code = (
        "import sys\n"
        "from statewise.cli import main\n"
        f"assert main({words!r}) == 0\n"
        f"assert not ({heavy} & set(sys.modules)), {heavy} & set(sys.modules)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
