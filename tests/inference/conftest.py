"""Fixtures of the tests of inference."""

import pytest

from statewise.inference import particle_formulas


@pytest.fixture
def tables(monkeypatch):
    """Functions that depend on t are traced at every step, however few the particles."""
    monkeypatch.setattr(particle_formulas, "TABLE", 0)
