"""Measuring claims, keeping records, and what the command line says of both."""

from __future__ import annotations

import json
import math
from types import MappingProxyType

import pytest

from statewise._errors import DataError
from statewise.cli import main
from statewise.papers import (
    Claim,
    Measured,
    Paper,
    Setting,
    at_least,
    at_most,
    check_claim,
    read_records,
    registry,
    write_records,
)
from statewise.papers.pages import write_pages
from statewise.papers.run import UnmeasurableError

GOOD = Claim(
    "good", "Half is small.", lambda s: Measured(0.5, {"other": 2.0}, 3, "So."), at_most(1)
)
BAD = Claim("bad", "Half is large.", lambda s: Measured(0.5), at_least(1), published=2.0, unit="V")
LOST = Claim("lost", "A number.", lambda s: Measured(math.nan), at_least(1))
FAR = Claim("far", "A table.", lambda s: Measured(0.0), at_most(1), data=("silverbox",))
CARD = Claim("card", "A device.", lambda s: Measured(0.0), at_most(1), device="cuda")
TOY = Paper("toy", "A toy", "arXiv:0", 2020, "It plays.", ("nn.LRU",), (GOOD, BAD, LOST, FAR, CARD))


@pytest.fixture(autouse=True)
def catalogue(monkeypatch):
    """A catalogue with the toy alone, in every module that looks papers up."""
    monkeypatch.delenv("STATEWISE_DATA", raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    known = MappingProxyType({"toy": TOY})
    monkeypatch.setattr(registry, "papers", lambda: known)
    for module in ("statewise.cli.commands.papers", "statewise.cli.commands.papers_check"):
        monkeypatch.setattr(f"{module}.papers", lambda: known)
    monkeypatch.setattr("statewise.papers.pages.papers", lambda: known)


def test_records_go_through_json(tmp_path):
    found = [check_claim(claim, Setting()) for claim in (GOOD, BAD, LOST)]
    write_records("toy", found[:2], tmp_path)
    path = write_records("toy", found[2:], tmp_path)
    back = read_records("toy", tmp_path)
    assert list(back) == ["bad", "good", "lost"]
    assert back["good"] == found[0]
    assert math.isnan(back["lost"].value)
    assert [back[claim.name].verdict(claim) for claim in (GOOD, BAD, LOST)] == [
        "holds",
        "fails",
        "fails",
    ]
    json.loads(path.read_text(), parse_constant=pytest.fail)
    path.write_text('{"claims": [{"claim": "good"}]}')
    with pytest.raises(DataError, match="expected measured claims as JSON"):
        read_records("toy", tmp_path)


def test_what_cannot_be_measured_is_said(tmp_path):
    with pytest.raises(UnmeasurableError, match="data set silverbox"):
        check_claim(FAR, Setting())
    with pytest.raises(UnmeasurableError, match="no folder silverbox"):
        check_claim(FAR, Setting(data=tmp_path))
    with pytest.raises(UnmeasurableError, match="needs a GPU"):
        check_claim(CARD, Setting())
    (tmp_path / "silverbox").mkdir()
    assert check_claim(FAR, Setting(data=tmp_path)).value == 0


def test_check_prints_verdicts_and_fails_with_a_status(capsys, tmp_path):
    assert main(["papers", "check", "toy", "--out", str(tmp_path)]) == 3
    said = capsys.readouterr()
    assert "holds" in said.out
    assert "fails" in said.out
    assert "far is not measured: it needs the data set silverbox" in said.err
    assert set(read_records("toy", tmp_path)) == {"good", "bad", "lost"}
    assert main(["papers", "check", "toy", "--claim", "good", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (row,) = found["papers"][0]["claims"]
    assert (row["verdict"], row["must"], row["measured"]["value"]) == ("holds", "≤ 1", 0.5)


def test_show_and_table(capsys):
    assert main(["papers", "show", "toy"]) == 0
    said = capsys.readouterr().out
    assert "It plays." in said
    assert "not measured" in said
    assert main(["papers"]) == 0
    assert "1 papers, 5 claims: 0 hold, 0 fail" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["papers", "check"], "name a paper, or all"),
        (["papers", "check", "tou"], "there is no paper 'tou'; did you mean toy?"),
        (["papers", "check", "toy", "--claim", "x"], "toy has no claim 'x'"),
        (["papers", "show"], "NAME is missing"),
        (["papers", "toy"], "unexpected argument 'toy'"),
    ],
)
def test_mistakes_get_a_sentence(capsys, words, said):
    assert main(words) == 2
    assert said in capsys.readouterr().err


def test_pages(tmp_path):
    (tmp_path / "gone.md").write_text("old")
    paths = write_pages(tmp_path)
    assert [path.name for path in paths] == ["index.md", "coverage.md", "toy.md"]
    assert not (tmp_path / "gone.md").exists()
    assert "| [toy](toy.md) | A toy | 2020 | 0 | 0 | 5 |" in paths[0].read_text()
    assert "| bad | ≥ 1 V | 2 | – | not measured |" in paths[2].read_text()
