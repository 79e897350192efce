"""The choice of back ends: by name, by environment, by itself, and what it tells."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import textwrap
import threading
import types

import pytest
import torch

from statewise import ops
from statewise.ops import dispatch

B = torch.ones(1, 2, 1)


def _python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=120,
        check=False,
    )


@pytest.fixture
def toy(monkeypatch):
    """An operator whose CPU back end refuses float64, with nothing remembered yet."""
    for name, refusal in (("reference", None), ("cpu", "it knows no float64")):
        module = types.ModuleType(f"toy_{name}")

        def supports(device, dtype, refusal=refusal):
            return refusal if dtype == torch.float64 else None

        module.supports = supports
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(dispatch, "_modules", dict(dispatch._modules))
    monkeypatch.setattr(dispatch, "_remembered", {})
    dispatch.register("toy", reference="toy_reference", cpu="toy_cpu")
    return "toy"


def test_automatic_choice_is_told_once(toy, caplog):
    caplog.set_level(logging.INFO, "statewise")
    for _ in range(3):
        assert dispatch.select(toy, "cpu", torch.float32).__name__ == "toy_cpu"
    assert [record.getMessage() for record in caplog.records] == [
        "toy: the cpu back end runs on float32, because the tensors are on the cpu device"
    ]
    assert caplog.records[0].levelname == "INFO"


def test_automatic_choice_falls_to_the_reference_with_one_warning(toy, caplog):
    for _ in range(3):
        assert dispatch.select(toy, "cpu", torch.float64).__name__ == "toy_reference"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "the reference back end runs" in caplog.text
    assert "it knows no float64" in caplog.text


def test_choice_by_name_is_honoured_or_raises(toy):
    assert dispatch.select(toy, "cpu", torch.float32, "reference").__name__ == "toy_reference"
    with pytest.raises(ops.BackendError, match="asked to use the cpu back end, but it knows no"):
        dispatch.select(toy, "cpu", torch.float64, "cpu")


def test_gpu_tensors_use_the_reference_where_there_are_no_kernels(toy, caplog):
    assert dispatch.select(toy, "cuda", torch.float32).__name__ == "toy_reference"
    assert "the gpu back end of toy does not exist yet" in caplog.text


def test_a_back_end_that_cannot_be_imported_refuses(toy, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "toy_cpu", None)
    assert dispatch.select(toy, "cpu", torch.float32).__name__ == "toy_reference"
    assert "cannot be imported" in caplog.text
    assert ops.backends("toy") == ["reference"]


@pytest.fixture
def no_interpreter(monkeypatch):
    """As on a machine where nobody asked for Triton's interpreter, with nothing remembered."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(dispatch, "_remembered", {})


def test_gpu_by_name_refuses_cpu_tensors(no_interpreter):
    with (
        ops.use_backend("gpu"),
        pytest.raises(ops.BackendError, match="on CUDA tensors, not on cpu tensors"),
    ):
        ops.linear_scan(0.5, B)


def test_use_backend_nests_and_is_restored_after_an_error():
    assert dispatch.choice() is None
    with ops.use_backend("cpu"):
        with contextlib.suppress(KeyError), ops.use_backend("reference"):
            assert dispatch.choice() == "reference"
            raise KeyError
        assert dispatch.choice() == "cpu"
    assert dispatch.choice() is None


def test_use_backend_belongs_to_its_thread():
    seen = []
    with ops.use_backend("reference"):
        thread = threading.Thread(target=lambda: seen.append(dispatch.choice()))
        thread.start()
        thread.join()
    assert seen == [None]


def test_use_backend_refuses_other_names():
    with pytest.raises(ValueError, match="'tpu'; it must be one of reference, cpu, gpu"):
        ops.use_backend("tpu")


def test_an_operator_needs_a_reference():
    with pytest.raises(ValueError, match="lonely has no reference back end"):
        dispatch.register("lonely", cpu="nowhere")


def test_backward_uses_the_back_end_of_its_forward(monkeypatch):
    from statewise.ops.linear_scan import cpu, reference

    calls = []
    for module in (cpu, reference):

        def spy(*arguments, _backward=module.backward, _name=module.__name__, **options):
            calls.append(_name.rpartition(".")[2])
            return _backward(*arguments, **options)

        monkeypatch.setattr(module, "backward", spy)
    b = B.clone().requires_grad_()
    for name in ("reference", "cpu"):
        with ops.use_backend(name):
            h, _ = ops.linear_scan(0.5, b)
        h.sum().backward()
    assert calls == ["reference", "cpu"]


