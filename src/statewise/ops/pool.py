"""A small thread pool for the blocks of one CPU kernel call.

Kernels release the GIL and are independent of each other, so plain Python threads share them.
The thread that asks also works, and it waits only for blocks that another thread has already
begun. Nothing can therefore deadlock: not calls from several threads, nor a call from inside a
pool thread, nor a pool whose threads are all busy. A forked child drops the threads it did not
inherit and starts its own when it first needs them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue

import torch


class _Job:
    """The blocks of one call; threads draw from it until none is left."""

    def __init__(self, blocks: Sequence[Callable[[], object]]) -> None:
        self._blocks = blocks
        self._next = 0
        self._open = len(blocks)
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._error: BaseException | None = None

    def work(self) -> None:
        while True:
            with self._lock:
                index = self._next
                if index >= len(self._blocks):
                    return
                self._next = index + 1
            error = None
            try:
                self._blocks[index]()
            except BaseException as caught:
                error = caught
            with self._lock:
                self._error = self._error or error
                self._open -= 1
                if not self._open:
                    self._done.set()

    def wait(self) -> None:
        self._done.wait()
        if self._error is not None:
            raise self._error


class _Pool:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queue: SimpleQueue[_Job] = SimpleQueue()
        self._threads = 0

    def _serve(self) -> None:
        while True:
            self._queue.get().work()

    def offer(self, job: _Job, helpers: int) -> None:
        with self._lock:
            while self._threads < helpers:
                self._threads += 1
                name = f"statewise-{self._threads}"
                threading.Thread(target=self._serve, name=name, daemon=True).start()
        for _ in range(helpers):
            self._queue.put(job)


_pool = _Pool()


def _forget() -> None:
    global _pool
    _pool = _Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def threads() -> int:
    """Threads that a kernel may use now: ``STATEWISE_THREADS``, or what torch is set to.

    Raises:
        ValueError: ``STATEWISE_THREADS`` is no whole number of at least 1.
    """
    text = os.environ.get("STATEWISE_THREADS")
    if text is None:
        return torch.get_num_threads()
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"STATEWISE_THREADS is {text!r}; it must be a whole number, at least 1")
    return int(text)


def run(blocks: Sequence[Callable[[], object]]) -> None:
    """Run all blocks, the calling thread among the workers, and return when all are done.

    Args:
        blocks: calls without arguments that may run in any order and at the same time.

    Raises:
        BaseException: the first error a block raised; the other blocks still run to their end.
    """
    if len(blocks) == 1:
        blocks[0]()
        return
    job = _Job(blocks)
    _pool.offer(job, len(blocks) - 1)
    job.work()
    job.wait()
