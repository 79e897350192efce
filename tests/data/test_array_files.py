from __future__ import annotations

import numpy as np
import pytest
import scipy.io

from statewise._errors import DataError
from statewise.data import Experiments

U = np.arange(6.0)
Y = np.arange(12.0).reshape(6, 2)


@pytest.fixture(params=["npz", "mat"])
def save(request, tmp_path):
    """Write arrays to an NPZ or MAT file and return its path."""

    def write(**arrays):
        path = tmp_path / f"data.{request.param}"
        if request.param == "npz":
            np.savez(path, **arrays)
        else:
            scipy.io.savemat(path, arrays)
        return path

    return write


def test_arrays_and_interval_by_name(save):
    data = Experiments.from_file(save(u=U, y=Y, Ts=0.25))
    np.testing.assert_array_equal(data[0].u, U[:, None])
    np.testing.assert_array_equal(data[0].y, Y)
    assert data.input_names == ("u",)
    assert data.output_names == ("y1", "y2")
    assert (data.dt, data.time_unit) == (0.25, "s")
    assert Experiments.from_file(save(u=U, y=Y, fs=50)).dt == 0.02
    assert Experiments.from_file(save(u=U, y=Y, Ts=0.25), dt=2.0).dt == 2.0


def test_row_vectors_and_chosen_names(save):
    data = Experiments.from_file(save(force=U[None], y=Y), "force", ["y2"])
    np.testing.assert_array_equal(data[0].u, U[:, None])
    np.testing.assert_array_equal(data[0].y[:, 0], Y[:, 1])
    assert data.output_names == ("y2",)


def test_several_arrays_make_one_signal(save):
    data = Experiments.from_file(save(a=U, b=Y, c=-U), ["a", "b"], "c")
    np.testing.assert_array_equal(data[0].u, np.column_stack([U, Y]))
    assert data.input_names == ("a", "b1", "b2")


def test_three_dimensions_are_records(save):
    y = np.arange(24.0).reshape(3, 4, 2)
    data = Experiments.from_file(save(y=y))
    assert len(data) == 3
    np.testing.assert_array_equal(data[2].y, y[2])
    assert data.n_u == 0


def test_time_arrays(save):
    t = np.array([0.0, 1.0, 3.0, 4.0, 5.0, 6.0])
    data = Experiments.from_file(save(t_min=t, u=U, y=Y))
    np.testing.assert_array_equal(data[0].t, t)
    assert data.time_unit == "min"
    assert Experiments.from_file(save(clock=t * 2, u=U, y=Y), time="clock")[0].t[2] == 6.0
    assert Experiments.from_file(save(t=t, u=U, y=Y), time=False)[0].t is None


@pytest.mark.parametrize(
    ("arrays", "arguments", "message"),
    [
        ({"a": U, "b": Y}, {}, "no array named as an output .* from its arrays: a, b"),
        ({"a": U, "y": Y}, {}, r"pass inputs \(or \[\] for none\) from its arrays: a"),
        ({"u": U[:4], "y": Y}, {}, r"u has shape \(4, 1\) and y has shape \(6, 2\)"),
        ({"u": Y.T, "y": U}, {}, "looks transposed"),
        ({"y": Y}, {"outputs": "z"}, "no array 'z'; it has y"),
        ({"y": Y}, {"outputs": "y3"}, r"has 2 channel.*no 'y3'"),
        ({"y": Y}, {"outputs": ["y", "y1"]}, "'y1' .* chosen more than once"),
        ({"y": Y, "u": U}, {"inputs": "y1", "outputs": "y"}, "'y1' .* as input and as output"),
        ({"y": np.array([1.0, np.inf])}, {}, "is infinite at sample 1"),
        ({"y": Y + 1j}, {}, "holds no arrays of numbers"),
        ({"y": U, "t": U[::-1]}, {"time": "t"}, "t runs backwards"),
        ({"y": U}, {"record": "id"}, "has no record column"),
        ({"y": U}, {"inputs": [], "outputs": []}, "neither inputs nor outputs"),
        ({"y": U, "Ts": 1.0}, {"outputs": "Ts"}, "no array 'Ts'"),
    ],
)
def test_refusals(save, arrays, arguments, message):
    path = save(**arrays)
    with pytest.raises(DataError, match=message) as caught:
        Experiments.from_file(path, **arguments)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_positions_are_no_names_of_arrays(save):
    with pytest.raises(TypeError, match="by its name, got 0"):
        Experiments.from_file(save(y=Y), outputs=0)


def test_one_sample_is_too_little(tmp_path):
    np.savez(tmp_path / "x.npz", y=np.zeros((5, 1, 3)))
    with pytest.raises(DataError, match="one sample"):
        Experiments.from_file(tmp_path / "x.npz")


def test_object_arrays_are_refused(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, y=np.array([{}, []], dtype=object))
    with pytest.raises(DataError, match="object array, which only pickle could read"):
        Experiments.from_file(path)


def test_structs_and_cells_of_matlab(tmp_path):
    path = tmp_path / "x.mat"
    cells = np.empty(2, dtype=object)
    cells[0], cells[1] = Y[:, :1], Y[:4, 1:]
    scipy.io.savemat(path, {"data": {"u": U, "y": Y, "note": "text"}, "y": cells})
    data = Experiments.from_file(path, "data.u", "data.y")
    np.testing.assert_array_equal(data[0].u[:, 0], U)
    records = Experiments.from_file(path, [], "y")
    assert [len(r) for r in records] == [6, 4]
    np.testing.assert_array_equal(records[1].y[:, 0], Y[:4, 1])


def test_version_7_3_is_told_apart(tmp_path):
    path = tmp_path / "x.mat"
    head = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512) + b"\x89HDF\r\n\x1a\n"
    for content in (head, b"\x89HDF\r\n\x1a\n" + b"\0" * 90, b" " * 512 + head[512:]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"version 7\.3 \(HDF5\).* with the option -v7"):
            Experiments.from_file(path)


@pytest.mark.parametrize("name", ["x.npz", "x.mat"])
@pytest.mark.parametrize("content", [b"junk", b"\0" * 200, b"MATLAB 5.0 MAT-file" + b"\1" * 300])
def test_damaged_files(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"cannot be read as|holds no variables"):
        Experiments.from_file(path)
