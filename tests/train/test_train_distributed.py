"""Two processes train what one trains."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch.distributed as dist
from gloo_worker import CONFIGS, summary, train

from statewise.train import torchrun_group
from statewise.train.distributed import Ranks

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (dist.is_available() and dist.is_gloo_available() and hasattr(os, "fork")),
        reason="needs gloo and fork",
    ),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two ranks left."""
    folder = tmp_path_factory.mktemp("two ranks")
    environment = {"CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": "lo"}
    worker = Path(__file__).with_name("gloo_worker.py")
    finished = subprocess.run(
        [sys.executable, str(worker), str(folder)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=os.environ | environment,
    )
    assert finished.returncode == 0, finished.stderr
    return folder


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict]:
    """The summaries of both ranks."""
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("name", CONFIGS)
def test_two_processes_train_what_one_trains(name: str, ranks: list[dict]) -> None:
    alone = summary(*train(CONFIGS[name]))
    for rank in ranks:
        together = rank[name]
        assert [r["step"] for r in together["history"]] == [r["step"] for r in alone["history"]]
        for key in ("loss", "valid"):
            np.testing.assert_allclose(
                [row[key] for row in together["history"]],
                [row[key] for row in alone["history"]],
                rtol=1e-4 if "polish" in alone["reason"] else 1e-5,
            )
        np.testing.assert_allclose(together["weights"], alone["weights"], atol=1e-4)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_ranks_end_with_equal_bits(name: str, ranks: list[dict]) -> None:
    assert ranks[0][name] == ranks[1][name]


def test_a_distributed_run_resumes(ranks: list[dict], folder: Path) -> None:
    for rank in ranks:
        assert rank["resumed"] == rank["carry"]
    rows = (folder / "shared" / "log.jsonl").read_text().splitlines()
    assert len(rows) == len(ranks[0]["carry"]["history"])


def test_a_batch_smaller_than_the_ranks_is_refused(ranks: list[dict]) -> None:
    for rank in ranks:
        assert "2 ranks cannot share batches of 1 windows" in rank["refused"]["message"]


def test_alone_there_is_one_rank() -> None:
    ranks = Ranks()
    assert (ranks.rank, ranks.world, ranks.is_main) == (0, 1, True)
    assert list(range(5))[ranks.share] == [0, 1, 2, 3, 4]


def test_a_process_of_torchrun_joins_its_group(monkeypatch: pytest.MonkeyPatch) -> None:
    with torchrun_group():
        assert not dist.is_initialized()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    for name, value in (variables | {"MASTER_PORT": str(port)}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    with torchrun_group("cpu"):
        assert dist.get_backend() == "gloo"
        with torchrun_group():  # joined already
            assert Ranks().world == 1
        assert dist.is_initialized()
    assert not dist.is_initialized()
