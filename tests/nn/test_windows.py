"""Windows and states at the ends of sequences, for any resets, lengths and cuts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from statewise.nn import GSS, H3, Companion, Hyena, Layer, LiquidS4, LongConv, S4DLin, map_state
from statewise.nn.windows import final_window


@settings(max_examples=60, deadline=None)
@given(
    length=st.integers(1, 9),
    width=st.integers(0, 7),
    seed=st.integers(0, 99),
    resets=st.booleans(),
    ends=st.booleans(),
)
def test_the_final_window_is_what_a_loop_keeps(length, width, seed, resets, ends) -> None:
    rng = np.random.default_rng(seed)
    u, before = (torch.from_numpy(rng.standard_normal((4, n, 2))) for n in (length, width))
    reset = torch.from_numpy(rng.random((4, length)) < 0.3) if resets else None
    lengths = torch.from_numpy(rng.integers(0, length + 1, 4)) if ends else None
    given_window = final_window(u, before, reset, lengths)
    for row in range(4):
        window = list(before[row])
        for t in range(length if lengths is None else int(lengths[row])):
            if reset is not None and reset[row, t]:
                window = [torch.zeros(2).double() for _ in window]
            window = [*window, u[row, t]][1:]
        expected = torch.stack(window) if window else torch.zeros(0, 2).double()
        assert torch.equal(given_window[row], expected)


LAYERS = {
    "long convolution": lambda seed: LongConv(2, taps=7, squash=0.001, seed=seed),
    "companion": lambda seed: Companion(4, d_state=6, heads=2, seed=seed),
    "h3": lambda seed: H3(2, d_state=2, shift=9, head_dim=2, dt_max=0.5, seed=seed),
    "hyena": lambda seed: Hyena(2, max_length=7, filter_width=4, seed=seed),
    "gss": lambda seed: GSS(3, d_state=2, seed=seed),
    "liquid": lambda seed: LiquidS4(2, d_state=2, degree=4, mode="kb", law=S4DLin(), seed=seed),
}


@pytest.mark.parametrize("name", LAYERS)
@settings(max_examples=12, deadline=None)
@given(length=st.integers(1, 12), seed=st.integers(0, 99), integers=st.sampled_from(["i4", "i8"]))
def test_sequences_are_the_fold_of_samples(name, length, seed, integers) -> None:
    layer: Layer = LAYERS[name](seed).double()
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        _, start = layer(torch.from_numpy(rng.standard_normal((3, 4, layer.d_input))))
        u = torch.from_numpy(rng.standard_normal((3, length, layer.d_input)))
        reset = torch.from_numpy(rng.random((3, length)) < 0.2)
        lengths = torch.from_numpy(rng.integers(0, length + 1, 3).astype(integers))
        y, last = layer(u, start, reset=reset, lengths=lengths)
        for row in range(3):
            one = slice(row, row + 1)
            state = map_state(lambda x, one=one: x[one], start)
            for t in range(int(lengths[row])):
                state = layer.init_state(1) if reset[row, t] else state
                expected, state = layer.step(u[one, t], state)
                torch.testing.assert_close(y[one, t], expected, rtol=1e-9, atol=1e-11)
            assert not y[row, int(lengths[row]) :].any()
            own = map_state(lambda x, one=one: x[one], last)
            map_state(
                lambda a, b: torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11) or a,
                *(own, state),
            )


@pytest.mark.parametrize("name", LAYERS)
def test_everything_is_made_on_the_device_of_the_layer(name) -> None:
    """On the device "meta", which holds no values, any tensor made elsewhere is an error."""
    layer: Layer = LAYERS[name](0).to("meta")
    u = torch.zeros(2, 5, layer.d_input, device="meta")
    flags = torch.ones(2, 5, dtype=torch.bool, device="meta")
    for state in (None, layer.init_state(2)):
        y, last = layer(u, state, mask=flags, reset=flags)
        y.sum().backward()
        y, _ = layer.step(u[:, 0], last)
        assert y.device.type == "meta"
