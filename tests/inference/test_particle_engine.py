"""The compiled engine of particle filters beside the eager one, and what it refuses."""

from __future__ import annotations

import logging
import math
import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Independent,
    Laplace,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    Poisson,
    StudentT,
)

from statewise import inference
from statewise.inference import (
    Bootstrap,
    Guided,
    LinearGaussian,
    Multinomial,
    Residual,
    StateSpaceModel,
    Stratified,
    Systematic,
    particle_engine,
    particle_filter,
    particle_formulas,
)

WIDE = torch.float64
WAYS = (Multinomial(), Stratified(), Systematic(), Residual())


def start(n=1, dtype=WIDE):
    zero = torch.zeros(n, dtype=dtype)
    return lambda: Normal(zero, 1.0)


def series(B=1, T=40, p=1, seed=0):
    return torch.as_tensor(np.random.default_rng(seed).normal(size=(B, T, p)))


def turned(n):
    return 0.9 * torch.linalg.qr(series(1, n, n, seed=3)[0])[0]


def linear(dtype=WIDE):
    return StateSpaceModel(
        start(1, dtype), lambda x, t: Normal(0.9 * x, 0.5), lambda x, t: Normal(x, 0.6)
    )


def volatility():
    return StateSpaceModel(
        start(),
        lambda x, t: Normal(-1 + 0.95 * (x + 1), 0.3),
        lambda x, t: Normal(0.0, (x / 2).exp()),
    )


def growth():
    return StateSpaceModel(
        start(),
        lambda x, t: Normal(x / 2 + 25 * x / (1 + x**2) + 8 * math.cos(1.2 * t), math.sqrt(10.0)),
        lambda x, t: Normal(x**2 / 20, 1.0),
    )


def four():
    F = turned(4)
    return StateSpaceModel(
        start(4), lambda x, t: Normal(x @ F.mT, 0.5), lambda x, t: Normal(x, 0.6)
    )


def vectors():
    F, L = turned(3), torch.linalg.cholesky(0.3 * torch.eye(3, dtype=WIDE) + 0.1)
    return StateSpaceModel(
        start(3),
        lambda x, t: MultivariateNormal(torch.nn.functional.linear(x, F), scale_tril=L),
        lambda x, t: MultivariateNormal(x[..., :2], covariance_matrix=torch.eye(2, dtype=WIDE)),
    )


def swinging():
    def move(x, t):
        angle, speed = x.unbind(-1)
        return Independent(
            Normal(torch.stack([angle + 0.1 * speed, speed - angle.sin()], -1), 0.1), 1
        )

    return StateSpaceModel(
        start(2), move, lambda x, t: Independent(Normal(x[..., :1].sin(), 0.3), 1)
    )


def learned():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(2, 6), torch.nn.Tanh(), torch.nn.Linear(6, 2))
    net = net.double()
    return StateSpaceModel(
        start(2),
        lambda x, t: Normal(x + net(x), torch.nn.functional.softplus(x).clamp(0.2, 0.8)),
        lambda x, t: StudentT(4.0, x.sum(-1, keepdim=True), torch.sigmoid(x[..., :1])),
    )


def blend():
    weights = torch.tensor([0.3, 0.7], dtype=WIDE)
    spread = torch.tensor([0.2, 2.0], dtype=WIDE)

    def see(x, t):
        about = Normal(x.squeeze(-1).unsqueeze(-1).unsqueeze(-1).expand(*x.shape, 2), spread)
        return MixtureSameFamily(Categorical(weights.expand(*x.shape, 2)), about)

    return StateSpaceModel(
        start(), lambda x, t: Normal(torch.where(x > 0, 0.5 * x, 0.8 * x), 0.5), see
    )


MODELS = {
    "linear": (linear, 1),
    "stochastic volatility": (volatility, 1),
    "nonlinear growth": (growth, 1),
    "four states": (four, 4),
    "vectors": (vectors, 2),
    "pendulum": (swinging, 1),
    "network": (learned, 1),
    "mixture": (blend, 1),
}


