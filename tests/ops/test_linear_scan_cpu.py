"""How the compiled linear scan treats memory: streaming stores, huge pages."""

from __future__ import annotations

import pytest
import torch

from statewise.ops import linear_scan, linear_scan_pairs, memory
from statewise.ops.linear_scan import cpu


def _both_passes(shape, pairs, reverse):
    generator = torch.Generator().manual_seed(0)
    pair = (2,) if pairs else ()
    leaves = [
        0.6 * torch.rand(*shape, *pair, generator=generator),
        torch.randn(*shape, *pair, generator=generator),
        torch.randn(shape[0], *shape[2:], *pair, generator=generator),
    ]
    leaves = [x.requires_grad_() for x in leaves]
    scan = linear_scan_pairs if pairs else linear_scan
    h, last = scan(*leaves, reverse=reverse)
    weight = torch.randn(h.shape, generator=generator)
    return [h, last, *torch.autograd.grad([h, last], leaves, [weight, torch.ones_like(last)])]


@pytest.mark.parametrize("threads", ["1", "3"])
@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("shape", [(3, 50, 32), (2, 40, 8), (2, 40, 12), (5, 200, 288)])
def test_streaming_stores_change_nothing(monkeypatch, shape, pairs, threads):
    monkeypatch.setenv("STATEWISE_THREADS", threads)
    monkeypatch.setattr(cpu, "STREAM_BYTES", 2**60)
    expected = _both_passes(shape, pairs, reverse=pairs)
    monkeypatch.setattr(cpu, "STREAM_BYTES", 0)
    found = _both_passes(shape, pairs, reverse=pairs)
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))


def test_streams_only_what_is_large_and_aligned():
    numbers = torch.zeros(2**20 + 1)
    aligned = numbers[:-1].view(1, -1, 16).numpy()
    assert cpu._streams(aligned, aligned)
    assert not cpu._streams(numbers[1:].view(1, -1, 16).numpy())
    assert not cpu._streams(aligned, numbers[1:].view(1, -1, 16).numpy())
    assert not cpu._streams(aligned[:, :100])
    assert not cpu._streams(torch.zeros(1, 2**20, 12).numpy())


@pytest.mark.parametrize("elements", [0, 5, memory.MIN_BYTES // 4, 5 * memory.HUGE_PAGE // 4 + 3])
def test_fresh_memory_can_be_written(elements):
    x = memory.fresh((elements,), torch.float32)
    assert x.shape == (elements,)
    assert x.dtype == torch.float32
    assert x.fill_(2.0).sum().item() == pytest.approx(2.0 * elements)


def test_settled_memory_stays_what_and_where_it_is():
    parts = [torch.arange(n, dtype=torch.float64) for n in (0, 5, 3 * memory.HUGE_PAGE // 8, 10**6)]
    parts += [parts[-1].view(1000, 1000).mT, torch.empty(2000, 2000, device="meta")]
    places = [part.data_ptr() for part in parts]
    memory.settle(parts)
    assert [part.data_ptr() for part in parts] == places
    for part in parts[:4]:
        assert torch.equal(part, torch.arange(part.numel(), dtype=torch.float64))
        assert part.add_(1).numel() == part.numel()


@pytest.mark.parametrize(
    ("batch", "length", "blocks"), [(1, 2**13, [4]), (1, 2**14, []), (3, 2**14, [3])]
)
def test_rows_that_leave_the_caches_are_not_cut(monkeypatch, batch, length, blocks):
    counts, run = [], cpu.pool.run
    monkeypatch.setenv("STATEWISE_THREADS", "4")
    monkeypatch.setattr(cpu.pool, "run", lambda calls: (counts.append(len(calls)), run(calls)))
    x = torch.ones(batch, length, 64)
    linear_scan(x, x)
    assert counts == blocks
