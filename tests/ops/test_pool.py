"""Threads, forks and workers: the same numbers, and never a deadlock."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from statewise.ops import blocks, linear_scan, linear_scan_pairs, pool

SHAPE = (3, 700, 130)


def _problem(pairs: bool, batch: int = SHAPE[0]):
    generator = torch.Generator().manual_seed(0)
    end = (2,) * pairs
    a = 0.6 * torch.rand(SHAPE[2], *end, generator=generator)
    return a, torch.randn(batch, *SHAPE[1:], *end, generator=generator)


def _solve(pairs: bool, batch: int = SHAPE[0]) -> list[torch.Tensor]:
    a, b = _problem(pairs, batch)
    a.requires_grad_()
    b.requires_grad_()
    h, last = (linear_scan_pairs if pairs else linear_scan)(a, b)
    return [h.detach(), last.detach(), *torch.autograd.grad(h.square().sum() + last.sum(), (a, b))]


@pytest.fixture
def many_threads(monkeypatch):
    """Four threads on small work, whatever the machine has."""
    monkeypatch.setenv("STATEWISE_THREADS", "4")
    monkeypatch.setattr(blocks, "MIN_ELEMENTS", 1000)


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
def test_threads_do_not_change_a_bit(pairs, batch, monkeypatch):
    monkeypatch.setattr(blocks, "MIN_ELEMENTS", 1000)
    found = []
    for threads in (1, 2, 3, 8):
        monkeypatch.setenv("STATEWISE_THREADS", str(threads))
        assert len(blocks.cut(batch, SHAPE[2], batch * SHAPE[1] * SHAPE[2])) >= min(threads, 5)
        found.append(_solve(pairs, batch))
    for other in found[1:]:
        assert all(torch.equal(x, y) for x, y in zip(found[0], other, strict=True))


def test_blocks_cover_everything_once(many_threads, monkeypatch):
    for sizes in [(1, 900, 130), (2, 900, 16), (3, 900, 1), (9, 900, 33), (1, 9000, 1)]:
        for threads in ("1", "2", "5", "64"):
            monkeypatch.setenv("STATEWISE_THREADS", threads)
            covered = torch.zeros(sizes[0], sizes[2], dtype=torch.int64)
            work = 2 * sizes[0] * sizes[1] * sizes[2]
            for i0, i1, d0, d1 in blocks.cut(sizes[0], sizes[2], work):
                assert i0 < i1
                assert d0 < d1
                covered[i0:i1, d0:d1] += 1
            assert (covered == 1).all()


def test_small_work_stays_in_the_calling_thread(monkeypatch):
    monkeypatch.setenv("STATEWISE_THREADS", "8")
    assert blocks.cut(4, 16, 4 * 100 * 16) == [(0, 4, 0, 16)]


def test_calls_from_four_threads_at_once(many_threads):
    expected = {pairs: _solve(pairs) for pairs in (False, True)}
    with ThreadPoolExecutor(4) as executor:
        jobs = [(k % 2 == 0, executor.submit(_solve, k % 2 == 0)) for k in range(24)]
        for pairs, job in jobs:
            for x, y in zip(expected[pairs], job.result(timeout=60), strict=True):
                assert torch.equal(x, y)


def test_calls_from_inside_a_pool_thread(many_threads):
    expected = _solve(False)
    found = []
    pool.run([lambda: found.append(_solve(False))] * 12)
    assert len(found) == 12
    assert all(torch.equal(x, y) for f in found for x, y in zip(f, expected, strict=True))


def test_backward_in_another_thread(many_threads):
    a, b = _problem(False)
    a.requires_grad_()
    h, _ = linear_scan(a, b)
    thread = threading.Thread(target=lambda: h.square().sum().backward())
    thread.start()
    thread.join(timeout=60)
    assert not thread.is_alive()
    assert torch.equal(a.grad, torch.autograd.grad(linear_scan(a, b)[0].square().sum(), a)[0])


def test_error_in_a_block_reaches_the_caller():
    done = []

    def fail():
        raise ZeroDivisionError("in a block")

    with pytest.raises(ZeroDivisionError, match="in a block"):
        pool.run([fail, *[lambda: done.append(1)] * 5])
    assert len(done) == 5


def test_blocks_run_at_the_same_time():
    barrier = threading.Barrier(3, timeout=30)
    pool.run([barrier.wait] * 3)
    assert not barrier.broken


def test_caller_does_not_wait_for_busy_threads():
    release, started = threading.Event(), threading.Barrier(4, timeout=30)

    def hold():
        started.wait()
        release.wait(30)

    holder = threading.Thread(target=pool.run, args=([hold] * 3,))
    holder.start()
    started.wait()
    begun = time.monotonic()
    done = []
    with ThreadPoolExecutor(1) as executor:
        executor.submit(pool.run, [lambda: done.append(1)] * 3).result(timeout=20)
    release.set()
    holder.join()
    assert done == [1, 1, 1]
    assert time.monotonic() - begun < 20


def test_number_of_threads(monkeypatch):
    monkeypatch.delenv("STATEWISE_THREADS", raising=False)
    assert pool.threads() == torch.get_num_threads()
    monkeypatch.setenv("STATEWISE_THREADS", "3")
    assert pool.threads() == 3
    for wrong in ("0", "-1", "many", "2.5"):
        monkeypatch.setenv("STATEWISE_THREADS", wrong)
        with pytest.raises(ValueError, match=f"STATEWISE_THREADS is '{wrong}'"):
            pool.threads()


def _script(code: str, torch_threads: int = 1) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        env={**os.environ, "STATEWISE_THREADS": "4", "OMP_NUM_THREADS": str(torch_threads)},
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_fork_after_use():
    out = _script("""
        import os, signal, threading
        import torch
        from statewise.ops import linear_scan
        a = torch.rand(256, requires_grad=True)
        b = torch.randn(4, 1000, 256)
        def solve():
            h, last = linear_scan(a, b)
            return [h.detach(), *torch.autograd.grad(h.square().sum(), a)]
        expected = solve()
        stop = threading.Event()
        def busy():
            while not stop.is_set():
                solve()
        noise = [threading.Thread(target=busy) for _ in range(2)]
        for thread in noise:
            thread.start()
        good = 0
        for _ in range(5):
            child = os.fork()
            if child == 0:
                signal.alarm(60)
                with torch.no_grad():
                    h, _ = linear_scan(a, b)
                same = torch.equal(h, expected[0])
                live = sum(t.name.startswith("statewise-") for t in threading.enumerate())
                os._exit(0 if same and live == 3 else 1)
            good += os.waitpid(child, 0)[1] == 0
        stop.set()
        for thread in noise:
            thread.join()
        assert all(torch.equal(x, y) for x, y in zip(solve(), expected))
        print(good)
    """)
    assert out.split() == ["5"]


def test_data_loader_workers():
    out = _script("""
        import torch
        from torch.utils.data import DataLoader, Dataset
        from statewise.ops import linear_scan
        b = torch.randn(6, 2, 2000, 128)
        class Scans(Dataset):
            def __len__(self):
                return len(b)
            def __getitem__(self, k):
                return linear_scan(0.9, b[k])[1]
        here = [Scans()[k] for k in range(6)]
        loader = DataLoader(Scans(), batch_size=None, num_workers=2, multiprocessing_context="fork")
        print(all(torch.equal(x, y) for x, y in zip(here, loader, strict=True)))
    """)
    assert out.split() == ["True"]


ALL = """
    import os, signal
    import torch
    from statewise import ops
    torch.manual_seed(0)
    u = torch.randn(2, 300, 32)
    few, gates, B = torch.randn(2, 300, 4), torch.randn(2, 300, 3, 32), torch.randn(2, 300, 1, 64)
    pairs, A = 0.5 * torch.rand(32, 4, 2), -torch.rand(32, 4)
    calls = {
        "linear_scan": lambda: ops.linear_scan(0.9, u),
        "block_scan": lambda: ops.block_scan(0.5 * torch.eye(2), u.unflatten(2, (16, 2))),
        "diagonal_ssm": lambda: ops.diagonal_ssm(
            u, -pairs, pairs, pairs, dt=u.abs(), rule="zoh"
        ),
        "selective_scan": lambda: ops.selective_scan(u, u, A, few, few, z=u, softplus=True),
        "ssd": lambda: ops.ssd(
            u.unflatten(2, (8, 4)), u[..., :8], A[:8, 0], B, B, z=u.unflatten(2, (8, 4)),
            softplus=True,
        ),
        "causal_conv1d": lambda: ops.causal_conv1d(u, A, silu=True),
        "fft_conv": lambda: ops.fft_conv(u, torch.ones(32, 200) / 200),
        "para_gru": lambda: ops.para_gru(gates, A.T[:3].contiguous()),
        "scan2d": lambda: ops.scan2d(*[torch.full((4,), 0.4)] * 4, *[u.unflatten(2, (8, 4))] * 2),
        "vandermonde_kernel": lambda: [ops.vandermonde_kernel(pairs, pairs, 2000)],
    }
    def value(name):
        found = calls[name]()
        first = found[0][0] if isinstance(found[0], tuple) else found[0]
        return first, found[-1]
    # Threads of torch start where there is much to do.
    (torch.randn(300_000).exp() @ torch.randn(300_000)).item()
    expected = {name: value(name) for name in calls}
"""


def test_every_operator_after_a_fork():
    """Torch's own threads do not survive a fork: the child has to do without them first."""
    out = _script(
        ALL
        + """
    def same(name):
        return all(map(torch.equal, value(name), expected[name]))
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        torch.set_num_threads(1)
        wrong = [name for name in calls if not same(name)]
        print(wrong, flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, "the child hung"
    """,
        torch_threads=2,
    )
    assert out.split() == ["[]"]


def test_every_operator_in_workers_of_a_data_loader():
    out = _script(
        ALL
        + """
    from torch.utils.data import DataLoader
    names = list(calls)
    class Calls(torch.utils.data.Dataset):
        def __len__(self):
            return len(names)
        def __getitem__(self, k):
            return names[k], *value(names[k])
    loader = DataLoader(
        Calls(), batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=60
    )
    wrong = []
    for name, *found in loader:
        if not all(map(torch.equal, found, expected[name])):
            wrong.append(name)
    print(wrong)
    """,
        torch_threads=2,
    )
    assert out.split() == ["[]"]