@pytest.fixture
def tables(monkeypatch):
    """Functions that depend on t are traced at every step, however few the particles."""
    monkeypatch.setattr(particle_formulas, "TABLE", 0)


def engines(model, y, *args, **options):
    return (
        particle_filter(model, y, *args, engine=engine, **options)
        for engine in ("eager", "compiled")
    )


def agree(eager, compiled, names, bound=1e-12):
    assert (eager.engine, compiled.engine) == ("eager", "compiled")
    for name in names:
        a, b = getattr(compiled, name), getattr(eager, name)
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=bound, atol=bound * (1 + float(b.abs().max())))


ALL = ("particles", "ancestors", "log_weights", "log_likelihoods", "ess")


@pytest.mark.usefixtures("tables")
@pytest.mark.parametrize("name", list(MODELS))
def test_particles_are_those_of_the_eager_engine(name):
    build, p = MODELS[name]
    y = series(2, 30, p)
    y[1, 4] = torch.nan
    y[0, 7, -1] = torch.nan
    lengths = torch.tensor([30, 17])
    # A series multiplies rounding: a chaotic model by more than a stable one.
    bound = 1e-9 if name == "nonlinear growth" else 1e-12
    agree(*engines(build(), y, particles=60, lengths=lengths, seed=3), ALL, bound)
    given = {"particles": 60, "lengths": lengths, "keep": "cov", "seed": 3}
    kept = ("mean", "cov", "particles", "log_weights", "log_likelihoods", "ess")
    agree(*engines(build(), y, **given), kept, bound)


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.1])
@pytest.mark.parametrize("way", WAYS, ids=lambda x: type(x).__name__)
def test_every_resampling(way, threshold):
    given = {"particles": 50, "resampling": way, "threshold": threshold, "seed": 1}
    agree(*engines(volatility(), series(2, 100), **given), ALL)


def test_rows_of_parameters_and_inputs():
    a, u = 0.5 + 0.1 * series(5, 1), series(5, 30, 2, seed=1)
    model = StateSpaceModel(
        start(2),
        lambda x, t, u: Normal(a * x + u, a.exp()),
        lambda x, t, u: Normal(x[..., :1] + u[..., 1:], 0.4),
    )
    agree(*engines(model, series(5, 30), u, particles=40), ALL)


def test_single_precision():
    y = series(2, 30).float()
    eager, compiled = engines(linear(torch.float32), y, particles=50)
    assert compiled.particles.dtype == torch.float32
    agree(eager, compiled, ("particles", "log_likelihoods"), 1e-5)


@pytest.mark.parametrize("way", [Systematic(), Multinomial()], ids=lambda x: type(x).__name__)
def test_the_likelihood_is_unbiased(way):
    """The mean of Ẑ / Z over 2000 runs is 1 within four standard errors."""
    y = series(1, 8)
    y[0, 2] = torch.nan
    exact = inference.filter(
        LinearGaussian([[0.9]], [[1.0]], [[0.25]], [[0.36]], P0=[[1.0]]), y
    ).log_likelihood
    found = particle_filter(
        linear(), y.expand(2000, -1, -1), particles=20, resampling=way, engine="compiled", seed=1
    )
    ratio = (found.log_likelihood - exact).exp()
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / math.sqrt(2000)


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


def test_values_that_a_law_cannot_have_are_told_as_before(monkeypatch):
    # Other tests compile by torch, which turns these checks off for the whole process.
    monkeypatch.setattr(Distribution, "_validate_args", True)
    model = StateSpaceModel(
        start(), linear().transition, lambda x, t: Normal(x, torch.full_like(x, -1.0))
    )
    for engine in ("eager", "compiled"):
        with pytest.raises(ValueError, match="scale"):
            particle_filter(model, series(), particles=9, engine=engine)
    model = StateSpaceModel(start(), linear().transition, lambda x, t: Poisson(x.exp()))
    with pytest.raises(ValueError, match="support"):
        particle_filter(model, series(), particles=9, engine="compiled")


