from __future__ import annotations

import pytest
import torch
from train_systems import oscillator, quick, small_model

from statewise.train import fit, modes


@pytest.mark.parametrize(
    ("threads", "small", "expected"), [(None, 10**9, 1), (2, 10**9, 2), (None, 0, 3)]
)
def test_threads_while_training_and_after(
    monkeypatch: pytest.MonkeyPatch, threads: int | None, small: int, expected: int
) -> None:
    monkeypatch.setattr(modes, "SMALL", small)
    model, seen = small_model(), set()
    model.register_forward_hook(lambda *_: seen.add(torch.get_num_threads()))
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        fit(model, [oscillator(200, 0)], None, quick(steps=2), threads=threads)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert seen == {expected}


def test_no_thread_is_refused() -> None:
    with pytest.raises(ValueError, match="threads is 1 or more; given 0"):
        fit(small_model(), [oscillator(200, 0)], None, quick(steps=2), threads=0)
