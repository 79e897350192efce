"""Recurrences spread over processes equal those of one process, forward and in gradient."""

from __future__ import annotations

import queue
import traceback
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from statewise import ops
from statewise.ops import sequence_parallel

B, L, D, N, H, P = 2, 17, 4, 3, 2, 2


def _draw(shape, seed):
    """Numbers in the type and on the device that are set for all."""
    generator = torch.Generator("cpu").manual_seed(seed)
    x = torch.randn(shape, dtype=torch.float64, generator=generator, device="cpu")
    return x.to(torch.get_default_device(), torch.get_default_dtype())


def _problems():
    """Name, operator, timed tensors by name, constant ones, options, state."""
    rate = 0.5 + 0.4 * torch.sigmoid(_draw((B, L, D), 0))
    turn = torch.polar(torch.full((D,), 0.9), _draw((D,), 1))
    b, h0 = _draw((B, L, D), 2), _draw((B, D), 3)
    yield "linear_scan", {"a": rate, "b": b}, {}, {}, h0
    pair = torch.complex(b, _draw((B, L, D), 4))
    yield "linear_scan", {"b": pair}, {"a": turn}, {}, torch.complex(h0, h0)
    blocks, start = {"A": 0.4 * _draw((B, L, D, 2, 2), 22), "b": _draw((B, L, D, 2), 23)}, (B, D, 2)
    yield "block_scan", blocks, {}, {}, _draw(start, 24)
    yield "block_scan", {"b": blocks["b"]}, {"A": blocks["A"][0, 0]}, {}, _draw(start, 25)
    timed = {
        "u": b,
        "dt": _draw((B, L, D), 5),
        "B": _draw((B, L, N), 6),
        "C": _draw((B, L, N), 7),
        "z": _draw((B, L, D), 8),
    }
    whole = {"A": -torch.exp(_draw((D, N), 9)), "D": _draw((D,), 10), "dt_bias": _draw((D,), 11)}
    yield "selective_scan", timed, whole, {"softplus": True, "rule": "zoh"}, _draw((B, D, N), 12)
    timed = {
        "x": _draw((B, L, H, P), 13),
        "dt": _draw((B, L, H), 14),
        "B": _draw((B, L, 1, N), 15),
        "C": _draw((B, L, 1, N), 16),
        "z": _draw((B, L, H, P), 17),
    }
    whole = {"A": -torch.exp(_draw((H,), 18)), "D": _draw((H, P), 19), "dt_bias": _draw((H,), 20)}
    options = {"softplus": True, "dt_limit": (0.1, 2.0)}
    yield "ssd", timed, whole, options, _draw((B, H, P, N), 21)


def _leaves(tensors):
    return {name: x.detach().clone().requires_grad_() for name, x in tensors.items()}


def _bounds(size):
    """Slices of unequal length."""
    cuts = [0, *sorted({(5 * k + 1) % (L - 1) + 1 for k in range(size - 1)}), L]
    assert len(cuts) == size + 1
    return cuts


def _real(x):
    return x.real + x.imag if x.is_complex() else x


def _compare(rank, size, problem, state, with_reset, reverse):
    name, timed, whole, options, h0 = problem
    narrow = torch.get_default_dtype() == torch.float32
    near = {"rtol": 1e-4, "atol": 1e-4} if narrow else {"rtol": 1e-9, "atol": 1e-11}
    reset = torch.zeros(B, L, dtype=torch.bool)
    reset[0, 6] = with_reset
    given = {"reset": reset} if with_reset else {}
    h0 = h0 if state else None
    single = _leaves(timed | whole | ({"h0": h0} if state else {}))
    y, last = getattr(ops, name)(**single, **options, **given, reverse=reverse)
    weight = _draw(y.shape, 30)
    loss = (_real(y) * weight).sum() + _real(last).square().sum()
    expected = dict(zip(single, torch.autograd.grad(loss, list(single.values())), strict=True))

    cuts = _bounds(size)
    mine = slice(cuts[rank], cuts[rank + 1])
    first, final = (size - 1, 0) if reverse else (0, size - 1)
    parts = {label: x[:, mine] for label, x in timed.items()}
    start = {"h0": h0} if state and rank == first else {}
    local = _leaves(parts | whole | start)
    spread = getattr(sequence_parallel, name)
    given = {"reset": reset[:, mine]} if with_reset else {}
    found, after = spread(**local, **options, **given, reverse=reverse)
    torch.testing.assert_close(found, y[:, mine], **near)
    loss = (_real(found) * weight[:, mine]).sum()
    if rank == final:
        torch.testing.assert_close(after, last, **near)
        loss = loss + _real(after).square().sum()
    gradients = dict(zip(local, torch.autograd.grad(loss, list(local.values())), strict=True))
    for label, gradient in gradients.items():
        wanted = expected[label][:, mine] if label in timed else expected[label]
        if label in whole:
            both = torch.view_as_real(gradient) if gradient.is_complex() else gradient
            dist.all_reduce(both)
        torch.testing.assert_close(gradient, wanted, **near, msg=f"{name} {label}")


def _work(rank, size, file, answers, backend):
    try:
        torch.set_num_threads(1)
        modes = ((0, 0, 0), (1, 0, 1), (1, 1, 0), (0, 1, 1))
        torch.set_default_dtype(torch.float64)
        if backend == "nccl":
            torch.cuda.set_device(rank)
            torch.set_default_device(f"cuda:{rank}")
            # Kernels in double precision take minutes to compile, and so do many of them.
            torch.set_default_dtype(torch.float32)
            modes = ((1, 1, 1),)
        dist.init_process_group(
            backend,
            init_method=f"file://{file}",
            rank=rank,
            world_size=size,
            timeout=timedelta(seconds=120),
        )
        for problem in _problems():
            for state, with_reset, reverse in modes:
                _compare(rank, size, problem, bool(state), bool(with_reset), bool(reverse))
        if rank:
            with pytest.raises(ValueError, match=f"h0 was given on rank {rank}; .* rank 0"):
                sequence_parallel.linear_scan(torch.ones(1), torch.ones(1, 1, 1), torch.ones(1, 1))
        dist.barrier()
        dist.destroy_process_group()
        answers.put(None)
    except BaseException:
        answers.put(f"rank {rank}: {traceback.format_exc()}")


def _spread_over(size, backend, folder):
    context = mp.get_context("spawn")
    answers = context.Queue()
    processes = [
        context.Process(target=_work, args=(rank, size, folder / "store", answers, backend))
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    try:
        found = [answers.get(timeout=240) for _ in processes]
    except queue.Empty:
        pytest.fail("a process did not answer")
    finally:
        for process in processes:
            process.join(10)
            process.kill()
    assert found == [None] * size, "\n".join(x for x in found if x)


@pytest.mark.parametrize("size", [2, 3])
def test_slices_on_processes_are_the_whole(size, tmp_path):
    _spread_over(size, "gloo", tmp_path)


@pytest.mark.gpu
def test_slices_on_several_gpus_are_the_whole(tmp_path):
    size = torch.cuda.device_count()
    if size < 2:
        pytest.skip("needs two CUDA devices")
    _spread_over(min(size, 4), "nccl", tmp_path)


def test_without_a_process_group_it_says_what_to_do():
    with pytest.raises(
        RuntimeError, match=r"linear_scan: torch.distributed is not initialised; .*"
    ):
        sequence_parallel.linear_scan(torch.ones(1), torch.ones(1, 2, 1))
