"""Records of polynomial models, for the tests of prediction error methods."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.signal import lfilter

from statewise.lti import PolynomialModel

ONE = (1.0,)
A, C, D = (1.0, -1.5, 0.7), (1.0, 0.6, 0.1), (1.0, -0.9)
B = ((1.0, 0.5), (0.3, 0.2))
F = ((1.0, -1.5, 0.7), (1.0, -0.8))
NK = (1, 2)
MODELS = {
    "arx": PolynomialModel(a=A, b=B, nk=NK),
    "armax": PolynomialModel(a=A, b=B, c=C, nk=NK),
    "oe": PolynomialModel(b=B, f=F, nk=NK),
    "bj": PolynomialModel(b=B, c=C, d=D, f=F, nk=NK),
}


def draw(
    model: PolynomialModel, lengths: Sequence[int], noise: float, seed: int, settle: int = 200
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Records with white inputs of variance 1, in the steady state from ``settle`` samples on."""
    rng = np.random.default_rng(seed)
    us, ys = [], []
    for length in lengths:
        u = rng.standard_normal((length + settle, model.n_inputs))
        e = noise * rng.standard_normal(length + settle)
        y = lfilter(model.c.numpy(), model.d.numpy(), e)
        for i, (b, f, k) in enumerate(zip(model.b, model.f, model.nk, strict=True)):
            y = y + lfilter(np.pad(b.numpy(), (k, 0)), f.numpy(), u[:, i])
        y = lfilter(ONE, model.a.numpy(), y)
        us.append(u[settle:])
        ys.append(y[settle:])
    return us, ys


def vector(model: PolynomialModel) -> np.ndarray:
    """All coefficients but the leading ones, in the order of the covariance."""
    tails = [part[1:] for part in model.f]
    parts = [model.a[1:], *model.b, model.c[1:], model.d[1:], *tails]
    return np.concatenate([part.numpy() for part in parts])
