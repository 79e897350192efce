from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from statewise._errors import DataError
from statewise.data import Experiments, Normaliser, Record


def example() -> Experiments:
    return Experiments(
        [
            Record(y=[[1.0, 7.0], [np.nan, 7.0], [3.0, 7.0]], u=[2.0, 4.0, np.nan], dt=1.0),
            Record(y=[[5.0, 7.0]], u=[6.0], dt=1.0),
        ],
        input_units=["V"],
        time_unit="h",
    )


def test_masked_moments_over_all_records():
    scale = Normaliser.fit(example())
    np.testing.assert_allclose(scale.u_mean, [4.0], rtol=1e-15)
    np.testing.assert_allclose(scale.u_std, [np.sqrt(8 / 3)], rtol=1e-15)
    np.testing.assert_allclose(scale.y_mean, [3.0, 7.0], rtol=1e-15)
    np.testing.assert_allclose(scale.y_std, [np.sqrt(8 / 3), 1.0], rtol=1e-15)


def test_transform_keeps_masks_time_and_names():
    data = example()
    scaled = Normaliser.fit(data).transform(data)
    np.testing.assert_array_equal(scaled[0].y_mask, data[0].y_mask)
    np.testing.assert_array_equal(scaled[0].u_mask, data[0].u_mask)
    np.testing.assert_allclose(scaled[0].y[[0, 2], 0], np.array([-2.0, 0.0]) / np.sqrt(8 / 3))
    np.testing.assert_array_equal(scaled[0].y[:, 1], [0.0, 0.0, 0.0])
    assert (scaled.dt, scaled.time_unit, scaled.input_units) == (1.0, "h", ("",))
    assert not scaled[0].y.flags.writeable


def test_another_set_is_scaled_with_the_fitted_numbers():
    scale = Normaliser.fit(example())
    other = Experiments(Record(y=[[3.0, 8.0]], u=[4.0]))
    np.testing.assert_array_equal(scale.transform(other)[0].y, [[0.0, 1.0]])
    with pytest.raises(DataError, match="for 1 inputs and 2 outputs; got 0 and 1"):
        scale.transform(Experiments(Record(y=[1.0])))


def test_torch_tensors_keep_type_and_gradient():
    scale = Normaliser.fit(example())
    y = torch.tensor([[0.0, 1.0]], requires_grad=True)
    back = scale.inverse_y(y)
    assert back.dtype == torch.float32
    torch.testing.assert_close(back, torch.tensor([[3.0, 8.0]]))
    back.sum().backward()
    torch.testing.assert_close(y.grad, torch.tensor([[(8 / 3) ** 0.5, 1.0]]))
    torch.testing.assert_close(scale.transform_u(torch.full((2, 3, 1), 4.0)), torch.zeros(2, 3, 1))


def test_leading_dimensions_and_wrong_channels():
    scale = Normaliser.fit(example())
    assert scale.inverse_y(np.zeros((4, 5, 2), dtype=np.float32)).dtype == np.float64
    np.testing.assert_array_equal(scale.inverse_y(np.zeros(2)), [3.0, 7.0])
    np.testing.assert_array_equal(scale.inverse_u([[0.0]]), [[4.0]])
    with pytest.raises(ValueError, match=r"y has shape \(3,\); expected 2 channels last"):
        scale.inverse_y(np.zeros(3))


def test_autonomous_data():
    data = Experiments(Record(y=[1.0, 3.0]))
    scale = Normaliser.fit(data)
    assert scale.u_mean.size == 0
    assert scale.transform(data)[0].u is None


def test_a_channel_without_values_is_refused():
    with pytest.raises(DataError, match="channel 'q' has no observed sample"):
        Normaliser.fit(Experiments(Record(y=[np.nan, np.nan]), output_names=["q"]))


def test_json_round_trip():
    scale = Normaliser.fit(example())
    again = Normaliser.from_dict(json.loads(json.dumps(scale.to_dict())))
    for key in ("u_mean", "u_std", "y_mean", "y_std"):
        np.testing.assert_array_equal(getattr(again, key), getattr(scale, key), strict=True)
    with pytest.raises(ValueError, match="expected the fields"):
        Normaliser.from_dict({"u_mean": [0.0]})
    with pytest.raises(DataError, match="y_std"):
        Normaliser([], [], [0.0], [0.0])
    with pytest.raises(DataError, match="y_mean has 1 channels and y_std 2"):
        Normaliser([], [], [0.0], [1.0, 1.0])


def test_variation_below_the_smallest_normal_number_counts_as_none():
    scale = Normaliser.fit(Experiments(Record(y=[2e-309, 0.0])))
    np.testing.assert_array_equal(scale.y_std, [1.0])


@given(
    y=hnp.arrays(
        np.float64,
        st.tuples(st.integers(2, 30), st.integers(1, 3)),
        elements=st.floats(-1e300, 1e300) | st.floats(-10, 10),
    ),
)
@settings(max_examples=100, deadline=None)
def test_inverse_undoes_transform(y):
    data = Experiments(Record(y=y))
    scale = Normaliser.fit(data)
    z = scale.transform_y(y)
    assert np.isfinite(z).all()
    size = np.abs(y).max(axis=0) + scale.y_std
    assert (np.abs(scale.inverse_y(z) - y) <= 1e-13 * size).all()
    varying = np.std(y / size, axis=0) > 1e-6
    np.testing.assert_allclose(np.mean(z, axis=0)[varying], 0.0, atol=1e-8)
    np.testing.assert_allclose(np.std(z, axis=0)[varying], 1.0, rtol=1e-8)
