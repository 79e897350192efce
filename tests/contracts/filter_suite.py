"""The filter contract as tests: a new method inherits them all by saying how to make it.

    class TestMine(FilterContract):
        def method(self):
            return Mine()

What the suite proves: on linear-Gaussian models the method equals a plain textbook filter that
deletes missing rows, in float64, and its gradients are right by finite differences; step by step,
compiled, in parallel and online are one; series of unequal lengths are filtered each as if alone;
filtering can stop and go on; long and ill-conditioned problems do not drift.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import pytest
import torch

from statewise import inference, ops
from statewise.inference import Filter, LinearGaussian, Method

CASES = {
    "plain": {},
    "one state": {"n": 1, "p": 1},
    "gaps": {"gaps": 0.4},
    "inputs": {"m": 2},
    "in time": {"varies": True, "gaps": 0.2},
    "each its own": {"own": True, "m": 1},
    "all": {"varies": True, "own": True, "m": 2, "gaps": 0.3, "n": 5, "p": 3},
    "lengths": {"ends": True, "gaps": 0.2},
}


def random_model(n=3, p=2, m=0, B=3, T=12, *, varies=False, own=False, prior_at=1, seed=0):
    """A stable model with covariances of full rank."""
    rng = np.random.default_rng(seed)
    lead = (B if own else 1, T if varies else 1)

    def covariance(k, *shape):
        root = rng.normal(size=(*shape, k, k + 1))
        return torch.as_tensor(root @ np.swapaxes(root, -1, -2) / k + 0.05 * np.eye(k))

    def normal(*shape):
        return torch.as_tensor(rng.normal(size=shape))

    F = 0.95 * torch.linalg.qr(normal(*lead, n, n))[0]
    driven = {"B": normal(*lead, n, m), "D": normal(*lead, p, m)} if m else {}
    return LinearGaussian(
        *(F, normal(*lead, p, n), covariance(n, *lead), covariance(p, *lead)),
        **driven,
        c=normal(*lead, n),
        d=normal(*lead, p),
        m0=normal(B, n),
        P0=covariance(n, B),
        prior_at=prior_at,
    )


def random_data(model, B=3, T=12, *, gaps=0.0, ends=False, seed=1):
    rng = np.random.default_rng(seed)
    y = torch.as_tensor(rng.normal(size=(B, T, model.outputs)))
    y[torch.as_tensor(rng.random(y.shape) < gaps)] = torch.nan
    options = {}
    if model.inputs:
        options["u"] = torch.as_tensor(rng.normal(size=(B, T, model.inputs)))
    if ends:
        options["lengths"] = torch.as_tensor(rng.integers(1, T + 1, B))
    return y, options


def case(name, prior_at=1, **more):
    wanted = CASES[name] | more
    data = {k: wanted.pop(k) for k in ("gaps", "ends") if k in wanted}
    model = random_model(**wanted, prior_at=prior_at)
    return model, *random_data(model, T=wanted.get("T", 12), **data)


def textbook(model, y, u=None, lengths=None, mask=None):
    """Filter by the equations of a textbook, one series and step after the other, in NumPy."""
    B, T, p = y.shape
    n = model.states
    means, covs, logs = np.zeros((B, T, n)), np.zeros((B, T, n, n)), np.zeros((B, T))

    def pick(x, i, t):
        return x[min(i, len(x) - 1), min(t, x.shape[1] - 1)].detach().numpy()

    for i in range(B):
        m = model.m0[min(i, len(model.m0) - 1)].detach().numpy()
        P = model.P0[min(i, len(model.P0) - 1)].detach().numpy()
        for t in range(T if lengths is None else int(lengths[i])):
            F, H, Q, R = (pick(x, i, t) for x in (model.F, model.H, model.Q, model.R))
            c, d = np.zeros(n), np.zeros(p)
            c = c if model.c is None else c + pick(model.c, i, t)
            d = d if model.d is None else d + pick(model.d, i, t)
            if u is not None:
                c = c + pick(model.B, i, t) @ u[i, t].numpy()
                d = d + pick(model.D, i, t) @ u[i, t].numpy()
            if t or model.prior_at == 0:
                m, P = F @ m + c, F @ P @ F.T + Q
            value = y[i, t].numpy()
            seen = ~np.isnan(value)
            if mask is not None:
                seen &= mask[i, t].numpy()
            if seen.any():
                H, e = H[seen], (value - d)[seen] - H[seen] @ m
                S = H @ P @ H.T + R[np.ix_(seen, seen)]
                K = np.linalg.solve(S, H @ P).T
                logs[i, t] = -0.5 * (
                    seen.sum() * math.log(2 * math.pi)
                    + np.linalg.slogdet(S)[1]
                    + e @ np.linalg.solve(S, e)
                )
                m, P = m + K @ e, P - K @ S @ K.T
            means[i, t], covs[i, t] = m, (P + P.T) / 2
    return tuple(torch.as_tensor(x) for x in (means, covs, logs))


def textbook_of_two(model, y):
    """What :func:`textbook` does for one series, two states and one output, in plain numbers."""
    (a, b), (c, d) = model.F[0, 0].tolist()
    (q, r, s), (h, k) = model.Q[0, 0].flatten()[[0, 1, 3]].tolist(), model.H[0, 0, 0].tolist()
    noise, offset, (e, f) = model.R.item(), model.d.item(), model.c[0, 0].tolist()
    (x, v), (P, C, V) = model.m0[0].tolist(), model.P0[0].flatten()[[0, 1, 3]].tolist()
    means, covs, logs = [], [], []
    for t, value in enumerate(y[0, :, 0].tolist()):
        if t:
            x, v = a * x + b * v + e, c * x + d * v + f
            P, C, V = (
                a * a * P + 2 * a * b * C + b * b * V + q,
                a * c * P + (a * d + b * c) * C + b * d * V + r,
                c * c * P + 2 * c * d * C + d * d * V + s,
            )
        log = 0.0
        if value == value:
            g, w = h * P + k * C, h * C + k * V
            S, error = h * g + k * w + noise, value - offset - h * x - k * v
            log = -0.5 * (math.log(2 * math.pi * S) + error * error / S)
            x, v = x + g * error / S, v + w * error / S
            P, C, V = P - g * g / S, C - g * w / S, V - w * w / S
        means.append((x, v))
        covs.append(((P, C), (C, V)))
        logs.append(log)
    return tuple(torch.tensor([z], dtype=torch.float64) for z in (means, covs, logs))


def exact_velocity(q, r, P0, y, dt=0.1):
    """Last covariance of the constant-velocity model, in extended precision."""
    wide = np.longdouble
    F = np.array([[1, dt], [0, 1]], wide)
    Q = wide(q) * np.array([[wide(dt) ** 3 / 3, wide(dt) ** 2 / 2], [wide(dt) ** 2 / 2, wide(dt)]])
    P = wide(P0) * np.eye(2, dtype=wide)
    for t in range(y):
        if t:
            P = F @ P @ F.T + Q
        h = P[:, 0]
        s = h[0] + wide(r)
        J = np.eye(2, dtype=wide)
        J[:, 0] -= h / s
        P = J @ P @ J.T + wide(r) * np.outer(h, h) / s**2
    return F, Q, P


def close(found, expected, bound):
    torch.testing.assert_close(found, expected, rtol=bound, atol=bound)


class FilterContract:
    """Tests of one method; see the module for what a subclass supplies."""

    bound: ClassVar[float] = 1e-10
    steps: ClassVar[int] = 2_000
    """Length of the long series."""
    conditioned: ClassVar[float] = 1e-5
    """Relative error of the last covariance accepted on ill-conditioned problems in float64."""
    singular: ClassVar[bool] = True
    """Whether Q and P0 may be singular."""

    def method(self) -> Method:
        raise NotImplementedError

    def ways(self) -> list[dict]:
        """How the engine can run the method."""
        ways = [{"fused": False}]
        if type(self.method()).fused is not Method.fused:
            ways.append({})
        if self.method().associative:
            ways.append({"parallel": True})
        return ways

    def run(self, model, y, options, way):
        return inference.filter(model, y, **options, method=self.method(), **way)

    @pytest.mark.parametrize("prior_at", [0, 1])
    @pytest.mark.parametrize("name", list(CASES))
    def test_equals_the_textbook(self, name, prior_at):
        model, y, options = case(name, prior_at)
        mean, cov, logs = textbook(model, y, **options)
        for way in self.ways():
            found = self.run(model, y, options, way)
            close(found.mean, mean, self.bound)
            close(found.cov, cov, self.bound)
            close(found.log_likelihoods, logs, self.bound)
            close(found.log_likelihood, logs.sum(1), self.bound)
            valid = found.problem.valid()
            root = found.chol_cov[valid]
            close(root @ root.mT, cov[valid], self.bound)

    @pytest.mark.parametrize("name", ["gaps", "all", "lengths"])
    def test_all_ways_are_one(self, name):
        model, y, options = case(name)
        first, *others = (self.run(model, y, options, way) for way in self.ways())
        for other in others:
            for field in ("mean", "cov", "log_likelihoods"):
                close(getattr(other, field), getattr(first, field), 1e-9)

    @pytest.mark.parametrize("name", ["gaps", "all", "lengths"])
    def test_the_likelihood_alone(self, name):
        model, y, options = case(name)
        expected = textbook(model, y, **options)[2].sum(1)
        found = inference.log_likelihood(model, y, **options, method=self.method())
        assert found.dtype == torch.float64
        close(found, expected, self.bound)

    @pytest.mark.parametrize("name", ["gaps", "inputs", "in time"])
    @pytest.mark.parametrize("prior_at", [0, 1])
    def test_online_is_the_whole(self, name, prior_at):
        model, y, options = case(name, prior_at)
        whole = self.run(model, y, options, {"fused": False})
        stream = Filter(model, self.method(), batch=len(y))
        for t in range(y.shape[1]):
            u = {"u": options["u"][:, t]} if "u" in options else {}
            now = stream.update(y[:, t], **u)
            close(now.mean, whole.mean[:, t], 1e-9)
            close(now.cov, whole.cov[:, t], 1e-9)
            close(now.log_likelihood, whole.log_likelihoods[:, t], 1e-9)
        close(stream.log_likelihood, whole.log_likelihood, 1e-9)
        assert stream.steps == y.shape[1]

    def test_lengths_are_separate_series(self):
        model, y, options = case("lengths")
        for way in self.ways():
            whole = self.run(model, y, options, way)
            for i, stop in enumerate(options["lengths"].tolist()):
                own = model.replace(m0=model.m0[i], P0=model.P0[i])
                alone = self.run(own, y[i : i + 1, :stop], {}, way)
                for field in ("mean", "cov", "log_likelihoods", "predicted_mean", "predicted_cov"):
                    found = getattr(whole, field)[i]
                    close(found[:stop], getattr(alone, field)[0], self.bound)
                    assert not found[stop:].any()

    def test_what_is_behind_the_end_is_not_read(self):
        model, y, options = case("lengths")
        expected = self.run(model, y, options, {})
        for i, stop in enumerate(options["lengths"].tolist()):
            y[i, stop:] = 1e30
        found = self.run(model, y, options, {})
        assert torch.equal(found.mean, expected.mean)
        assert torch.equal(found.log_likelihoods, expected.log_likelihoods)

    def test_mask_is_a_gap(self):
        model, y, options = case("plain")
        mask = torch.as_tensor(np.random.default_rng(3).random(y.shape) < 0.6)
        gappy = torch.where(mask, y, torch.nan)
        for way in self.ways():
            close(
                self.run(model, y, {"mask": mask}, way).mean,
                self.run(model, gappy, options, way).mean,
                1e-14,
            )

    def test_split_and_carry(self):
        model, y, options = case("gaps", T=20)
        for way in self.ways():
            whole = self.run(model, y, options, way)
            first = self.run(model, y[:, :7], options, way)
            carried = model.replace(m0=first.mean[:, -1], P0=first.cov[:, -1], prior_at=0)
            second = self.run(carried, y[:, 7:], options, way)
            for field in ("mean", "cov", "log_likelihoods"):
                parts = torch.cat([getattr(first, field), getattr(second, field)], 1)
                close(parts, getattr(whole, field), 1e-9)

    @pytest.mark.parametrize("name", ["gaps", "inputs", "lengths"])
    def test_gradient_against_finite_differences(self, name):
        names = ("F", "H", "Q", "R", "c", "d", "m0", "P0")
        model, y, options = case(name, B=3, T=4)
        y = y[:, :4]
        options = {k: v.clamp_max(4) if k == "lengths" else v[:, :4] for k, v in options.items()}
        leaves = [getattr(model, k).clone().requires_grad_() for k in names]
        for way in self.ways():

            def function(*given, way=way):
                changes = dict(zip(names, given, strict=True))
                for k in ("Q", "R", "P0"):
                    changes[k] = (changes[k] + changes[k].mT) / 2
                return self.run(model.replace(**changes), y, options, way).log_likelihood

            assert torch.autograd.gradcheck(function, leaves, fast_mode=True, atol=1e-6)

    def test_singular_covariances(self):
        if not self.singular:
            pytest.skip("the method says that it needs covariances of full rank")
        model, y, _ = case("gaps")
        rank = torch.tensor([[1.0, 0.5, -1.0]], dtype=torch.float64)
        model = model.replace(Q=rank.mT @ rank, P0=torch.diag(torch.tensor([1.0, 0.0, 0.0])))
        mean, cov, logs = textbook(model, y)
        for way in self.ways():
            found = self.run(model, y, {}, way)
            close(found.mean, mean, self.bound)
            close(found.cov, cov, self.bound)
            close(found.log_likelihoods, logs, self.bound)

    @pytest.mark.parametrize(("q", "r", "P0"), [(1e-4, 1e-8, 1e4), (1e-6, 1e-10, 1e6)])
    def test_ill_conditioned(self, q, r, P0):
        F, Q, P = exact_velocity(q, r, P0, 200)
        model = LinearGaussian(
            F.astype(float), [[1.0, 0.0]], Q.astype(float), [[r]], P0=P0 * np.eye(2)
        )
        y = torch.zeros(1, 200, 1, dtype=torch.float64)
        for way in self.ways():
            found = self.run(model, y, {}, way).cov[0, -1].numpy()
            assert np.linalg.norm(found - P) <= self.conditioned * np.linalg.norm(P)
            assert np.linalg.eigvalsh(found.astype(float))[0] > 0

    def test_a_long_series_does_not_drift(self):
        model = random_model(n=2, p=1, B=1, seed=4)
        y, _ = random_data(model, B=1, T=self.steps, gaps=0.1, seed=5)
        mean, cov, logs = textbook_of_two(model, y)
        for way in self.ways():
            if way == {"fused": False} and self.steps > 5_000:
                continue
            found = self.run(model, y, {}, way)
            close(found.mean, mean, 1e-9)
            close(found.cov, cov, 1e-9)
            total = logs.sum().item()
            assert abs(found.log_likelihood.item() - total) <= 1e-10 * abs(total)

    @pytest.mark.parametrize("backend", ["reference", "cpu"])
    def test_float32_is_close(self, backend):
        model, y, _ = case("gaps")
        mean, cov, _ = textbook(model, y)
        narrow = {k: getattr(model, k).float() for k in ("F", "H", "Q", "R", "c", "d", "m0", "P0")}
        with ops.use_backend(backend):
            for way in self.ways():
                found = self.run(LinearGaussian(**narrow), y.float(), {}, way)
                assert found.mean.dtype == torch.float32
                torch.testing.assert_close(found.mean.double(), mean, rtol=1e-3, atol=1e-4)
                torch.testing.assert_close(found.cov.double(), cov, rtol=1e-3, atol=1e-4)
