"""Hidden Markov models beside the sum over all paths, and expectation maximisation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from statewise.inference import (
    BernoulliGLM,
    CategoricalEmission,
    DrivenTransition,
    Filter,
    Forward,
    GaussianEmission,
    HiddenMarkov,
    ParallelForward,
    PoissonEmission,
    PoissonGLM,
    baum_welch,
    filter,
)

NAN = float("nan")


def rows(rng, *shape):
    x = rng.gamma(1.0, size=shape) + 0.05
    return x / x.sum(-1, keepdims=True)


def emission(kind, rng, K):
    root = rng.normal(size=(K, 2, 3))
    return {
        "gauss": lambda: GaussianEmission(rng.normal(size=(K, 2)), rng.gamma(3.0, size=(K, 2))),
        "full": lambda: GaussianEmission(
            rng.normal(size=(K, 2)), root @ root.swapaxes(1, 2) + 0.1 * np.eye(2)
        ),
        "symbols": lambda: CategoricalEmission(rows(rng, K, 2, 4)),
        "counts": lambda: PoissonEmission(rng.gamma(2.0, size=(K, 2))),
        "choices": lambda: BernoulliGLM(rng.normal(size=(K, 2, 3)), rng.normal(size=(K, 2))),
        "rates": lambda: PoissonGLM(0.3 * rng.normal(size=(K, 2, 3)), rng.normal(size=(K, 2))),
    }[kind]()


KINDS = ("gauss", "full", "symbols", "counts", "choices", "rates")


def case(kind="gauss", B=3, T=6, K=3, *, gaps=0.25, ends=True, seed=0, moves="constant"):
    rng = np.random.default_rng(seed)
    shape = {"constant": (K, K), "time": (T, K, K), "series": (B, T, K, K)}
    transition = (
        DrivenTransition(rng.normal(size=(K, K)), rng.normal(size=(K, K, 3)))
        if moves == "driven"
        else rows(rng, *shape[moves])
    )
    initial = rows(rng, B, K) if moves == "series" else rows(rng, K)
    model = HiddenMarkov(initial, transition, emission(kind, rng, K))
    options = {}
    if kind in ("choices", "rates") or moves == "driven":
        options["u"] = torch.as_tensor(rng.normal(size=(B, T, 3)))
    y = rng.normal(size=(B, T, 2)) if kind in ("gauss", "full") else rng.integers(0, 2, (B, T, 2))
    y = torch.as_tensor(y).double()
    y[torch.as_tensor(rng.random(y.shape) < gaps)] = NAN
    if ends:
        options["lengths"] = torch.as_tensor(rng.integers(1, T + 1, B))
        options["lengths"][0] = T
    return model, y, options


def density(emission, b, t, k, y, options):
    """log p of the observed outputs, by torch.distributions."""
    value = y[b, t]
    seen = ~value.isnan()
    if not seen.any():
        return 0.0
    D = torch.distributions
    if isinstance(emission, GaussianEmission):
        cov = emission.cov[k] if emission.cov.dim() == 3 else torch.diag(emission.cov[k])
        law = D.MultivariateNormal(emission.mean[k][seen], cov[seen][:, seen])
        return law.log_prob(value[seen]).item()
    if isinstance(emission, CategoricalEmission):
        return D.Categorical(emission.probabilities[k][seen]).log_prob(value[seen]).sum().item()
    if isinstance(emission, PoissonEmission):
        return D.Poisson(emission.rate[k][seen]).log_prob(value[seen]).sum().item()
    eta = (emission.weight[k] @ options["u"][b, t] + emission.bias[k])[seen]
    law = D.Bernoulli(logits=eta) if isinstance(emission, BernoulliGLM) else D.Poisson(eta.exp())
    return law.log_prob(value[seen]).sum().item()


def enumerate_paths(model, y, options, b):
    """All paths of a series and log p(path, y) of each."""
    T, K = y.shape[1], model.states
    T = int(options["lengths"][b]) if "lengths" in options else T
    P = model.log_transition(options.get("u")).detach()
    P = P.expand(len(y), y.shape[1], K, K)[b]
    initial = model.initial.expand(len(y), K)[b].log()
    e = torch.tensor(
        [[density(model.emission, b, t, k, y, options) for k in range(K)] for t in range(T)],
        dtype=torch.float64,
    )
    paths = torch.tensor(list(itertools.product(range(K), repeat=T)))
    scores = initial[paths[:, 0]]
    for t in range(T):
        scores = scores + e[t, paths[:, t]]
        if t:
            scores = scores + P[t, paths[:, t - 1], paths[:, t]]
    return paths, scores


def close(found, expected, bound=1e-12):
    torch.testing.assert_close(found, expected, rtol=bound, atol=bound)


CASES = [(kind, "constant") for kind in KINDS] + [
    ("gauss", m) for m in ("time", "series", "driven")
]


@pytest.mark.parametrize(("kind", "moves"), CASES)
def test_equals_the_sum_over_all_paths(kind, moves):
    model, y, options = case(kind, moves=moves)
    whole = model.smooth(y, **options)
    found = model.filter(y, **options)
    best = model.viterbi(y, **options)
    for b in range(len(y)):
        paths, scores = enumerate_paths(model, y, options, b)
        T = paths.shape[1]
        total = torch.logsumexp(scores, 0)
        w = (scores - total).exp()
        hot = nn.functional.one_hot(paths, model.states).double()
        close(found.log_likelihood[b], total)
        close(whole.log_likelihood[b], total)
        close(whole.mean[b, :T], torch.einsum("n,ntk->tk", w, hot))
        pairs = torch.einsum("n,nti,ntj->tij", w, hot[:, :-1], hot[:, 1:])
        close(whole.pairs[b, 1:T], pairs)
        close(found.mean[b, T - 1], whole.mean[b, T - 1])
        assert not whole.mean[b, T:].any()
        assert not whole.pairs[b, T:].any()
        assert best.path[b, :T].tolist() == paths[scores.argmax()].tolist()
        assert (best.path[b, T:] == -1).all()
        close(best.log_probability[b], scores.max())
    summed = model.smooth(y, **options, pairs=False)
    close(summed.pairs, whole.pairs.sum(1, keepdim=True))


@pytest.mark.parametrize("moves", ["constant", "time", "series", "driven"])
def test_all_ways_are_one(moves):
    model, y, options = case("full", B=4, T=37, moves=moves)
    expected = model.filter(y, **options)
    for way in ({"fused": False}, {"parallel": True}):
        found = model.filter(y, **options, **way)
        for field in ("mean", "cov", "log_likelihoods", "predicted_mean"):
            close(getattr(found, field), getattr(expected, field), 1e-10)
    one, other = (model.smooth(y, **options, parallel=way) for way in (False, True))
    for field in ("mean", "pairs", "log_likelihood"):
        close(getattr(one, field), getattr(other, field), 1e-10)
    valid = torch.arange(37) < options["lengths"].unsqueeze(1)
    before = torch.einsum(
        "bti,btij->btj", expected.mean[:, :-1], whole_transition(model, options)[:, 1:]
    )
    close(expected.predicted_mean[:, 1:][valid[:, 1:]], before[valid[:, 1:]])
    p = expected.mean
    close(expected.cov, torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2))


def whole_transition(model, options):
    P = model.log_transition(options.get("u")).exp()
    return P.expand(4, 37, model.states, model.states)


@pytest.mark.parametrize("method", [Forward, ParallelForward])
@pytest.mark.parametrize("moves", ["constant", "time", "driven"])
def test_online_is_the_whole(method, moves):
    model, y, options = case("gauss", T=15, moves=moves, ends=False)
    whole = model.filter(y, **options)
    stream = Filter(model, method(), batch=len(y))
    for t in range(15):
        u = {"u": options["u"][:, t]} if "u" in options else {}
        now = stream.update(y[:, t], **u)
        close(now.mean, whole.mean[:, t], 1e-10)
        close(now.cov, whole.cov[:, t], 1e-10)
        close(now.log_likelihood, whole.log_likelihoods[:, t], 1e-10)
    close(stream.log_likelihood, whole.log_likelihood, 1e-10)
    assert model.stream(3).update(y[:, 0], options.get("u", y)[:, 0] if "u" in options else None)


def test_the_engine_takes_the_method():
    model, y, options = case()
    found = filter(model, y, **options, method=Forward())
    close(found.mean, model.filter(y, **options).mean)
    with pytest.raises(ValueError, match="Forward cannot run in parallel"):
        filter(model, y, **options, method=Forward(), parallel=True)


def test_transitions_of_probability_zero():
    rng = np.random.default_rng(0)
    P = np.triu(rows(rng, 3, 3))
    model = HiddenMarkov([1.0, 0.0, 0.0], P / P.sum(-1, keepdims=True), emission("gauss", rng, 3))
    y = torch.as_tensor(rng.normal(size=(2, 7, 2)))
    paths, scores = enumerate_paths(model, y, {}, 1)
    expected = torch.logsumexp(scores, 0)
    for way in ({}, {"fused": False}, {"parallel": True}):
        close(model.filter(y, **way).log_likelihood[1], expected)
    w = (scores - expected).exp()
    hot = nn.functional.one_hot(paths, 3).double()
    for parallel in (False, True):
        close(model.smooth(y, parallel=parallel).mean[1], torch.einsum("n,ntk->tk", w, hot))
    assert (model.viterbi(y).path.diff() >= 0).all()


def test_gradients_of_the_likelihood_agree_with_finite_differences():
    model, y, options = case("full", moves="time", T=5)
    leaves = [model.initial, model.transition, model.emission.mean, model.emission.cov]
    leaves = [x.clone().requires_grad_() for x in leaves]
    for way in ({}, {"fused": False}, {"parallel": True}):

        def value(initial, transition, mean, cov, way=way):
            changed = model.replace(
                initial=initial / initial.sum(),
                transition=transition / transition.sum(-1, keepdim=True),
                emission=GaussianEmission(mean, (cov + cov.mT) / 2),
            )
            return changed.filter(y, **options, **way).log_likelihood

        assert torch.autograd.gradcheck(value, leaves, fast_mode=True)


def test_what_is_behind_the_end_is_not_read():
    model, y, options = case("symbols", gaps=0.0)
    expected = model.smooth(y, **options)
    for b, stop in enumerate(options["lengths"].tolist()):
        y[b, stop:] = 77.0
    close(model.smooth(y, **options).pairs, expected.pairs, 0.0)
    with pytest.raises(ValueError, match="y holds 77; its symbols must be"):
        model.smooth(y)


def test_mask_is_a_gap():
    model, y, _ = case("full", gaps=0.0, ends=False)
    mask = torch.as_tensor(np.random.default_rng(1).random(y.shape) < 0.5)
    expected = model.filter(torch.where(mask, y, NAN))
    close(model.filter(y, mask=mask).mean, expected.mean, 0.0)


def test_relabelling_states_relabels_the_answer():
    model, y, options = case("full")
    order = torch.tensor([2, 0, 1])
    e = model.emission
    other = HiddenMarkov(
        model.initial[order],
        model.transition[order][:, order],
        GaussianEmission(e.mean[order], e.cov[order]),
    )
    close(other.smooth(y, **options).mean, model.smooth(y, **options).mean[..., order])


def test_ties_go_to_the_lowest_state():
    model = HiddenMarkov([0.5, 0.5], [[0.5, 0.5], [0.5, 0.5]], PoissonEmission([[1.0], [1.0]]))
    y = torch.ones(1, 4, 1)
    assert model.viterbi(y).path.tolist() == [[0, 0, 0, 0]]
    free = HiddenMarkov([0.5, 0.5], [[0.0, 1.0], [1.0, 0.0]], PoissonEmission([[1.0], [1.0]]))
    assert free.viterbi(y).path.tolist() == [[1, 0, 1, 0]]


def test_no_drawn_path_beats_viterbi_and_draws_have_the_posterior():
    model, y, options = case("gauss", T=5)
    draws = model.sample_states(y, 20_000, **options, seed=3)
    assert torch.equal(draws, model.sample_states(y, 20_000, **options, seed=3))
    assert not torch.equal(draws, model.sample_states(y, 20_000, **options, seed=4))
    best = model.viterbi(y, **options)
    for b in range(len(y)):
        paths, scores = enumerate_paths(model, y, options, b)
        T = paths.shape[1]
        assert (draws[:, b, T:] == -1).all()
        index = (draws[:, b, :T] * 3 ** torch.arange(T - 1, -1, -1)).sum(-1)
        share = torch.bincount(index, minlength=3**T) / 20_000
        p = (scores - torch.logsumexp(scores, 0)).exp()
        # A path off by five standard errors has a chance of 1e-6.
        assert ((share - p).abs() <= 5 * (p * (1 - p) / 20_000).sqrt() + 1e-4).all()
        assert (scores[index] <= best.log_probability[b] + 1e-12).all()


@pytest.mark.parametrize("kind", KINDS)
def test_every_turn_gains_likelihood(kind):
    model, y, options = case(kind, B=6, T=40, gaps=0.3)
    fit = baum_welch(model, y, **options, steps=15)
    gains = np.diff(fit.log_likelihoods)
    assert (gains >= -1e-9).all()
    assert gains[0] > 0
    close(
        torch.tensor(fit.log_likelihoods[-1], dtype=torch.float64),
        fit.model.filter(y, **options).log_likelihood.sum(),
        1e-9,
    )


@pytest.mark.parametrize("kind", ["gauss", "full", "symbols", "counts", "choices", "rates"])
def test_where_it_ends_no_gradient_is_left(kind):
    model, y, options = case(kind, B=6, T=30, K=2, gaps=0.2, seed=5)
    fit = baum_welch(model, y, **options, steps=400, tolerance=1e-12).model
    names = {"gauss": ("mean", "cov"), "full": ("mean", "cov"), "symbols": ("probabilities",)}
    names = names.get(kind, ("rate",) if kind == "counts" else ("weight", "bias"))
    logits = [fit.transition.log()] + [getattr(fit.emission, k) for k in names]
    if kind == "symbols":
        logits[1] = logits[1].log()
    leaves = [x.clone().requires_grad_() for x in logits]
    made = object.__new__(type(fit.emission))
    made.__dict__.update(fit.emission.__dict__)
    values = leaves[1:] if kind != "symbols" else [torch.softmax(leaves[1], -1)]
    made.__dict__.update(dict(zip(names, values, strict=True)))
    model = fit.replace(transition=torch.softmax(leaves[0], -1), emission=made)
    value = model.filter(y, **options).log_likelihood.sum()
    for x in torch.autograd.grad(value, leaves):
        assert x.abs().max() < 1e-3 * abs(value.item())


def test_one_state_is_a_regression():
    rng = np.random.default_rng(0)
    u = torch.as_tensor(rng.normal(size=(2, 300, 3)))
    y = torch.as_tensor(rng.poisson((0.3 * u.sum(-1, keepdim=True)).exp().numpy())).double()
    model = HiddenMarkov([1.0], [[1.0]], PoissonGLM(np.zeros((1, 1, 3)), [[0.0]]))
    fit = baum_welch(model, y, u, steps=20).model.emission
    X = torch.cat([u, torch.ones(2, 300, 1)], -1).reshape(-1, 4).double()
    theta = torch.cat([fit.weight[0, 0], fit.bias[0]])
    # The score equations of Poisson regression.
    close(X.T @ (y.reshape(-1) - (X @ theta).exp()), torch.zeros(4).double(), 1e-8)


def test_records_of_unequal_length_are_separate():
    model, y, _ = case("counts", B=3, T=20, gaps=0.1)
    lengths = torch.tensor([20, 7, 0])
    padded = baum_welch(model, y, lengths=lengths, steps=3)
    two = torch.stack([model.filter(y[:1]).log_likelihood, model.filter(y[1:2, :7]).log_likelihood])
    close(torch.tensor(padded.log_likelihoods[0], dtype=torch.float64), two.sum())
    without = baum_welch(model, y[:2], lengths=lengths[:2], steps=3)
    close(padded.model.transition, without.model.transition)
    close(padded.model.initial, without.model.initial)


def test_planted_parameters_are_found():
    rng = np.random.default_rng(1)
    P = np.array([[0.95, 0.05], [0.1, 0.9]])
    x = np.zeros((4, 1000), int)
    for t in range(1, 1000):
        x[:, t] = rng.random(4) < P[x[:, t - 1], 1]
    y = torch.as_tensor(np.where(x == 1, 2.0, -1.0) + rng.normal(size=x.shape)).unsqueeze(-1)
    start = HiddenMarkov(
        [0.5, 0.5], [[0.5, 0.5], [0.5, 0.5]], GaussianEmission([[-0.1], [0.1]], [[1.0], [1.0]])
    )
    fit = baum_welch(start, y, steps=200)
    assert fit.converged
    torch.testing.assert_close(fit.model.transition, torch.as_tensor(P), rtol=0, atol=0.02)
    torch.testing.assert_close(
        fit.model.emission.mean.flatten(), torch.tensor([-1.0, 2.0]).double(), rtol=0, atol=0.1
    )
    assert (fit.model.viterbi(y).path.numpy() == x).mean() > 0.95


def test_counts_hold_states():
    model, y, options = case("gauss", B=2, T=20)
    free = baum_welch(model, y, **options, steps=2, free=("transition",)).model
    held = baum_welch(
        model, y, **options, steps=2, free=("transition",), counts=1e6 * torch.eye(3)
    ).model
    assert held.transition.diagonal().min() > 0.999 > free.transition.diagonal().min()
    assert torch.equal(held.initial, model.initial)


def test_modules_are_emissions_and_transitions_and_are_fitted():
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.centre = nn.Parameter(torch.tensor([-0.5, 0.5], dtype=torch.float64))

        def forward(self, y, u):
            return -0.5 * (y - self.centre).square() - 0.5 * math.log(2 * math.pi)

    rng = np.random.default_rng(0)
    y = torch.as_tensor(rng.normal(size=(2, 80, 1)) + np.where(rng.random((2, 80, 1)) < 0.5, 2, -2))
    y[0, 3] = NAN
    u = torch.as_tensor(rng.normal(size=(2, 80, 1)))
    driven = DrivenTransition(np.zeros((2, 2)), np.zeros((2, 2, 1)))
    model = HiddenMarkov([0.5, 0.5], driven, Shifted())
    same = HiddenMarkov([0.5, 0.5], driven, GaussianEmission([[-0.5], [0.5]], [[1.0], [1.0]]))
    close(model.filter(y, u).log_likelihoods, same.filter(y, u).log_likelihoods)
    fit = baum_welch(model, y, u, steps=10)
    gains = np.diff(fit.log_likelihoods)
    assert (gains > -1e-9).all()
    assert fit.model.emission.function.centre.tolist() == pytest.approx([-2, 2], abs=0.4)
    assert model.emission.function.centre.tolist() == [-0.5, 0.5]
    assert not driven.weight.any()


def test_arguments_that_do_not_fit():
    emission = PoissonEmission([[1.0], [2.0]])
    with pytest.raises(ValueError, match=r"sums reach from 0\.9"):
        HiddenMarkov([0.5, 0.4], np.eye(2), emission)
    with pytest.raises(ValueError, match=r"transition has shape \(3, 3\)"):
        HiddenMarkov([0.5, 0.5], np.eye(3), emission)
    with pytest.raises(ValueError, match="emission has 2 states and initial 1"):
        HiddenMarkov([1.0], [[1.0]], emission)
    with pytest.raises(TypeError, match="emission is a int"):
        HiddenMarkov([1.0], [[1.0]], 3)
    with pytest.raises(TypeError, match="transition is a int"):
        HiddenMarkov([1.0], 3, emission)
    model = HiddenMarkov([0.5, 0.5], np.eye(2), emission)
    with pytest.raises(ValueError, match=r"y has shape \(3, 1\); it must be \(B, T, 1\)"):
        model.filter(torch.zeros(3, 1))
    with pytest.raises(ValueError, match=r"u has shape \(1, 2, 1\)"):
        model.filter(torch.zeros(1, 3, 1), torch.zeros(1, 2, 1))
    with pytest.raises(ValueError, match=r"mask has shape \(1, 2, 1\)"):
        model.filter(torch.zeros(1, 3, 1), mask=torch.ones(1, 2, 1, dtype=torch.bool))
    with pytest.raises(ValueError, match="free is"):
        baum_welch(model, torch.zeros(1, 3, 1), free=("mean",))
    with pytest.raises(ValueError, match="cov has shape"):
        GaussianEmission([[0.0]], [[1.0, 2.0]])
    with pytest.raises(ValueError, match=r"the emission gives shape \(1, 3\)"):
        HiddenMarkov([0.5, 0.5], np.eye(2), lambda y, u: y[..., 0]).filter(torch.zeros(1, 3, 1))
    left = HiddenMarkov([1.0, 0.0], np.eye(2), CategoricalEmission([[1.0, 0.0], [0.0, 1.0]]))
    for way in ({}, {"fused": False}, {"parallel": True}):
        with pytest.raises(ValueError, match="has probability 0 in every state"):
            left.filter(torch.tensor([[[0.0], [1.0]]]), **way)
