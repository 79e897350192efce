"""What the compiled engine of particle filters refuses, and what it must see to do so."""

from __future__ import annotations

import logging
import math
import random

import numpy as np
import pytest
import torch
from particle_models import (
    ALL,
    WIDE,
    agree,
    engines,
    linear,
    series,
    start,
)
from torch.distributions import (
    Categorical,
    Laplace,
    Normal,
    Poisson,
)

from statewise.inference import (
    Bootstrap,
    Guided,
    StateSpaceModel,
    Systematic,
    particle_engine,
    particle_filter,
)


def refused(move=None, see=None, **options):
    plain = linear()
    model = StateSpaceModel(plain.initial, move or plain.transition, see or plain.observation)
    with pytest.raises(ValueError, match="engine is 'compiled', but ") as caught:
        particle_filter(model, series(2, 40), particles=20, engine="compiled", **options)
    # Without being asked for, the eager engine runs instead.
    assert particle_filter(model, series(2, 40), particles=20, **options).engine == "eager"
    return str(caught.value)


def picked(x, t):
    return Normal(0.5 * x if x.sum() > 0 else 0.9 * x, 0.5)


def written(x, t):
    moved = x.clone()
    moved[..., 0] = 0.5
    return Normal(moved, 0.5)


def caught(x, t):
    try:
        return Normal(x.sum().item() * x, 0.5)
    except Exception:
        return Normal(x, 0.5)


def long(x, t):
    for _ in range(1100):
        x = 0.5 * x + 0.1
    return Normal(x, 0.5)


