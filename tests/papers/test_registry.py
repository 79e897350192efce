"""The registry: what every paper and claim must have, and what is shipped as measured."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from statewise.papers import (
    Bound,
    Claim,
    Measured,
    Paper,
    at_least,
    at_most,
    find_paper,
    papers,
    read_records,
)
from statewise.papers.results import SHIPPED

CLAIMS = [(paper, claim) for paper in papers().values() for claim in paper.claims]


def test_bounds():
    assert at_least(0.9).holds(0.9)
    assert not at_least(0.9).holds(0.89)
    assert at_most(2).holds(-5)
    assert not at_most(2).holds(float("nan"))
    assert not Bound(1, 2).holds(3)
    assert [str(b) for b in (at_least(0.99), at_most(1e-10), Bound(1, 2))] == [
        "≥ 0.99",
        "≤ 1e-10",
        "1 … 2",
    ]
    with pytest.raises(ValueError, match="neither"):
        Bound()


@pytest.mark.parametrize("paper", papers().values(), ids=lambda paper: paper.name)
def test_a_paper_is_complete(paper: Paper):
    assert paper.claims
    assert paper.says.endswith(".")
    assert paper.uses
    for name in paper.uses:
        package, _, thing = name.partition(".")
        assert thing in importlib.import_module(f"statewise.{package}").__all__
    for claim in paper.claims:
        assert claim.statement.endswith((".", ")"))
        assert claim.device in ("cpu", "cuda")
        assert 0 < claim.minutes <= 60


def test_names_are_unique_and_lookups_help():
    claim = Claim("one", "It is.", lambda setting: Measured(0.0), at_most(1))
    with pytest.raises(ValueError, match="two claims of one name"):
        Paper("x", "X", "arXiv:0", 2020, "It is.", ("nn.LRU",), (claim, claim))
    with pytest.raises(ValueError, match="there is no paper 'lur'; did you mean lru"):
        find_paper("lur")
    with pytest.raises(ValueError, match="lru has no claim 'speed'; its claims are: delay-500"):
        find_paper("lru").claim("speed")


def test_shipped_records_belong_to_claims():
    for path in SHIPPED.glob("*.json"):
        known = {claim.name for claim in find_paper(path.stem).claims}
        assert set(read_records(path.stem)) <= known


def test_the_table_needs_no_torch():
    code = (
        "import sys; from statewise.cli import main; main(['papers']); "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "False"
