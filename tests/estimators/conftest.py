from __future__ import annotations

import pytest
from identifier_systems import TRAINED, identifier, measured, quick

from statewise.estimators import SystemIdentifier


@pytest.fixture(scope="session")
def fitted() -> SystemIdentifier:
    """A model of the first part of :func:`measured`; tests leave it as it is."""
    u, y = measured()
    training = quick(batch_size=8, steps=200, eval_every=50, polish_steps=10)
    return identifier(training).fit(u[:TRAINED], y[:TRAINED], dt=0.5)
