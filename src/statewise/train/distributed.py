"""The ranks of a distributed run; one rank when there is none."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor


class Ranks:
    """Who computes which windows, and how the results come together.

    Every rank holds all data, plans the same batches and takes each ``world``-th window of a batch.
    Losses are sums over the outputs of the whole batch, so summed gradients are those of one
    process.
    """

    def __init__(self) -> None:
        active = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if active else 0
        self.world = dist.get_world_size() if active else 1

    @property
    def is_main(self) -> bool:
        """Whether this rank writes and shows."""
        return self.rank == 0

    @property
    def share(self) -> slice:
        """The entries of a batch that this rank takes."""
        return slice(self.rank, None, self.world)

    def add(self, tensors: Iterable[Tensor]) -> None:
        """Sum tensors over the ranks, in place."""
        if self.world > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)

    def copy_from_main(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors with those of the main rank."""
        if self.world > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def number_from_main(self, value: float, device: torch.device) -> float:
        """The main rank's value, on every rank."""
        if self.world == 1:
            return value
        tensor = torch.tensor([value], dtype=torch.float64, device=device)
        dist.broadcast(tensor, src=0)
        return float(tensor)

    def gather_rows(self, mine: Tensor, count: int) -> Tensor:
        """The rows of all ranks' shares in order, (count, ...), on every rank."""
        if self.world == 1:
            return mine
        full = torch.zeros(count, *mine.shape[1:], dtype=mine.dtype, device=mine.device)
        full[self.share] = mine
        dist.all_reduce(full)
        return full

    def wait(self) -> None:
        """Wait for all ranks."""
        if self.world > 1:
            dist.barrier()


@contextlib.contextmanager
def torchrun_group(device: str | torch.device | None = None) -> Iterator[None]:
    """Join the processes that torchrun started, for the time of the context.

    Does nothing when torchrun did not start this process, or when the group is joined already.

    Args:
        device: where training will run, as in :func:`statewise.train.fit`: NCCL joins GPUs, gloo
            processors.
    """
    launched = "RANK" in os.environ and "WORLD_SIZE" in os.environ
    if not launched or not dist.is_available() or dist.is_initialized():
        yield
        return
    picked = pick_device(device, torch.device("cpu"))
    if picked.type == "cuda":
        torch.cuda.set_device(picked)
    dist.init_process_group("nccl" if picked.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def pick_device(name: str | torch.device | None, current: torch.device) -> torch.device:
    """The device to train on.

    Args:
        name: a device, "auto" for a GPU when there is one, or None for where the model is. Under
            torchrun "cuda" means the GPU of the local rank.
        current: where the model is.

    Raises:
        ValueError: a GPU is asked for and there is none.
    """
    if name is None:
        return current
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f'device is "cpu", "cuda" or "auto"; given {str(name)!r}') from error
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(f"device {str(name)!r} was given and torch sees no CUDA device")
        if device.index is None:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return device