def test_a_compiled_function_follows_the_choice(no_interpreter):
    function = torch.compile(
        lambda b: ops.linear_scan(0.5, b)[0], fullgraph=True, backend="aot_eager"
    )
    assert function(B).flatten().tolist() == [1.0, 1.5]
    with ops.use_backend("gpu"), pytest.raises(ops.BackendError, match="not on cpu"):
        function(B)


def test_environment_chooses():
    code = """
        import torch
        from statewise import ops
        from statewise.ops import dispatch
        print(dispatch.choice())
        with ops.use_backend("cpu"):
            print(dispatch.choice())
    """
    done = _python(code, STATEWISE_BACKEND="reference")
    assert done.stdout.split() == ["reference", "cpu"], done.stderr


def test_environment_with_a_wrong_name_is_refused():
    code = "import torch; from statewise import ops; ops.linear_scan(0.5, torch.ones(1, 2, 1))"
    done = _python(code, STATEWISE_BACKEND="fast")
    assert done.returncode == 1
    assert "STATEWISE_BACKEND is 'fast'; it must be one of reference, cpu, gpu" in done.stderr


def test_status_has_one_line_for_each_back_end():
    lines = [line for line in ops.status() if line.op == "linear_scan"]
    assert [(line.backend, line.available) for line in lines] == [
        ("reference", True),
        ("cpu", True),
        ("gpu", torch.cuda.is_available()),
    ]
    assert lines[2].available or "CUDA device" in lines[2].reason or "triton" in lines[2].reason
    for ask in (ops.backends, ops.warm):
        with pytest.raises(ValueError, match=r"no operator is called .lost.; there are .*linear_"):
            ask("lost")


def test_cpu_back_end_says_why_not(monkeypatch):
    from numba.core import config

    from statewise.ops.linear_scan import cpu

    assert cpu.supports("cpu", torch.float32) is None
    assert "not on cuda tensors" in cpu.supports("cuda", torch.float32)
    monkeypatch.setattr(config, "DISABLE_JIT", 1)
    assert "NUMBA_DISABLE_JIT is set" in cpu.supports("cpu", torch.float32)


def test_import_compiles_nothing_and_warm_compiles_all():
    code = """
        import sys
        import statewise.ops as ops
        assert "numba" not in sys.modules
        ops.warm("linear_scan")
        from statewise.ops.linear_scan import _kernels
        print(len(_kernels.forward.signatures), len(_kernels.backward.signatures))
        import torch
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            for pairs in (False, True):
                for D in (2, 20):
                    end = (2,) * pairs
                    a = torch.rand(D, *end).to(dtype).requires_grad_()
                    b = torch.rand(2, 3, D, *end).to(dtype)
                    h0 = torch.rand(2, D, *end)
                    scan = ops.linear_scan_pairs if pairs else ops.linear_scan
                    reset = torch.ones(2, 3, dtype=torch.bool)
                    for options in ({}, {"reset": reset, "reverse": True, "h0": h0}):
                        for each in (a, a.detach().expand(b.shape).clone().requires_grad_()):
                            scan(each, b, **options)[0].sum().backward()
        print(len(_kernels.forward.signatures), len(_kernels.backward.signatures))
    """
    done = _python(code)
    assert done.stdout.split() == ["8", "8", "8", "8"], done.stderr


def test_warm_compiles_the_short_convolution_with_and_without_a_window():
    code = """
        import torch
        import statewise.ops as ops
        ops.warm("causal_conv1d")
        from statewise.ops.causal_conv1d import _kernels
        print(len(_kernels.forward.signatures), len(_kernels.backward.signatures))
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            for D in (2, 20):
                w, x = torch.rand(D, 3, requires_grad=True), torch.rand(2, 5, D).to(dtype)
                for h0 in (None, torch.rand(2, 2, D)):
                    for bias in (None, torch.rand(D)):
                        ops.causal_conv1d(x, w, bias, h0)[0].sum().backward()
        print(len(_kernels.forward.signatures), len(_kernels.backward.signatures))
    """
    done = _python(code)
    assert done.stdout.split() == ["4", "4", "4", "4"], done.stderr
