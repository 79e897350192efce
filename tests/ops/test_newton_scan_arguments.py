"""What the Newton scan refuses, and with which words."""

from __future__ import annotations

import math

import pytest
import torch

from statewise.ops import Blocks, Cell, Damped, Diagonal, newton_scan

_X = torch.ones(2, 5, 3)


def _cell(h, x):
    return h


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: newton_scan(_cell, None), TypeError, "x must be a tensor"),
        (lambda: newton_scan(_cell, _X[0, 0]), ValueError, r"x has shape \(3,\)"),
        (lambda: newton_scan(_cell, _X[:, :0]), ValueError, "L must be at least 1"),
        (lambda: newton_scan(_cell, _X), ValueError, "does not say how many states"),
        (lambda: newton_scan(_cell, _X, _X), ValueError, r"h0 has shape \(2, 5, 3\)"),
        (lambda: newton_scan(_cell, _X, _X[:, 0].long()), TypeError, "h0 is torch.int64"),
        (lambda: newton_scan(Cell(_cell, 4), _X, _X[:, 0]), ValueError, "a cell of 4 states"),
        (
            lambda: newton_scan(Cell(_cell, 3, Blocks(2)), _X),
            ValueError,
            "3 states cannot be cut into blocks of 2",
        ),
        (lambda: newton_scan(Cell(_cell, 3), _X, iterations=0), ValueError, "iterations is 0"),
        (lambda: newton_scan(Cell(_cell, 3), _X, tolerance=-1.0), ValueError, "tolerance is -1.0"),
        (
            lambda: newton_scan(Cell(_cell, 3), _X, method="newton"),
            TypeError,
            r"method is 'newton'; it must be a Newton\(\)",
        ),
        (lambda: newton_scan(Cell(_cell, 3), _X, method=Damped), TypeError, "method is <class"),
        (
            lambda: newton_scan(Cell(_cell, 3), _X, guess=_X[:, 1:]),
            ValueError,
            r"guess has shape \(2, 4, 3\)",
        ),
        (
            lambda: newton_scan(Cell(_cell, 3), _X, reset=_X[..., 0]),
            TypeError,
            "reset is torch.float32; it must be bool",
        ),
        (
            lambda: newton_scan(Cell(lambda h, x: h[..., :2], 3), _X),
            ValueError,
            r"what the cell returns has shape \(2, 5, 2\)",
        ),
        (
            lambda: newton_scan(Cell(_cell, 3, Diagonal(), lambda h, x: h[..., :1]), _X),
            ValueError,
            r"the cell's Jacobian has shape \(2, 5, 1\)",
        ),
        (lambda: Damped(-1.0), ValueError, "strength is -1.0"),
        (lambda: Damped(math.nan), ValueError, "strength is nan"),
        (lambda: Blocks(0), ValueError, "k is 0"),
    ],
)
def test_what_does_not_fit_is_refused(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
