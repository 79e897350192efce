from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from statewise.report.figures.series import time_axis


@pytest.mark.parametrize("days", [0.1, 0.5, 1.5, 2, 40, 200, 560, 800, 1090, 1461, 4000])
@pytest.mark.parametrize("most", [5, 6, 9])
def test_every_range_of_dates_has_ticks(days: float, most: int) -> None:
    axes = Figure().add_subplot()
    seconds = np.linspace(0, days, 6) * 86_400
    axes.plot(np.datetime64("1986-01-01", "s") + seconds.astype(int), seconds)
    time_axis(axes, True, "d", most=most)
    assert 1 <= len(axes.xaxis.get_major_locator()()) <= most + 2  # type: ignore[operator]
