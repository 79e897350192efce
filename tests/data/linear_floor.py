"""A linear FIR model by ridge regression in plain NumPy: the floor that a data set is known by."""

from __future__ import annotations

import numpy as np

from statewise.data.experiments import Experiments


def lagged(u: np.ndarray, lags: int) -> np.ndarray:
    """Return (L, n_u * lags + 1): u_k … u_{k−lags+1} of each input (0 before the start) and a 1."""
    padded = np.concatenate([np.zeros((lags - 1, u.shape[1])), u])
    rows = np.lib.stride_tricks.sliding_window_view(padded, lags, axis=0).reshape(len(u), -1)
    return np.concatenate([rows, np.ones((len(u), 1))], axis=1)


def fir_errors(
    train: Experiments, tests: dict[str, Experiments], lags: int, ridge: float
) -> dict[str, np.ndarray]:
    """Return the errors y − ŷ after ``skip`` on each test set, records in a row, (n, n_y)."""
    u = np.concatenate([record.u for record in train])
    mean, std = u.mean(0), u.std(0)
    gram, right, n = 0.0, 0.0, 0
    for record in train:
        x = lagged((record.u - mean) / std, lags)[lags:]
        gram, right, n = gram + x.T @ x, right + x.T @ record.y[lags:], n + len(x)
    penalty = np.full(len(gram), ridge * n)
    penalty[-1] = 0.0
    weights = np.linalg.solve(gram + np.diag(penalty), right)
    return {
        name: np.concatenate(
            [
                (record.y - lagged((record.u - mean) / std, lags) @ weights)[record.skip :]
                for record in test
            ]
        )
        for name, test in tests.items()
    }


def scored(test: Experiments) -> np.ndarray:
    return np.concatenate([record.y[record.skip :] for record in test])


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))
