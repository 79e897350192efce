"""Every answer draws itself: without warnings, with labelled axes, without global changes."""

from __future__ import annotations

import io

import matplotlib
import numpy as np
import pytest
from analysis_systems import Map, build, henon, inputs

from statewise import analysis


def answers():
    stack, mamba = build("stack"), build("mamba")
    u = inputs(stack, 60)
    return {
        "point": analysis.linearise(stack, [0.0, 0.0], dt=0.1),
        "run": analysis.linearise(stack, u),
        "equilibria": analysis.equilibria(stack, [0.1, 0.2]),
        "no equilibrium": analysis.equilibria(Map(lambda x, u: x + 1, 1), [0.0], settle=0),
        "blocks": analysis.blocks(stack, dt=0.1),
        "bank": analysis.blocks(build("s4d")),
        "block": analysis.blocks(build("lru")).blocks[0],
        "linearised": analysis.blocks(mamba),
        "exponents": analysis.lyapunov_spectrum(mamba, inputs(mamba, 40), dt=0.1),
        "carried": analysis.lyapunov_spectrum(Map(henon, 2), np.zeros(200), [0.1, 0.1]),
        "stability": analysis.incremental_stability(stack),
        "no stability": analysis.incremental_stability(mamba),
        "gain": analysis.gain(stack, steps=10),
        "no gain": analysis.gain(mamba),
        "memory": analysis.memory(stack, u, dt=0.1),
        "memory without data": analysis.memory(stack),
        "kernels": analysis.volterra(stack, length=16),
        "sensitivity": analysis.sensitivity(stack, u, lags=10),
        "integrated": analysis.sensitivity(stack, u, lags=10, method="integrated"),
    }


@pytest.fixture(scope="module")
def drawn():
    before = dict(matplotlib.rcParams)
    figures = {name: answer.plot() for name, answer in answers().items()}
    assert dict(matplotlib.rcParams) == before
    return figures


def test_figures_are_drawn_with_labelled_axes(drawn):
    for name, figure in drawn.items():
        figure.savefig(io.BytesIO(), format="png", dpi=40)
        bottom = [axes for axes in figure.axes if axes.get_xlabel()]
        assert bottom or name in ("gain", "no gain"), name
        for axes in figure.axes:
            assert axes.get_ylabel(), name
            assert axes.get_title(loc="left"), name


def test_names_of_channels_are_shown():
    model = build("stack")
    figure = analysis.volterra(model, length=4).plot(inputs=["valve", "pump"], outputs=["level"])
    words = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert words == ["valve to level", "pump to level"]


def test_public_names_exist():
    for name in analysis.__all__:
        assert getattr(analysis, name) is not None
    assert set(analysis._LAZY) == set(analysis.__all__)
