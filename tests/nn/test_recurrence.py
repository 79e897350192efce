"""What layers of one recurrence share: the check of states."""

from __future__ import annotations

import pytest
import torch

from contracts.layer_base import close
from statewise.nn import LRU, Mamba, Mamba2


@pytest.mark.parametrize("kind", [LRU, Mamba, Mamba2])
def test_steps_make_no_states_of_rest(kind, monkeypatch) -> None:
    layer = kind(8, d_state=4).double()
    u, state, made = torch.ones(2, 8, dtype=torch.float64), layer.init_state(2), []
    plain = kind.init_state
    monkeypatch.setattr(kind, "init_state", lambda self, b: made.append(b) or plain(self, b))
    first, after = layer.step(u, state)
    for _ in range(3):
        y, after = layer.step(u, after)
    assert len(made) <= 1
    made.clear()
    # Another batch asks for the same shapes behind it.
    one, _ = layer.step(u[:1], tuple_of(state, slice(1)))
    close(one, first[:1])
    assert made == []
    assert not torch.equal(y, first)


@pytest.mark.parametrize("kind", [LRU, Mamba])
def test_states_that_do_not_fit_are_told_every_time(kind) -> None:
    layer = kind(8, d_state=4)
    u = torch.ones(2, 8)
    for _ in range(2):
        for wrong in (layer.init_state(3), kind(8, d_state=5).init_state(2)):
            with pytest.raises(ValueError, match=r"takes a state of shape \(2, .*; given"):
                layer.step(u, wrong)
        layer.step(u, layer.init_state(2))


def tuple_of(state, rows: slice):
    """These rows of a state."""
    if isinstance(state, torch.Tensor):
        return state[rows]
    return type(state)(*(part[rows] for part in state))
