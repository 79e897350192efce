"""``statewise doctor``: say what works on this machine, and why not."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from statewise._version import __version__
from statewise.cli.console import output, print_json, say
from statewise.cli.options import parse

SUMMARY = "Say what works on this machine, and why not."
_PACKAGES = ("torch", "numba", "numpy", "scipy", "polars", "safetensors", "matplotlib", "tyro")
#: Extra → modules that it brings, and what they are for.
_EXTRAS = {
    "arviz": ("arviz", "chains of draws for ArviZ"),
    "control": ("control", "exchange of linear systems with python-control"),
    "sklearn": ("sklearn", "pipelines and searches of scikit-learn"),
    "pandas": ("pandas", "pandas frames as data"),
    "benchmarks": ("nonlinear_benchmarks", "download of the official benchmarks"),
}


@dataclasses.dataclass(frozen=True)
class DoctorOptions:
    """Options of ``statewise doctor``."""

    warm: Annotated[bool, arg(help_behavior_hint="")] = False
    """Compile the CPU kernels now, instead of at their first use."""
    json: Annotated[bool, arg(help_behavior_hint="")] = False
    """Print one JSON object."""


def run(arguments: Sequence[str]) -> None:
    """Run the command."""
    options = parse(DoctorOptions, arguments, "doctor", SUMMARY)
    found = examine(warm=options.warm)
    if options.json:
        print_json({"command": "doctor", **found})
    else:
        _show(found)


def examine(*, warm: bool) -> dict[str, Any]:
    """Look at the machine.

    Args:
        warm: compile the CPU kernels as well.

    Returns:
        JSON-ready findings.
    """
    import torch

    from statewise.ops import dispatch, status

    found: dict[str, Any] = {
        "statewise": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory": _memory(),
        "devices": _devices(),
        "chosen_backend": dispatch.choice(),
        "backends": [line._asdict() for line in status()],
        "kernel_cache": _kernel_cache(),
        "extras": {
            extra: {
                "installed": importlib.util.find_spec(module) is not None,
                "serves": use,
                "install": f"pip install 'statewise[{extra}]'",
            }
            for extra, (module, use) in _EXTRAS.items()
        },
    }
    if warm:
        say("compiling the CPU kernels")
        started = time.perf_counter()
        dispatch.warm()
        found["warm_seconds"] = round(time.perf_counter() - started, 2)
    return found


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _memory() -> dict[str, float | None]:
    """Total and available memory in GiB, None where the system does not tell."""
    found: dict[str, float | None] = {"total_gib": None, "available_gib": None}
    names = {"total_gib": "SC_PHYS_PAGES", "available_gib": "SC_AVPHYS_PAGES"}
    for key, name in names.items():
        try:
            found[key] = round(os.sysconf(name) * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
        except (AttributeError, OSError, ValueError):
            continue
    return found


def _devices() -> list[dict[str, Any]]:
    import torch

    devices: list[dict[str, Any]] = [
        {"device": "cpu", "name": platform.processor() or platform.machine()}
    ]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(index)
            memory = round(about.total_memory / 2**30, 1)
            devices.append({"device": f"cuda:{index}", "name": about.name, "memory_gib": memory})
    else:
        devices.append({"device": "cuda", "name": "torch sees none"})
    return devices


def _kernel_cache() -> dict[str, Any]:
    """Where numba keeps compiled kernels, found as numba finds it, and whether it can write."""
    from statewise.ops.jit import kernel

    folder = kernel(_probe).stats.cache_path
    if folder is None:
        reason = "no folder can be written; set NUMBA_CACHE_DIR to one that can"
        return {"folder": None, "writable": False, "reason": reason}
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        return {"folder": folder, "writable": False, "reason": str(error.strerror)}
    return {"folder": folder, "writable": True, "reason": "kernels are compiled once"}


def _probe() -> None:
    return None


def _show(found: dict[str, Any]) -> None:
    from rich.table import Table

    console = output()

    def line(label: str, text: str) -> None:
        console.print(f"{label:<10} {text}", markup=False, soft_wrap=True)

    line("statewise", f"{found['statewise']}, Python {found['python']}, {found['platform']}")
    packages = found["packages"].items()
    line("packages", ", ".join(f"{name} {version or 'missing'}" for name, version in packages))
    memory = found["memory"]
    line(
        "machine",
        f"{found['cores']} cores, torch uses {found['threads']} threads, memory "
        f"{memory['total_gib'] or '?'} GiB ({memory['available_gib'] or '?'} GiB free)",
    )
    for device in found["devices"]:
        size = f", {device['memory_gib']} GiB" if "memory_gib" in device else ""
        line("device", f"{device['device']}: {device['name']}{size}")
    cache = found["kernel_cache"]
    state = "can be written" if cache["writable"] else "cannot be written"
    line("kernels", f"{cache['folder'] or 'no cache folder'}: {state}; {cache['reason']}")
    if "warm_seconds" in found:
        line("warm", f"all CPU kernels compiled in {found['warm_seconds']} s")
    if found["chosen_backend"]:
        line("back end", f"{found['chosen_backend']}, chosen by STATEWISE_BACKEND")
    table = Table("operator", "back end", "works", "why", title_style="bold")
    for row in found["backends"]:
        works = "yes" if row["available"] else "no"
        table.add_row(row["op"], row["backend"], works, row["reason"])
    console.print(table)
    for name, extra in found["extras"].items():
        how = "installed" if extra["installed"] else extra["install"]
        line("extra", f"{name} ({extra['serves']}): {how}")
