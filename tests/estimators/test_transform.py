"""OutputTransform and SignedPower: inverse, order, range, masks, and what is kept of a record."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from statewise._config import from_dict, to_dict
from statewise.data import Experiments, Record
from statewise.estimators.transform import OutputTransform, SignedPower, undo

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20).map(np.array)
POWERS = st.floats(0.1, 1.0)


@given(VALUES, POWERS)
def test_inverse_undoes_forward(y, power):
    transform = SignedPower(power)
    z = transform.forward(y)
    # y = ±|z|^(1/p) makes a relative error of z that of y times 1/p.
    np.testing.assert_allclose(transform.inverse(z), y, rtol=1e-13 / power, atol=1e-300)
    np.testing.assert_array_equal(np.sign(z), np.sign(y))


@given(VALUES, POWERS)
def test_order_is_kept(y, power):
    y = np.sort(y)
    assert (np.diff(SignedPower(power).forward(y)) >= 0).all()
    assert (np.diff(SignedPower(power).inverse(y / 1e6)) >= 0).all()


@given(VALUES, POWERS, st.floats(-5.0, 5.0))
def test_floor_is_the_least_that_comes_out(z, power, floor):
    transform = SignedPower(power, floor=floor)
    free = SignedPower(power).inverse(z / 1e6)
    out = transform.inverse(z / 1e6)
    np.testing.assert_array_equal(out, np.maximum(free, floor))
    np.testing.assert_array_equal(transform.limit(free), out)
    np.testing.assert_array_equal(SignedPower(power).limit(free), free)


def test_known_values():
    transform = SignedPower(0.5, floor=0.0)
    y = np.array([[-4.0, 0.0, 9.0, np.nan]])
    np.testing.assert_array_equal(transform.forward(y), [[-2.0, 0.0, 3.0, np.nan]])
    np.testing.assert_array_equal(
        transform.inverse(transform.forward(y)), [[0.0, 0.0, 9.0, np.nan]]
    )
    np.testing.assert_array_equal(SignedPower(1.0).forward(y), y)
    np.testing.assert_array_equal(undo(transform, np.array([3.0])), [9.0])
    assert undo(None, y) is y


@pytest.mark.parametrize("power", [0.0, -1.0, 1.5, float("nan")])
def test_power_out_of_range_is_refused(power):
    with pytest.raises(ValueError, match=r"needs a power in \(0, 1\]; given"):
        SignedPower(power)


def test_apply_changes_outputs_and_nothing_else():
    y = np.array([[4.0, 1.0], [np.nan, 16.0], [9.0, np.nan], [25.0, 4.0]])
    u = np.array([[1.0], [np.nan], [3.0], [4.0]])
    even = Record(y=y, u=u, dt=0.5, name="a", skip=2, t0=7.0, start=np.datetime64("2020-01-01"))
    uneven = Record(y=y, u=u, t=[0.0, 1.0, 1.5, 4.0], name="b")
    data = Experiments(
        [even, uneven], input_names=["rain"], output_names=["q", "h"], output_units=["m3/s", "m"],
        time_unit="h",
    ).with_nominal_dt(0.25)  # fmt: skip
    done = SignedPower(0.5).apply(data)
    for old, new in zip(data, done, strict=True):
        np.testing.assert_array_equal(new.y, np.sqrt(y))
        np.testing.assert_array_equal(new.y_mask, ~np.isnan(y))
        assert not new.y.flags.writeable
        for field in dataclasses.fields(Record):
            if field.name != "y":
                np.testing.assert_array_equal(getattr(new, field.name), getattr(old, field.name))
    for name in ("input_names", "output_names", "output_units", "time_unit", "nominal_dt"):
        assert getattr(done, name) == getattr(data, name), name


def test_own_transforms_need_two_maps_only():
    @dataclasses.dataclass(frozen=True)
    class Logarithm(OutputTransform):
        def forward(self, y):
            return np.log(y)

        def inverse(self, z):
            return np.exp(z)

    data = Experiments.from_arrays(np.ones(3), [1.0, np.e, np.nan])
    np.testing.assert_allclose(Logarithm().apply(data)[0].y[:, 0], [0.0, 1.0, np.nan])
    assert Logarithm().limit(3.0) == 3.0
    with pytest.raises(TypeError, match="abstract"):
        OutputTransform()


def test_settings_survive_json():
    transform = SignedPower(0.3, floor=-2.0)
    assert from_dict(json.loads(json.dumps(to_dict(transform)))) == transform
