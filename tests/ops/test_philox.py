"""Counter-based random numbers: published answers, back ends, and the laws of the numbers."""

from __future__ import annotations

import math

import pytest
import torch

from statewise import ops
from statewise.ops import philox_normal, philox_uniform
from statewise.ops.philox import reference

ANSWERS = [
    ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]


@pytest.mark.parametrize(("counter", "key", "answer"), ANSWERS)
def test_bits_are_the_published_ones(counter, key, answer):
    words = tuple(torch.tensor(c) for c in counter)
    found = reference.words(key[1] << 32 | key[0], words)
    assert " ".join(f"{int(x):08x}" for x in found) == answer


@pytest.mark.parametrize("make", [philox_normal, philox_uniform])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 1023, 1024, 1025, 5000])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_back_ends_agree(make, count, dtype):
    key, stream = 2**63 + 12345678901, 2**33 + 7
    found = make(key, stream, count, dtype=dtype)
    with ops.use_backend("reference"):
        expected = make(key, stream, count, dtype=dtype)
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14 if dtype.itemsize == 8 else 5e-7)


def test_threads_give_the_same():
    one = philox_normal(1, 2, 700_001)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert torch.equal(one, philox_normal(1, 2, 700_001))
    finally:
        torch.set_num_threads(before)


def test_moments_and_independence():
    count = 1_000_000
    z = philox_normal(3, 4, count)
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170)):
        error = z.pow(power).mean() - mean
        assert abs(error) < 4 * math.sqrt(variance / count), power
    other = philox_normal(3, 5, count)
    for first, second in ((z[1:], z[:-1]), (z[: count // 2], z[count // 2 :]), (z, other)):
        assert abs((first * second).mean()) < 4 / math.sqrt(len(first))
        squares = (first.square() - 1) * (second.square() - 1)
        assert abs(squares.mean()) < 4 * 2 / math.sqrt(len(first))
    for bound in (1.0, 2.0, 3.0):
        p = math.erfc(bound / math.sqrt(2))
        assert abs((z.abs() > bound).double().mean() - p) < 4 * math.sqrt(p / count)
    u = philox_uniform(3, 4, count)
    assert (u >= 0).all()
    assert (u < 1).all()
    counts = torch.histc(u, 100, 0, 1)
    assert ((counts - count / 100).square() / (count / 100)).sum() < 99 + 4 * math.sqrt(2 * 99)


def test_arguments_that_do_not_fit():
    with pytest.raises(ValueError, match="key is -1"):
        philox_normal(-1, 0, 1)
    with pytest.raises(ValueError, match="stream is 18446744073709551616"):
        philox_uniform(0, 2**64, 1)
    with pytest.raises(ValueError, match="count is -2"):
        philox_normal(0, 0, -2)
    with pytest.raises(TypeError, match=r"dtype is torch\.float16"):
        philox_normal(0, 0, 1, dtype=torch.float16)
