"""Kalman filters and smoothers of JAX libraries, for ``inference.py``: dynamax and cuthbert.

Everything is compiled as a whole; the time of that is shown apart. ``XLA_FLAGS`` keep to one thread
where torch does.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

Found = Iterator[tuple[str, float, float]]


class Given(Protocol):
    """A model and a series as arrays, and what a plain loop finds."""

    F: np.ndarray
    H: np.ndarray
    Q: np.ndarray
    R: np.ndarray
    y: np.ndarray
    mean: np.ndarray
    smoothed: np.ndarray
    log_likelihood: float


class Wanted(Protocol):
    """What the settings say."""

    repeats: int
    batch: int


class Tools(NamedTuple):
    """Functions of ``inference.py``."""

    off: Callable[[Any, Any], float]
    least_ms: Callable[[Callable[[], object], int], float]


def _jax() -> Any:
    if torch.get_num_threads() == 1:
        one = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
        os.environ.setdefault("XLA_FLAGS", one)
    import jax

    jax.config.update("jax_enable_x64", True)
    return jax


def _measured(
    tools: Tools,
    options: Wanted,
    problem: Given,
    filtered: Callable[[Any], tuple[Any, Any]],
    smoothed: Callable[[Any], Any],
) -> Found:
    """From functions of y: the last mean and the log-likelihood, and the first smoothed mean."""
    jax = _jax()
    y = jax.numpy.asarray(problem.y)

    def timed(function: Callable[[Any], Any], y: Any, repeats: int) -> tuple[float, float, Any]:
        start = time.perf_counter()
        compiled = jax.jit(function).lower(y).compile()
        spent = 1e3 * (time.perf_counter() - start)
        run = lambda: jax.block_until_ready(compiled(y))  # noqa: E731
        return tools.least_ms(run, repeats), spent, run()

    best, spent, (moments, log) = timed(filtered, y, options.repeats)
    error = max(
        tools.off(moments[0][-1], problem.mean), tools.off(log.item(), problem.log_likelihood)
    )
    yield "filter", best, error
    yield "filter, compiling", spent, error
    best, spent, means = timed(smoothed, y, options.repeats)
    error = tools.off(means[0], problem.smoothed)
    yield "filter and smoother", best, error
    yield "filter and smoother, compiling", spent, error
    if len(problem.F) <= 4 and options.batch > 1:
        many = jax.numpy.broadcast_to(y, (options.batch, *y.shape)) + 0.0
        best, spent, (moments, _) = timed(jax.vmap(filtered), many, 3)
        error = tools.off(moments[0][-1, -1], problem.mean)
        yield "filter, a series of a batch", best / options.batch, error


def of_dynamax(problem: Given, options: Wanted, tools: Tools) -> Found:
    """Task, time and error of dynamax."""
    _jax()
    from dynamax.linear_gaussian_ssm import inference

    n = len(problem.F)
    parts = (np.zeros(n), np.eye(n), problem.F, problem.Q, problem.H, problem.R)
    model = inference.make_lgssm_params(*parts)

    def filtered(y: Any) -> tuple[Any, Any]:
        found = inference.lgssm_filter(model, y)
        return (found.filtered_means, found.filtered_covariances), found.marginal_loglik

    def smoothed(y: Any) -> Any:
        found = inference.lgssm_smoother(model, y)
        return found.smoothed_means, found.smoothed_covariances

    yield from _measured(
        tools, options, problem, filtered, lambda y: tuple(x[0] for x in smoothed(y))
    )


def of_cuthbert(problem: Given, options: Wanted, tools: Tools) -> Found:
    """Task, time and error of cuthbert, which moves the state before its first observation."""
    jax = _jax()
    import cuthbert
    from cuthbert.gaussian import kalman

    n, p = len(problem.F), len(problem.H)
    jnp = jax.numpy
    eye, none, zero = jnp.eye(n), jnp.zeros(n), jnp.zeros(p)
    F, H = jnp.asarray(problem.F), jnp.asarray(problem.H)
    root, noise = (jnp.asarray(np.linalg.cholesky(x)) for x in (problem.Q, problem.R))

    def moved(given: Any) -> tuple:
        first, _ = given
        return jnp.where(first, eye, F), none, jnp.where(first, 0.0, root)

    def seen(given: Any) -> tuple:
        return H, zero, noise, given[1]

    forward = kalman.build_filter(none, eye, moved, seen)
    backward = kalman.build_smoother(moved)

    def run(y: Any) -> tuple[Any, Any]:
        given = (jnp.arange(len(y)) == 0, y)
        return cuthbert.filter(forward, given, forward.init_prepare()), given

    def filtered(y: Any) -> tuple[Any, Any]:
        found, _ = run(y)
        return (found.mean, found.chol_cov), found.log_normalizing_constant[-1]

    def smoothed(y: Any) -> Any:
        found = cuthbert.smoother(backward, *run(y))
        return found.mean[1], found.chol_cov

    yield from _measured(tools, options, problem, filtered, smoothed)
