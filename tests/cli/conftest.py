from __future__ import annotations

from pathlib import Path

import pytest
from cli_runs import COLUMNS, TINY, Outcome, Run, motor, write_csv

from statewise.cli import main
from statewise.report import page


@pytest.fixture(autouse=True)
def page_without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than all the rest; the session's run ``fitted`` draws its report."""
    monkeypatch.setattr(page, "render_html", lambda data: f"<title>{data.title}</title>")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command line in this process, at 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("STATEWISE_DEBUG", raising=False)
    monkeypatch.delenv("STATEWISE_DATA", raising=False)

    def call(*words: object) -> Outcome:
        capsys.readouterr()
        status = main([str(word) for word in words])
        return Outcome(status, *capsys.readouterr())

    return call


@pytest.fixture(scope="session")
def motor_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data with blank")
    return write_csv(folder / "motor.csv", motor(240), "volt [V],load,speed [rad/s]")


@pytest.fixture(scope="session")
def fitted(tmp_path_factory: pytest.TempPathFactory, motor_csv: Path) -> Path:
    """The folder of a run on ``motor_csv``."""
    out = tmp_path_factory.mktemp("runs") / "motor"
    words = ["fit", str(motor_csv), *COLUMNS, *TINY, "--dt", "0.1", "--out", str(out), "--json"]
    assert main(words) == 0
    return out


@pytest.fixture(scope="session")
def linear(tmp_path_factory: pytest.TempPathFactory, motor_csv: Path) -> Path:
    """The folder of a linear model of ``motor_csv``."""
    out = tmp_path_factory.mktemp("runs") / "linear"
    words = ["identify", "linear", str(motor_csv), *COLUMNS, "--dt", "0.1", "--out", str(out)]
    assert main([*words, "--json"]) == 0
    return out