REFUSED = {
    "mixes particles": (
        lambda x, t: Normal(x - x.mean(1, keepdim=True), 0.5),
        "it mixes particles",
    ),
    "mixes series": (
        lambda x, t: Normal(x + torch.relu(x[0] - 9), 0.5),
        "it mixes particles or series",
    ),
    "draws": (
        lambda x, t: Normal(x + torch.randn_like(x), 0.5),
        r"it draws random numbers (randn_like)",
    ),
    "draws elsewhere": (
        lambda x, t: Normal(x * random.random(), 0.5),
        "is not the same formula each time it is called",
    ),
    "decides": (picked, "it takes a number of the state or of an input out of its tensor"),
    "writes": (written, "it writes into a tensor (fill_)"),
    "NumPy": (
        lambda x, t: Normal(torch.as_tensor(np.sin(x.numpy())), 0.5),
        "it takes the numbers of a state, an input or an output (numpy)",
    ),
    "another law": (lambda x, t: Laplace(x, 0.5), "its law is Laplace; only Normal"),
    "no rule": (lambda x, t: Normal(torch.special.i0(x), 0.5), "it calls i0"),
    "rounds": (lambda x, t: Normal(x.double().floor(), 0.5), "it calls floor, which has no rule"),
    "half": (lambda x, t: Normal(x.float().double(), 0.5), "it makes torch.float32 of"),
    "lists": (lambda x, t: Normal(max(x[0, :, 0].tolist()) / 9 + x, 0.5), "(tolist)"),
    "catches": (caught, "it takes a number of the state or of an input out of its tensor"),
    "mixed precision": (
        lambda x, t: Normal(0.9 * x + (x > 9) * 0.1, 0.5),
        "it computes in float32 (mul), and states are float64",
    ),
    "long": (long, "operations long; 2000 are the most"),
    "time": (
        lambda x, t: Normal(math.cos(1.2 * t) * x, 0.5),
        "the transition depends on t, and to look at every step is not worth it for 40 particles",
    ),
    "counts particles": (
        lambda x, t: Normal(x + torch.relu(x - 9) / x.shape[1], 0.5),
        "it is called, or for other numbers of particles or series",
    ),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_is_no_formula_is_refused_with_the_reason(name):
    move, reason = REFUSED[name]
    assert reason in refused(move)


def test_observations_that_are_refused():
    said = refused(see=lambda x, t: Normal(x * (1.0 if t < 3 else 2.0), 0.6))
    assert "the observation depends on t" in said
    said = refused(see=lambda x, t: Normal(torch.sort(x, 1).values, 0.6))
    assert "the observation is no formula: it calls sort, which has no rule" in said


@pytest.mark.usefixtures("tables")
@pytest.mark.parametrize(
    "move",
    [
        lambda x, t: Normal(x if t % 12 == 0 else 0.5 * x, 0.5),
        lambda x, t: Normal(x * random.random() + t, 0.5),
    ],
)
def test_formulas_that_change_with_t_are_refused(move):
    assert "the transition is not the same formula at every step" in refused(move)


@pytest.mark.usefixtures("tables")
@pytest.mark.parametrize(
    "look",
    [
        lambda table, t: table[t],
        lambda table, t: table[int(t)],
        lambda table, t: table.index_select(0, torch.tensor([t])),
        lambda table, t: table[t if isinstance(t, int) else 0],
        lambda table, t: table[0] * {k: float(k) for k in range(99)}[t],
        lambda table, t: table[0] * len(f"{t}"),
        lambda table, t: table[0] * float(f"{t:03d}"),
        lambda table, t: table[0] * t.bit_length(),
        lambda table, t: table[0] if t == 5 else table[1],
        lambda table, t: table[0] * (3 if not t else -t % 7 + 2**t % 5),
    ],
)
def test_every_way_to_look_at_t_is_seen(look):
    table = series(1, 60)[0]
    model = StateSpaceModel(
        start(), lambda x, t: Normal(0.5 * x + look(table, t), 0.5), lambda x, t: Normal(x, 0.6)
    )
    agree(*engines(model, series(1, 40), particles=30), ALL)


def test_numbers_of_inputs_and_outputs_that_leave_their_tensors_are_seen():
    """They may be alike at all steps that are looked at."""

    class Own(Normal):
        def log_prob(self, value):
            return super().log_prob(value) * (2.0 if value.tolist()[0][0][0] > 0 else 1.0)

    y, u = series(), torch.zeros(1, 40, 1, dtype=WIDE)
    y[:, [0, -1]] = 0.0
    u[:, 15:20] = 2.0
    moved = StateSpaceModel(
        start(),
        lambda x, t, u: Normal(0.9 * x + float(np.max(u.numpy())), 0.5),
        lambda x, t, u: Normal(x, 0.6),
    )
    seen = StateSpaceModel(start(), linear().transition, lambda x, t: Own(x, 0.6))
    for model, data in ((moved, (y, u)), (seen, (y,))):
        with pytest.raises(ValueError, match="it takes the numbers of a state, an input or an ou"):
            particle_filter(model, *data, particles=20, engine="compiled")


def test_inputs_of_one_series_used_for_all_are_refused():
    u = torch.zeros(3, 40, 1, dtype=WIDE)
    u[1:, 15:20] = 3.0
    model = StateSpaceModel(
        start(), lambda x, t, u: Normal(0.9 * x + u[0], 0.5), lambda x, t, u: Normal(x, 0.6)
    )
    with pytest.raises(ValueError, match="it mixes series"):
        particle_filter(model, series(3), u, particles=20, engine="compiled")
    assert particle_filter(model, series(1), u[:1], particles=20).engine == "compiled"


def test_one_particle_seen_for_all_is_refused():
    # The first particle's own formula, and every other's, are the same lines.
    see = refused(see=lambda x, t: Normal(torch.relu(x[:, :1] - 9).expand_as(x), 0.6))
    assert "it mixes particles or series" in see


def test_a_large_state_hides_no_small_one():
    """Beside 1e13 a wrong number in the other entry counts; here the function has a clock."""
    calls = []

    def move(x, t):
        calls.append(t)
        low = 0.9 * x[..., :1] + (0.1 if len(calls) > 3 else 0.0)
        return Normal(torch.cat([low, 0 * x[..., 1:] + 1e13], -1), 0.5)

    model = StateSpaceModel(start(2), move, lambda x, t: Normal(x[..., :1], 0.6))
    with pytest.raises(ValueError, match="gives other numbers than the transition"):
        particle_filter(model, series(), particles=20, engine="compiled")


def test_what_is_refused_leaves_the_eager_engine_as_it_was():
    """Refusing a draw or a write comes before it is done."""

    def counting():
        count = torch.zeros((), dtype=WIDE)
        return lambda x, t: Normal(0.5 * x + count.add_(1).sin(), 0.5)

    def drawing():
        return lambda x, t: Normal(0.5 * x + torch.randn_like(x), 0.5)

    for make in (counting, drawing):
        eager, auto = (
            particle_filter(
                StateSpaceModel(start(), make(), linear().observation),
                series(),
                particles=20,
                engine=engine,
            )
            for engine in ("eager", "auto")
        )
        assert auto.engine == "eager"
        assert torch.equal(eager.particles, auto.particles)


def test_truths_are_added_as_torch_adds_them():
    def move(x, t):
        both = ((x > -9) + (x > 0.5)) & torch.logical_not(torch.relu(x - 1))
        lone = torch.logical_and(torch.relu(x), x - 0.5) | torch.logical_or(x > 1, torch.relu(x))
        return Normal(torch.where(both, 0.9 * x, 0.5 * x) + lone.to(x.dtype), 0.5)

    model = StateSpaceModel(start(), move, linear().observation)
    agree(*engines(model, series(2), particles=50), ALL)


def test_outputs_may_be_infinite():
    """A law of one's own may mean something by that, such as what was censored."""

    class Censored(Normal):
        def log_prob(self, value):
            return torch.where(
                value == torch.inf, torch.sigmoid(self.loc).log(), super().log_prob(value)
            )

    y = series()
    y[0, 5], y[0, 9], y[0, 12] = torch.inf, torch.nan, -torch.inf
    model = StateSpaceModel(start(), linear().transition, lambda x, t: Censored(x, 0.6))
    agree(*engines(model, y, particles=40), ("particles", "ancestors", "log_likelihoods", "ess"))


def test_logsumexp_of_what_is_infinite():
    def see(x, t):
        ends = torch.where(x > 0.5, torch.inf, torch.where(x < -0.5, -torch.inf, x))
        return Normal(torch.tanh(torch.logsumexp(torch.cat([ends, ends], -1), -1, True)), 0.6)

    model = StateSpaceModel(start(), linear().transition, see)
    agree(*engines(model, series(), particles=40), ALL)


@pytest.mark.parametrize(
    "see", [lambda x, t: Normal(x[..., 0], 0.6), lambda x, t: Normal(torch.zeros(1).double(), 0.6)]
)
def test_log_densities_that_are_not_one_for_each_particle(see):
    """A law that has lost an axis would be read past its end."""
    model = StateSpaceModel(start(), linear().transition, see)
    for engine in ("eager", "auto"):
        with pytest.raises(
            ValueError, match=r"log-densities of y_t, added up over its outputs, have "
        ):
            particle_filter(model, series(2), particles=20, engine=engine)


def test_methods_and_resamplings_that_are_refused():
    class Own(Systematic):
        pass

    class Watched(Bootstrap):
        pass

    guide = Guided(lambda x, y, t: None)
    assert "the method is Guided, and only Bootstrap is compiled" in refused(method=guide)
    assert "the method is Watched" in refused(method=Watched())
    assert "Own is a resampling of your own" in refused(resampling=Own())
    counted = StateSpaceModel(
        lambda: Poisson(torch.ones(1, dtype=WIDE)), linear().transition, linear().observation
    )
    assert particle_filter(counted, series(1, 40), particles=9).engine == "compiled"
    whole = StateSpaceModel(
        lambda: Categorical(torch.ones(1, 3)), linear().transition, linear().observation
    )
    with pytest.raises(ValueError, match=r"states are torch.int64, not float32 or float64"):
        particle_filter(whole, series(1, 4), particles=9, engine="compiled")


def test_short_series_stay_eager_and_engines_are_named():
    assert particle_filter(linear(), series(1, 29), particles=9).engine == "eager"
    assert particle_filter(linear(), series(1, 30), particles=9).engine == "compiled"
    with pytest.raises(ValueError, match="engine is 'fast'; it must be 'auto', 'eager' or"):
        particle_filter(linear(), series(), engine="fast")


def test_the_log_says_once_why(caplog, monkeypatch):
    monkeypatch.setattr(particle_engine, "_told", set())
    with caplog.at_level(logging.INFO, logger="statewise"):
        for _ in range(2):
            particle_filter(linear(), series(), particles=9)
            particle_filter(
                StateSpaceModel(start(), picked, linear().observation), series(), particles=9
            )
    lines = [r for r in caplog.records if r.message.startswith("particle_filter")]
    assert [r.levelname for r in lines] == ["INFO", "WARNING"]
    assert "the compiled engine runs, because the model is two formulas" in lines[0].message
    assert "the eager engine runs, because the transition is no formula" in lines[1].message