@pytest.mark.parametrize(
    ("see", "draw"),
    [
        (lambda x, t: Poisson(x.exp()), lambda r: r.poisson(2.0, (1, 40, 1))),
        (lambda x, t: Bernoulli(logits=x), lambda r: r.integers(0, 2, (1, 40, 1))),
        (lambda x, t: Independent(Poisson(x.exp()), 1), lambda r: r.poisson(2.0, (1, 40, 1))),
    ],
)
def test_counts(see, draw):
    y = torch.as_tensor(draw(np.random.default_rng(0))).double()
    y[0, 3] = torch.nan
    model = StateSpaceModel(start(), lambda x, t: Normal(0.9 * x, 0.3), see)
    agree(*engines(model, y, particles=40), ALL)


def test_threads_filter_side_by_side():
    model, y = volatility(), series()
    runs = [particle_filter(model, y, particles=50, seed=s).log_likelihood for s in range(6)]
    with ThreadPoolExecutor(3) as pool:
        again = pool.map(
            lambda s: particle_filter(model, y, particles=50, seed=s).log_likelihood, range(6)
        )
    assert torch.equal(torch.stack(runs), torch.stack(list(again)))


def test_parameters_are_read_at_every_call():
    theta = torch.tensor(0.5, dtype=WIDE)
    model = StateSpaceModel(
        start(), lambda x, t: Normal(theta * x, 0.5), lambda x, t: Normal(x, 0.6)
    )
    before = particle_filter(model, series(), particles=20)
    theta.fill_(0.9)
    agree(*engines(model, series(), particles=20), ALL)
    after = particle_filter(model, series(), particles=20)
    assert not torch.equal(before.particles, after.particles)


UNARY = [
    torch.sin,
    torch.tanh,
    torch.sigmoid,
    lambda a: a**2,
    lambda a: (-a.abs()).exp(),
    lambda a: torch.log1p(a * a),
    lambda a: a.clamp(-1, 1),
    lambda a: torch.nn.functional.softplus(a, beta=2.0),
    lambda a: 1 / (1 + a.square()),
    lambda a: torch.relu(a) - 0.3,
    lambda a: a.flip(-1),
    lambda a: a - a.mean(-1, keepdim=True),
    lambda a: torch.logsumexp(a, -1, keepdim=True) + a,
    lambda a: torch.nn.functional.silu(a),
    lambda a: torch.rsub(a, 2.0, alpha=0.5),
    lambda a: torch.cat([a[..., 1:], a[..., :1] * 0.5], -1),
]
BINARY = [
    torch.add,
    torch.sub,
    torch.mul,
    torch.maximum,
    lambda a, b: torch.where(a < b, a, b + 1),
    lambda a, b: a / (1 + b.abs()),
    lambda a, b: torch.add(a, b, alpha=-0.5),
    lambda a, b: torch.addcmul(a, a, b, value=0.1),
    lambda a, b: torch.where((a > b) & ~(b >= 0), a, -b),
]


@st.composite
def trees(draw, depth=4):
    """An expression of x (…, 2), a matrix and a vector."""
    kind = draw(st.integers(0, 5)) if depth else 0
    if kind == 0:
        return draw(
            st.sampled_from([lambda x, M, v: x, lambda x, M, v: x @ M, lambda x, M, v: v + 0 * x])
        )
    inner = draw(trees(depth - 1))
    if kind < 4:
        f = draw(st.sampled_from(UNARY))
        return lambda x, M, v: f(inner(x, M, v))
    other, g = draw(trees(depth - 1)), draw(st.sampled_from(BINARY))
    return lambda x, M, v: g(inner(x, M, v), other(x, M, v))


@settings(max_examples=60, deadline=None)
@given(trees(), trees(), st.integers(0, 100))
def test_random_expressions(move, see, seed):
    M, v = series(1, 2, 2, seed)[0], series(1, 1, 2, seed)[0, 0]
    model = StateSpaceModel(
        start(2),
        lambda x, t: Normal(torch.tanh(move(x, M, v)), 0.5),
        lambda x, t: Normal(torch.tanh(see(x, M, v)), 0.5),
    )
    agree(*engines(model, series(1, 6, 2), particles=16, seed=seed), ALL, 1e-10)
